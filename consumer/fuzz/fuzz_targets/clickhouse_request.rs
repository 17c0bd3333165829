//! What a request to the ClickHouse front says: line, headers, statement.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_consumer::clickhouse::front::Request;
use walbench_consumer::clickhouse::statement::{Beginning, output_format, split};

fuzz_target!(|input: (&str, Vec<(&str, &[u8])>, &[u8], bool)| {
    let (query, headers, text, whole) = input;
    let mut request = hyper::Request::post(format!("/?{query}"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    if let Ok(request) = request.body(()) {
        let _ = Request::parse(&request);
    }
    let _ = output_format(text);
    let text = [b"INSERT INTO ", text].concat();
    if let Beginning::Insert { into, data, .. } = split(&text, whole) {
        assert!(into.end <= data && data <= text.len());
    }
});
