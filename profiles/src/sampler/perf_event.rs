//! The kernel's own sampler: perf_event_open(2) on the software clock.
//!
//! An event for each thread and each CPU, since the kernel lets threads that are started later inherit
//! an event only if it is bound to a CPU. The clock runs while the thread does, so that each sample
//! stands for the same CPU time.

use std::io;

use nix::libc;
use nix::unistd::{SysconfVar, sysconf};
use perf_event::data::{Record, Sample};
use perf_event::events::Software;
use perf_event::{Builder, Clock, SampleFlag, Sampler};

use crate::recording::{self, Recording, is_kernel};

/// Bytes of samples that wait to be read, for each thread and CPU: those of a fifth of a second, with
/// deep stacks, at 1,000 a second.
const RING_BYTES: usize = 64 * 1024;

/// Entries of a chain that say where the following ones were run, and are no addresses
/// (`PERF_CONTEXT_MAX`).
const FIRST_CONTEXT: u64 = -4095_i64 as u64;

/// What is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    /// Samples of each second that a thread runs.
    pub(super) rate_hz: u32,
    /// Whether to look into the kernel.
    pub(super) kernel: bool,
}

/// The events of a process.
pub(super) struct Events {
    rings: Vec<Sampler>,
}

impl Events {
    /// Starts to sample all threads of a process, and those that they will start.
    pub(super) fn open(pid: u32, terms: Terms) -> io::Result<Self> {
        // One that is off takes no events.
        let cpus = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten().unwrap_or(1);
        let mut events = Self { rings: Vec::new() };
        for thread in threads(pid)? {
            for cpu in 0..usize::try_from(cpus).unwrap_or(1) {
                match open(thread, cpu, terms) {
                    Ok(ring) => events.rings.push(ring),
                    // It has ended meanwhile, or the CPU is off.
                    Err(error) if is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        match events.rings.is_empty() {
            true => Err(io::Error::from_raw_os_error(libc::ESRCH)),
            false => Ok(events),
        }
    }

    /// Moves what was sampled into the recording.
    pub(super) fn read(&mut self, recording: &mut Recording) {
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                match record.parse_record() {
                    Ok(record) => take(&record, recording),
                    Err(_) => recording.lost += 1,
                }
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
}

fn open(thread: i32, cpu: usize, terms: Terms) -> io::Result<Sampler> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    builder
        .observe_pid(thread)
        .one_cpu(cpu)
        .inherit(true)
        .sample_period(1_000_000_000 / u64::from(terms.rate_hz.max(1)))
        .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::CALLCHAIN)
        // The clock that phases are cut by.
        .clockid(Clock::REALTIME)
        .exclude_kernel(!terms.kernel)
        .exclude_callchain_kernel(!terms.kernel)
        .comm(true)
        .enabled(true);
    builder.build()?.sampled(RING_BYTES)
}

/// The numbers of a process's threads.
fn threads(pid: u32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

fn take(record: &Record<'_>, recording: &mut Recording) {
    match record {
        Record::Sample(sample) => take_sample(sample, recording),
        Record::Comm(named) => {
            let name = String::from_utf8_lossy(&named.comm);
            recording.threads.insert(named.tid, name.trim_end_matches('\0').to_owned());
        }
        Record::Lost(lost) => recording.lost += lost.lost,
        _ => {}
    }
}

fn take_sample(sample: &Sample<'_>, recording: &mut Recording) {
    let (Some(thread), Some(time_ns)) = (sample.tid(), sample.time()) else { return };
    let stack = recording.stacks.number(&addresses(sample.callchain().unwrap_or_default()));
    let time_us = i64::try_from(time_ns / 1_000).unwrap_or(i64::MAX);
    recording.samples.push(recording::Sample { time_us, thread, stack });
}

/// The addresses of a chain, each within the instruction that is run or that calls.
fn addresses(chain: &[u64]) -> Vec<u64> {
    let mut addresses = Vec::with_capacity(chain.len());
    for &address in chain.iter().filter(|entry| **entry < FIRST_CONTEXT) {
        // The first of the kernel's and the first of the process's are where they stand.
        let calls = addresses.last().is_some_and(|last| is_kernel(*last) == is_kernel(address));
        addresses.push(if calls { address.saturating_sub(1) } else { address });
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_becomes_addresses_within_calls() {
        let (kernel, user) = (-128_i64 as u64, -512_i64 as u64);
        let entry = 0xffff_8000_0000_1000;
        let chain = [kernel, entry, entry + 0x10, user, 0x1000, 0x2000, 0x3000];
        assert_eq!(addresses(&chain), [entry, entry + 0xf, 0x1000, 0x1fff, 0x2fff]);
        assert_eq!(addresses(&[user, 0x1000]), [0x1000]);
        assert!(addresses(&[]).is_empty());
    }
}
