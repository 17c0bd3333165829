//! Values of every type, and what becomes of them.

use walbench_consumer::rowbinary::Unencodable;

/// A type, and values of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// The column's type.
    pub(crate) kind: &'static str,
    /// The type in ClickHouse, but for its `Nullable`.
    pub(crate) clickhouse: &'static str,
    /// What is written, as PostgreSQL reads the type, and what becomes of it.
    pub(crate) values: &'static [(&'static str, Becomes)],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Becomes {
    /// This value.
    Value(&'static str),
    /// Refused, or this value if it may be clamped.
    Clamped(Unencodable, &'static str),
    /// Refused in any case.
    Refused(Unencodable),
}

use Becomes::{Clamped, Refused, Value};
use Unencodable::{Dimensions, NotANumber, OutOfRange as TooFar};

const fn kind(
    kind: &'static str,
    clickhouse: &'static str,
    values: &'static [(&'static str, Becomes)],
) -> Kind {
    Kind { kind, clickhouse, values }
}

/// A value that is read back as it was written.
const fn same(value: &'static str) -> (&'static str, Becomes) {
    (value, Value(value))
}

/// Types that values of the list need.
pub(crate) const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'so, so', 'it''s \"good\"', '{\\}');
    CREATE TYPE pair AS (a int, b text);
    CREATE TYPE span AS RANGE (subtype = float8);
    CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE > -1000);
    CREATE DOMAIN dear AS price CHECK (VALUE > 100);
    CREATE DOMAIN moment AS timestamptz;
    CREATE DOMAIN mooded AS mood;
    CREATE DOMAIN ints AS int[];
    CREATE DOMAIN prices AS price[];
    CREATE DOMAIN short AS varchar(3);
    CREATE DOMAIN lasting AS interval;
    CREATE DOMAIN spanned AS span;
";

/// All of them; the first of each pair is what a server must be able to do to hold them.
pub(crate) const GROUPS: [(&str, &[Kind]); 10] = [
    ("SELECT", NUMBERS),
    ("SELECT", TIMES),
    ("SELECT", TEXTS),
    ("SELECT", DOMAINS),
    ("SELECT", ARRAYS),
    ("SELECT 1::numeric(5,-2)", WIDE_SCALES),
    ("SELECT 'infinity'::interval", INFINITE_INTERVALS),
    ("SELECT '<a/>'::xml", XML),
    ("CREATE EXTENSION hstore", HSTORE),
    ("CREATE EXTENSION citext", CITEXT),
];

/// Numbers, booleans and UUIDs.
const NUMBERS: &[Kind] = &[
    kind("bool", "Bool", &[same("true"), same("false")]),
    kind("smallint", "Int16", &[same("-32768"), same("32767")]),
    kind("integer", "Int32", &[same("-2147483648"), same("2147483647"), same("0")]),
    kind(
        "bigint",
        "Int64",
        &[same("-9223372036854775808"), same("9223372036854775807"), same("1234567890123")],
    ),
    kind("oid", "UInt32", &[same("0"), same("4294967295")]),
    kind(
        "real",
        "Float32",
        &[
            same("0.1"),
            same("3.4028235e38"),
            same("1e-45"),
            same("NaN"),
            ("-Infinity", Value("-inf")),
        ],
    ),
    kind(
        "double precision",
        "Float64",
        &[
            same("0.1"),
            ("-0", Value("-0.0")),
            same("1.7976931348623157e308"),
            same("5e-324"),
            same("NaN"),
            ("Infinity", Value("inf")),
        ],
    ),
    kind("numeric(9,2)", "Decimal(9, 2)", &[same("-9999999.99")]),
    kind("numeric(18,9)", "Decimal(18, 9)", &[same("0.000000001")]),
    kind(
        "numeric(10,2)",
        "Decimal(10, 2)",
        &[
            ("0", Value("0.00")),
            ("10000", Value("10000.00")),
            ("12345678.9", Value("12345678.90")),
            ("NaN", Clamped(NotANumber, "NULL")),
        ],
    ),
    kind("numeric(5)", "Decimal(5, 0)", &[same("-99999")]),
    kind("numeric(38,0)", "Decimal(38, 0)", &[same("99999999999999999999999999999999999999")]),
    kind(
        "numeric(38,38)",
        "Decimal(38, 38)",
        &[
            same("-0.99999999999999999999999999999999999999"),
            ("1e-38", Value("0.00000000000000000000000000000000000001")),
        ],
    ),
    kind(
        "numeric(38,19)",
        "Decimal(38, 19)",
        &[("1e18", Value("1000000000000000000.0000000000000000000"))],
    ),
    kind("numeric(39,2)", "String", &[("1.5", Value("1.50"))]),
    kind(
        "numeric",
        "String",
        &[
            same("0"),
            ("-0.00", Value("0.00")),
            ("1e20", Value("100000000000000000000")),
            same("-12345.000678900"),
            ("1e-20", Value("0.00000000000000000001")),
            same("100000000.0001"),
            same("NaN"),
            same("Infinity"),
            same("-Infinity"),
        ],
    ),
    kind(
        "uuid",
        "UUID",
        &[
            same("00112233-4455-6677-8899-aabbccddeeff"),
            ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFE", Value("ffffffff-ffff-ffff-ffff-fffffffffffe")),
        ],
    ),
    kind("money", "String", &[("-1234567.89", Value("-$1,234,567.89"))]),
    kind("pg_lsn", "String", &[same("16/B374D848"), same("0/0")]),
    kind("xid", "String", &[same("4294967295")]),
    kind("xid8", "String", &[same("18446744073709551615")]),
    kind("cid", "String", &[same("7")]),
    kind("tid", "String", &[same("(7,8)")]),
    kind("regclass", "String", &[same("pg_class")]),
    kind("regtype", "String", &[("int4", Value("integer"))]),
    kind("regprocedure", "String", &[same("now()")]),
];

