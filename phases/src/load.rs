//! From text to a [`Plan`].

use std::io;
use std::path::Path;

use crate::builtin;
use crate::draft::Draft;
use crate::env::Env;
use crate::hint::{list, nearest};
use crate::plan::Plan;
use crate::problem::{Place, PlanError, Problem};
use crate::{overrides, structure, validate};

/// The text of a plan and where it came from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Shown in messages: a path, or a built-in plan's name.
    pub name: String,
    /// TOML.
    pub text: String,
    /// Where `${NAME}` is looked up.
    pub env: Env,
}

/// A value that takes the place of the plan's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The key: `producer.batch_size`, `phases.0.duration_sec`, or `phases.*.duration_sec` for
    /// every phase.
    pub path: String,
    /// A TOML value; what isn't one is taken as a string. Without one, what the plan says of the key
    /// is left out.
    pub value: Option<String>,
    /// What the user typed, shown in messages: `--set producer.batch_size=5`, `--throughput 5`.
    pub origin: String,
}

/// Reads a plan; `sets` are applied in order, so that a later one wins.
///
/// # Errors
///
/// Every problem there is, or the first one only where the text is not TOML.
pub fn load(source: &Source, sets: &[Override]) -> Result<Plan, PlanError> {
    let mut draft = Draft::parse(&source.name, &source.text)?;
    for (number, set) in sets.iter().enumerate() {
        overrides::apply(&mut draft, number, set);
    }
    draft.refuse_oddities();
    draft.interpolate(&source.env);
    structure::check(&mut draft);
    let plan: Plan = match serde_json::from_value(structure::mend(&draft)) {
        Ok(plan) => plan,
        Err(error) => return Err(draft.reject(&error.to_string())),
    };
    for finding in validate::check(&plan) {
        if finding.keys.iter().any(|key| draft.is_doubtful(key)) {
            continue;
        }
        // A default is written nowhere: the reader is led to the key that made it matter.
        let place = finding.keys.iter().find(|key| draft.has(key)).unwrap_or(&finding.keys[0]);
        let place = draft.place(place);
        let key = finding.keys[0].to_string();
        draft.add(Problem { place, key, message: finding.message, hint: finding.hint });
    }
    draft.finish(plan)
}

/// Reads the plan in the file at `path`: [`load`] with the `.env` file beside it.
///
/// # Errors
///
/// As [`load`], and a file that can't be read.
pub fn load_file(path: &Path, sets: &[Override]) -> Result<Plan, PlanError> {
    load(&read(path)?, sets)
}

/// The plan a user means: a built-in plan's name or a path. A file that is called like a built-in
/// plan is reached as `./name`.
///
/// # Errors
///
/// A file that can't be read, or a name that is neither.
pub fn find(name_or_path: &str) -> Result<Source, PlanError> {
    if let Some(plan) = builtin::get(name_or_path) {
        let env = Env::here();
        return Ok(Source { name: plan.name.into(), text: plan.text.into(), env });
    }
    let path = Path::new(name_or_path);
    let is_name = path.components().count() == 1 && path.extension().is_none() && !path.exists();
    if is_name { Err(no_such_plan(name_or_path)) } else { read(path) }
}

fn no_such_plan(name: &str) -> PlanError {
    let message = "there is no built-in plan and no file of this name";
    let problem = Problem {
        place: Place::File { name: name.into() },
        key: String::new(),
        message: message.into(),
        hint: Some(builtin_hint(name)),
    };
    problem.into()
}

fn builtin_hint(name: &str) -> String {
    let names = || builtin::all().map(|plan| plan.name);
    match nearest(name, names()) {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!("built-in plans are {}", list(names())),
    }
}

fn read(path: &Path) -> Result<Source, PlanError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    Ok(Source { name, text, env: Env::beside(path)? })
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let name = path.display().to_string();
    let (message, hint) = match error.kind() {
        io::ErrorKind::NotFound => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            ("there is no such file".into(), Some(builtin_hint(&stem)))
        }
        io::ErrorKind::IsADirectory => {
            ("is a folder".into(), Some("name the plan file in it".into()))
        }
        io::ErrorKind::InvalidData => {
            ("is not text in UTF-8".into(), Some("save it as UTF-8; a plan is a TOML file".into()))
        }
        io::ErrorKind::PermissionDenied => {
            ("may not be read by this user".into(), Some("change its permissions".into()))
        }
        _ => (format!("cannot be read: {error}"), None),
    };
    Problem { place: Place::File { name }, key: String::new(), message, hint }
}
