//! Inserts of bytes at random into the mock server and into the embedded engine behind its front: each
//! is taken for what it says or refused with a reason, and nobody's rows are anything but what was sent.
//!
//! `WALBENCH_BAD_INSERTS=100000` is the proof; the default is for every day.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::clickhouse::{Kind, Private};
use crate::kills::Draw;
use crate::mock_clickhouse::Mock;

/// `id`, `text`, `list`.
type Row = (u64, Vec<u8>, Vec<u16>);

const COLUMNS: &str = "(id UInt64, text String, list Array(UInt16))";

/// Inserts between two looks at the tables.
const ROUND: usize = 100;

/// Threads that insert, each into a table of its own.
const WRITERS: u64 = 2;

fn inserts() -> usize {
    std::env::var("WALBENCH_BAD_INSERTS").map_or(1_000, |text| text.parse().unwrap())
}

/// An insert, and the rows that are in it; none if it can't be read to its end.
struct Insert {
    /// Parameters behind the query.
    query: &'static str,
    /// Header lines.
    headers: String,
    body: Vec<u8>,
    /// The connection ends before as many bytes as were promised.
    is_cut: bool,
    rows: Option<Vec<Row>>,
}

fn encode(rows: &[Row]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, text, list) in rows {
        bytes.extend(id.to_le_bytes());
        put_length(&mut bytes, text.len());
        bytes.extend(text);
        put_length(&mut bytes, list.len());
        list.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    }
    bytes
}

fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length > 127 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// What RowBinary says, if it says anything.
fn decode(mut bytes: &[u8]) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let id = u64::from_le_bytes(*bytes.split_off(..8)?.first_chunk()?);
        let length = take_length(&mut bytes)?;
        let text = bytes.split_off(..length)?.to_vec();
        let length = take_length(&mut bytes)?;
        let list = bytes.split_off(..length.checked_mul(2)?)?.chunks_exact(2);
        rows.push((id, text, list.map(|two| u16::from_le_bytes([two[0], two[1]])).collect()));
    }
    Some(rows)
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        length |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return usize::try_from(length).ok();
        }
    }
    None
}

const LZ4: u8 = 0x82;
const NOT_COMPRESSED: u8 = 0x02;

/// A block as ClickHouse has them: a checksum, a method, both lengths, data.
fn block(method: u8, raw_bytes: u32, data: &[u8]) -> Vec<u8> {
    let mut block = vec![method];
    block.extend(u32::try_from(9 + data.len()).unwrap().to_le_bytes());
    block.extend(raw_bytes.to_le_bytes());
    block.extend(data);
    seal(&block)
}

fn seal(block: &[u8]) -> Vec<u8> {
    let checksum = cityhash_rs::cityhash_102_128(block).rotate_left(64);
    [&checksum.to_le_bytes()[..], block].concat()
}

/// What blocks hold, if they are whole.
fn unblock(mut blocks: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::new();
    while !blocks.is_empty() {
        let checksum = blocks.split_off(..16)?;
        let number = |at: usize| Some(u32::from_le_bytes(*blocks.get(at..)?.first_chunk()?));
        let (length, raw_bytes) = (number(1)? as usize, number(5)? as usize);
        let block = blocks.split_off(..length)?;
        if seal(block).get(..16)? != checksum || length < 9 {
            return None;
        }
        let data = &block[9..];
        // Here nothing is larger.
        let part = match block[0] {
            LZ4 if raw_bytes < 1 << 20 => lz4_flex::block::decompress(data, raw_bytes).ok()?,
            NOT_COMPRESSED => data.to_vec(),
            _ => return None,
        };
        if part.len() != raw_bytes {
            return None;
        }
        raw.extend(part);
    }
    Some(raw)
}

/// As HTTP's own compressions have it.
fn encoded(encoding: &str, body: &[u8]) -> Option<Vec<u8>> {
    let level = flate2::Compression::fast();
    Some(match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(body).unwrap();
            encoder.finish().unwrap()
        }
        "zstd" => zstd::encode_all(body, 1).unwrap(),
        _ => return None,
    })
}

