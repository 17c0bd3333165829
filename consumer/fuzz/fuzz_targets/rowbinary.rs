//! Values of every type, from their text and from their binary form, refused or clamped, alone and
//! in arrays.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::pgoutput::{Message, Relation, RelationColumn, ReplicaIdentity};
use walbench_consumer::rowbinary::{Codec, Policy, RowKind, SourceType, Table};
use walbench_phases::plan::{Arrays, OutOfRange};

/// Types whose values are read and not only passed on: the others come with the OIDs at large.
const READ: [u32; 44] = [
    16, 17, 18, 20, 21, 23, 25, 26, 28, 700, 701, 829, 774, 869, 650, 1020, 1082, 1083, 1114, 1184,
    1186, 1266, 1560, 1562, 1700, 2950, 3220, 3802, 5069, 1000, 1001, 1002, 1005, 1007, 1009, 1016,
    1115, 1182, 1185, 1187, 1231, 1561, 2951, 3807,
];

fuzz_target!(|input: (u32, i32, bool, bool, bool, &[u8])| {
    let (type_oid, type_modifier, is_binary, clamps, key, value) = input;
    let type_oid = match type_oid {
        0..4_000 => type_oid,
        _ => READ[type_oid as usize % READ.len()],
    };
    let codec = Codec::of(&SourceType::of(type_oid), type_modifier, Arrays::Array);
    codec.encode_default(&mut Vec::new());

    let column = RelationColumn { key, name: "v", type_oid, type_modifier };
    let relation = Relation {
        id: 1,
        namespace: "public",
        name: "t",
        identity: ReplicaIdentity::Default,
        columns: vec![column],
    };
    let out_of_range = if clamps { OutOfRange::Clamp } else { OutOfRange::Refuse };
    let table = Table::new(&relation, None, Policy { out_of_range, arrays: Arrays::Array });
    let tag: &[u8] = if is_binary { b"I\0\0\0\x01N\0\x01b" } else { b"I\0\0\0\x01N\0\x01t" };
    let length = u32::try_from(value.len()).expect("libFuzzer's inputs are small");
    let message = [tag, &length.to_be_bytes(), value].concat();
    let Ok(Message::Insert { new, .. }) = Message::decode(&message) else { panic!("an insert") };

    let mut out = vec![7];
    let encoded = table.encode(new, None, RowKind::Present, 1, &mut out);
    assert!(encoded.is_ok() || out == [7], "an error leaves nothing behind");
    let mut plain = Vec::new();
    let plainly = match is_binary {
        true => codec.encode_binary(value, &mut plain),
        false => codec.encode_text(value, &mut plain),
    };
    match encoded {
        // Only what had to be was replaced.
        Ok(0) => assert!(
            plainly.is_ok() && out.ends_with(&[&plain[..], &[1, 0, 0, 0, 0, 0, 0, 0, 0]].concat())
        ),
        Ok(_) => assert!(clamps && plainly.is_err()),
        Err(error) => {
            assert!(plainly.is_err());
            let _ = (error.to_string(), error.hint());
        }
    }
});
