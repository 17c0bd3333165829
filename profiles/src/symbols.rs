//! What addresses mean: functions, those that were inlined into them too, and where their source is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use blazesym::symbolize::source::{Elf, Kernel, Source};
use blazesym::symbolize::{CodeInfo, Input, Symbolized, Symbolizer};

use crate::recording::{Mapping, Recording, is_kernel};

/// Where the executable of this process is, whatever has become of its file.
const OWN_EXECUTABLE: &str = "/proc/self/exe";

/// A function in a stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frame {
    /// Its name, or the file and the address in it, if that is all there is to know.
    pub function: String,
    /// The file that it comes from: an executable, a library, `[kernel]`.
    pub module: String,
    /// Its source, `file:line` of what was run, if that is known.
    pub source: Option<(String, u32)>,
    /// It was inlined into the next outer one.
    pub is_inlined: bool,
    /// Its name is not known.
    pub is_unknown: bool,
}

/// Looks addresses up, each one once.
#[derive(Debug)]
pub struct Symbols {
    symbolizer: Symbolizer,
    own: Option<PathBuf>,
    /// By file and place in it; the kernel's without a file.
    known: HashMap<(Option<PathBuf>, u64), Vec<Frame>>,
}

impl Default for Symbols {
    fn default() -> Self {
        let own = std::env::current_exe().ok();
        Self { symbolizer: Symbolizer::new(), own, known: HashMap::new() }
    }
}

impl Symbols {
    /// The functions of a stack, innermost first.
    pub fn stack(&mut self, recording: &Recording, addresses: &[u64]) -> Vec<Frame> {
        let frames = addresses.iter().map(|address| self.frames(&recording.mappings, *address));
        frames.collect::<Vec<_>>().concat()
    }

    /// The functions at an address, innermost first: more than one where some were inlined.
    fn frames(&mut self, mappings: &[Mapping], address: u64) -> Vec<Frame> {
        let place = if is_kernel(address) {
            (None, address)
        } else {
            let inside = |map: &&Mapping| (map.start..map.end).contains(&address);
            match mappings.iter().find(inside) {
                Some(map) => (Some(map.path.clone()), address - map.start + map.offset),
                None => return vec![unknown("[unknown]", address)],
            }
        };
        if let Some(frames) = self.known.get(&place) {
            return frames.clone();
        }
        let frames = self.look_up(place.0.as_deref(), place.1);
        self.known.insert(place, frames.clone());
        frames
    }

    fn look_up(&self, file: Option<&Path>, place: u64) -> Vec<Frame> {
        let (source, input, module) = match file {
            None => (Source::Kernel(Kernel::default()), Input::AbsAddr(place), "[kernel]".into()),
            Some(file) => {
                let is_own = self.own.as_deref() == Some(file);
                let path = if is_own { Path::new(OWN_EXECUTABLE) } else { file };
                let name = file.file_name().unwrap_or(file.as_os_str());
                let elf = Source::Elf(Elf::new(path));
                (elf, Input::FileOffset(place), name.to_string_lossy().into_owned())
            }
        };
        let Ok(Symbolized::Sym(symbol)) = self.symbolizer.symbolize_single(&source, input) else {
            return vec![unknown(&module, place)];
        };
        let frame = |name: &str, code: Option<&CodeInfo<'_>>, is_inlined| Frame {
            function: name.into(),
            module: module.clone(),
            source: code.and_then(|code| {
                Some((code.to_path().to_string_lossy().into_owned(), code.line?))
            }),
            is_inlined,
            is_unknown: false,
        };
        let own = frame(&symbol.name, symbol.code_info.as_deref(), false);
        let inlined = symbol.inlined.iter();
        let inlined = inlined.map(|inner| frame(&inner.name, inner.code_info.as_ref(), true));
        let mut frames: Vec<Frame> = std::iter::once(own).chain(inlined).collect();
        frames.reverse();
        frames
    }
}

fn unknown(module: &str, address: u64) -> Frame {
    Frame {
        function: format!("{module}+{address:#x}"),
        module: module.into(),
        source: None,
        is_inlined: false,
        is_unknown: true,
    }
}
