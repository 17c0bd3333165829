//! Values of every type, from their text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::rowbinary::Codec;

fuzz_target!(|input: (u32, i32, &[u8])| {
    let (type_oid, type_modifier, text) = input;
    let codec = Codec::of(type_oid % 4_000, type_modifier);
    let _ = codec.encode(text, &mut Vec::new());
    codec.encode_default(&mut Vec::new());
});
