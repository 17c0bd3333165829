//! ClickHouse's SQL as a row of tokens.

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A word or a number.
    Word(&'a [u8]),
    /// What stands between quotes, which it says, with its escapes.
    Quoted(u8, &'a [u8]),
    Symbol(u8),
}

impl Token<'_> {
    pub(super) fn is(self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword.as_bytes()))
    }
}

/// Goes through a text, token by token. Comments are none.
#[derive(Clone, Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// How much of the text was gone through.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Where data begin that follow here: behind the line's end, if nothing else is left in it.
    pub(super) fn at_data(&self) -> usize {
        let rest = &self.text[self.at..];
        let blank = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | 0x0c)).count();
        let mut data = self.at + blank;
        data += usize::from(self.text.get(data) == Some(&b'\r'));
        data + usize::from(self.text.get(data) == Some(&b'\n'))
    }

    pub(super) fn peek(&mut self) -> Option<Token<'a>> {
        let at = self.at;
        let token = self.next();
        // At the text's end it stays there, so that it shows that more was wanted.
        if token.is_some() {
            self.at = at;
        }
        token
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blank();
        let start = self.at;
        let first = *self.text.get(start)?;
        match first {
            b'\'' | b'"' | b'`' => Some(Token::Quoted(first, self.quoted(first))),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80.. => {
                let rest = &self.text[start..];
                let is_part = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
                self.at += rest.iter().take_while(|b| is_part(b)).count();
                Some(Token::Word(&self.text[start..self.at]))
            }
            symbol => {
                self.at += 1;
                Some(Token::Symbol(symbol))
            }
        }
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.iter().take_while(|b| b.is_ascii_whitespace() || **b == 0x0b).count();
            let rest = &rest[blank..];
            self.at += blank;
            let end =
                if rest.starts_with(b"--") || rest.starts_with(b"#!") || rest.starts_with(b"# ") {
                    rest.iter().position(|b| *b == b'\n').map(|at| at + 1)
                } else if rest.starts_with(b"/*") {
                    rest.windows(2).skip(2).position(|w| w == b"*/").map(|at| at + 4)
                } else {
                    return;
                };
            self.at += end.unwrap_or(rest.len());
        }
    }

    /// What stands up to the quote that ends it, or up to the text's end. A doubled quote is one
    /// within it.
    fn quoted(&mut self, quote: u8) -> &'a [u8] {
        self.at += 1;
        let start = self.at;
        while let Some(byte) = self.text.get(self.at) {
            self.at += 1;
            match *byte {
                b'\\' => self.at += 1,
                byte if byte == quote => {
                    if self.text.get(self.at) != Some(&quote) {
                        return &self.text[start..self.at - 1];
                    }
                    self.at += 1;
                }
                _ => {}
            }
        }
        self.at = self.text.len();
        &self.text[start.min(self.at)..]
    }
}

/// What a quoted token says, its escapes resolved (ClickHouse manual, syntax, "String").
pub(super) fn unquote(quote: u8, text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => match bytes.next() {
                Some(b'x') => {
                    let hex = bytes.as_slice().get(..2).and_then(|hex| {
                        let digit = |b: u8| char::from(b).to_digit(16);
                        u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()
                    });
                    if let Some(hex) = hex {
                        plain.push(hex);
                        bytes.nth(1);
                    }
                }
                Some(&escaped) => plain.push(match escaped {
                    b'0' => 0,
                    b'a' => 0x07,
                    b'b' => 0x08,
                    b'e' => 0x1b,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'v' => 0x0b,
                    other => other,
                }),
                None => {}
            },
            byte => {
                plain.push(byte);
                if byte == quote {
                    bytes.next();
                }
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_resolved() {
        for (sql, plain) in [
            (r"'it\'s'", "it's"),
            ("'it''s'", "it's"),
            (r"`a\`b\\c`", r"a`b\c"),
            (r"'\x41\n\t'", "A\n\t"),
            ("''", ""),
            ("'open", "open"),
        ] {
            let Some(Token::Quoted(quote, text)) = Tokens::new(sql.as_bytes()).next() else {
                panic!("{sql} is no quoted token")
            };
            assert_eq!(String::from_utf8(unquote(quote, text)).unwrap(), plain, "{sql}");
        }
    }
}
