//! Folded stacks: a line a stack, outermost function first, and the CPU time in ns, or bytes.

use std::collections::BTreeMap;

use crate::profile::{Profile, Stack};

/// What a function of ours begins with, as `<walbench_… as …>` too.
const OURS: &str = "walbench_";

/// How a profile's stacks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At the thread's first function.
    AtTheThread,
    /// At our first function, if there is one: what starts a thread or polls a task is the same in
    /// all stacks, and says nothing.
    AtOurs,
}

/// The profile's stacks, in order; each line is there once.
///
/// ```text
/// consumer-0;receiver;walbench_consumer::thread::start;…;walbench_consumer::pgoutput::parse 1250000
/// ```
#[must_use]
pub fn folded(profile: &Profile, begin: Begin) -> Vec<String> {
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for stack in &profile.stacks {
        let functions = functions(stack, begin);
        let thread = Some(&*stack.thread).filter(|name| !name.is_empty());
        let line = [&*profile.process].into_iter().chain(thread).chain(functions);
        let line: Vec<String> = line.map(plain).collect();
        *lines.entry(line.join(";")).or_default() += stack.value;
    }
    lines.iter().map(|(line, value)| format!("{line} {value}")).collect()
}

/// The stack's functions, outermost first.
fn functions(stack: &Stack, begin: Begin) -> Vec<&str> {
    let names: Vec<&str> = stack.functions().rev().map(|function| &*function.name).collect();
    match begin {
        Begin::AtTheThread => names,
        Begin::AtOurs => from_ours(&names).to_vec(),
    }
}

/// A stack from our first function on, outermost first; all of it, if there is none.
pub(crate) fn from_ours<'a, 'b>(functions: &'a [&'b str]) -> &'a [&'b str] {
    &functions[functions.iter().position(|name| is_ours(name)).unwrap_or_default()..]
}

/// Whether a function is one of walbench's.
pub(crate) fn is_ours(name: &str) -> bool {
    name.trim_start_matches('<').starts_with(OURS)
}

/// A name without what separates names.
fn plain(name: &str) -> String {
    name.replace(';', ",").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::testing::profile;

    #[test]
    fn lines_are_whole_and_add_up() {
        let lines = folded(&profile(), Begin::AtTheThread);
        assert_eq!(
            lines,
            [
                "consumer-0;receiver;clone3;walbench_consumer::run;decode 600",
                "consumer-0;receiver;clone3;walbench_consumer::run;decode;[T, 4]::copy 300",
                "consumer-0;tokio;clone3;tokio::runtime::park 100",
            ]
        );
        let short = folded(&profile(), Begin::AtOurs);
        assert_eq!(short[0], "consumer-0;receiver;walbench_consumer::run;decode 600");
        assert_eq!(short[2], lines[2]);
    }
}
