//! What encoding a row costs, from a message's bytes to RowBinary, in ns: `cargo run --release -p
//! walbench-consumer --example encode`. The rows are of the shape of the built-in tables.
#![allow(clippy::unwrap_used, reason = "a measurement that can't go on shall panic")]

use std::hint::black_box;
use std::time::Instant;

use walbench_consumer::pgoutput::{Message, ReplicaIdentity};
use walbench_consumer::rowbinary::{Facts, Policy, RowKind, SourceType, Table, TableFacts};
use walbench_phases::plan::Consumer;

/// A batch's worth: the buffer is emptied as often as a consumer does.
const ROWS: u64 = 1_000;
/// The best of this many batches is what the code costs; the others were disturbed.
const BATCHES: u32 = 2_000;

/// The form that values come in.
#[derive(Clone, Copy)]
enum Form {
    Text,
    Binary,
}

/// A column's type (OID and modifier), and a value's text; no value is NULL.
type Column = (u32, i32, Option<String>);

fn main() {
    for (name, row) in [("narrow", narrow as fn(u64) -> Vec<Column>), ("wide", wide)] {
        for (format, form) in [("text", Form::Text), ("binary", Form::Binary)] {
            let messages: Vec<_> = (0..ROWS).map(|n| insert(&row(noise(n)), form)).collect();
            let ns = measure(&table(&row(0)), &messages);
            println!("{name:<6} {format:<6} {ns:>6.1} ns/row");
        }
    }
}

/// No two rows are alike, as no two are that a consumer receives (splitmix64).
fn noise(n: u64) -> u64 {
    let n = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
}

fn text(oid: u32, value: impl Into<String>) -> Column {
    (oid, -1, Some(value.into()))
}

/// A value in so many rows of four, NULL in the others.
fn sometimes(noise: u64, of_four: u64, (oid, modifier, value): Column) -> Column {
    (oid, modifier, value.filter(|_| noise % 4 < of_four))
}

fn timestamp(n: u64) -> Column {
    let [h, m, s, us] = [n >> 8 & 15, n >> 12 & 31, n >> 17 & 31, n >> 22 & 0x7ffff];
    text(1184, format!("2026-11-{:02} {h:02}:{m:02}:{s:02}.{us:06}+00", 1 + n % 28))
}

fn uuid(n: u64) -> Column {
    let hex = format!("{:016x}{:016x}", noise(n), noise(n + 1));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    text(2950, parts.join("-"))
}

fn numeric(n: u64, precision: i32, scale: i32) -> Column {
    let units = n % 10u64.pow(9);
    let (whole, part) = (units / 10u64.pow(scale as u32), units % 10u64.pow(scale as u32));
    let width = scale as usize;
    (1700, (precision << 16 | scale) + 4, Some(format!("{whole}.{part:0width$}")))
}

fn narrow(n: u64) -> Vec<Column> {
    vec![
        text(20, (n >> (n % 20 + 20)).to_string()),
        timestamp(n),
        text(25, ["page_view", "click", "sign_up", "session_end"][(n >> 9) as usize % 4]),
        text(20, (n % 1_000_000).to_string()),
        uuid(n),
        numeric(n, 12, 2),
        text(16, if n >> 7 & 1 == 0 { "t" } else { "f" }),
        sometimes(n >> 12, 3, text(25, ["web", "ios", "android", "partner-api"][n as usize % 4])),
        text(25, "x".repeat(64)),
    ]
}

