//! What addresses mean: functions, those that were inlined into them too, and where their source is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Kernel, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use crate::modules::VDSO;
use crate::recording::{Mapping, Recording, is_kernel};

/// Where the executable of this process is, whatever has become of its file.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// The module of what the kernel runs.
pub const KERNEL: &str = "[kernel]";

/// A place in a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The functions there, innermost first: all but the last were inlined into the next one. Never
    /// empty: what has no name is called after its file and address.
    pub functions: Vec<Function>,
    /// The file that it is in, an executable or a library; [`KERNEL`], `[unknown]`.
    pub module: String,
    /// Where in the file; in memory, if there is none.
    pub address: u64,
    /// Whether the functions' names are known.
    pub is_known: bool,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its name, with its path.
    pub name: String,
    /// The file of its source, and the line there that was run.
    pub source: Option<(String, u32)>,
}

/// Looks addresses up, each one once.
#[derive(Debug)]
pub struct Symbols {
    symbolizer: Symbolizer,
    own: Option<PathBuf>,
    /// By file and place in it; the kernel's without a file.
    known: HashMap<(Option<PathBuf>, u64), Arc<Location>>,
}

impl Default for Symbols {
    fn default() -> Self {
        let own = std::env::current_exe().ok();
        Self { symbolizer: Symbolizer::new(), own, known: HashMap::new() }
    }
}

impl Symbols {
    /// The places of a stack of addresses, in their order.
    pub fn stack(&mut self, recording: &Recording, addresses: &[u64]) -> Vec<Arc<Location>> {
        addresses.iter().map(|address| self.location(&recording.mappings, *address)).collect()
    }

    fn location(&mut self, mappings: &[Mapping], address: u64) -> Arc<Location> {
        let mapped = |map: &&Mapping| (map.start..map.end).contains(&address);
        let place = match mappings.iter().find(mapped) {
            Some(map) => (Some(map.path.clone()), address - map.start + map.offset),
            None => (None, address),
        };
        if let Some(location) = self.known.get(&place) {
            return Arc::clone(location);
        }
        let location = Arc::new(self.look_up(place.0.as_deref(), place.1));
        self.known.insert(place, Arc::clone(&location));
        location
    }

    fn look_up(&self, file: Option<&Path>, address: u64) -> Location {
        let (source, input, module) = match file {
            None if !is_kernel(address) => return unknown("[unknown]", address),
            None => (Source::Kernel(Kernel::default()), Input::AbsAddr(address), KERNEL.into()),
            Some(file) if file == Path::new(VDSO) => {
                let function = Function { name: VDSO.into(), source: None };
                let functions = vec![function];
                return Location { functions, module: VDSO.into(), address, is_known: true };
            }
            Some(file) => {
                let is_own = self.own.as_deref() == Some(file);
                let path = if is_own { Path::new(OWN_EXECUTABLE) } else { file };
                let name = file.file_name().unwrap_or(file.as_os_str());
                let elf = Source::Elf(Elf::new(path));
                (elf, Input::FileOffset(address), name.to_string_lossy().into_owned())
            }
        };
        let Ok(Symbolized::Sym(symbol)) = self.symbolizer.symbolize_single(&source, input) else {
            return unknown(&module, address);
        };
        let function = |name: &str, code: Option<&CodeInfo<'_>>| Function {
            name: name.into(),
            source: code
                .and_then(|code| Some((code.to_path().to_string_lossy().into_owned(), code.line?))),
        };
        let inlined = symbol.inlined.iter().rev();
        let inlined = inlined.map(|inner| function(&inner.name, inner.code_info.as_ref()));
        let physical = function(&symbol.name, symbol.code_info.as_deref());
        let functions = inlined.chain([physical]).collect();
        Location { functions, module, address, is_known: true }
    }
}

fn unknown(module: &str, address: u64) -> Location {
    let function = Function { name: format!("{module}+{address:#x}"), source: None };
    Location { functions: vec![function], module: module.into(), address, is_known: false }
}
