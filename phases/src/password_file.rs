//! libpq's password file (PostgreSQL manual, section 32.16): lines of
//! `host:port:database:user:password`. A `*` matches anything, a backslash takes the next character
//! as it is, and the first line that matches counts.

/// The password of the first line whose fields match host, port, database and user.
pub(crate) fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let password = wanted.iter().try_fold(line, |rest, value| strip_field(rest, value))?;
        Some(split_field(password).0)
    })
}

/// What follows the first field, if that matches.
fn strip_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    line.strip_prefix("*:").or_else(|| {
        let (field, rest) = split_field(line);
        rest.filter(|_| field == wanted)
    })
}

/// The first field without its escapes, and what follows its colon.
fn split_field(line: &str) -> (String, Option<&str>) {
    let mut field = String::new();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ':' => return (field, Some(&line[at + 1..])),
            '\\' => field.push(characters.next().map_or('\\', |(_, escaped)| escaped)),
            _ => field.push(character),
        }
    }
    (field, None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_line_that_matches_counts() {
        let text = "# db:1:app:ann:comment\n\
                    db:1:app:bob:of bob\r\n\
                    db:*:app:ann:of\\:ann\\\\:not this\n\
                    too:short\n\
                    *:*:*:ann:of any\n\
                    db:1:app:carl:\n\
                    *:*:*:carl:later\n";
        let of = |wanted| find(text, wanted);
        assert_eq!(of(["db", "1", "app", "bob"]).as_deref(), Some("of bob"));
        assert_eq!(of(["db", "2", "app", "ann"]).as_deref(), Some("of:ann\\"));
        assert_eq!(of(["db", "1", "other", "ann"]).as_deref(), Some("of any"));
        assert_eq!(of(["db", "1", "app", "carl"]).as_deref(), Some(""));
        assert_eq!(of(["db", "2", "app", "bob"]), None);
    }

    fn escape(text: &str) -> String {
        text.chars().flat_map(|character| ['\\', character]).collect()
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_found(
            fields in proptest::array::uniform4("[^\r\n]{1,8}"),
            password in "[^\r\n]{0,8}",
            before in "[^*]{0,20}",
        ) {
            let line = fields.each_ref().map(|field| escape(field)).join(":");
            let text = format!("{before}\n{line}:{}\n", escape(&password));
            let wanted = fields.each_ref().map(String::as_str);
            let found = find(&text, wanted);
            prop_assume!(find(&before, wanted).is_none());
            prop_assert_eq!(found, Some(password));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a:*\\\\#\n\r]*") {
            let _ = find(&text, ["a", "a", "a", "a"]);
        }
    }
}
