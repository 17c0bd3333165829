//! The plans that come with walbench.

/// A plan that comes with walbench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// What it is called.
    pub name: &'static str,
    /// One line: the file's first comment.
    pub summary: &'static str,
    /// TOML.
    pub text: &'static str,
}

const FILES: [(&str, &str); 5] = [
    ("quickstart", include_str!("../quickstart.toml")),
    ("cpu-only", include_str!("../cpu-only.toml")),
    ("full-stack", include_str!("../full-stack.toml")),
    ("multi-phase", include_str!("../multi-phase.toml")),
    ("stress-steps", include_str!("../stress-steps.toml")),
];

/// All built-in plans, the default one first.
pub fn all() -> impl ExactSizeIterator<Item = Builtin> {
    FILES.into_iter().map(|(name, text)| Builtin { name, summary: first_comment(text), text })
}

/// The built-in plan called `name`.
#[must_use]
pub fn get(name: &str) -> Option<Builtin> {
    all().find(|plan| plan.name == name)
}

fn first_comment(text: &'static str) -> &'static str {
    text.lines().next().unwrap_or_default().trim_start_matches('#').trim()
}
