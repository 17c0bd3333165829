//! The kernel's own sampler: perf_event_open(2) on the software clock.
//!
//! Where it is permitted, an event for each CPU, which samples whatever runs there. Else one for each
//! thread and CPU (threads that are started later inherit an event only if it is bound to a CPU): then
//! the clock is stopped and started with each switch between threads, which costs microseconds, and in
//! which nothing is sampled.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::{SysconfVar, sysconf};
use nix::{ioctl_write_int_bad, libc, request_code_none};
use perf_event::data::{Record, Sample};
use perf_event::events::Software;
use perf_event::{Builder, Clock, Counter, SampleFlag, Sampler};

use super::unwind::{REGISTERS, Unwinding};
use crate::recording::{self, Mapping, RawStack, Recording, is_kernel};

/// Room for samples.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Bytes of samples that wait to be read, for each CPU.
    ring_bytes: usize,
    /// Bytes of stack that are copied with each sample, from its end on: what is farther out is missing.
    /// Rust's frames are large where structures are moved.
    stack_bytes: u32,
}

/// The most that may be had: rings are locked in memory, of which the kernel lends users without
/// privileges little. All of it holds the samples of 10 ms at 1,000 a second, the larger ones three
/// times.
const ROOM: [Room; 4] = [
    Room { ring_bytes: 1 << 20, stack_bytes: 32 << 10 },
    Room { ring_bytes: 1 << 19, stack_bytes: 16 << 10 },
    Room { ring_bytes: 1 << 18, stack_bytes: 8 << 10 },
    Room { ring_bytes: 1 << 17, stack_bytes: 8 << 10 },
];

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

/// Events that run, and where they write.
pub(super) struct Events {
    /// One for each CPU, into which all events of that CPU write.
    rings: Vec<Sampler>,
    /// The others, which last as long as they are held.
    redirected: Vec<Counter>,
}

/// What the kernel wrote.
pub(super) enum Written<'a> {
    /// A sample.
    Sample(&'a Sample<'a>),
    /// A thread of a process has a name.
    Name { process: u32, thread: u32, name: &'a [u8] },
    /// A process has mapped a file to run it.
    Mapped { process: u32, mapping: Mapping },
    /// Samples that it had no room for.
    Lost(u64),
}

impl Events {
    /// Starts to sample whatever runs.
    pub(super) fn of_the_machine(terms: Terms) -> io::Result<Self> {
        Self::as_large_as_may_be(&[None], terms)
    }

    /// Starts to sample all threads of a process, and those that they will start.
    pub(super) fn of_a_process(pid: u32, terms: Terms) -> io::Result<Self> {
        let threads: Vec<Option<i32>> = threads(pid)?.into_iter().map(Some).collect();
        Self::as_large_as_may_be(&threads, terms)
    }

