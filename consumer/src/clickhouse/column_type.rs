//! ClickHouse's types, by their names (ClickHouse manual, data types), as far as their values have
//! a form in RowBinary that does not depend on other settings.

use std::fmt;

use super::exception::{
    Exception, ILLEGAL_COLUMN, ILLEGAL_TYPE_OF_ARGUMENT, SYNTAX_ERROR, UNKNOWN_TYPE,
};
use super::token::{Token, Tokens, unquote};
use crate::rowbinary::{Parts, Walk, decimal_bytes};

/// Types within types, at most.
const DEEPEST: u32 = 32;

/// A column's type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `Bool`.
    Bool,
    /// `Int8` to `Int256`.
    Int(u16),
    /// `UInt8` to `UInt256`.
    UInt(u16),
    /// `Float32` and `Float64`.
    Float(u16),
    /// `Decimal(precision, scale)`.
    Decimal {
        /// Decimal digits in all, 76 at most.
        precision: u32,
        /// Digits behind the point.
        scale: u32,
    },
    /// `String`.
    String,
    /// `FixedString(n)`.
    FixedString(u32),
    /// `UUID`.
    Uuid,
    /// `IPv4`.
    Ipv4,
    /// `IPv6`.
    Ipv6,
    /// `Date`.
    Date,
    /// `Date32`.
    Date32,
    /// `DateTime`, with a time zone or without.
    DateTime(Option<String>),
    /// `DateTime64`.
    DateTime64 {
        /// Digits of its fraction of a second.
        precision: u32,
        /// Its time zone.
        zone: Option<String>,
    },
    /// `Enum8` and `Enum16`.
    Enum {
        /// 8 or 16.
        bits: u16,
        /// Its names and numbers.
        values: Vec<(String, i16)>,
    },
    /// `Nullable(…)`.
    Nullable(Box<Self>),
    /// `LowCardinality(…)`, which makes no difference to a value's bytes.
    LowCardinality(Box<Self>),
    /// `Array(…)`.
    Array(Box<Self>),
    /// `Tuple(…)`, whose elements may have names.
    Tuple {
        /// The elements' types.
        elements: Vec<Self>,
        /// Their names; none, or one for each.
        names: Vec<String>,
    },
    /// `Map(…, …)`: key and value.
    Map(Box<[Self; 2]>),
}

impl ColumnType {
    /// Reads a type's name.
    ///
    /// # Errors
    /// It is none, or a type that is not known here, with ClickHouse's code for it.
    pub fn parse(text: &str) -> Result<Self, Exception> {
        let mut tokens = Tokens::new(text.as_bytes());
        let parsed = Self::read(&mut tokens)?;
        match tokens.next() {
            None => Ok(parsed),
            Some(_) => Err(syntax("there is more behind the type")),
        }
    }

    /// Reads the name that stands here.
    pub(super) fn read(tokens: &mut Tokens<'_>) -> Result<Self, Exception> {
        Reader { tokens, depth: 0 }.read()
    }

    /// What it is without what makes no difference to a value.
    #[must_use]
    pub fn plain(&self) -> &Self {
        match self {
            Self::LowCardinality(stored) => stored.plain(),
            other => other,
        }
    }

    /// What is encoded for a value that is not given.
    #[must_use]
    pub fn default_value(&self) -> Vec<u8> {
        match self {
            Self::Nullable(_) => vec![1],
            Self::LowCardinality(stored) => stored.default_value(),
            Self::Tuple { elements, .. } => elements.iter().flat_map(Self::default_value).collect(),
            Self::Enum { bits, values } => {
                let first = values.first().map_or(0, |(_, number)| *number);
                first.to_le_bytes()[..usize::from(*bits / 8)].to_vec()
            }
            other => match other.parts() {
                Parts::Fixed(bytes) => vec![0; bytes],
                _ => vec![0],
            },
        }
    }
}

