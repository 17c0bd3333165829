//! What a ClickHouse sends as a table's rows, of columns of any types: told apart, and read as a
//! person reads it. What was encoded is read to its end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::rowbinary::{Codec, Column, SourceType, Table};
use walbench_phases::plan::Arrays;

fuzz_target!(|input: (Vec<(u32, i32, bool, bool)>, &[u8])| {
    let (types, bytes) = input;
    let column = |(type_oid, modifier, nullable, key): (u32, i32, bool, bool)| {
        let codec = Codec::of(&SourceType::of(type_oid % 4_000), modifier, Arrays::Array);
        // ClickHouse has no Nullable(Array).
        let nullable = nullable && !matches!(codec, Codec::Array { .. });
        let (name, type_name) = ("v".into(), "t".into());
        Column { name, codec, nullable, key, loses_null: false, type_name }
    };
    let columns = types.into_iter().take(20).map(column).collect();
    let table = Table { name: "public.t".into(), columns, clamps: false };
    let mut rest = bytes;
    while let Ok(marks) = table.walk(rest, |column, value| {
        let _ = column.readable(value).expect("what was told apart can be read");
    }) {
        assert_eq!(table.row_bytes(rest), Ok(marks.row_bytes));
        rest = &rest[marks.row_bytes..];
    }
    let mut row = Vec::new();
    for column in &table.columns {
        if column.nullable {
            row.push(0);
        }
        column.codec.encode_default(&mut row);
    }
    row.extend([0; 9]);
    for end in 0..row.len() {
        assert!(table.row_bytes(&row[..end]).is_err_and(|error| error.is_cut()));
    }
    assert_eq!(table.row_bytes(&row), Ok(row.len()));
});
