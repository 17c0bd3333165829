//! A plan in the making: a file's values and the overrides', each with the place it was written at,
//! and the problems found so far.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Number, Value};
use toml::Spanned;
use toml::de::{DeFloat, DeInteger, DeTable, DeValue};

use crate::env::Env;
use crate::interpolate::{Fault, interpolate};
use crate::key::KeyPath;
use crate::problem::{Place, PlanError, Problem};

/// A value that TOML has and a plan has not. It becomes a problem only when no override takes its
/// place.
type Oddity = (&'static str, &'static str);

const NOT_FINITE: Oddity = ("must be a finite number", "write a number such as 10 or 2.5");
const DATE: Oddity = ("no key takes a date or time", "write it in quotes if text is meant");
const TOO_LARGE: Oddity = ("the integer is too large", "no key takes more than 2^64 - 1");

pub(crate) struct Draft {
    name: String,
    pub(crate) value: Value,
    /// Where each value was written.
    places: BTreeMap<KeyPath, Place>,
    /// Where the last word of each key was written, for keys that should not be there at all.
    names: BTreeMap<KeyPath, Place>,
    oddities: BTreeMap<KeyPath, Oddity>,
    /// Strings as they were before variables were filled in: what messages may show.
    written: BTreeMap<KeyPath, String>,
    spoilt: BTreeSet<KeyPath>,
    problems: Vec<Problem>,
}