impl Walk for ColumnType {
    #[inline]
    fn parts(&self) -> Parts<'_, Self> {
        match self {
            Self::Bool => Parts::Bool,
            Self::Int(bits) | Self::UInt(bits) | Self::Float(bits) | Self::Enum { bits, .. } => {
                Parts::Fixed(usize::from(*bits / 8))
            }
            Self::Decimal { precision, .. } => Parts::Fixed(decimal_bytes(*precision)),
            Self::FixedString(bytes) => Parts::Fixed(*bytes as usize),
            Self::Date => Parts::Fixed(2),
            Self::Date32 | Self::DateTime(_) | Self::Ipv4 => Parts::Fixed(4),
            Self::DateTime64 { .. } => Parts::Fixed(8),
            Self::Uuid | Self::Ipv6 => Parts::Fixed(16),
            Self::String => Parts::Counted,
            Self::Nullable(value) => Parts::Nullable(value),
            Self::LowCardinality(stored) => stored.parts(),
            Self::Array(element) => {
                Parts::Repeated { of: std::slice::from_ref(element), nullable: false }
            }
            Self::Tuple { elements, .. } => Parts::Each(elements),
            Self::Map(pair) => Parts::Repeated { of: &pair[..], nullable: false },
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("Bool"),
            Self::Int(bits) => write!(f, "Int{bits}"),
            Self::UInt(bits) => write!(f, "UInt{bits}"),
            Self::Float(bits) => write!(f, "Float{bits}"),
            Self::Decimal { precision, scale } => write!(f, "Decimal({precision}, {scale})"),
            Self::String => f.write_str("String"),
            Self::FixedString(bytes) => write!(f, "FixedString({bytes})"),
            Self::Uuid => f.write_str("UUID"),
            Self::Ipv4 => f.write_str("IPv4"),
            Self::Ipv6 => f.write_str("IPv6"),
            Self::Date => f.write_str("Date"),
            Self::Date32 => f.write_str("Date32"),
            Self::DateTime(None) => f.write_str("DateTime"),
            Self::DateTime(Some(zone)) => write!(f, "DateTime({})", quoted(zone)),
            Self::DateTime64 { precision, zone: None } => write!(f, "DateTime64({precision})"),
            Self::DateTime64 { precision, zone: Some(zone) } => {
                write!(f, "DateTime64({precision}, {})", quoted(zone))
            }
            Self::Enum { bits, values } => {
                let value = |(name, number): &(String, i16)| format!("{} = {number}", quoted(name));
                let values: Vec<String> = values.iter().map(value).collect();
                write!(f, "Enum{bits}({})", values.join(", "))
            }
            Self::Nullable(value) => write!(f, "Nullable({value})"),
            Self::LowCardinality(stored) => write!(f, "LowCardinality({stored})"),
            Self::Array(element) => write!(f, "Array({element})"),
            Self::Tuple { elements, names } => {
                let element = |(n, element): (usize, &Self)| match names.get(n) {
                    Some(name) => format!("{} {element}", name_as_sql(name)),
                    None => element.to_string(),
                };
                let elements: Vec<String> = elements.iter().enumerate().map(element).collect();
                write!(f, "Tuple({})", elements.join(", "))
            }
            Self::Map(pair) => write!(f, "Map({}, {})", pair[0], pair[1]),
        }
    }
}

fn quoted(text: &str) -> String {
    super::ddl::quote_string(text)
}

/// ClickHouse writes names in types without quotes where it can.
fn name_as_sql(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    match starts_well && name.bytes().all(is_plain) {
        true => name.to_owned(),
        false => super::ddl::quote_name(name),
    }
}

fn syntax(what: &str) -> Exception {
    Exception::new(SYNTAX_ERROR, format!("Syntax error: a data type can't be read: {what}"))
}

struct Reader<'t, 'a> {
    tokens: &'t mut Tokens<'a>,
    depth: u32,
}