impl Draw {
    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.below(256) as u8).collect()
    }

    fn place(&mut self, bytes: &[u8]) -> usize {
        self.below(bytes.len() as u64 + 1) as usize
    }

    fn row(&mut self) -> Row {
        let text =
            if self.one_in(2) { vec![b'x'; self.below(300) as usize] } else { self.bytes(40) };
        let list = (0..self.below(4)).map(|_| self.below(1 << 16) as u16).collect();
        (self.below(u64::MAX), text, list)
    }

    /// Does to bytes what networks, disks and wrong programs do.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        let (from, to) = (self.place(bytes), self.place(bytes));
        let range = from.min(to)..from.max(to);
        match self.below(7) {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.below(8);
            }
            1 => bytes.truncate(from),
            2 => drop(bytes.splice(from..from, self.bytes(20))),
            3 => drop(bytes.drain(range)),
            4 => {
                let again = bytes[range].to_vec();
                drop(bytes.splice(from..from, again));
            }
            5 => bytes[range].iter_mut().take(8).for_each(|byte| *byte = 0xff),
            _ => {}
        }
    }

    /// A block that says something else of itself than what it is, under a checksum that is right.
    fn lie(&mut self, block: &mut Vec<u8>) {
        let mut body = block[16..].to_vec();
        match self.below(4) {
            0 => body[0] = [0x00, 0x01, LZ4, NOT_COMPRESSED, 0x83, 0xff][self.below(6) as usize],
            1 => body[5..9].copy_from_slice(&(self.below(1 << 32) as u32).to_le_bytes()),
            2 => body[5] ^= 1 << self.below(8),
            _ => {
                let at = 9 + self.below((body.len() - 9).max(1) as u64) as usize;
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
        }
        *block = seal(&body);
    }

    fn blocks(&mut self, raw: &[u8]) -> Vec<u8> {
        let size = 1 + self.below(400) as usize;
        let mut blocks: Vec<_> = raw
            .chunks(size)
            .map(|part| match self.one_in(4) {
                true => block(NOT_COMPRESSED, part.len() as u32, part),
                false => block(LZ4, part.len() as u32, &lz4_flex::block::compress(part)),
            })
            .collect();
        if self.one_in(3) && !blocks.is_empty() {
            let which = self.below(blocks.len() as u64) as usize;
            self.lie(&mut blocks[which]);
        }
        if self.one_in(8) {
            blocks.reverse();
        }
        blocks.concat()
    }

    fn insert(&mut self) -> Insert {
        let rows: Vec<_> = (0..self.below(6)).map(|_| self.row()).collect();
        let mut body = encode(&rows);
        if self.one_in(2) {
            self.spoil(&mut body);
        }
        let mut insert =
            Insert { query: "", headers: String::new(), rows: decode(&body), body, is_cut: false };
        if self.one_in(2) {
            insert.query = "&decompress=1";
            insert.body = self.blocks(&insert.body);
            if self.one_in(3) {
                self.spoil(&mut insert.body);
            }
            insert.rows = unblock(&insert.body).and_then(|raw| decode(&raw));
        } else if self.one_in(10) && !insert.body.is_empty() {
            let encoding = ["gzip", "deflate", "lz4", "zstd", "nonsense"][self.below(5) as usize];
            insert.headers = format!("Content-Encoding: {encoding}\r\n");
            match encoded(encoding, &insert.body).filter(|_| self.one_in(2)) {
                Some(body) if self.one_in(2) => insert.body = body,
                Some(body) => {
                    insert.body = body[..1 + self.below(body.len() as u64 - 1) as usize].to_vec();
                    insert.rows = None;
                }
                None => insert.rows = None,
            }
        }
        if self.one_in(20) {
            (insert.is_cut, insert.rows) = (true, None);
        }
        insert
    }
}

/// Who takes inserts.
#[derive(Clone, Copy)]
struct Taker<'a> {
    address: &'a str,
    /// Header lines.
    login: &'a str,
    engine: &'a str,
}