/// Numerics with scales that only PostgreSQL 15 and newer allow.
const WIDE_SCALES: &[Kind] = &[
    kind("numeric(5,-2)", "Decimal(7, 0)", &[("-9999949", Value("-9999900"))]),
    kind("numeric(3,5)", "Decimal(5, 5)", &[same("0.00999")]),
    kind("numeric(38,-1)", "String", &[same("120")]),
];

/// Intervals without an end, from PostgreSQL 17 on.
const INFINITE_INTERVALS: &[Kind] =
    &[kind("interval", "String", &[same("infinity"), same("-infinity")])];

/// Dates and times.
const TIMES: &[Kind] = &[
    kind(
        "date",
        "Date32",
        &[
            same("1970-01-01"),
            same("2000-02-29"),
            same("1900-01-01"),
            same("2299-12-31"),
            ("1899-12-31", Clamped(TooFar, "1900-01-01")),
            ("2300-01-01", Clamped(TooFar, "2299-12-31")),
            ("0001-01-01", Clamped(TooFar, "1900-01-01")),
            ("4713-01-01 BC", Clamped(TooFar, "1900-01-01")),
            ("2026-01-01 BC", Clamped(TooFar, "1900-01-01")),
            ("5874897-12-31", Clamped(TooFar, "2299-12-31")),
            ("infinity", Clamped(TooFar, "2299-12-31")),
            ("-infinity", Clamped(TooFar, "1900-01-01")),
        ],
    ),
    kind(
        "timestamp",
        "DateTime64(6, 'UTC')",
        &[
            same("2026-11-20 09:17:26.123456"),
            ("2026-11-20 09:17:26.1", Value("2026-11-20 09:17:26.100000")),
            same("1969-12-31 23:59:59.999999"),
            ("2026-12-31 24:00:00", Value("2027-01-01 00:00:00.000000")),
        ],
    ),
    kind(
        "timestamp(0)",
        "DateTime64(6, 'UTC')",
        &[("2026-11-20 09:17:59.5", Value("2026-11-20 09:18:00.000000"))],
    ),
    kind(
        "timestamp",
        "DateTime64(6, 'UTC')",
        &[
            ("1900-01-01", Value("1900-01-01 00:00:00.000000")),
            same("2299-12-31 23:59:59.999999"),
            ("1899-12-31 23:59:59.999999", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
            ("2300-01-01", Clamped(TooFar, "2299-12-31 23:59:59.999999")),
            ("4713-01-01 00:00:00 BC", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
            ("294276-12-31 23:59:59.999999", Clamped(TooFar, "2299-12-31 23:59:59.999999")),
            ("infinity", Clamped(TooFar, "2299-12-31 23:59:59.999999")),
            ("-infinity", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
        ],
    ),
    kind(
        "timestamptz",
        "DateTime64(6, 'UTC')",
        &[
            ("1970-01-01 02:00:00.5+02", Value("1970-01-01 00:00:00.500000")),
            ("1970-01-01 00:19:32.13+00:19:32", Value("1970-01-01 00:00:00.130000")),
            ("1900-01-01 00:00:00+00:00:01", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
            ("2299-12-31 23:00:00-01", Clamped(TooFar, "2299-12-31 23:59:59.999999")),
            ("0044-03-15 12:00:00.25+00 BC", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
            ("294276-12-31 23:59:59.999999+00", Clamped(TooFar, "2299-12-31 23:59:59.999999")),
            ("-infinity", Clamped(TooFar, "1900-01-01 00:00:00.000000")),
        ],
    ),
    kind(
        "time",
        "String",
        &[same("00:00:00"), same("24:00:00"), ("23:59:59.999990", Value("23:59:59.99999"))],
    ),
    kind(
        "timetz",
        "String",
        &[same("12:34:56.5+00"), same("24:00:00-15:59:59"), same("00:00:00+05:30")],
    ),
    kind(
        "interval",
        "String",
        &[
            ("0", Value("00:00:00")),
            same("1 year 2 mons 3 days 04:05:06.789"),
            (
                "-1 year -2 mons +3 days -04:05:06.000001",
                Value("-1 years -2 mons +3 days -04:05:06.000001"),
            ),
            same("-1 mons +1 day 00:00:01"),
            ("1 mon -1 day 1 s", Value("1 mon -1 days +00:00:01")),
            same("-00:00:00.5"),
            same("2562047788:00:54.775807"),
            same("178956970 years 7 mons 1 day"),
        ],
    ),
];

/// Texts, bytes, bits and addresses.
const TEXTS: &[Kind] = &[
    kind(
        "text",
        "String",
        &[same(""), same("it's \"quoted\" \\ {x,y} NULL"), same("grüße 你好 🐘\n\t")],
    ),
    kind("varchar", "String", &[same("x")]),
    kind("varchar(3)", "String", &[same("äöü")]),
    kind("char(5)", "String", &[("ab", Value("ab   "))]),
    kind("char", "String", &[("", Value(" "))]),
    kind("name", "String", &[same("a name")]),
    kind("\"char\"", "String", &[same("x"), same("")]),
    kind(
        "bytea",
        "String",
        &[
            ("\\x", Value("")),
            ("\\x00ff80", Value("00ff80")),
            ("\\x202122232425262728292a2b2c2d2e2f303132", Value(" !\"#$%&'()*+,-./012")),
        ],
    ),
    kind("json", "String", &[same("{\"b\" : 1,  \"a\":[null]}")]),
    kind("jsonb", "String", &[("{\"b\" : 1,  \"a\":[null]}", Value("{\"a\": [null], \"b\": 1}"))]),
    kind("jsonpath", "String", &[("$.a[*]", Value("$.\"a\"[*]"))]),
    kind("mood", "String", &[same("it's \"good\"")]),
    kind("bit(3)", "String", &[same("101")]),
    kind("bit", "String", &[same("1")]),
    kind("varbit", "String", &[same("")]),
    kind("varbit(20)", "String", &[same("1010101011")]),
    kind(
        "inet",
        "String",
        &[
            same("192.168.0.1"),
            same("10.1.2.3/8"),
            same("::"),
            same("::1"),
            same("1::"),
            ("2001:DB8::8:800:200C:417A", Value("2001:db8::8:800:200c:417a")),
            ("2001:0:0:1:0:0:0:1/64", Value("2001:0:0:1::1/64")),
            ("1:0:0:2:3:0:0:4", Value("1::2:3:0:0:4")),
            same("1:0:2:3:4:5:6:7"),
            same("::ffff:1.2.3.4"),
            same("::1.2.3.4"),
            ("::1:0", Value("::0.1.0.0")),
        ],
    ),
    kind(
        "cidr",
        "String",
        &[same("10.1.0.0/16"), ("10.1.2.3", Value("10.1.2.3/32")), same("2001:db8::/32")],
    ),
    kind("macaddr", "String", &[same("08:00:2b:01:02:03")]),
    kind("macaddr8", "String", &[same("08:00:2b:01:02:03:04:ff")]),
    kind("tsvector", "String", &[same("'a' 'it''s':1A")]),
    kind("tsquery", "String", &[same("'a' & !'b'")]),
    kind("point", "String", &[same("(1.5,-2)")]),
    kind("line", "String", &[same("{1,2,3}")]),
    kind("lseg", "String", &[same("[(0,0),(1,1)]")]),
    kind("box", "String", &[same("(1,1),(0,0)")]),
    kind("path", "String", &[same("((0,0),(1,1))")]),
    kind("polygon", "String", &[same("((0,0),(1,1),(2,0))")]),
    kind("circle", "String", &[same("<(0,0),1>")]),
    kind("int2vector", "String", &[same("1 2 3")]),
    kind("aclitem", "String", &[same("postgres=r/postgres")]),
    kind("int4range", "String", &[("[1,3]", Value("[1,4)")), same("empty")]),
    kind(
        "tstzrange",
        "String",
        &[("[2026-01-01 00:00:00+00,infinity)", Value("[\"2026-01-01 00:00:00+00\",infinity)"))],
    ),
    kind("int4multirange", "String", &[same("{[1,3),[5,7)}"), same("{}")]),
    kind("span", "String", &[same("(0.5,)")]),
    kind("pair", "String", &[same("(1,\"a \"\"quoted\"\", \\\\ one\")"), same("(,)")]),
];

/// Domains are what they are made of.
const DOMAINS: &[Kind] = &[
    kind("price", "Decimal(10, 2)", &[("-999.5", Value("-999.50"))]),
    kind("dear", "Decimal(10, 2)", &[("12345678.9", Value("12345678.90"))]),
    kind(
        "moment",
        "DateTime64(6, 'UTC')",
        &[("infinity", Clamped(TooFar, "2299-12-31 23:59:59.999999"))],
    ),
    kind("mooded", "String", &[same("so, so")]),
    kind("short", "String", &[same("abc")]),
    kind("lasting", "String", &[same("1 day")]),
    kind("spanned", "String", &[same("[1,2]")]),
    kind("ints", "Array(Nullable(Int32))", &[("{1,NULL}", Value("[1, NULL]"))]),
    kind("prices", "Array(Nullable(Decimal(10, 2)))", &[("{1.5}", Value("[1.50]"))]),
    kind("price[]", "Array(Nullable(Decimal(10, 2)))", &[("{1.5,NULL}", Value("[1.50, NULL]"))]),
    kind(
        "mooded[]",
        "Array(Nullable(String))",
        &[("{sad,\"so, so\"}", Value("['sad', 'so, so']"))],
    ),
    kind("ints[]", "Array(Nullable(String))", &[("{\"{1,2}\",\"{}\"}", Value("['{1,2}', '{}']"))]),
];

/// Arrays of one dimension, and of more.
const ARRAYS: &[Kind] = &[
    kind(
        "int[]",
        "Array(Nullable(Int32))",
        &[
            ("{}", Value("[]")),
            ("{1,NULL,-2147483648}", Value("[1, NULL, -2147483648]")),
            ("[0:1]={7,8}", Value("[7, 8]")),
            ("[-5:-5]={7}", Value("[7]")),
            ("{{1,2},{3,4}}", Refused(Dimensions)),
            ("[0:0][2:3]={{1,2}}", Refused(Dimensions)),
        ],
    ),
    kind("int[3]", "Array(Nullable(Int32))", &[("{1}", Value("[1]"))]),
    kind("smallint[]", "Array(Nullable(Int16))", &[("{-1}", Value("[-1]"))]),
    kind(
        "bigint[]",
        "Array(Nullable(Int64))",
        &[("{9223372036854775807}", Value("[9223372036854775807]"))],
    ),
    kind("oid[]", "Array(Nullable(UInt32))", &[("{4294967295}", Value("[4294967295]"))]),
    kind("bool[]", "Array(Nullable(Bool))", &[("{t,NULL,f}", Value("[true, NULL, false]"))]),
    kind("real[]", "Array(Nullable(Float32))", &[("{0.1}", Value("[0.1]"))]),
    kind(
        "float8[]",
        "Array(Nullable(Float64))",
        &[("{NaN,-Infinity,1e300}", Value("[NaN, -inf, 1e300]"))],
    ),
    kind(
        "numeric(5,2)[]",
        "Array(Nullable(Decimal(5, 2)))",
        &[
            ("{1.5,-999.99}", Value("[1.50, -999.99]")),
            ("{1.5,NaN}", Clamped(NotANumber, "[1.50, NULL]")),
        ],
    ),
    kind(
        "numeric[]",
        "Array(Nullable(String))",
        &[("{1.500,1e10}", Value("['1.500', '10000000000']"))],
    ),
    kind(
        "uuid[]",
        "Array(Nullable(UUID))",
        &[(
            "{00112233-4455-6677-8899-aabbccddeeff}",
            Value("[00112233-4455-6677-8899-aabbccddeeff]"),
        )],
    ),
    kind(
        "date[]",
        "Array(Nullable(Date32))",
        &[("{2026-11-20,-infinity,NULL}", Clamped(TooFar, "[2026-11-20, 1900-01-01, NULL]"))],
    ),
    kind(
        "timestamptz[]",
        "Array(Nullable(DateTime64(6, 'UTC')))",
        &[("{\"2026-11-20 09:17:26+00\"}", Value("[2026-11-20 09:17:26.000000]"))],
    ),
    kind(
        "timestamp[]",
        "Array(Nullable(DateTime64(6, 'UTC')))",
        &[("{NULL,infinity}", Clamped(TooFar, "[NULL, 2299-12-31 23:59:59.999999]"))],
    ),
    kind(
        "text[]",
        "Array(Nullable(String))",
        &[
            (r#"{"",NULL,"NULL",null,a b,"c,d"}"#, Value("['', NULL, 'NULL', NULL, 'a b', 'c,d']")),
            (r#"{"q\"q","b\\s","{x}","it's",ü}"#, Value(r#"['q"q', 'b\s', '{x}', 'it's', 'ü']"#)),
            ("{{a},{b}}", Refused(Dimensions)),
        ],
    ),
    kind("varchar(3)[]", "Array(Nullable(String))", &[("{abc}", Value("['abc']"))]),
    kind("char(3)[]", "Array(Nullable(String))", &[("{a}", Value("['a  ']"))]),
    kind("name[]", "Array(Nullable(String))", &[("{a}", Value("['a']"))]),
    kind("\"char\"[]", "Array(Nullable(String))", &[(r#"{a,"",\\}"#, Value(r"['a', '', '\']"))]),
    kind(
        "bytea[]",
        "Array(Nullable(String))",
        &[(r#"{"\\x4142","\\x",NULL}"#, Value("['AB', '', NULL]"))],
    ),
    kind(
        "json[]",
        "Array(Nullable(String))",
        &[(r#"{"{\"a\": [1, 2]}"}"#, Value(r#"['{"a": [1, 2]}']"#))],
    ),
    kind(
        "jsonb[]",
        "Array(Nullable(String))",
        &[(r#"{"{\"a\":1}",NULL}"#, Value(r#"['{"a": 1}', NULL]"#))],
    ),
    kind(
        "mood[]",
        "Array(Nullable(String))",
        &[(r#"{sad,"it's \"good\"","{\\}"}"#, Value(r#"['sad', 'it's "good"', '{\}']"#))],
    ),
    kind(
        "interval[]",
        "Array(Nullable(String))",
        &[("{1 day,-00:00:01}", Value("['1 day', '-00:00:01']"))],
    ),
    kind("time[]", "Array(Nullable(String))", &[("{24:00:00}", Value("['24:00:00']"))]),
    kind(
        "inet[]",
        "Array(Nullable(String))",
        &[("{::1,10.0.0.1/8}", Value("['::1', '10.0.0.1/8']"))],
    ),
    kind("bit(2)[]", "Array(Nullable(String))", &[("{10,01}", Value("['10', '01']"))]),
    kind("money[]", "Array(Nullable(String))", &[("{1234.5}", Value("['$1,234.50']"))]),
    kind(
        "pair[]",
        "Array(Nullable(String))",
        &[(r#"{"(1,\"a b\")",NULL}"#, Value(r#"['(1,"a b")', NULL]"#))],
    ),
    kind(
        "int4range[]",
        "Array(Nullable(String))",
        &[(r#"{"[1,3)",empty}"#, Value("['[1,3)', 'empty']"))],
    ),
    kind("point[]", "Array(Nullable(String))", &[(r#"{"(1,2)"}"#, Value("['(1,2)']"))]),
    kind(
        "box[]",
        "Array(Nullable(String))",
        &[("{(1,1),(0,0);NULL;(3,3),(2,2)}", Value("['(1,1),(0,0)', NULL, '(3,3),(2,2)']"))],
    ),
];

const XML: &[Kind] = &[
    kind(
        "xml",
        "String",
        &[same("<a>ü</a>"), ("<?xml version=\"1.0\" encoding=\"UTF-8\"?><a/>", Value("<a/>"))],
    ),
    kind("xml[]", "Array(Nullable(String))", &[("{<a/>}", Value("['<a/>']"))]),
];

const HSTORE: &[Kind] = &[
    kind("hstore", "String", &[("a=>1", Value("\"a\"=>\"1\""))]),
    kind(
        "hstore[]",
        "Array(Nullable(String))",
        &[(r#"{"\"a\"=>\"1\""}"#, Value(r#"['"a"=>"1"']"#))],
    ),
];

const CITEXT: &[Kind] = &[kind("citext", "String", &[same("Aa")])];
