//! Checks that a draft has the structure of a plan: its keys, types and bounds.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::paths::LocationSegment;
use serde_json::Value;

use crate::draft::Draft;
use crate::hint::{did_you_mean, list, nearest};
use crate::key::{KeyPath, Step};
use crate::schema::{PLAIN, VALIDATOR, at, below, keys, type_of};

/// A string in a message is cut off here.
const SHOWN_CHARACTERS: usize = 60;

/// Notes every violation of the schema in `draft`; one for each value.
pub(crate) fn check(draft: &mut Draft) {
    let value = draft.value.clone();
    refuse_floats_for_integers(draft, &value, &PLAIN, &KeyPath::root());
    let mut errors: Vec<_> = VALIDATOR.iter_errors(&value).collect();
    // A value of the wrong type breaks other rules too; only the first is told.
    errors.sort_by_key(|error| !matches!(error.kind(), Kind::Type { .. }));
    for error in errors {
        note(draft, &error);
    }
}

/// JSON Schema counts 1.0 as an integer. TOML and its readers don't, and neither do we.
fn refuse_floats_for_integers(draft: &mut Draft, value: &Value, schema: &Value, key: &KeyPath) {
    let mut descend = |step: Step, value: &Value| {
        if let Some(schema) = below(schema, &step) {
            refuse_floats_for_integers(draft, value, schema, &key.then(step));
        }
    };
    match value {
        Value::Object(table) => {
            table.iter().for_each(|(name, value)| descend(name.as_str().into(), value));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| descend(index.into(), value));
        }
        Value::Number(number) if number.is_f64() && type_of(schema) == "integer" => {
            draft.problem(key, wrong_type(schema, value, None), None);
        }
        _ => {}
    }
}

fn note(draft: &mut Draft, error: &ValidationError<'_>) {
    let key = key_of(error);
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            unexpected.iter().for_each(|name| unknown_key(draft, &key, name));
        }
        Kind::Required { property } => {
            let key = key.then(property.as_str().unwrap_or_default());
            let description = at(&key).and_then(|schema| schema["description"].as_str());
            let hint = description.map(|text| format!("it is: {}", first_sentence(text)));
            draft.problem(&key, "is missing".into(), hint);
        }
        _ if draft.is_spoilt(&key) => {}
        kind => {
            let value = error.instance().as_ref();
            let written = draft.written(&key);
            let message = broken_rule(kind, &key, value, written)
                .unwrap_or_else(|| error.masked().to_string());
            let hint = hint(kind, value);
            draft.problem(&key, message, hint);
        }
    }
}

fn key_of(error: &ValidationError<'_>) -> KeyPath {
    error.instance_path().iter().fold(KeyPath::root(), |key, segment| match segment {
        LocationSegment::Property(name) => key.then(&*name),
        LocationSegment::Index(index) => key.then(index),
    })
}

fn unknown_key(draft: &mut Draft, table: &KeyPath, name: &str) {
    let known = at(table).into_iter().flat_map(keys);
    let suggestion = nearest(name, known.clone());
    let elsewhere = suggestion.is_none().then(|| section_with(name)).flatten();
    let hint = match elsewhere {
        Some(section) => format!("\"{name}\" belongs in [{section}]"),
        None => did_you_mean(name, known),
    };
    draft.unknown(&table.then(name), format!("unknown key \"{name}\""), hint);
    // What was meant is not known to be absent, so nothing is concluded from its default.
    if let Some(meant) = suggestion {
        draft.spoil(&table.then(meant));
    }
}

/// The section of a plan that has a key of this name.
fn section_with(name: &str) -> Option<&'static str> {
    keys(&PLAIN).find(|section| {
        let section = PLAIN["properties"].get(section);
        section.is_some_and(|section| keys(section).any(|key| key == name))
    })
}