fn wide(n: u64) -> Vec<Column> {
    let id = format!("{n:021x}");
    let texts = |values: &[&str]| values.iter().map(|v| text(25, *v)).collect::<Vec<_>>();
    let mut columns = texts(&[
        &format!("run_{id}"),
        &format!("task_{id}"),
        ["PENDING", "EXECUTING", "COMPLETED", "FAILED"][n as usize % 4],
        ["PRODUCTION", "STAGING"][(n >> 2) as usize % 2],
        &format!("env_{id}"),
        &format!("proj_{id}"),
        &format!("org_{id}"),
        ["generate-invoice", "resize-image"][(n >> 3) as usize % 2],
        "queue/generate-invoice",
        ["us-east-1", "eu-central-1"][(n >> 4) as usize % 2],
    ]);
    columns.extend((1..=7).map(|at| sometimes(n >> (5 * at), 7 - at.min(6), timestamp(n + at))));
    columns.extend([text(25, "10m"), text(16, "f"), text(23, "2"), text(21, "3")]);
    columns.extend([text(23, (n % 10).to_string()), text(21, (n % 4).to_string())]);
    columns.push(text(20, (n % 100_000).to_string()));
    columns.push(text(701, (0.0025 * (n % 20_000) as f64).to_string()));
    columns.push(numeric(n, 20, 6));
    columns.extend([3, 1].map(|some| sometimes(n >> 33, some, text(25, format!("user:{id}")))));
    columns.push(text(1009, format!("{{user_{:x},task:generate-invoice}}", n as u32)));
    let json = format!(r#"{{"step": "EXECUTING", "region": "eu-central-1", "request": "{id}"}}"#);
    columns.push(text(3802, json.clone()));
    columns.extend([3, 1].map(|some| sometimes(n >> 35, some, text(3802, json.clone()))));
    columns.push(uuid(n));
    columns.extend(texts(&["3.3.17", "4.0.1", "small-1x", &id, &id[..16]]));
    columns.push(sometimes(n >> 37, 1, text(25, format!("batch_{id}"))));
    columns.extend([text(25, "x".repeat(512)), text(25, "application/json")]);
    columns
}

fn table(columns: &[Column]) -> Table {
    let facts = columns.iter().enumerate().map(|(n, (oid, modifier, _))| Facts {
        name: format!("c{n}"),
        // As the built-in tables declare it: about half of the columns may be NULL.
        not_null: !(matches!(n, 7 | 27) || (10..40).contains(&n)),
        primary_key: n == 0,
        identity: n == 0,
        published: true,
        type_oid: *oid,
        type_modifier: *modifier,
        source: SourceType::of(*oid),
    });
    let facts = TableFacts {
        oid: 1,
        namespace: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: facts.collect(),
    };
    Table::new(&facts.relation(), Some(&facts), Policy::from(&Consumer::default()))
}

/// An insert's message, its values as text or in binary form.
fn insert(columns: &[Column], form: Form) -> Vec<u8> {
    let mut bytes = b"I\0\0\0\x01N".to_vec();
    bytes.extend(u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (oid, _, value) in columns {
        let Some(text) = value else {
            bytes.push(b'n');
            continue;
        };
        let (tag, value) = match form {
            Form::Text => (b't', text.clone().into_bytes()),
            Form::Binary => (b'b', binary(*oid, text)),
        };
        bytes.push(tag);
        bytes.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// A value as its type's send function writes it.
fn binary(oid: u32, text: &str) -> Vec<u8> {
    match oid {
        16 => vec![u8::from(text == "t")],
        20 => text.parse::<i64>().unwrap().to_be_bytes().to_vec(),
        21 => text.parse::<i16>().unwrap().to_be_bytes().to_vec(),
        23 => text.parse::<i32>().unwrap().to_be_bytes().to_vec(),
        701 => text.parse::<f64>().unwrap().to_be_bytes().to_vec(),
        1009 => {
            let elements: Vec<_> = text[1..text.len() - 1].split(',').collect();
            let header = [1, 0, 25, u32::try_from(elements.len()).unwrap(), 1];
            let mut bytes: Vec<u8> = header.iter().flat_map(|n| n.to_be_bytes()).collect();
            for element in elements {
                bytes.extend(u32::try_from(element.len()).unwrap().to_be_bytes());
                bytes.extend(element.as_bytes());
            }
            bytes
        }
        // Any moment costs the same.
        1184 => 848_567_846_123_456i64.to_be_bytes().to_vec(),
        1700 => binary_numeric(text),
        2950 => u128::from_str_radix(&text.replace('-', ""), 16).unwrap().to_be_bytes().to_vec(),
        3802 => [b"\x01", text.as_bytes()].concat(),
        _ => text.as_bytes().to_vec(),
    }
}

fn binary_numeric(text: &str) -> Vec<u8> {
    let (whole, part) = text.split_once('.').unwrap();
    let whole = format!("{:0>1$}", whole, whole.len().next_multiple_of(4));
    let shown_scale = part.len();
    let part = format!("{:0<1$}", part, part.len().next_multiple_of(4));
    let weight = whole.len() / 4 - 1;
    let digits = format!("{whole}{part}");
    let digits = digits.as_bytes().chunks(4).map(|d| std::str::from_utf8(d).unwrap());
    let digits: Vec<u16> = digits.map(|d| d.parse().unwrap()).collect();
    let header = [digits.len(), weight, 0, shown_scale].map(|n| u16::try_from(n).unwrap());
    header.iter().chain(&digits).flat_map(|n| n.to_be_bytes()).collect()
}

fn measure(table: &Table, messages: &[Vec<u8>]) -> f64 {
    let mut out = Vec::new();
    let batches = (0..BATCHES).map(|_| {
        out.clear();
        let started = Instant::now();
        for (message, version) in messages.iter().zip(0..) {
            let Ok(Message::Insert { new, .. }) = Message::decode(black_box(message)) else {
                panic!("not an insert");
            };
            table.encode(new, None, RowKind::Present, version, &mut out).unwrap();
        }
        started.elapsed().as_secs_f64()
    });
    batches.fold(f64::INFINITY, f64::min) * 1e9 / ROWS as f64
}