    fn as_large_as_may_be(threads: &[Option<i32>], terms: Terms) -> io::Result<Self> {
        let mut opened = Err(io::Error::from_raw_os_error(libc::EPERM));
        for room in ROOM {
            opened = Self::open(threads, terms, room);
            if !opened.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
                break;
            }
        }
        opened
    }

    fn open(threads: &[Option<i32>], terms: Terms, room: Room) -> io::Result<Self> {
        // One that is off takes no events.
        let cpus = sysconf(SysconfVar::_NPROCESSORS_CONF).ok().flatten().unwrap_or(1);
        let mut events = Self { rings: Vec::new(), redirected: Vec::new() };
        for cpu in 0..usize::try_from(cpus).unwrap_or(1) {
            let mut ring: Option<Sampler> = None;
            for &thread in threads {
                let event = match open(thread, cpu, terms, room.stack_bytes) {
                    Ok(event) => event,
                    // It has ended meanwhile, or the CPU is off.
                    Err(error) if is_gone(&error) => continue,
                    Err(error) => return Err(error),
                };
                match &ring {
                    None => ring = Some(event.sampled(room.ring_bytes)?),
                    Some(ring) => {
                        write_into(&event, ring)?;
                        events.redirected.push(event);
                    }
                }
            }
            events.rings.extend(ring);
        }
        if events.rings.is_empty() {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        events.rings.iter_mut().try_for_each(|ring| ring.enable())?;
        events.redirected.iter_mut().try_for_each(Counter::enable)?;
        Ok(events)
    }

    /// Takes what was written since the last time.
    pub(super) fn read(&mut self, mut take: impl FnMut(Written<'_>)) {
        for ring in &mut self.rings {
            while let Some(record) = ring.next_record() {
                match record.parse_record() {
                    Ok(Record::Sample(sample)) => take(Written::Sample(&sample)),
                    Ok(Record::Comm(named)) => take(Written::Name {
                        process: named.pid,
                        thread: named.tid,
                        name: named.comm.split(|byte| *byte == 0).next().unwrap_or_default(),
                    }),
                    Ok(Record::Mmap(mapped)) => take(Written::Mapped {
                        process: mapped.pid,
                        mapping: Mapping {
                            start: mapped.addr,
                            end: mapped.addr.saturating_add(mapped.len),
                            offset: mapped.pgoff,
                            path: path(&mapped.filename),
                        },
                    }),
                    Ok(Record::Lost(lost)) => take(Written::Lost(lost.lost)),
                    // A sample of a thread of the kernel's has no registers, which the parser expects.
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
}

ioctl_write_int_bad!(set_output, request_code_none!(b'$', 5));

/// Makes an event write into another one's ring.
fn write_into(event: &Counter, ring: &Sampler) -> io::Result<()> {
    // SAFETY: PERF_EVENT_IOC_SET_OUTPUT takes two open events, which both are, and changes no memory of
    // ours.
    #[allow(unsafe_code)]
    unsafe { set_output(event.as_raw_fd(), ring.as_raw_fd()) }?;
    Ok(())
}

fn path(name: &[u8]) -> PathBuf {
    OsStr::from_bytes(name.split(|byte| *byte == 0).next().unwrap_or_default()).into()
}

fn open(thread: Option<i32>, cpu: usize, terms: Terms, stack_bytes: u32) -> io::Result<Counter> {
    let mut builder = Builder::new(Software::CPU_CLOCK);
    match thread {
        None => builder.any_pid().exclude_idle(true),
        Some(thread) => builder.observe_pid(thread),
    };
    builder
        .one_cpu(cpu)
        .inherit(true)
        .sample_period(1_000_000_000 / u64::from(terms.rate_hz.max(1)))
        .sample(SampleFlag::TID | SampleFlag::TIME | SampleFlag::CALLCHAIN)
        // The process's part of the chain is unwound from its registers and stack.
        .sample(SampleFlag::REGS_USER | SampleFlag::STACK_USER)
        .sample_regs_user(REGISTERS)
        .sample_stack_user(stack_bytes)
        .exclude_callchain_user(true)
        .exclude_kernel(!terms.kernel)
        .exclude_callchain_kernel(!terms.kernel)
        // The clock that phases are cut by.
        .clockid(Clock::REALTIME)
        .comm(true)
        .mmap(true);
    builder.build()
}

/// The numbers of a process's threads.
fn threads(pid: u32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// Moves a sample into the recording of its process.
pub(super) fn record(sample: &Sample<'_>, unwinding: &mut Unwinding, recording: &mut Recording) {
    let (Some(thread), Some(time_ns)) = (sample.tid(), sample.time()) else { return };
    let mut addresses = kernel_part(sample.callchain().unwrap_or_default());
    let registers = sample.regs_user().map_or(&[][..], |registers| &registers.regs);
    let stack = sample.stack_user().unwrap_or_default();
    let is_whole = unwinding.unwind(registers, stack, &mut addresses);
    let stack = RawStack { addresses: addresses.into(), is_truncated: !is_whole };
    let stack = recording.stacks.number(stack);
    let time_us = i64::try_from(time_ns / 1_000).unwrap_or(i64::MAX);
    recording.samples.push(recording::Sample { time_us, thread, stack });
}

/// The kernel's addresses of a chain, each within the instruction that is run or that calls.
fn kernel_part(chain: &[u64]) -> Vec<u64> {
    let addresses = chain.iter().filter(|entry| **entry < FIRST_CONTEXT && is_kernel(**entry));
    let within = |(n, address): (usize, &u64)| if n == 0 { *address } else { address - 1 };
    addresses.enumerate().map(within).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_becomes_addresses_within_calls() {
        let (kernel, user) = (-128_i64 as u64, -512_i64 as u64);
        let entry = 0xffff_8000_0000_1000;
        let chain = [kernel, entry, entry + 0x10, user, 0x1000];
        assert_eq!(kernel_part(&chain), [entry, entry + 0xf]);
        assert!(kernel_part(&[user, 0x1000]).is_empty());
    }
}
