//! Dumps of heaps, which come over the links of workers on other machines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use walbench_profiles::heap::{Dump, Heap};
use walbench_profiles::symbols::Symbols;

fuzz_target!(|text: &str| {
    if let Ok(mut dump) = Dump::parse(text) {
        // No file that is named there is looked at.
        dump.mappings.clear();
        let heap = Heap::of(&dump, &mut Symbols::default());
        let _ = heap.growth(&Heap::default(), "fuzz");
        let _ = (heap.largest(), heap.profile("fuzz"));
    }
});
