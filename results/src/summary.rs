//! `SUMMARY.md`: the document for a reader. Made of `metrics.json` alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use walbench_metrics::ceiling::Contestant;
use walbench_profiles::doctor::{Advice, Cause, Change, Confidence, Finding};
use walbench_profiles::heap::HeapFigures;

use crate::ceilings::{CeilingFigures, can_do};
use crate::destination::Destination;
use crate::human;
use crate::limit::weighed_figure;
use crate::metrics_json::{
    ClickhouseFigures, Metrics, PhaseFigures, ProfileFigures, TimingFigures,
};
use crate::thresholds;
use crate::verdict::Verdict;

/// The content of `SUMMARY.md`.
#[must_use]
pub fn summary(metrics: &Metrics) -> String {
    let mut parts = vec![head(metrics), overview(metrics)];
    parts.extend(metrics.phases.iter().map(phase));
    parts.extend(metrics.ceiling.as_ref().map(|ceiling| ceilings(ceiling, &metrics.phases)));
    parts.push(verification(metrics));
    if !metrics.thresholds.is_empty() {
        parts.push(threshold_table(metrics));
    }
    parts.push(notes(metrics));
    parts.push(rerun(metrics));
    parts.join("\n")
}

/// What is said of the run, in a sentence: the verdict and the weightiest reason.
pub(crate) fn sentence(metrics: &Metrics) -> String {
    let verdict = metrics.verdict.word().to_uppercase();
    if metrics.verdict == Verdict::Pass {
        let rows = metrics.phases.iter().map(|phase| phase.consumer.rows).sum();
        let rows = human::counted(rows, "measured row");
        return match metrics.verification.confirmed_by_command {
            true => format!("{verdict}: {rows} and all others were confirmed by the command"),
            false => format!("{verdict}: {rows} delivered, and every acknowledged row arrived"),
        };
    }
    let reason = metrics.reasons.first().map_or("no reason is known", String::as_str);
    format!("{verdict}: {reason}")
}

/// A Markdown table. The first column is aligned left, all others right.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    aligned_table("---:|", head, rows)
}

/// The same with all columns to the left.
fn table_of_texts(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    aligned_table("---|", head, rows)
}

fn aligned_table(
    alignment: &str,
    head: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let mut lines = format!("| {} |\n", head.join(" | "));
    let _ = writeln!(lines, "|---|{}", alignment.repeat(head.len() - 1));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| escaped(cell)).collect();
        let _ = writeln!(lines, "| {} |", cells.join(" | "));
    }
    lines
}

/// Text that Markdown must not take for anything else: names and errors come from outside.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '*' | '`' | '<' | '[' | ']' | '\\' => safe.extend(['\\', c]),
            '\n' | '\r' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

fn bullets<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    texts.into_iter().fold(String::new(), |mut list, text| {
        let _ = writeln!(list, "- {}", escaped(text));
        list
    })
}

fn head(metrics: &Metrics) -> String {
    let Metrics { name, description, run_id, started_at, finished_at, limit, .. } = metrics;
    let mut text = format!("# {}\n\n**{}**\n", escaped(name), escaped(&sentence(metrics)));
    if metrics.reasons.len() > 1 {
        let _ = write!(text, "\n{}", bullets(metrics.reasons.iter().skip(1)));
    }
    let _ = writeln!(text, "\nLimit: {}\n", escaped(&limit.evidence));
    if !description.is_empty() {
        let _ = writeln!(text, "{}\n", escaped(description));
    }
    let length = finished_at.duration_since(*started_at).as_secs_f64();
    let started = started_at.strftime("%Y-%m-%d %H:%M:%S UTC");
    let _ = writeln!(text, "Run {}, {started}, {}.", escaped(run_id), human::sec(length));
    text
}