impl Reader<'_, '_> {
    fn read(&mut self) -> Result<ColumnType, Exception> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(syntax("types stand too deep within types"));
        }
        let Some(Token::Word(name)) = self.tokens.next() else {
            return Err(syntax("a name is missing"));
        };
        let name = String::from_utf8_lossy(name).into_owned();
        let read = self.named(&name);
        self.depth -= 1;
        read
    }

    fn named(&mut self, name: &str) -> Result<ColumnType, Exception> {
        if let Some(scalar) = scalar(name) {
            return Ok(scalar);
        }
        match name {
            "Decimal" => self.decimal(None),
            "Decimal32" => self.decimal(Some(9)),
            "Decimal64" => self.decimal(Some(18)),
            "Decimal128" => self.decimal(Some(38)),
            "Decimal256" => self.decimal(Some(76)),
            "FixedString" => {
                let bytes = self.within(Self::number)?;
                u32::try_from(bytes)
                    .ok()
                    .filter(|n| (1..=0x00ff_ffff).contains(n))
                    .map(ColumnType::FixedString)
                    .ok_or_else(|| syntax("the length of a FixedString"))
            }
            "DateTime" => self.date_time(),
            "DateTime64" => self.date_time64(),
            "Enum8" => self.enumeration(8),
            "Enum16" => self.enumeration(16),
            "Enum" => self.enumeration(0),
            "Nullable" => Self::nullable(self.within(Self::read)?),
            "LowCardinality" => Self::low_cardinality(self.within(Self::read)?),
            "Array" => Ok(ColumnType::Array(Box::new(self.within(Self::read)?))),
            "Map" => self.within(|reader| {
                let key = reader.read()?;
                reader.symbol(b',')?;
                Ok(ColumnType::Map(Box::new([key, reader.read()?])))
            }),
            "Tuple" => self.tuple(),
            _ => Err(Exception::new(
                UNKNOWN_TYPE,
                format!("Unknown data type family: {name}; the mock knows none of that name"),
            )),
        }
    }

    fn decimal(&mut self, digits: Option<u32>) -> Result<ColumnType, Exception> {
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let (precision, scale) = match digits {
            Some(precision) => (precision, number(self.within(Self::number)?)),
            None => self.within(|reader| {
                let precision = reader.number()?;
                let scale = match reader.comes(b',') {
                    true => reader.number()?,
                    false => 0,
                };
                Ok((number(precision), number(scale)))
            })?,
        };
        if !(1..=76).contains(&precision) || scale > precision {
            let text = format!("Wrong precision or scale of Decimal({precision}, {scale})");
            return Err(Exception::new(super::exception::ARGUMENT_OUT_OF_BOUND, text));
        }
        Ok(ColumnType::Decimal { precision, scale })
    }

    fn date_time(&mut self) -> Result<ColumnType, Exception> {
        match self.tokens.peek() {
            Some(Token::Symbol(b'(')) => {
                self.within(|reader| Ok(ColumnType::DateTime(Some(reader.string()?))))
            }
            _ => Ok(ColumnType::DateTime(None)),
        }
    }

    fn date_time64(&mut self) -> Result<ColumnType, Exception> {
        if self.tokens.peek() != Some(Token::Symbol(b'(')) {
            return Ok(ColumnType::DateTime64 { precision: 3, zone: None });
        }
        self.within(|reader| {
            let precision = u32::try_from(reader.number()?).ok().filter(|digits| *digits <= 9);
            let precision = precision.ok_or_else(|| {
                let text = "Scale of DateTime64 must be from 0 to 9";
                Exception::new(super::exception::ARGUMENT_OUT_OF_BOUND, text)
            })?;
            let zone = match reader.comes(b',') {
                true => Some(reader.string()?),
                false => None,
            };
            Ok(ColumnType::DateTime64 { precision, zone })
        })
    }

    fn enumeration(&mut self, bits: u16) -> Result<ColumnType, Exception> {
        let values = self.within(|reader| {
            let mut values: Vec<(String, i16)> = Vec::new();
            loop {
                let name = reader.string()?;
                let next = values.last().map_or(1, |(_, number)| i64::from(*number) + 1);
                let number = if reader.comes(b'=') { reader.number()? } else { next };
                let number =
                    i16::try_from(number).map_err(|_| syntax("the number of an Enum's value"))?;
                values.push((name, number));
                if !reader.comes(b',') {
                    return Ok(values);
                }
            }
        })?;
        let is_small = values.iter().all(|(_, number)| i8::try_from(*number).is_ok());
        match bits {
            0 => Ok(ColumnType::Enum { bits: if is_small { 8 } else { 16 }, values }),
            8 if !is_small => Err(syntax("the number of an Enum8's value")),
            bits => Ok(ColumnType::Enum { bits, values }),
        }
    }

    fn nullable(value: ColumnType) -> Result<ColumnType, Exception> {
        match value {
            ColumnType::Array(_)
            | ColumnType::Map(_)
            | ColumnType::Tuple { .. }
            | ColumnType::LowCardinality(_)
            | ColumnType::Nullable(_) => Err(Exception::new(
                ILLEGAL_TYPE_OF_ARGUMENT,
                format!("Nested type {value} cannot be inside Nullable type"),
            )),
            value => Ok(ColumnType::Nullable(Box::new(value))),
        }
    }

    fn low_cardinality(value: ColumnType) -> Result<ColumnType, Exception> {
        let inner = match &value {
            ColumnType::Nullable(inner) => inner,
            other => other,
        };
        match inner {
            ColumnType::String
            | ColumnType::FixedString(_)
            | ColumnType::Int(_)
            | ColumnType::UInt(_)
            | ColumnType::Float(_)
            | ColumnType::Bool
            | ColumnType::Date
            | ColumnType::Date32
            | ColumnType::DateTime(_)
            | ColumnType::Uuid
            | ColumnType::Ipv4
            | ColumnType::Ipv6 => Ok(ColumnType::LowCardinality(Box::new(value))),
            _ => Err(Exception::new(
                ILLEGAL_TYPE_OF_ARGUMENT,
                format!("DataTypeLowCardinality is not supported for {value}"),
            )),
        }
    }

    fn tuple(&mut self) -> Result<ColumnType, Exception> {
        self.within(|reader| {
            let (mut elements, mut names) = (Vec::new(), Vec::new());
            loop {
                if let Some(name) = reader.element_name()? {
                    names.push(name);
                }
                elements.push(reader.read()?);
                if !reader.comes(b',') {
                    break;
                }
            }
            if !names.is_empty() && names.len() != elements.len() {
                let text = "Names are specified not for all elements of Tuple type";
                return Err(Exception::new(ILLEGAL_COLUMN, text));
            }
            Ok(ColumnType::Tuple { elements, names })
        })
    }

    /// The name before an element's type: two words follow each other, or it is quoted.
    fn element_name(&mut self) -> Result<Option<String>, Exception> {
        let mut ahead = self.tokens.clone();
        let name = match (ahead.next(), ahead.next()) {
            (Some(Token::Quoted(quote, text)), _) if quote != b'\'' => unquote(quote, text),
            (Some(Token::Word(name)), Some(Token::Word(_))) => name.to_vec(),
            _ => return Ok(None),
        };
        self.tokens.next();
        String::from_utf8(name).map(Some).map_err(|_| syntax("a name is not UTF-8"))
    }

    /// What stands between brackets.
    fn within<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Exception>,
    ) -> Result<T, Exception> {
        self.symbol(b'(')?;
        let value = read(self)?;
        self.symbol(b')')?;
        Ok(value)
    }

    fn symbol(&mut self, symbol: u8) -> Result<(), Exception> {
        match self.comes(symbol) {
            true => Ok(()),
            false => Err(syntax(&format!("\"{}\" is missing", char::from(symbol)))),
        }
    }

    fn comes(&mut self, symbol: u8) -> bool {
        let comes = self.tokens.peek() == Some(Token::Symbol(symbol));
        if comes {
            self.tokens.next();
        }
        comes
    }

    fn number(&mut self) -> Result<i64, Exception> {
        let sign = if self.comes(b'-') { -1 } else { 1 };
        let Some(Token::Word(digits)) = self.tokens.next() else {
            return Err(syntax("a number is missing"));
        };
        let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<i64>().ok());
        number.map(|number| sign * number).ok_or_else(|| syntax("that is no number"))
    }

    fn string(&mut self) -> Result<String, Exception> {
        match self.tokens.next() {
            Some(Token::Quoted(b'\'', text)) => {
                String::from_utf8(unquote(b'\'', text)).map_err(|_| syntax("a string is not UTF-8"))
            }
            _ => Err(syntax("a string is missing")),
        }
    }
}

