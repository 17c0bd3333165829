//! Puts overrides into a draft.

use serde_json::Value;
use toml::de::DeValue;

use crate::draft::Draft;
use crate::hint::did_you_mean;
use crate::key::{KeyPath, Step, cut};
use crate::load::Override;
use crate::problem::{Place, Problem};
use crate::schema::{PLAIN, at, below, keys, type_of};

/// Why a path leads nowhere.
struct NoSuchKey {
    message: String,
    hint: String,
}

/// Puts `set`, the override of this number, into `draft`.
pub(crate) fn apply(draft: &mut Draft, number: usize, set: &Override) {
    let place = Place::Override { number, origin: set.origin.clone() };
    match resolve(&set.path, &draft.value) {
        Ok(keys) => {
            for key in &keys {
                match &set.value {
                    Some(value) => draft.put(key, &read(value, key), &place),
                    None => draft.leave_out(key),
                }
            }
        }
        Err(NoSuchKey { message, hint }) => {
            draft.add(Problem { place, key: set.path.clone(), message, hint: Some(hint) });
        }
    }
}

/// A TOML value. What isn't one, or is one where the plan wants text, is taken as text: nobody
/// writes quotes within quotes for a shell.
fn read<'a>(text: &'a str, key: &KeyPath) -> DeValue<'a> {
    let wants_text = at(key).is_some_and(|schema| type_of(schema) == "string");
    match DeValue::parse(text).map(toml::Spanned::into_inner) {
        Ok(value) if value.is_str() || !wants_text => value,
        _ => DeValue::String(text.into()),
    }
}

/// The keys that `path` means: one, or with `*` one for each item of an array.
fn resolve(path: &str, value: &Value) -> Result<Vec<KeyPath>, NoSuchKey> {
    let words = cut(path).ok_or_else(|| NoSuchKey {
        message: "a quote or bracket is not closed".into(),
        hint: "write a path such as phases.0.duration_sec".into(),
    })?;
    let mut found = vec![KeyPath::root()];
    let mut schema = &*PLAIN;
    for word in &words {
        let steps = |key: &KeyPath| steps(key, schema, word, value);
        let next: Result<Vec<Vec<KeyPath>>, _> = found
            .iter()
            .map(|key| Ok(steps(key)?.into_iter().map(|step| key.then(step)).collect()))
            .collect();
        found = next?.concat();
        let step = if type_of(schema) == "array" { Step::Index(0) } else { word.as_str().into() };
        schema = below(schema, &step).unwrap_or(&Value::Null);
    }
    Ok(found)
}

/// The steps that `word` means below `key`.
fn steps(key: &KeyPath, schema: &Value, word: &str, value: &Value) -> Result<Vec<Step>, NoSuchKey> {
    if type_of(schema) == "array" {
        return items(key, word, value);
    }
    if below(schema, &word.into()).is_some() {
        return Ok(vec![word.into()]);
    }
    if type_of(schema) == "object" {
        let hint = did_you_mean(word, keys(schema));
        return Err(NoSuchKey { message: format!("unknown key \"{word}\""), hint });
    }
    let message = format!("{key} holds one value and no keys");
    Err(NoSuchKey { message, hint: format!("set {key} itself") })
}

fn items(key: &KeyPath, word: &str, value: &Value) -> Result<Vec<Step>, NoSuchKey> {
    let length = key.get(value).and_then(Value::as_array).map_or(0, Vec::len);
    if word == "*" {
        return Ok((0..length).map(Step::Index).collect());
    }
    let index: usize = word.parse().map_err(|_| NoSuchKey {
        message: format!("{key} is an array, and \"{word}\" is no number"),
        hint: format!("write {key}.0 for its first item, or {key}.* for all"),
    })?;
    if index < length {
        return Ok(vec![index.into()]);
    }
    let hint = match length {
        0 => format!("the plan has no {key}"),
        _ => format!("the plan has {length}, numbered from 0"),
    };
    Err(NoSuchKey { message: format!("there is no {key}[{index}]"), hint })
}
