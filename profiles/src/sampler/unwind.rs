//! From a copied piece of stack to the calls that led there, by the tables that compilers write for
//! exceptions (`.eh_frame`): frame pointers alone would lose the callers of most of what the C library
//! and PostgreSQL do.

use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;

use framehop::{
    CacheNative, Error, MayAllocateDuringUnwind, Module, ModuleSectionInfo, UnwindRegsNative,
    Unwinder, UnwinderNative,
};
use object::read::{Object, ObjectSection, ObjectSegment, ReadCache};

use crate::recording::Mapping;

/// Calls of a stack, at most: as many as the kernel follows by itself.
const MOST_CALLS: usize = 127;

/// The registers that a stack is unwound from, as perf_event_open(2) numbers them, in the order in
/// which it writes them (`arch/x86/include/uapi/asm/perf_regs.h`: BP, SP, IP).
#[cfg(target_arch = "x86_64")]
pub(super) const REGISTERS: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// The same for aarch64 (`arch/arm64/include/uapi/asm/perf_regs.h`: X29, LR, SP, PC).
#[cfg(target_arch = "aarch64")]
pub(super) const REGISTERS: u64 = 1 << 29 | 1 << 30 | 1 << 31 | 1 << 32;

/// The registers that were written: where the program stood, its stack's end, and how to go on.
fn registers(written: &[u64]) -> Option<(u64, u64, UnwindRegsNative)> {
    #[cfg(target_arch = "x86_64")]
    if let [bp, sp, ip] = *written {
        return Some((ip, sp, UnwindRegsNative::new(ip, sp, bp)));
    }
    #[cfg(target_arch = "aarch64")]
    if let [fp, lr, sp, pc] = *written {
        return Some((pc, sp, UnwindRegsNative::new(lr, sp, fp)));
    }
    None
}

/// Unwinds the stacks of a process.
pub(super) struct Unwinding {
    unwinder: UnwinderNative<Vec<u8>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
    known: HashSet<u64>,
}

impl Unwinding {
    pub(super) fn new() -> Self {
        Self { unwinder: UnwinderNative::new(), cache: CacheNative::new(), known: HashSet::new() }
    }

    /// Reads the tables of what the process has mapped. A file without any is unwound by frame
    /// pointers.
    pub(super) fn learn(&mut self, mappings: &[Mapping]) {
        for mapping in mappings {
            if self.known.insert(mapping.start)
                && let Some(module) = module(mapping)
            {
                self.unwinder.add_module(module);
            }
        }
    }

    /// Adds the calls of a stack to `calls`, innermost first, each as an address within the call; says
    /// whether that was the whole stack.
    pub(super) fn unwind(&mut self, written: &[u64], stack: &[u8], calls: &mut Vec<u64>) -> bool {
        let Some((ip, sp, registers)) = registers(written) else { return false };
        let mut read = |address: u64| {
            let at = usize::try_from(address.checked_sub(sp).ok_or(())?).map_err(drop)?;
            let word = at.checked_add(8).and_then(|end| stack.get(at..end)).ok_or(())?;
            word.try_into().map(u64::from_ne_bytes).map_err(drop)
        };
        let mut frames = self.unwinder.iter_frames(ip, registers, &mut self.cache, &mut read);
        for _ in 0..MOST_CALLS {
            match frames.next() {
                Ok(Some(frame)) => calls.push(frame.address_for_lookup()),
                Ok(None) | Err(Error::ReturnAddressIsNull) => return true,
                Err(_) => return false,
            }
        }
        false
    }
}

/// What the unwinder needs of a mapped file.
fn module(mapping: &Mapping) -> Option<Module<Vec<u8>>> {
    // Only what is needed is read: an executable with its debug information is large.
    let cache = ReadCache::new(File::open(&mapping.path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    // The kernel maps whole pages: the segment may begin a little behind the mapping.
    let base = file.segments().find_map(|segment| {
        let (offset, size) = segment.file_range();
        let is_mapped = offset < mapping.offset + (mapping.end - mapping.start)
            && offset + size > mapping.offset;
        let start = mapping.start.checked_add(offset)?.checked_sub(mapping.offset)?;
        let executable = is_executable(&segment);
        (is_mapped && executable).then(|| start.wrapping_sub(segment.address()))
    })?;
    let name = mapping.path.display().to_string();
    Some(Module::new(name, mapping.start..mapping.end, base, Sections(&file)))
}

fn is_executable<'a>(segment: &impl ObjectSegment<'a>) -> bool {
    match segment.flags() {
        object::SegmentFlags::Elf { p_flags, .. } => {
            p_flags & object::elf::PF_X == object::elf::PF_X
        }
        _ => false,
    }
}

/// A file's sections, by name.
struct Sections<'a>(&'a object::File<'a, &'a ReadCache<File>>);

impl ModuleSectionInfo<Vec<u8>> for Sections<'_> {
    fn base_svma(&self) -> u64 {
        0
    }

    fn section_svma_range(&mut self, name: &[u8]) -> Option<Range<u64>> {
        let section = self.0.section_by_name_bytes(name)?;
        Some(section.address()..section.address() + section.size())
    }

    fn section_data(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        // The code itself is looked at where tables lack something, which compilers don't leave out.
        if name == b".text" {
            return None;
        }
        Some(self.0.section_by_name_bytes(name)?.data().ok()?.to_vec())
    }
}
