//! A plan as text again.

use serde_json::Value;

use crate::address::PostgresAddress;
use crate::clickhouse::ClickhouseAddress;
use crate::interpolate::escape;
use crate::plan::Plan;
use crate::url::mask;

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

/// A `${` in a resolved plan is text, and must be read as such.
fn escape_strings(value: &mut Value) {
    match value {
        Value::String(text) => *text = escape(text),
        Value::Array(items) => items.iter_mut().for_each(escape_strings),
        Value::Object(table) => table.values_mut().for_each(escape_strings),
        _ => {}
    }
}
