//! A plan as text again.

use serde_json::Value;

use crate::address::PostgresAddress;
use crate::clickhouse::ClickhouseAddress;
use crate::interpolate::escape;
use crate::plan::Plan;
use crate::url::{MASK, Url, is_secret, mask};

impl Plan {
    /// The plan without its secrets: passwords in URLs, and query parameters that look like
    /// secrets, are `***`.
    #[must_use]
    pub fn masked(&self) -> Self {
        let mut plan = self.clone();
        for url in [&mut plan.postgres.url, &mut plan.postgres.schema_from].into_iter().flatten() {
            *url = PostgresAddress::parse(url)
                .map_or_else(|_| mask(url), |address| address.to_masked_string());
        }
        if let Some(url) = &mut plan.clickhouse.url {
            *url = ClickhouseAddress::parse(url)
                .map_or_else(|_| mask(url), |address| address.to_string());
        }
        mask_arguments(&mut plan.consumer.command);
        plan
    }

    /// The plan as TOML, every key included; [`crate::load()`] gives the same plan back.
    ///
    /// # Panics
    ///
    /// When a number or path was put in that no plan file could have given: NaN, or an
    /// `output.dir` that is not UTF-8.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut value = serde_json::to_value(self).expect("a plan holds text and numbers alone");
        escape_strings(&mut value);
        let escaped: Self = serde_json::from_value(value).expect("a plan's strings are free text");
        toml::to_string_pretty(&escaped).expect("a plan holds what TOML can hold")
    }
}

/// A command's arguments without what looks like a secret: what a secret's name stands before
/// (`--password=…`, `--password`, `…`, `TOKEN=…`), and URLs with a login. Placeholders are none.
fn mask_arguments(arguments: &mut [String]) {
    let mut is_secret_next = false;
    for argument in arguments {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) if !name.contains("://") => (Some(name), value),
            _ => (None, argument.as_str()),
        };
        let named = name.map_or(is_secret_next, is_secret);
        is_secret_next = name.is_none() && value.starts_with('-') && is_secret(value);
        let masked = match mask_value(named, value) {
            masked if masked == value => continue,
            masked => masked,
        };
        *argument = name.map_or(masked.clone(), |name| format!("{name}={masked}"));
    }
}

fn mask_value(is_named: bool, value: &str) -> String {
    let is_placeholder = |text: &str| text.starts_with('{') && text.ends_with('}');
    let password = Url::split(value).and_then(|url| url.password);
    let may_tell = value.contains("://") && (value.contains('@') || is_secret(value));
    match is_named {
        _ if is_placeholder(value) || password.is_some_and(is_placeholder) => value.into(),
        true => MASK.into(),
        false if may_tell => mask(value),
        false => value.into(),
    }
}

/// A `${` in a resolved plan is text, and must be read as such.
fn escape_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(items) => items.iter_mut().for_each(escape_strings),
        Value::Object(table) => table.values_mut().for_each(escape_strings),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_keep_everything_but_secrets() {
        let masked = |arguments: &[&str]| {
            let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            mask_arguments(&mut arguments);
            arguments
        };
        for harmless in [
            &["sh", "-c", "echo {slot} >x; curl http://here/"][..],
            &["--url={postgres_url}", "--password", "{postgres_password}"],
            &["postgres://{postgres_user}:{postgres_password}@{postgres_host}/d"],
        ] {
            assert_eq!(masked(harmless), harmless);
        }
        assert_eq!(
            masked(&["--password", "hunter2", "--password=hunter2", "API_TOKEN=hunter2", "last"]),
            ["--password", "***", "--password=***", "API_TOKEN=***", "last"]
        );
        assert_eq!(
            masked(&["--to=http://me:hunter2@ch:8123/", "http://ch/?token=hunter2"]),
            ["--to=http://me:***@ch:8123/", "http://ch/?token=***"]
        );
    }
}
