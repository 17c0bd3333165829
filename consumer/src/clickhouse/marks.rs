//! What tells queries of ours from those of others, at work in a server: a comment before each. Query
//! ids would do that as well, were there no proxies and engines that give their own.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ddl::quote_string;
use crate::backoff::random_seed;

/// Gives queries their marks: `walbench-<writer>-<start>-<n>`.
#[derive(Debug)]
pub(super) struct Marks {
    /// The same at each start.
    writer: String,
    /// Different at each start.
    start: String,
    next: AtomicU64,
}

/// How a comment with a mark begins and ends. A query that looks for one does not hold it: in its own
/// text there is a quote between the two parts.
const OPEN: [&str; 2] = ["/* wal", "bench-"];
const CLOSE: &str = " */";

impl Marks {
    /// Marks of a writer, of which there is no other: whoever had its name before has ended.
    pub(super) fn new(writer: &str) -> Self {
        // Its keys are always the same.
        let mut hasher = DefaultHasher::new();
        writer.hash(&mut hasher);
        Self {
            writer: format!("{:016x}", hasher.finish()),
            start: format!("{:016x}", random_seed()),
            next: AtomicU64::new(0),
        }
    }

    /// A mark that no other query has.
    pub(super) fn next(&self) -> String {
        let Self { writer, start, next } = self;
        format!("walbench-{writer}-{start}-{}", next.fetch_add(1, Ordering::Relaxed))
    }

    /// A statement with its mark.
    pub(super) fn marked(&self, mark: &str, sql: &str) -> String {
        format!("/* {mark}{CLOSE} {sql}")
    }

    /// Which of `system.processes` have one of these marks.
    pub(super) fn of_these(&self, marks: &[&str]) -> String {
        let conditions: Vec<_> = marks
            .iter()
            .map(|mark| holds(&format!("{}{CLOSE}", mark.trim_start_matches("walbench-"))))
            .collect();
        format!("({})", conditions.join(" OR "))
    }

    /// Which of `system.processes` are of this writer, at this start or a former one.
    pub(super) fn of_all_starts(&self) -> String {
        holds(&format!("{}-", self.writer))
    }
}

fn holds(rest: &str) -> String {
    let [first, second] = OPEN.map(quote_string);
    format!("position(query, concat({first}, {second}, {})) > 0", quote_string(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_its_query_and_not_in_the_one_that_looks_for_it() {
        let marks = Marks { writer: "w".into(), start: "s".into(), next: AtomicU64::new(7) };
        let mark = marks.next();
        let sql = marks.marked(&mark, "INSERT INTO t FORMAT RowBinary");
        assert_eq!(sql, "/* walbench-w-s-7 */ INSERT INTO t FORMAT RowBinary");
        let looks = [marks.of_these(&[&mark, &marks.next()]), marks.of_all_starts()];
        insta::assert_snapshot!(looks.join("\n"), @"
        (position(query, concat('/* wal', 'bench-', 'w-s-7 */')) > 0 OR position(query, concat('/* wal', 'bench-', 'w-s-8 */')) > 0)
        position(query, concat('/* wal', 'bench-', 'w-')) > 0
        ");
        assert!(looks.iter().all(|sql| !sql.contains("/* walbench-")));
    }

    #[test]
    fn a_writer_knows_its_former_starts() {
        let [first, second, other] = ["a", "a", "b"].map(Marks::new);
        assert_eq!(first.of_all_starts(), second.of_all_starts());
        assert_ne!(first.of_all_starts(), other.of_all_starts());
        assert_ne!(first.next(), second.next());
    }
}