fn broken_rule(kind: &Kind, key: &KeyPath, value: &Value, written: Option<&str>) -> Option<String> {
    let schema = at(key)?;
    let shown = show(value, written);
    Some(match kind {
        Kind::Type { .. } => wrong_type(schema, value, written),
        Kind::Enum { options } => format!("{shown} is not one of {}", list(choices(options))),
        Kind::Minimum { limit } => format!("must be at least {}, is {shown}", number(limit)),
        Kind::Maximum { limit } => format!("must be at most {}, is {shown}", number(limit)),
        Kind::ExclusiveMinimum { limit } => format!("must be above {}, is {shown}", number(limit)),
        Kind::MinLength { .. } | Kind::MinItems { .. } => "must not be empty".into(),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters, is {shown}"),
        Kind::Pattern { .. } => {
            format!("must be made of {}; is {shown}", schema["x-form"].as_str()?)
        }
        _ => return None,
    })
}

fn hint(kind: &Kind, value: &Value) -> Option<String> {
    match kind {
        Kind::Enum { options } => {
            let meant = nearest(value.as_str()?, choices(options))?;
            Some(format!("did you mean \"{meant}\"?"))
        }
        Kind::MinItems { .. } => Some("name at least one".into()),
        _ => None,
    }
}

fn choices(options: &Value) -> impl Iterator<Item = &str> {
    options.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A bound, without the `.0` that the schema writes for a number.
fn number(limit: &Value) -> String {
    limit.as_f64().map_or_else(|| limit.to_string(), |limit| limit.to_string())
}

fn wrong_type(schema: &Value, value: &Value, written: Option<&str>) -> String {
    let expected = match type_of(schema) {
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string",
        "boolean" => "true or false",
        "array" => "an array",
        _ => "a table",
    };
    let found = match value {
        Value::String(_) => format!("the string {}", show(value, written)),
        Value::Array(_) => "an array".into(),
        Value::Object(_) => "a table".into(),
        _ => show(value, written),
    };
    format!("expected {expected}, found {found}")
}

/// The value as it was written: what a variable holds may be a secret.
fn show(value: &Value, written: Option<&str>) -> String {
    match (written, value) {
        (Some(text), _) => format!("{text:?}"),
        (None, Value::String(text)) => {
            let cut: String = text.chars().take(SHOWN_CHARACTERS).collect();
            let dots = if cut.len() < text.len() { "…" } else { "" };
            format!("{:?}", cut + dots)
        }
        (None, value) => value.to_string(),
    }
}

fn first_sentence(text: &str) -> String {
    let text = text.replace('\n', " ");
    text.split_once(". ").map_or(text.clone(), |(first, _)| format!("{first}."))
}

/// The draft's value made whole, so that what is sound in it can be checked further: doubtful
/// values give way to their defaults, or to stand-ins where a plan needs one.
pub(crate) fn mend(draft: &Draft) -> Value {
    let mut value = draft.value.clone();
    mend_at(draft, &mut value, &PLAIN, &KeyPath::root());
    value
}

fn mend_at(draft: &Draft, value: &mut Value, schema: &Value, key: &KeyPath) {
    if draft.is_spoilt(key) || *value == Value::Null {
        *value = stand_in(schema, key);
    }
    match value {
        Value::Object(table) => {
            table.retain(|name, _| {
                below(schema, &name.as_str().into()).is_some()
                    && !draft.is_spoilt(&key.then(name.as_str()))
            });
            for name in schema["required"].as_array().into_iter().flatten() {
                table.entry(name.as_str().unwrap_or_default()).or_insert(Value::Null);
            }
            for (name, value) in table {
                let step = Step::from(name.as_str());
                if let Some(schema) = below(schema, &step) {
                    mend_at(draft, value, schema, &key.then(step));
                }
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter_mut().enumerate() {
                mend_at(draft, value, &schema["items"], &key.then(index));
            }
        }
        _ => {}
    }
}

fn stand_in(schema: &Value, key: &KeyPath) -> Value {
    match type_of(schema) {
        "object" => Value::Object(<_>::default()),
        "array" => Value::Array(Vec::new()),
        "boolean" => false.into(),
        // The key itself, because names must differ.
        "string" => schema["enum"].get(0).cloned().unwrap_or_else(|| key.to_string().into()),
        _ => 1.into(),
    }
}
