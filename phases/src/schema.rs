//! The schema of a plan: as published, and in the plain form that values are checked against.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::key::{KeyPath, Step};
use crate::plan::Plan;

/// The JSON Schema of a plan file.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(Plan).to_value()
}

/// The schema in its plain form: references put in place, `null` left out (TOML has none), and
/// choices as one `enum`. Each violation of it is then one violation, not one for each branch.
pub(crate) static PLAIN: LazyLock<Value> = LazyLock::new(|| {
    let published = schema();
    plain(&published, &published)
});

/// Checks values against [`PLAIN`].
pub(crate) static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    jsonschema::validator_for(&PLAIN).expect("the plan's own schema is a valid schema")
});

fn plain(schema: &Value, root: &Value) -> Value {
    let Value::Object(keywords) = schema else { return schema.clone() };
    let mut result = Map::new();
    let mut rest = keywords.clone();
    for word in ["$defs", "default", "$ref", "anyOf", "oneOf"] {
        rest.remove(word);
    }
    if let Some(target) = keywords.get("$ref").and_then(|target| resolve(target, root)) {
        merge(&mut result, plain(target, root));
    }
    if let Some(Value::Array(branches)) = keywords.get("anyOf") {
        let null = json!({"type": "null"});
        for branch in branches.iter().filter(|branch| **branch != null) {
            merge(&mut result, plain(branch, root));
        }
    }
    if let Some(Value::Array(choices)) = keywords.get("oneOf") {
        let constants: Value =
            choices.iter().filter_map(|choice| choice.get("const")).cloned().collect();
        merge(&mut result, json!({"type": "string", "enum": constants}));
    }
    for (word, value) in rest {
        result.insert(word.clone(), plain_keyword(&word, value, root));
    }
    Value::Object(result)
}

fn plain_keyword(word: &str, value: Value, root: &Value) -> Value {
    match (word, value) {
        ("properties", Value::Object(properties)) => {
            properties.into_iter().map(|(name, schema)| (name, plain(&schema, root))).collect()
        }
        ("items" | "additionalProperties", schema) => plain(&schema, root),
        ("type", Value::Array(types)) => {
            types.into_iter().find(|name| *name != "null").unwrap_or_default()
        }
        (_, value) => value,
    }
}

fn resolve<'a>(reference: &Value, root: &'a Value) -> Option<&'a Value> {
    root.pointer(reference.as_str()?.strip_prefix('#')?)
}

fn merge(into: &mut Map<String, Value>, schema: Value) {
    if let Value::Object(keywords) = schema {
        into.extend(keywords);
    }
}

/// The plain schema of the values that stand one step below those of `schema`.
pub(crate) fn below<'a>(schema: &'a Value, step: &Step) -> Option<&'a Value> {
    match step {
        Step::Index(_) => schema.get("items"),
        Step::Key(key) => schema
            .get("properties")
            .and_then(|properties| properties.get(key))
            .or_else(|| schema.get("additionalProperties").filter(|other| other.is_object())),
    }
}

/// The plain schema of the values at `key`.
pub(crate) fn at(key: &KeyPath) -> Option<&'static Value> {
    key.steps().iter().try_fold(&*PLAIN, below)
}

/// The keys that a table of this schema may hold; none for a table whose keys are free.
pub(crate) fn keys(schema: &Value) -> impl Iterator<Item = &str> + Clone {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str))
}

/// The type of the values of this schema, as JSON Schema calls it.
pub(crate) fn type_of(schema: &Value) -> &str {
    schema.get("type").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every word of the plain schema must be one that [`crate::structure`] has a message for.
    #[test]
    fn the_plain_schema_holds_plain_words_alone() {
        fn words(schema: &Value, path: &str) {
            let known = [
                "$schema",
                "title",
                "description",
                "type",
                "format",
                "enum",
                "properties",
                "required",
                "additionalProperties",
                "items",
                "minimum",
                "maximum",
                "exclusiveMinimum",
                "minLength",
                "maxLength",
                "minItems",
                "pattern",
                "x-form",
            ];
            for word in schema.as_object().unwrap().keys() {
                assert!(known.contains(&word.as_str()), "{path}: {word}");
            }
            assert!(!type_of(schema).is_empty(), "{path} has no type");
            assert_eq!(schema.get("pattern").is_some(), schema.get("x-form").is_some(), "{path}");
            for (name, below) in schema["properties"].as_object().into_iter().flatten() {
                words(below, &format!("{path}.{name}"));
            }
            if let Some(items) = schema.get("items") {
                words(items, &format!("{path}[]"));
            }
        }
        words(&PLAIN, "");
    }
}