/// A type without arguments. Some have names of SQL's as well; those that the standard and other
/// databases know are taken in any case.
fn scalar(name: &str) -> Option<ColumnType> {
    let number = |prefix: &str| {
        let bits = name.strip_prefix(prefix)?.parse::<u16>().ok()?;
        let is_canonical = format!("{prefix}{bits}") == name;
        is_canonical.then_some(bits)
    };
    if let Some(bits @ (8 | 16 | 32 | 64 | 128 | 256)) = number("Int") {
        return Some(ColumnType::Int(bits));
    }
    if let Some(bits @ (8 | 16 | 32 | 64 | 128 | 256)) = number("UInt") {
        return Some(ColumnType::UInt(bits));
    }
    if let Some(bits @ (32 | 64)) = number("Float") {
        return Some(ColumnType::Float(bits));
    }
    Some(match name {
        "String" => ColumnType::String,
        "UUID" => ColumnType::Uuid,
        "IPv4" => ColumnType::Ipv4,
        "IPv6" => ColumnType::Ipv6,
        "Date" => ColumnType::Date,
        "Date32" => ColumnType::Date32,
        "Bool" | "bool" | "boolean" | "BOOLEAN" | "BOOL" => ColumnType::Bool,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rowbinary::skip;

    #[test]
    fn names_are_read_and_written_again() {
        for name in [
            "Bool",
            "Int8",
            "UInt256",
            "Float64",
            "Decimal(38, 6)",
            "String",
            "FixedString(16)",
            "UUID",
            "IPv6",
            "Date",
            "Date32",
            "DateTime",
            "DateTime('UTC')",
            "DateTime64(6)",
            "DateTime64(3, 'Europe/Paris')",
            "Enum8('a' = -1, 'it\\'s' = 2)",
            "Enum16('x' = 300)",
            "LowCardinality(Nullable(String))",
            "Array(Nullable(Decimal(9, 2)))",
            "Tuple(a UInt8, `odd name` Array(String))",
            "Tuple(UInt8, String)",
            "Map(LowCardinality(String), Array(Int32))",
        ] {
            assert_eq!(ColumnType::parse(name).unwrap().to_string(), name);
        }
        for (name, canonical) in [
            ("Decimal64(3)", "Decimal(18, 3)"),
            ("Decimal(5)", "Decimal(5, 0)"),
            ("DateTime64", "DateTime64(3)"),
            ("Enum('a', 'b')", "Enum8('a' = 1, 'b' = 2)"),
            (" Array ( String ) ", "Array(String)"),
        ] {
            assert_eq!(ColumnType::parse(name).unwrap().to_string(), canonical);
        }
    }

    #[test]
    fn what_is_no_type_is_refused_as_by_clickhouse() {
        let deep = "Array(".repeat(40) + "String" + &")".repeat(40);
        for (name, code) in [
            ("", 62),
            ("Strin", 50),
            ("Int24", 50),
            ("Int08", 50),
            ("String String", 62),
            ("Array()", 62),
            ("Array(String", 62),
            ("Nullable(Array(String))", 43),
            ("Nullable(Nullable(String))", 43),
            ("LowCardinality(Array(String))", 43),
            ("Decimal(77, 1)", 69),
            ("Decimal(5, 6)", 69),
            ("DateTime64(10)", 69),
            (&deep, 62),
        ] {
            assert_eq!(ColumnType::parse(name).unwrap_err().code, code, "{name}");
        }
    }

    #[test]
    fn a_default_value_is_a_value() {
        for name in [
            "Bool",
            "String",
            "Decimal(38, 1)",
            "Nullable(Int16)",
            "Array(String)",
            "Tuple(UInt8, Nullable(String), Enum16('a' = 7))",
            "Map(String, UInt8)",
            "LowCardinality(Nullable(String))",
            "FixedString(3)",
        ] {
            let column_type = ColumnType::parse(name).unwrap();
            let value = column_type.default_value();
            let mut rest = &value[..];
            skip(&column_type, &mut rest).unwrap();
            assert!(rest.is_empty(), "{name}");
        }
    }
}