fn overview(metrics: &Metrics) -> String {
    let head = [
        "phase",
        "verdict",
        "target rows/s",
        "achieved rows/s",
        "delivered rows/s",
        "lag p50",
        "lag p99",
        "lag max",
        "response p50",
        "response p99",
        "drain",
        "consumer CPU/row",
        "walsender CPU/row",
    ];
    let rows = metrics.phases.iter().map(|phase| {
        let lag = &phase.consumer.lag_us.commit_to_flushed;
        let response = phase.producer.as_ref().map(|p| p.response_us.clone()).unwrap_or_default();
        let achieved = phase.producer.as_ref().and_then(|p| p.achieved_throughput);
        vec![
            phase.name.clone(),
            phase.verdict.word().into(),
            human::rate(phase.target_throughput),
            human::rate(achieved),
            human::rate(phase.consumer.throughput),
            human::stat(lag.p50),
            human::stat(lag.p99),
            human::stat(lag.max),
            human::stat(response.p50),
            human::stat(response.p99),
            human::sec(phase.drain_sec),
            human::us_per_row(phase.consumer.cpu_us_per_row),
            human::us_per_row(phase.postgres.walsender_cpu_us_per_row),
        ]
    });
    format!(
        "## Phases\n\n{}\nLag: commit in PostgreSQL to acknowledged by the sink. Response: due to \
         acknowledged by PostgreSQL.\n",
        table(&head, rows)
    )
}