impl Draft {
    /// Reads TOML. A syntax error ends it: what follows one can't be trusted.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, PlanError> {
        let table = DeTable::parse(text).map_err(|error| Problem {
            place: error.span().map_or_else(
                || Place::File { name: name.into() },
                |span| line_and_column(name, text, span.start),
            ),
            key: String::new(),
            message: format!("not valid TOML: {}", error.message().trim()),
            hint: None,
        })?;
        let mut draft = Self {
            name: name.into(),
            value: Value::Null,
            places: BTreeMap::new(),
            names: BTreeMap::new(),
            oddities: BTreeMap::new(),
            written: BTreeMap::new(),
            spoilt: BTreeSet::new(),
            problems: Vec::new(),
        };
        let place = |offset| line_and_column(name, text, offset);
        draft.value = draft.read_table(&KeyPath::root(), table.get_ref(), &place);
        Ok(draft)
    }

    /// Leaves out what is at `key`.
    pub(crate) fn leave_out(&mut self, key: &KeyPath) {
        self.forget(key);
        key.remove(&mut self.value);
    }

    fn forget(&mut self, key: &KeyPath) {
        self.places.retain(|other, _| !other.starts_with(key));
        self.names.retain(|other, _| !other.starts_with(key));
        self.oddities.retain(|other, _| !other.starts_with(key));
    }

    /// Puts an override's value at `key`.
    pub(crate) fn put(&mut self, key: &KeyPath, value: &DeValue<'_>, place: &Place) {
        self.forget(key);
        self.places.insert(key.clone(), place.clone());
        let value = self.read(key, value, &|_| place.clone());
        key.set(&mut self.value, value);
    }

    fn read(&mut self, key: &KeyPath, value: &DeValue<'_>, at: &dyn Fn(usize) -> Place) -> Value {
        let read = match value {
            DeValue::String(text) => Ok(Value::String(text.clone().into_owned())),
            DeValue::Boolean(truth) => Ok(Value::Bool(*truth)),
            DeValue::Integer(integer) => read_integer(integer).ok_or(TOO_LARGE),
            DeValue::Float(float) => read_float(float).ok_or(NOT_FINITE),
            DeValue::Datetime(_) => Err(DATE),
            DeValue::Array(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| self.read_at(&key.then(index), item, at))
                .collect()),
            DeValue::Table(table) => Ok(self.read_table(key, table, at)),
        };
        read.unwrap_or_else(|oddity| {
            self.oddities.insert(key.clone(), oddity);
            Value::Null
        })
    }

    fn read_table(
        &mut self,
        key: &KeyPath,
        table: &DeTable<'_>,
        at: &dyn Fn(usize) -> Place,
    ) -> Value {
        let read = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let place = at(name.span().start);
            let name: &str = AsRef::<str>::as_ref(name.get_ref());
            let key = key.then(name);
            self.names.insert(key.clone(), place);
            (name.to_string(), self.read_at(&key, value, at))
        };
        Value::Object(table.iter().map(read).collect())
    }

    fn read_at(
        &mut self,
        key: &KeyPath,
        value: &Spanned<DeValue<'_>>,
        at: &dyn Fn(usize) -> Place,
    ) -> Value {
        self.places.insert(key.clone(), at(value.span().start));
        self.read(key, value.get_ref(), at)
    }

    /// Fills in the variables of every string.
    pub(crate) fn interpolate(&mut self, env: &Env) {
        let mut strings = Vec::new();
        each_string(&self.value, &KeyPath::root(), &mut |key, text| {
            if text.contains("${") {
                strings.push((key.clone(), text.to_string()));
            }
        });
        for (key, text) in strings {
            match interpolate(&text, |name| env.get(name)) {
                Ok(filled) => key.set(&mut self.value, Value::String(filled)),
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(&key, fault, env)),
            }
            self.written.insert(key, text);
        }
    }

    fn fault(&mut self, key: &KeyPath, fault: Fault, env: &Env) {
        match fault {
            Fault::Unset(name) => {
                let hint = format!("set it, add it to .env, or write ${{{name}:-default}}");
                self.problem(key, format!("the variable {name} is not set"), Some(hint));
                if let Some(problem) = env.problem().filter(|it| !self.problems.contains(it)) {
                    self.problems.push(problem.clone());
                }
            }
            Fault::Malformed => {
                let hint = "write ${NAME} or ${NAME:-default}, and $${ for a ${ that is text";
                self.problem(key, "${ is not followed by a name and }".into(), Some(hint.into()));
            }
        }
    }

    /// Makes problems of the values that TOML has and a plan has not.
    pub(crate) fn refuse_oddities(&mut self) {
        for (key, (message, hint)) in std::mem::take(&mut self.oddities) {
            self.problem(&key, message.into(), Some(hint.into()));
        }
    }

    /// Notes a problem with the value at `key`.
    pub(crate) fn problem(&mut self, key: &KeyPath, message: String, hint: Option<String>) {
        self.problems.push(Problem { place: self.place(key), key: key.to_string(), message, hint });
        self.spoil(key);
    }

    /// Notes that there is no key such as `key`.
    pub(crate) fn unknown(&mut self, key: &KeyPath, message: String, hint: String) {
        let place = self.names.get(key).cloned().unwrap_or_else(|| self.place(key));
        self.add(Problem { place, key: key.to_string(), message, hint: Some(hint) });
        self.spoil(key);
    }

    /// Notes a problem that concerns no value.
    pub(crate) fn add(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Says that nothing can be concluded from the value at `key`.
    pub(crate) fn spoil(&mut self, key: &KeyPath) {
        self.spoilt.insert(key.clone());
    }

    /// Whether there is a problem with exactly this value.
    pub(crate) fn is_spoilt(&self, key: &KeyPath) -> bool {
        self.spoilt.contains(key)
    }

    /// Whether there is a problem with this value, a part of it, or what it is part of.
    pub(crate) fn is_doubtful(&self, key: &KeyPath) -> bool {
        self.spoilt.iter().any(|spoilt| key.starts_with(spoilt) || spoilt.starts_with(key))
    }

    pub(crate) fn has(&self, key: &KeyPath) -> bool {
        self.places.contains_key(key)
    }

    /// The string at `key` as it was written, before its variables were filled in.
    pub(crate) fn written(&self, key: &KeyPath) -> Option<&str> {
        self.written.get(key).map(String::as_str)
    }

    /// Where the value at `key`, or else what holds it, was written.
    pub(crate) fn place(&self, key: &KeyPath) -> Place {
        let place = key.ancestors().find_map(|key| self.places.get(&key).cloned());
        place.unwrap_or_else(|| Place::File { name: self.name.clone() })
    }

    /// The problems found, and why no plan could be made even apart from them.
    pub(crate) fn reject(mut self, reason: &str) -> PlanError {
        if self.problems.is_empty() {
            let place = self.place(&KeyPath::root());
            let (key, message) = (String::new(), reason.into());
            self.problems.push(Problem { place, key, message, hint: None });
        }
        self.finish(()).err().unwrap_or(PlanError { problems: Vec::new() })
    }

    /// `plan`, or every problem in the order of their places.
    pub(crate) fn finish<T>(mut self, plan: T) -> Result<T, PlanError> {
        if self.problems.is_empty() {
            return Ok(plan);
        }
        self.problems.sort_by(|left, right| left.place.cmp(&right.place));
        Err(PlanError { problems: self.problems })
    }
}

fn each_string(value: &Value, key: &KeyPath, visit: &mut dyn FnMut(&KeyPath, &str)) {
    match value {
        Value::String(text) => visit(key, text),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                each_string(item, &key.then(index), visit);
            }
        }
        Value::Object(table) => {
            for (name, value) in table {
                each_string(value, &key.then(name.as_str()), visit);
            }
        }
        _ => {}
    }
}

fn read_integer(integer: &DeInteger<'_>) -> Option<Value> {
    let integer = i128::from_str_radix(integer.as_str(), integer.radix()).ok()?;
    let signed = i64::try_from(integer).map(Number::from);
    signed.or_else(|_| u64::try_from(integer).map(Number::from)).ok().map(Value::Number)
}

fn read_float(float: &DeFloat<'_>) -> Option<Value> {
    float.as_str().parse().ok().and_then(Number::from_f64).map(Value::Number)
}

fn line_and_column(name: &str, text: &str, offset: usize) -> Place {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    Place::Line {
        name: name.into(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}
