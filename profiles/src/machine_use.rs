//! How the machine spends its time, all processes together.

use std::path::Path;
use std::time::Instant;

use procfs::{CpuPressure, Current, CurrentSI, IoPressure, KernelStats, MemoryPressure};
use walbench_metrics::vitals::MachineUse;

use crate::process::ticks_to_us;

/// Bytes of what `/proc/diskstats` calls a sector, whatever the disk's are.
const SECTOR_BYTES: u64 = 512;

/// Measures the machine. In a container this is the whole machine, not the container alone.
#[derive(Debug)]
pub struct MachineMeter {
    measured: Instant,
    before: Counters,
}

/// What was counted since the machine started. Absent: the kernel does not tell.
#[derive(Clone, Debug, Default)]
struct Counters {
    cpu: MachineUse,
    /// By disk: time in which it was busy, in µs, and sectors written.
    disks: Vec<(String, u64, u64)>,
}

impl Default for MachineMeter {
    fn default() -> Self {
        Self { measured: Instant::now(), before: Counters::read().unwrap_or_default() }
    }
}

impl MachineMeter {
    /// What was spent since the last time; `None` where the kernel does not tell. Takes 0.1 ms.
    pub fn read(&mut self) -> Option<MachineUse> {
        let now = Counters::read()?;
        let before = std::mem::replace(&mut self.before, now);
        let passed = std::mem::replace(&mut self.measured, Instant::now()).elapsed();
        let passed_us = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        Some(MachineUse { passed_us, ..self.before.since(&before) })
    }
}

impl Counters {
    fn read() -> Option<Self> {
        let stats = KernelStats::current().ok()?;
        let ticks = |ticks: Option<u64>| ticks_to_us(ticks.unwrap_or_default());
        let total = stats.total;
        let pressure = |some: Option<procfs::PressureRecord>| some.map(|record| record.total);
        let cpu = MachineUse {
            passed_us: 0,
            // Of guests it is in both already.
            user_us: ticks_to_us(total.user + total.nice),
            system_us: ticks_to_us(total.system) + ticks(total.irq) + ticks(total.softirq),
            idle_us: ticks_to_us(total.idle),
            disk_wait_us: ticks(total.iowait),
            stolen_us: ticks(total.steal),
            cpu_pressure_us: pressure(CpuPressure::current().ok().map(|it| it.some)),
            io_pressure_us: pressure(IoPressure::current().ok().map(|it| it.some)),
            memory_pressure_us: pressure(MemoryPressure::current().ok().map(|it| it.some)),
            disk_busy_us: 0,
            disk_written_bytes: 0,
        };
        // What is made of others (partitions, memory, files) would count twice.
        let is_disk = |name: &str| {
            !name.starts_with("loop")
                && !name.starts_with("ram")
                && !name.starts_with("dm-")
                && Path::new("/sys/block").join(name).exists()
        };
        let disks = procfs::diskstats().unwrap_or_default().into_iter();
        let disks = disks
            .filter(|disk| is_disk(&disk.name))
            .map(|disk| (disk.name, disk.time_in_progress * 1_000, disk.sectors_written))
            .collect();
        Some(Self { cpu, disks })
    }

    /// The differences. Idle time and the like may fall for a moment.
    fn since(&self, before: &Self) -> MachineUse {
        let of = |pick: fn(&MachineUse) -> u64| pick(&self.cpu).saturating_sub(pick(&before.cpu));
        let maybe = |pick: fn(&MachineUse) -> Option<u64>| {
            Some(pick(&self.cpu)?.saturating_sub(pick(&before.cpu)?))
        };
        let disks = self.disks.iter().filter_map(|(name, busy_us, written)| {
            let (_, busy_before_us, written_before) =
                before.disks.iter().find(|(other, ..)| other == name)?;
            Some((busy_us.saturating_sub(*busy_before_us), written.saturating_sub(*written_before)))
        });
        let (disk_busy_us, sectors) = disks.fold((0, 0), |(busiest, all), (busy, written)| {
            (u64::max(busiest, busy), all + written)
        });
        MachineUse {
            passed_us: 0,
            user_us: of(|it| it.user_us),
            system_us: of(|it| it.system_us),
            idle_us: of(|it| it.idle_us),
            disk_wait_us: of(|it| it.disk_wait_us),
            stolen_us: of(|it| it.stolen_us),
            cpu_pressure_us: maybe(|it| it.cpu_pressure_us),
            io_pressure_us: maybe(|it| it.io_pressure_us),
            memory_pressure_us: maybe(|it| it.memory_pressure_us),
            disk_busy_us,
            disk_written_bytes: sectors * SECTOR_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_is_seen_and_all_cores_have_all_of_the_time() {
        let mut meter = MachineMeter::default();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            std::hint::black_box(start);
        }
        let seen = meter.read().unwrap();
        assert!(seen.passed_us >= 500_000, "{seen:?}");
        assert!(seen.user_us + seen.system_us >= 400_000, "{seen:?}");
        let cores = f64::from(crate::Machine::read().logical_cores);
        let all = seen.busy_us() + seen.idle_us + seen.disk_wait_us;
        let share = all as f64 / (seen.passed_us as f64 * cores);
        assert!((0.8..1.2).contains(&share), "{share} of {seen:?}");
    }
}
