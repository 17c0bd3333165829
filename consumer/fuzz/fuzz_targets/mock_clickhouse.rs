//! What the mock ClickHouse server reads: statements, names of types, and blocks of rows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::clickhouse::column_type::ColumnType;
use walbench_consumer::clickhouse::mock::check::Shape;
use walbench_consumer::clickhouse::mock::parse::{insert, statement};

fuzz_target!(|input: (&[u8], &str, &[u8])| {
    let (sql, types, block) = input;
    let _ = statement(sql);
    let _ = insert(sql);
    let mut shape = Shape::default();
    for (n, name) in types.split(';').take(4).enumerate() {
        let Ok(column_type) = ColumnType::parse(name) else { continue };
        let written = column_type.to_string();
        assert_eq!(ColumnType::parse(&written).ok(), Some(column_type.clone()), "{written}");
        shape.columns.push((format!("c{n}"), column_type));
    }
    if shape.columns.is_empty() {
        shape.columns.push(("c".into(), ColumnType::String));
    }
    shape.key = vec![0];
    if let Ok(rows) = shape.check(block) {
        let mut end = 0;
        for row in rows {
            assert!(row.start == end && row.end > end, "{row:?}");
            end = row.end;
        }
        assert_eq!(end, block.len());
    }
});
