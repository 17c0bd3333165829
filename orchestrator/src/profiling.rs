//! The profiler of a run: which processes are sampled, and the files that come of it.

use std::collections::BTreeSet;

use walbench_metrics::stacks::SampledStacks;
use walbench_metrics::{Cuts, Failure, Window};
use walbench_phases::Plan;
use walbench_phases::plan::{Profiling as Planned, ProfilingBackend};
use walbench_profiles::area::areas;
use walbench_profiles::formats::firefox::Timeline;
use walbench_profiles::formats::folded::{Begin, folded};
use walbench_profiles::formats::{Title, flamegraph::flamegraph, pprof::pprof};
use walbench_profiles::profile::Profile;
use walbench_profiles::recording::Recording;
use walbench_profiles::sampler::{Backend, Sampler};
use walbench_profiles::symbols::Symbols;
use walbench_results::RunFolder;
use walbench_results::outcome::WindowProfile;

use crate::worker::{CONSUMER, PRODUCER};

/// The folder of its files, in the run's.
const FOLDER: &str = "profiles";

/// A run's profiler.
#[derive(Debug)]
pub(crate) struct Profiling {
    sampler: Sampler,
    symbols: Symbols,
    timeline: Timeline,
    followed: BTreeSet<(String, u32)>,
    /// Consumers of our own are sampled: what keeps a command is not.
    pub(crate) with_consumers: bool,
    /// Producers are.
    pub(crate) with_producers: bool,
    /// Walsenders are.
    pub(crate) with_walsenders: bool,
    /// The processes of commands are, which come and go.
    pub(crate) with_commands: bool,
    /// What a reader must know of what was not sampled, or not written.
    pub(crate) allowances: Vec<String>,
}

/// The moments that a phase is cut at, and its name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phase<'a> {
    pub(crate) name: &'a str,
    pub(crate) cuts: Cuts,
    /// When it was over, drain included, in µs since the Unix epoch.
    pub(crate) over_us: i64,
}

impl Phase<'_> {
    /// Its windows with their bounds.
    fn windows(&self) -> [(Window, (i64, i64)); 3] {
        let Cuts { start_us, measured_us, end_us } = self.cuts;
        let end_us = end_us.min(self.over_us);
        let measured_us = measured_us.min(end_us);
        [
            (Window::Warmup, (start_us, measured_us)),
            (Window::Measured, (measured_us, end_us)),
            (Window::Drain, (end_us, self.over_us.max(end_us))),
        ]
    }
}

impl Profiling {
    /// The profiler that a plan asks for, at work on nothing yet; none if it asks for none.
    pub(crate) fn start(plan: &Plan, started_us: i64) -> Result<Option<Self>, Failure> {
        if !plan.profiling.wants_flames() {
            return Ok(None);
        }
        let backend = backend(&plan.profiling)?;
        let sampler = Sampler::start(backend, plan.profiling.rate_hz)
            .map_err(|e| Failure::new("the sampler's thread can't be started").caused_by(&e))?;
        let mut allowances = Vec::new();
        let sees_others = backend != Backend::Pprof;
        let is_external = plan.consumer.is_external();
        if !sees_others {
            let others = if is_external { "walsenders and commands" } else { "walsenders" };
            allowances.push(format!(
                "pprof samples walbench's own processes alone, {} times for each second that they \
                 run: {others} are not sampled, and where the kernel was is not seen",
                sampler.rate_hz()
            ));
        }
        Ok(Some(Self {
            timeline: Timeline::new(&plan.name, started_us, sampler.rate_hz()),
            sampler,
            symbols: Symbols::default(),
            followed: BTreeSet::new(),
            with_consumers: !is_external,
            with_producers: plan.profiling.producers,
            with_walsenders: plan.profiling.walsenders && sees_others,
            with_commands: is_external && sees_others,
            allowances,
        }))
    }

    /// How often a worker of this role is to sample itself, if it is.
    pub(crate) fn pprof_hz(&self, role: &str) -> Option<u32> {
        let is_sampled =
            (role == CONSUMER && self.with_consumers) || (role == PRODUCER && self.with_producers);
        (is_sampled && self.sampler.backend() == Backend::Pprof).then(|| self.sampler.rate_hz())
    }

    /// Takes what a process sampled of itself.
    pub(crate) fn add(&self, pid: u32, stacks: SampledStacks) {
        self.sampler.add(pid, stacks);
    }

    /// Samples a process from now on, if we may.
    pub(crate) fn attach(&mut self, process: &str, pid: u32) {
        if let Err(error) = self.sampler.attach(process, pid) {
            self.allowances.push(format!("{process} is not sampled: {error}"));
        }
    }

    /// Samples a process that may have been seen before.
    pub(crate) fn follow(&mut self, process: &str, pid: u32) {
        if self.followed.insert((process.to_owned(), pid)) {
            self.attach(process, pid);
        }
    }

    /// Samples all processes of a command. Those that were not there at first were started by others
    /// of them.
    pub(crate) fn follow_tree(&mut self, process: &str, pids: &[u32]) {
        let is_first = !self.followed.iter().any(|(known, _)| known == process);
        for &pid in pids {
            if !self.followed.insert((process.to_owned(), pid)) {
                continue;
            }
            if is_first {
                self.attach(process, pid);
            } else {
                // Most that can't be looked into have ended at once.
                let _ = self.sampler.adopt(process, pid);
            }
        }
    }

    /// Leaves out what was sampled up to now.
    pub(crate) fn forget(&self) {
        drop(self.sampler.take());
    }

