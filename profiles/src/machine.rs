//! What a run ran on.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sysinfo::System;

/// Facts of a machine that figures depend on. What can't be found out is absent.
///
/// Holds no name of a host or a person: reports get sent around.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// CPU model as the CPU names itself.
    pub cpu_model: Option<String>,
    /// Logical cores the operating system shows.
    pub logical_cores: u32,
    /// Cores' worth of CPU time that the control group (v2) allows.
    pub cgroup_cpu_limit: Option<f64>,
    /// Memory in bytes; 0 where it can't be found out.
    pub memory_bytes: u64,
    /// Bytes of memory that the control group (v2) allows.
    pub cgroup_memory_limit_bytes: Option<u64>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Operating system with its version.
    pub os: Option<String>,
    /// Processor architecture.
    pub architecture: String,
    /// Load average over one, five and fifteen minutes when this was read: what else ran.
    pub load_average: Option<[f64; 3]>,
    /// Frequency governor of the first core.
    pub cpu_governor: Option<String>,
    /// What the kernel's clock reads (`tsc`, `kvm-clock`, `hpet`, …): a slow one makes every
    /// timing dearer.
    pub clock_source: Option<String>,
    /// How late a sleeping thread of this process may be woken on purpose, in ns.
    pub timer_slack_ns: Option<u64>,
    /// Ticks a second in which `/proc/pid/stat` counts CPU time.
    pub user_hz: u64,
}

impl Machine {
    /// Reads the facts of this machine; takes about a millisecond.
    #[must_use]
    pub fn read() -> Self {
        let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let groups = own_groups();
        Self {
            cpu_model: cpu_model(&cpu_info),
            logical_cores: logical_cores(&cpu_info),
            cgroup_cpu_limit: smallest(&groups, |g| cpu_limit(&read(g.join("cpu.max"))?)),
            memory_bytes: memory_bytes(),
            cgroup_memory_limit_bytes: smallest(&groups, |g| {
                read(g.join("memory.max"))?.parse::<u64>().ok()
            }),
            kernel: System::kernel_version().ok(),
            os: System::long_os_version().ok(),
            architecture: std::env::consts::ARCH.into(),
            load_average: System::load_average().ok().map(|l| [l.one, l.five, l.fifteen]),
            cpu_governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            clock_source: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            timer_slack_ns: read("/proc/self/timerslack_ns").and_then(|ns| ns.parse().ok()),
            user_hz: procfs::ticks_per_second(),
        }
    }

    /// Cores' worth of CPU time that can be used: the logical cores, or less where the control
    /// group allows less.
    #[must_use]
    pub fn cores(&self) -> f64 {
        let cores = f64::from(self.logical_cores.max(1));
        self.cgroup_cpu_limit.map_or(cores, |limit| limit.min(cores))
    }
}

/// The type of the file system that holds `path` (`ext4`, `tmpfs`, `overlay`, …); `None` when the
/// path does not exist.
#[must_use]
pub fn filesystem_of(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = procfs::process::Process::myself().and_then(|own| own.mountinfo()).ok()?;
    mounts
        .into_iter()
        .filter(|mount| path.starts_with(&mount.mount_point))
        // Of two mounts at one place the later hides the earlier; `max_by_key` takes the last.
        .max_by_key(|mount| mount.mount_point.components().count())
        .map(|mount| mount.fs_type)
}

/// A file's content, trimmed; `None` when it can't be read or is empty.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn cpu_model(cpu_info: &str) -> Option<String> {
    let line = cpu_info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn logical_cores(cpu_info: &str) -> u32 {
    let cores = cpu_info.lines().filter(|line| line.starts_with("processor")).count();
    u32::try_from(cores).unwrap_or(u32::MAX)
}

fn memory_bytes() -> u64 {
    let Ok(mut system) = System::new() else { return 0 };
    system.refresh_memory();
    system.total_memory()
}

/// The folders of this process's control group (v2) and of all groups above it: a limit may stand
/// at any of them. In a container the group is the root of what is mounted.
fn own_groups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    root.join(own)
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .map(Path::to_owned)
        .collect()
}

fn smallest<T: PartialOrd>(groups: &[PathBuf], limit: impl Fn(&PathBuf) -> Option<T>) -> Option<T> {
    groups.iter().filter_map(limit).reduce(|a, b| if b < a { b } else { a })
}

/// Source: the kernel's cgroup-v2 document, `cpu.max`: `<µs of CPU time | max> <period in µs>`.
fn cpu_limit(text: &str) -> Option<f64> {
    let (quota, period) = text.split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_memory_and_a_kernel() {
        let machine = Machine::read();
        assert!(machine.logical_cores >= 1 && machine.cores() > 0.0);
        assert!(machine.memory_bytes > 1 << 20);
        assert!(machine.kernel.is_some() && machine.user_hz > 0);
    }

    #[test]
    fn no_host_name_is_told() {
        let host = read("/proc/sys/kernel/hostname").unwrap_or_default();
        let told = format!("{:?}", Machine::read());
        assert!(host.len() < 6 || !told.contains(&host));
    }

    #[test]
    fn a_group_without_a_limit_has_none() {
        assert_eq!(cpu_limit("max 100000"), None);
        assert_eq!(cpu_limit("150000 100000"), Some(1.5));
        assert_eq!(cpu_limit("nonsense"), None);
        let small = Machine { logical_cores: 8, cgroup_cpu_limit: Some(1.5), ..Machine::default() };
        assert!((small.cores() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn cpu_info_is_read_as_the_kernel_writes_it() {
        let text = "processor\t: 0\nmodel name\t: Example CPU @ 3 GHz\n\nprocessor\t: 1\n";
        assert_eq!(cpu_model(text).as_deref(), Some("Example CPU @ 3 GHz"));
        assert_eq!(logical_cores(text), 2);
    }

    #[test]
    fn proc_is_proc() {
        assert_eq!(filesystem_of(Path::new("/proc")).as_deref(), Some("proc"));
        assert!(filesystem_of(Path::new("/no/such/folder")).is_none());
    }
}
