//! Any bytes as what COPY sends, message by message: rows are read or refused, and what is read
//! through a table's codecs is encoded or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::copy::{Format, MalformedCopy, Rows};
use walbench_consumer::pgoutput::{Relation, RelationColumn, ReplicaIdentity};
use walbench_consumer::rowbinary::{Policy, RowKind, Table};
use walbench_phases::plan::{Arrays, OutOfRange};

/// bool, bytea, int8, text, numeric(10, 2), timestamptz, uuid, int4[], jsonb.
const TYPES: [(u32, i32); 9] = [
    (16, -1),
    (17, -1),
    (20, -1),
    (25, -1),
    (1700, (10 << 16 | 2) + 4),
    (1184, -1),
    (2950, -1),
    (1007, -1),
    (3802, -1),
];

fuzz_target!(|input: (bool, u8, Vec<Vec<u8>>)| {
    let (is_binary, columns, messages) = input;
    let types = &TYPES[..usize::from(columns) % (TYPES.len() + 1)];
    let column = |(type_oid, type_modifier): &(u32, i32)| RelationColumn {
        key: false,
        name: "c",
        type_oid: *type_oid,
        type_modifier: *type_modifier,
    };
    let relation = Relation {
        id: 0,
        namespace: "public",
        name: "t",
        identity: ReplicaIdentity::Default,
        columns: types.iter().map(column).collect(),
    };
    let policy = Policy { out_of_range: OutOfRange::Refuse, arrays: Arrays::Array };
    let table = Table::new(&relation, None, policy);
    let format = if is_binary { Format::Binary } else { Format::Text };
    let (mut rows, mut out) = (Rows::new(format, types.len() as u16), Vec::new());
    for message in messages {
        let read = rows.read(&message, |tuple| {
            assert_eq!(tuple.columns(), types.len());
            table.check(tuple).expect("what was made of a row can be read");
            let before = out.len();
            let encoded = table.encode(tuple, None, RowKind::Present, 0, &mut out);
            assert!(encoded.is_ok() || out.len() == before, "an error leaves nothing behind");
            out.clear();
            Ok::<_, MalformedCopy>(())
        });
        if read.is_err() {
            return;
        }
    }
    let _ = rows.finish();
});
