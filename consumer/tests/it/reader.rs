//! Reads RowBinary by ClickHouse's types, as ClickHouse's manual gives them; knows nothing of how
//! it was written.

/// What is left of a row.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl Reader<'_> {
    /// The next value of a type as a canonical text: strings in an array in quotes, elsewhere as
    /// they are, or in hexadecimal digits if they are not UTF-8.
    pub(crate) fn value(&mut self, kind: &str) -> String {
        if let Some(inner) = wrapped(kind, "Nullable") {
            return if self.byte() == 1 { "NULL".into() } else { self.value(inner) };
        }
        if let Some(element) = wrapped(kind, "Array") {
            let element = wrapped(element, "Nullable").unwrap();
            let elements = (0..self.length()).map(|_| match self.byte() {
                1 => "NULL".into(),
                _ if element == "String" => format!("'{}'", self.value(element)),
                _ => self.value(element),
            });
            return format!("[{}]", elements.collect::<Vec<_>>().join(", "));
        }
        if let Some(decimal) = wrapped(kind, "Decimal") {
            let (precision, scale) = decimal.split_once(", ").unwrap();
            return self.decimal(precision.parse().unwrap(), scale.parse().unwrap());
        }
        match kind {
            "Bool" => ["false", "true"][usize::from(self.byte())].into(),
            "Int16" => i16::from_le_bytes(self.take()).to_string(),
            "Int32" => i32::from_le_bytes(self.take()).to_string(),
            "Int64" => i64::from_le_bytes(self.take()).to_string(),
            "UInt32" => u32::from_le_bytes(self.take()).to_string(),
            "Float32" => format!("{:?}", f32::from_le_bytes(self.take())),
            "Float64" => format!("{:?}", f64::from_le_bytes(self.take())),
            "UUID" => self.uuid(),
            "Date32" => date(i32::from_le_bytes(self.take()).into()),
            "DateTime64(6, 'UTC')" => self.date_time(),
            "String" => self.string(),
            other => panic!("no such type: {other}"),
        }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (value, rest) = self.0.split_first_chunk().unwrap();
        self.0 = rest;
        *value
    }

    fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn length(&mut self) -> usize {
        let (mut length, mut shift) = (0, 0);
        loop {
            let byte = usize::from(self.byte());
            length += (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return length;
            }
        }
    }

    fn string(&mut self) -> String {
        let length = self.length();
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        let hex = || bytes.iter().map(|b| format!("{b:02x}")).collect();
        String::from_utf8(bytes.to_vec()).unwrap_or_else(|_| hex())
    }

    fn decimal(&mut self, precision: u32, scale: usize) -> String {
        let units: i128 = match precision {
            1..=9 => i32::from_le_bytes(self.take()).into(),
            10..=18 => i64::from_le_bytes(self.take()).into(),
            _ => i128::from_le_bytes(self.take()),
        };
        let digits = format!("{:01$}", units.unsigned_abs(), scale + 1);
        let (whole, part) = digits.split_at(digits.len() - scale);
        let (sign, point) = (if units < 0 { "-" } else { "" }, if scale > 0 { "." } else { "" });
        format!("{sign}{whole}{point}{part}")
    }

    /// Two halves, each with its last byte first.
    fn uuid(&mut self) -> String {
        let [high, low] = [u64::from_le_bytes(self.take()), u64::from_le_bytes(self.take())];
        let hex = format!("{high:016x}{low:016x}");
        [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
    }

    fn date_time(&mut self) -> String {
        let micros = i64::from_le_bytes(self.take());
        let (days, micros) = (micros.div_euclid(86_400_000_000), micros.rem_euclid(86_400_000_000));
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        format!("{} {hours:02}:{minutes:02}:{seconds:02}.{micros:06}", date(days))
    }
}

fn wrapped<'a>(kind: &'a str, name: &str) -> Option<&'a str> {
    kind.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')')
}

/// Counted off year by year, then month by month: slow, and beyond doubt.
fn date(days: i64) -> String {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (mut year, mut days) = (1900, days + 25_567);
    assert!(days >= 0, "before 1900");
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    assert!(year < 2300, "after 2299");
    let february = 28 + i64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", days + 1)
}