    /// Writes a phase's profiles; `cpu_us` says how much CPU time a process used in a window. What
    /// can't be written costs the run nothing else.
    pub(crate) fn write(
        &mut self,
        folder: &RunFolder,
        phase: Phase<'_>,
        cpu_us: impl Fn(Window, &str) -> u64,
    ) -> Vec<WindowProfile> {
        let mut recordings = self.sampler.take();
        recordings.sort_by(|a, b| (&a.process, a.pid).cmp(&(&b.process, b.pid)));
        for recording in &recordings {
            self.timeline.add(recording, &mut self.symbols);
        }
        let mut written = Vec::new();
        for (window, (from_us, to_us)) in phase.windows() {
            let title = Title {
                phase: phase.name.into(),
                window: name(window).into(),
                start_us: from_us,
                length_us: to_us - from_us,
            };
            self.timeline.mark(&title);
            for of_one in recordings.chunk_by(|a, b| a.process == b.process) {
                let cpu_us = cpu_us(window, &of_one[0].process);
                let profile = self.profile(of_one, (from_us, to_us), cpu_us);
                let stem = match window {
                    Window::Measured => stem(&title, &profile),
                    _ => format!("{}-{}", stem(&title, &profile), title.window),
                };
                let files = match profile.quality.samples {
                    0 => Ok(Vec::new()),
                    _ => write_files(folder, &stem, &profile, &title),
                };
                let files = files.unwrap_or_else(|failure| self.forgo(&failure));
                if profile.quality.samples > 0 || profile.total > 0 {
                    written.push(self.window_profile(&profile, window, files));
                }
            }
        }
        written
    }

    fn forgo<T: Default>(&mut self, failure: &Failure) -> T {
        self.allowances.push(failure.line());
        T::default()
    }

    fn profile(&mut self, recordings: &[Recording], bounds: (i64, i64), cpu_us: u64) -> Profile {
        let rate_hz = self.sampler.rate_hz();
        Profile::of(recordings, bounds, cpu_us * 1_000, rate_hz, &mut self.symbols)
    }

    fn window_profile(
        &self,
        profile: &Profile,
        window: Window,
        files: Vec<String>,
    ) -> WindowProfile {
        WindowProfile {
            process: profile.process.clone(),
            window,
            backend: self.sampler.backend().to_string(),
            cpu_ns: profile.total,
            quality: profile.quality,
            areas: areas(profile),
            files,
        }
    }

    /// Writes the line of time of the whole run, and says what a reader must know.
    pub(crate) fn finish(mut self, folder: &RunFolder) -> Vec<String> {
        let name = format!("{FOLDER}/timeline.firefox.json.gz");
        let written = || {
            let written = self.timeline.write().map_err(|e| unwritable(&e))?;
            folder.subfolder(FOLDER).map_err(|e| unwritable(&e))?;
            folder.write(&name, written).map_err(|e| unwritable(&e))
        };
        written().unwrap_or_else(|failure| self.forgo(&failure));
        if self.timeline.left_out() > 0 {
            let text = format!("{name} lacks the last {} samples", self.timeline.left_out());
            self.allowances.push(text);
        }
        self.allowances
    }
}

/// Where samples come from, of what there is.
fn backend(wanted: &Planned) -> Result<Backend, Failure> {
    let refused = |e: std::io::Error| {
        let failure = Failure::new("the kernel permits no samples of running processes");
        let instead = match wanted.heap {
            // Its signal may come in the middle of an allocation that is being sampled.
            true => "with profiling.heap = false, profiling.backend = \"pprof\" needs none of that",
            false => "--set profiling.backend=pprof needs none of that",
        };
        failure.caused_by(&e).hint(format!(
            "perf_event_open needs /proc/sys/kernel/perf_event_paranoid at 2 or less, and in a \
             container a seccomp profile that permits it, and memory that may be locked (ulimit -l); \
             {instead}, and --profile none does without"
        ))
    };
    match wanted.backend {
        ProfilingBackend::Auto if !wanted.heap => {
            Ok(Backend::perf_event().unwrap_or(Backend::Pprof))
        }
        ProfilingBackend::Auto | ProfilingBackend::PerfEvent => {
            Backend::perf_event().map_err(refused)
        }
        ProfilingBackend::Pprof => Ok(Backend::Pprof),
    }
}

/// A window as files are called and as its title says.
pub(crate) fn name(window: Window) -> &'static str {
    match window {
        Window::Warmup => "warmup",
        Window::Measured => "measured",
        Window::Drain => "drain",
    }
}

/// How the names of a process's files of a phase begin.
pub(crate) fn stem(title: &Title, profile: &Profile) -> String {
    format!("{FOLDER}/{}-{}", title.phase, profile.process)
}

/// `profiles/<phase>-<process>.svg` and its like.
pub(crate) fn write_files(
    folder: &RunFolder,
    stem: &str,
    profile: &Profile,
    title: &Title,
) -> Result<Vec<String>, Failure> {
    let picture = flamegraph(profile, title).map_err(|e| unwritable(&e))?;
    let pprof = pprof(profile, title).map_err(|e| unwritable(&e))?;
    let text = folded(profile, Begin::AtTheThread).join("\n") + "\n";
    let files = [
        picture.map(|picture| (format!("{stem}.svg"), picture.into_bytes())),
        Some((format!("{stem}.pb.gz"), pprof)),
        Some((format!("{stem}.folded"), text.into_bytes())),
    ];
    folder.subfolder(FOLDER).map_err(|e| unwritable(&e))?;
    let mut names = Vec::new();
    for (name, content) in files.into_iter().flatten() {
        folder.write(&name, content).map_err(|e| unwritable(&e))?;
        names.push(name);
    }
    Ok(names)
}

fn unwritable(error: &dyn std::error::Error) -> Failure {
    Failure::new("the profiles can't be written").caused_by(error)
}