impl Taker<'_> {
    fn ask(&self, query: &str, headers: &str, body: &[u8], promised: usize) -> (String, Vec<u8>) {
        let Self { address, login, .. } = self;
        let head = format!(
            "POST /{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{login}{headers}\
             Content-Length: {promised}\r\n\r\n"
        );
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        if promised > body.len() {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap_or(answer.len());
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let mut body = answer.split_off((end + 4).min(answer.len()));
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            body = unchunk(&body);
        }
        (head, body)
    }

    fn answer(&self, sql: &str) -> Vec<u8> {
        let (head, body) = self.ask("", "", sql.as_bytes(), sql.len());
        assert!(head.contains(" 200 OK"), "{sql}: {head}\n{}", String::from_utf8_lossy(&body));
        body
    }

    fn insert(&self, table: &str, insert: &Insert) {
        let Insert { query, headers, body, is_cut, rows } = insert;
        let query = format!("?query=INSERT+INTO+{table}+FORMAT+RowBinary{query}");
        let promised = body.len() + usize::from(*is_cut) * 10;
        let (head, said) = self.ask(&query, headers, body, promised);
        let said = String::from_utf8_lossy(&said);
        let told = || format!("{} {query} {headers} {body:02x?}\n{head}\n{said}", self.engine);
        match rows {
            Some(_) => assert!(head.contains(" 200 OK"), "{}", told()),
            // Nobody may be there any more who could be told.
            None if *is_cut && head.is_empty() => {}
            None => {
                let code = said
                    .strip_prefix("Code: ")
                    .and_then(|rest| rest.split_once(". DB::Exception: "));
                let code = code.and_then(|(code, _)| code.parse::<u32>().ok());
                assert!(code.is_some_and(|code| code > 0) && said.len() < 2_000, "{}", told());
                assert!(!head.contains(" 200 OK"), "{}", told());
            }
        }
    }

    fn insert_many(&self, table: &str, count: usize) {
        let Self { engine, .. } = self;
        let mut draw = Draw::new();
        self.answer(&format!("CREATE TABLE {table} {COLUMNS} ENGINE = {engine}"));
        let mut taken = 0;
        for round in 0..count.div_ceil(ROUND) {
            let mut expected = Vec::new();
            for _ in 0..ROUND {
                let insert = draw.insert();
                self.insert(table, &insert);
                expected.extend(insert.rows.unwrap_or_default());
            }
            let stored =
                self.answer(&format!("SELECT id, text, list FROM {table} FORMAT RowBinary"));
            let mut stored = decode(&stored).unwrap();
            stored.sort();
            expected.sort();
            assert_eq!(stored, expected, "{engine}, round {round}");
            taken += expected.len();
            self.answer(&format!("TRUNCATE TABLE {table}"));
        }
        assert!(taken > count / 4, "only {taken} rows of {count} inserts were taken");
    }

    fn insert_from_all_sides(&self) {
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let count = inserts() / WRITERS as usize;
                scope.spawn(move || self.insert_many(&format!("bad_{writer}"), count));
            }
        });
    }
}

fn unchunk(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = chunks.windows(2).position(|bytes| bytes == b"\r\n") {
        let size =
            usize::from_str_radix(std::str::from_utf8(&chunks[..line]).unwrap(), 16).unwrap();
        let data = &chunks[line + 2..];
        if size == 0 || data.len() < size + 2 {
            break;
        }
        body.extend(&data[..size]);
        chunks = &data[size + 2..];
    }
    body
}

#[test]
fn the_mock_takes_what_it_should() {
    let mock = Mock::start("[]");
    let engine = "MergeTree ORDER BY id";
    Taker { address: mock.address(), login: "", engine }.insert_from_all_sides();
    mock.end();
}

#[test]
fn the_embedded_engine_takes_what_it_should() {
    let server = Private::start(Kind::Embedded);
    let login = server.login();
    let (user, password) = login.split_once(':').unwrap();
    let login = format!("X-ClickHouse-User: {user}\r\nX-ClickHouse-Key: {password}\r\n");
    // A part for each of them would have to be merged.
    let engine = "Memory";
    Taker { address: server.address(), login: &login, engine }.insert_from_all_sides();
    server.end();
}

#[test]
fn what_is_expected_is_what_was_encoded() {
    let mut draw = Draw::new();
    for _ in 0..1_000 {
        let rows: Vec<_> = (0..5).map(|_| draw.row()).collect();
        let encoded = encode(&rows);
        assert_eq!(decode(&encoded).as_ref(), Some(&rows));
        let whole =
            [block(LZ4, encoded.len() as u32, &lz4_flex::block::compress(&encoded))].concat();
        assert_eq!(unblock(&whole), Some(encoded));
    }
}