fn phase(phase: &PhaseFigures) -> String {
    let mut text = format!("## Phase {}: {}\n\n", escaped(&phase.name), phase.verdict.word());
    if !phase.reasons.is_empty() {
        let _ = writeln!(text, "{}", bullets(&phase.reasons));
    }
    let _ = writeln!(text, "Limit: {}\n", escaped(&phase.limit.evidence));
    let _ = writeln!(text, "{}", findings(&phase.findings));
    let ladders: Vec<String> =
        phase.ladders.iter().map(|file| format!("[{file}]({file})")).collect();
    if !ladders.is_empty() {
        let _ = writeln!(text, "Which side is slow, over time: {}.\n", ladders.join(", "));
    }
    let parts = [timings(phase), rows(phase), processes(phase), postgres(phase)];
    let parts = parts.into_iter().chain(phase.clickhouse.as_ref().map(clickhouse));
    let parts = parts.chain(phase.profiles.iter().map(profile));
    for part in parts.chain(phase.heaps.iter().map(heap)) {
        let _ = writeln!(text, "{part}");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// What the doctor found, with its evidence.
fn findings(findings: &[Finding]) -> String {
    let head = ["what was found", "", "sure", "figures of the measured window", "what to change"];
    let rows = findings.iter().map(|finding| {
        let figures: Vec<String> = finding.evidence.iter().map(weighed_figure).collect();
        let advice: Vec<String> = finding.advice.iter().map(advice).collect();
        let weight = match finding.cause {
            Cause::Healthy => "no limit",
            _ if finding.is_limit => "a limit",
            _ => "no harm yet",
        };
        vec![
            finding.said.clone(),
            weight.into(),
            sure(finding.confidence).into(),
            figures.join("; "),
            advice.join("; "),
        ]
    });
    table_of_texts(&head, rows)
}

fn sure(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::High => "very",
        Confidence::Medium => "fairly",
        Confidence::Low => "little",
    }
}

/// What to change, and why.
pub(crate) fn advice(advice: &Advice) -> String {
    let Advice { key, change, why } = advice;
    match (key, change) {
        (Some(key), Some(Change::Raise)) => format!("raise {key}: {why}"),
        (Some(key), Some(Change::Lower)) => format!("lower {key}: {why}"),
        (Some(key), Some(Change::Set(value))) => format!("set {key} = {value}: {why}"),
        _ => why.clone(),
    }
}

fn timings(phase: &PhaseFigures) -> String {
    let head =
        ["time", "count", "min", "p50", "p90", "p95", "p99", "p99.9", "max", "mean", "over 1 h"];
    let consumer = &phase.consumer;
    let lag = &consumer.lag_us;
    let mut rows = Vec::new();
    if let Some(producer) = &phase.producer {
        rows.push(timing("lateness (due → sent)", &producer.lateness_us));
        rows.push(timing("service (sent → acknowledged)", &producer.service_us));
        rows.push(timing("response (due → acknowledged)", &producer.response_us));
    }
    rows.push(timing("lag: commit → received", &lag.commit_to_received));
    rows.push(timing("lag: received → flushed", &lag.received_to_flushed));
    rows.push(timing("lag: commit → flushed", &lag.commit_to_flushed));
    rows.push(timing("lag: due → flushed", &lag.due_to_flushed));
    if let Some(visible) = &lag.commit_to_visible {
        rows.push(timing("lag: commit → visible in ClickHouse", visible));
    }
    rows.push(timing("flush (one batch)", &consumer.flush_us));
    table(&head, rows)
}

fn timing(name: &str, timing: &TimingFigures) -> Vec<String> {
    let TimingFigures { count, min, p50, p90, p95, p99, p999, max, mean, over } = timing;
    let mut row = vec![name.into(), human::count(*count)];
    row.extend([min, p50, p90, p95, p99, p999, max].map(|us| human::stat(*us)));
    row.extend([human::us(*mean), human::count(*over)]);
    row
}

fn rows(phase: &PhaseFigures) -> String {
    let PhaseFigures { consumer, producer, duration_sec, .. } = phase;
    let mut rows: Vec<(&str, String)> = Vec::new();
    if let Some(producer) = producer {
        rows.push(("rows acknowledged by PostgreSQL", human::count(producer.rows)));
        rows.push(("of these inserts", human::count(producer.inserts)));
        rows.push(("of these updates", human::count(producer.updates)));
        rows.push(("of these deletes", human::count(producer.deletes)));
        rows.push(("transactions", human::count(producer.transactions)));
        rows.push(("rows sent late", human::count(producer.late_rows)));
        rows.push(("rows failed", human::count(producer.failed_rows)));
        rows.push(("rows never sent", human::count(producer.unsent_rows)));
        rows.push(("rows of unknown outcome", human::count(producer.unknown_rows)));
        rows.push(("errors", errors(producer.errors, &producer.errors_by_sqlstate)));
        rows.push(("updates that found no row", human::count(producer.missed_updates)));
    }
    rows.push(("rows delivered", human::count(consumer.rows)));
    rows.push(("batches", human::count(consumer.batches)));
    rows.push(("mean rows a batch", human::rate(consumer.mean_batch_rows)));
    rows.push(("bytes received", human::bytes(consumer.received_bytes)));
    rows.push(("bytes encoded", human::bytes(consumer.encoded_bytes)));
    rows.push(("bytes sent to the sink", human::bytes(consumer.bytes)));
    rows.push(("flushes tried again", human::count(consumer.retries)));
    rows.push(("errors of stream and sink", human::count(consumer.errors)));
    rows.push(("connections made again", human::count(consumer.reconnects)));
    rows.push(("rows put aside", human::count(consumer.rejected_rows)));
    rows.push(("values clamped", human::count(consumer.clamped_values)));
    rows.push(("negative lag samples", human::count(consumer.negative_lag_samples)));
    rows.push(("measured window", human::sec(*duration_sec)));
    rows.push(("rows/s delivered in the window", human::rate(consumer.throughput)));
    rows.push(("rows/s delivered in the drain", human::rate(consumer.drain_throughput)));
    rows.push(("longest time without a delivery", human::sec(consumer.longest_stall_sec)));
    rows.push(("until its backlog was made up for", human::sec(consumer.catch_up_sec)));
    rows.push(("rows/s from end to end", human::rate(consumer.end_to_end_throughput)));
    table(&["rows and rates", ""], rows.into_iter().map(|(name, value)| vec![name.into(), value]))
}

fn errors(count: u64, by_code: &BTreeMap<String, u64>) -> String {
    let codes: Vec<String> =
        by_code.iter().map(|(code, count)| format!("{code}: {}", human::count(*count))).collect();
    if codes.is_empty() {
        human::count(count)
    } else {
        format!("{} ({})", human::count(count), codes.join(", "))
    }
}

fn processes(phase: &PhaseFigures) -> String {
    let head =
        ["process", "CPU time", "CPU/row", "cores", "cores in the window", "memory", "allocated"];
    let rows = phase.processes.iter().map(|process| {
        vec![
            process.name.clone(),
            human::sec(process.cpu_seconds),
            human::us_per_row(process.cpu_us_per_row),
            cores(process.cpu_share),
            cores(process.measured_cpu_share),
            human::bytes(process.max_rss_bytes),
            human::bytes(process.max_allocated_bytes),
        ]
    });
    format!(
        "{}\nCPU of the measured window and the drain; `postgres` is the whole server, walsenders \
         included. Memory: the most that was resident, and that was held of the allocator.\n",
        table(&head, rows)
    )
}

fn cores(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{share:.2}"))
}

fn postgres(phase: &PhaseFigures) -> String {
    let postgres = &phase.postgres;
    let rows = [
        ("server CPU/row", human::us_per_row(postgres.cpu_us_per_row)),
        ("walsender CPU/row", human::us_per_row(postgres.walsender_cpu_us_per_row)),
        ("WAL written", human::bytes(postgres.wal_bytes)),
        ("largest slot lag", human::bytes(postgres.slot_lag_bytes_max)),
        ("most WAL retained", human::bytes(postgres.retained_bytes_max)),
        ("spilled by decoding", human::bytes(postgres.spill_bytes)),
    ];
    table(&["PostgreSQL", ""], rows.into_iter().map(|(name, value)| vec![name.into(), value]))
}

fn clickhouse(clickhouse: &ClickhouseFigures) -> String {
    let rows = [
        ("server CPU/row", human::us_per_row(clickhouse.cpu_us_per_row)),
        ("server CPU time", human::sec(clickhouse.cpu_seconds)),
        ("memory", human::bytes(clickhouse.max_rss_bytes)),
        ("inserts", human::count(clickhouse.inserts)),
        ("rows inserted", human::count(clickhouse.inserted_rows)),
        ("bytes inserted, uncompressed", human::bytes(clickhouse.inserted_bytes)),
        ("merges", human::count(clickhouse.merges)),
        ("rows merged", human::count(clickhouse.merged_rows)),
        ("most active parts", human::count(clickhouse.active_parts_max)),
        ("most bytes on disk", human::bytes(clickhouse.disk_bytes_max)),
        ("inserts delayed", human::count(clickhouse.delayed_inserts)),
        ("inserts rejected", human::count(clickhouse.rejected_inserts)),
    ];
    table(&["ClickHouse", ""], rows.into_iter().map(|(name, value)| vec![name.into(), value]))
}

/// Where a process's CPU time went.
fn profile(profile: &ProfileFigures) -> String {
    let head = ["CPU/row by area of code", "", "at least", "at most", "share", "in the kernel"];
    let rows = profile.areas.iter().map(|area| {
        vec![
            area.area.clone(),
            human::us_per_row(area.cpu_us_per_row),
            human::us_per_row(area.cpu_us_per_row_low),
            human::us_per_row(area.cpu_us_per_row_high),
            human::percent(area.share),
            human::percent(area.kernel_share),
        ]
    });
    let ProfileFigures { process, backend, cpu_seconds, quality, .. } = profile;
    let mut text = format!("### CPU of {}\n\n{}\n", escaped(process), table(&head, rows));
    let _ = writeln!(
        text,
        "{} of CPU by {backend}: {}, {} of what that should bring; {} without a stack, {} cut off, {} \
         without a name, {} lost. Bounds: 95 %.",
        human::sec(*cpu_seconds),
        human::counted(quality.samples, "sample"),
        human::percent(quality.ratio),
        human::percent(quality.empty),
        human::percent(quality.truncated),
        human::percent(quality.unresolved),
        human::count(quality.lost),
    );
    if let Some(flaw) = &profile.flaw {
        let _ = writeln!(text, "\n**Not to be trusted: {}.**", escaped(flaw));
    }
    text + &flamegraphs(&profile.files)
}

/// Links to the pictures among the files.
fn flamegraphs(files: &[String]) -> String {
    let is_picture = |file: &&String| file.ends_with(".svg");
    let links = files.iter().filter(is_picture).map(|file| format!("[{file}]({file})"));
    let links: Vec<String> = links.collect();
    match links.is_empty() {
        true => String::new(),
        false => format!("\nFlamegraphs: {}.\n", links.join(", ")),
    }
}

/// Who holds a process's memory.
fn heap(heap: &HeapFigures) -> String {
    let HeapFigures { process, after, bytes, allocated_bytes, samples, interval_bytes, .. } = heap;
    let rows = heap.largest.iter().map(|holder| {
        vec![
            holder.function.clone(),
            human::bytes(holder.bytes),
            human::bytes(holder.margin_bytes),
            human::count(holder.objects),
        ]
    });
    let head = ["memory by function", "", "±", "pieces"];
    let mut text = format!("### Memory of {}\n\n{}\n", escaped(process), table(&head, rows));
    let _ = writeln!(
        text,
        "After the {after}: {} by {}, one in {}; {} by the allocator's own count. ±: 95 %.",
        human::bytes(*bytes),
        human::counted(*samples, "sample"),
        human::bytes(*interval_bytes),
        human::bytes(*allocated_bytes),
    );
    match heap.grown.as_deref() {
        None => {}
        Some([]) => text.push_str("\nNothing grew in the window.\n"),
        Some(grown) => {
            let rows = grown.iter().map(|it| {
                let bytes = [it.bytes(), it.margin_bytes, it.before_bytes, it.after_bytes];
                std::iter::once(it.function.clone()).chain(bytes.map(human::bytes)).collect()
            });
            let head = ["what grew in the window", "by", "±", "at its start", "at its end"];
            let _ = write!(text, "\n{}", table(&head, rows));
        }
    }
    text + &flamegraphs(&heap.files)
}

/// What each part can do by itself, and how much of it each phase used.
fn ceilings(ceiling: &CeilingFigures, phases: &[PhaseFigures]) -> String {
    let parts = table(
        &["by itself", "rows/s", "least", "most", "CPU/row"],
        ceiling.parts.iter().map(|part| part.cells().into()),
    );
    let mut text = format!("## Ceilings\n\n{parts}\n{}\n", ceiling.what());
    if let Some(sink) = &ceiling.sink {
        let _ = writeln!(text, "The sink: {}.", escaped(sink));
    }
    let shares: Vec<_> = ceiling.shares(0.0).iter().map(|share| share.of).collect();
    let head = ["phase", "delivered rows/s"].into_iter().chain(shares.iter().map(|of| can_do(*of)));
    let rows = phases.iter().map(|phase| {
        let share = |of: &Contestant| {
            let share = phase.ceiling_shares.iter().find(|share| share.of == *of);
            human::percent(share.map(|it| it.share))
        };
        let delivered = human::rate(phase.consumer.throughput);
        [phase.name.clone(), delivered].into_iter().chain(shares.iter().map(share)).collect()
    });
    let _ = writeln!(text, "\n{}", table(&head.collect::<Vec<_>>(), rows));
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn verification(metrics: &Metrics) -> String {
    let seen = &metrics.verification;
    let mut text = format!("## Verification: {}\n\n", seen.verdict.word());
    if !seen.reasons.is_empty() {
        let _ = writeln!(text, "{}", bullets(&seen.reasons));
    }
    if seen.confirmed_by_command {
        text.push_str(
            "Delivered is what the command has confirmed; what it has made of it was not looked at.\n\n",
        );
    }
    let rows = [
        ("rows expected", human::count(seen.expected_rows)),
        ("rows delivered", human::count(seen.delivered_rows)),
        ("lost", human::count(seen.lost)),
        ("wrong", human::count(seen.wrong)),
        ("delivered again", human::count(seen.duplicated)),
        ("transactions out of order", human::count(seen.out_of_order)),
        ("rows of incomplete transactions", human::count(seen.incomplete_rows)),
        ("rows without a stamp", human::count(seen.unstamped_rows)),
        ("transactions of unknown outcome", human::count(seen.unknown_transactions)),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.into(), value]);
    let _ = writeln!(text, "{}", table(&["whole run, warm-ups included", ""], rows));
    if !seen.lost_transactions.is_empty() {
        let _ = writeln!(text, "{}", lost(metrics));
    }
    if !seen.tables.is_empty() {
        let rows = seen
            .tables
            .iter()
            .map(|t| vec![t.table.clone(), human::count(t.expected), human::count(t.counted)]);
        let _ = writeln!(text, "{}", table(&["table", "rows expected", "rows counted"], rows));
    }
    if let Some(destination) = &seen.destination {
        let _ = writeln!(text, "{}", compared(destination));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// ClickHouse's tables and PostgreSQL's.
fn compared(destination: &Destination) -> String {
    let head = [
        "table in ClickHouse",
        "rows in PostgreSQL",
        "rows",
        "missing",
        "extra",
        "stale",
        "wrong",
        "conflicting",
        "versions stored",
        "stored twice",
    ];
    let rows = destination.tables.iter().map(|t| {
        let counts = [t.source_rows, t.rows, t.missing, t.extra, t.stale, t.wrong];
        let counts = counts.into_iter().chain([t.conflicting, t.stored_versions, t.duplicated]);
        std::iter::once(t.table.clone()).chain(counts.map(human::count)).collect()
    });
    let mut text = table(&head, rows);
    if !destination.mock.is_empty() {
        let rows = destination.mock.iter().map(|(name, n)| vec![name.clone(), human::count(*n)]);
        let _ = write!(text, "\n{}", table(&["the mock ClickHouse", ""], rows));
    }
    for table in destination.tables.iter().filter(|table| !table.findings.is_empty()) {
        let _ = write!(text, "\n{}:\n\n{}", escaped(&table.table), bullets(&table.findings));
    }
    text
}

fn lost(metrics: &Metrics) -> String {
    let head = ["lost in phase", "producer", "consumer", "first", "last"];
    let rows = metrics.verification.lost_transactions.iter().map(|lost| {
        vec![
            lost.phase.clone(),
            lost.producer.to_string(),
            lost.consumer.map_or_else(|| "–".into(), |consumer| consumer.to_string()),
            lost.first.to_string(),
            lost.last.to_string(),
        ]
    });
    table(&head, rows)
}

fn threshold_table(metrics: &Metrics) -> String {
    let rows = metrics.thresholds.iter().map(|result| {
        let met = match result.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "no data",
        };
        [&result.name, &result.phase, &result.expression, &thresholds::shown(result)]
            .map(|cell| escaped(cell))
            .into_iter()
            .chain([met.to_owned()])
            .collect::<Vec<_>>()
    });
    let head = ["threshold", "phase", "expression", "value", "held"];
    let mut text = String::from("## Thresholds\n\n");
    let _ = writeln!(text, "| {} |\n|---|---|---|---:|---|", head.join(" | "));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn notes(metrics: &Metrics) -> String {
    format!("## Notes\n\n{}", bullets(&metrics.notes))
}

fn rerun(metrics: &Metrics) -> String {
    format!(
        "## Again\n\nThe plan {} stands beside this file as it was resolved, without secrets:\n\n\
         ```\nwalbench run plan.toml\n```\n",
        escaped(&metrics.name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_passing_run() {
        insta::assert_snapshot!(summary(&testing::passing()));
    }

    #[test]
    fn a_failing_run() {
        insta::assert_snapshot!(summary(&testing::failing()));
    }

    #[test]
    fn an_invalid_run() {
        insta::assert_snapshot!(summary(&testing::invalid()));
    }

    #[test]
    fn an_interrupted_run() {
        insta::assert_snapshot!(summary(&testing::interrupted()));
    }

    #[test]
    fn names_do_not_become_markup() {
        assert_eq!(escaped("a|b *c* <d>\n[e]"), "a\\|b \\*c\\* \\<d> \\[e\\]");
    }
}
