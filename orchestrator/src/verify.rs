//! `walbench verify`: whether everything arrived, for a person or as JSON.

use std::fmt::Write;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use walbench_consumer::verify::{
    Difference, Finding, Options, Sampled, TableVerified, Verdict, Verified, verify,
};
use walbench_metrics::Failure;
use walbench_results::count;

use crate::address::{given_address, given_clickhouse};
use crate::cli::VerifyArgs;
use crate::ending::{self, Ending};
use crate::follow::{plan, signalled, start_failed};

/// `walbench verify`.
pub(crate) async fn verify_tables(args: &VerifyArgs) -> Result<u8, Ending> {
    let postgres = given_address("--postgres", &args.postgres).map_err(Ending::usage)?;
    let clickhouse = given_clickhouse("--clickhouse", &args.clickhouse).map_err(Ending::usage)?;
    let plan = plan(&args.set, &[])?;
    let named = args.database.clone().or_else(|| clickhouse.database.clone());
    let database = named.unwrap_or(plan.clickhouse.database);
    let options = Options {
        consumer: plan.consumer,
        tables: args.table.clone(),
        show: args.show,
        sample: args.sample,
        memory_bytes: args.memory_mib * 1024 * 1024,
        settle: Duration::from_secs_f64(args.settle),
    };
    let no_signal = |e| Ending::component(Failure::new("signals can't be caught").caused_by(&e));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signal)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signal)?;
    let verified = tokio::select! {
        verified = verify(&postgres, &args.publication, &clickhouse, &database, &options) => {
            verified.map_err(start_failed)?
        }
        Some(()) = signalled(&mut interrupt, &mut terminate) => return Err(Ending::interrupted()),
    };
    match args.json {
        true => ending::print_json(&json(&verified)?)?,
        false => ending::print(&text(&verified))?,
    };
    Ok(match verified.verdict {
        Verdict::Same => 0,
        Verdict::Different => ending::FAILED,
        Verdict::Nothing => ending::INCONCLUSIVE,
    })
}

fn json(verified: &Verified) -> Result<serde_json::Value, Ending> {
    serde_json::to_value(verified)
        .map_err(|e| Ending::component(Failure::new("no JSON can be made of it").caused_by(&e)))
}

/// Tables, rows that differ, and the verdict.
pub(crate) fn text(verified: &Verified) -> String {
    let mut text = String::new();
    if !verified.tables.is_empty() {
        text.push_str(&lines(&verified.tables));
        text.push('\n');
    }
    for table in &verified.tables {
        put_findings(&mut text, table);
    }
    text + &verdict(verified) + "\n"
}

const HEAD: [&str; 9] =
    ["table", "rows", "matched", "missing", "extra", "stale", "wrong", "conflicting", "duplicated"];

/// A line a table, in columns.
fn lines(tables: &[TableVerified]) -> String {
    let mut lines = vec![HEAD.map(String::from)];
    lines.extend(tables.iter().map(|table| {
        let c = &table.counts;
        let numbers = [
            c.postgres_rows,
            c.matched,
            c.missing,
            c.extra,
            c.stale,
            c.wrong,
            c.conflicting,
            c.duplicated,
        ];
        let mut numbers = numbers.into_iter().map(count);
        std::array::from_fn(|column| match column {
            0 => table.table.clone(),
            _ => numbers.next().unwrap_or_default(),
        })
    }));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; HEAD.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        let _ = write!(text, "{:<1$}", line[0], widths[0]);
        for (cell, width) in line.iter().zip(widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

fn put_findings(text: &mut String, table: &TableVerified) {
    let TableVerified { table: name, counts, problem, columns, settled, .. } = table;
    let mut said = String::new();
    if let Some(problem) = problem {
        let _ = writeln!(said, "  not compared: {problem}");
    }
    if let Some(sampled) = &table.sampled {
        let _ = writeln!(said, "  {}", how_sampled(sampled));
    }
    for column in columns {
        let _ = writeln!(said, "  column {}: {}", column.column, column.problem);
    }
    if let Some(rows) = table.final_rows.filter(|rows| *rows != counts.clickhouse_rows) {
        let (final_rows, ours) = (count(rows), count(counts.clickhouse_rows));
        let _ = writeln!(
            said,
            "  ClickHouse counts {final_rows} rows with FINAL, and {ours} are there by their versions"
        );
    }
    if *settled > 0 {
        let _ = writeln!(said, "  {} rows differed at first, and have settled", count(*settled));
    }
    for finding in &table.findings {
        put_finding(&mut said, finding);
    }
    let shown: u64 = table.findings.iter().map(|finding| finding.rows).sum();
    if let Some(left @ 1..) = counts.differing().checked_sub(shown).filter(|_| problem.is_none()) {
        let _ = writeln!(said, "  … and {} more", count(left));
    }
    if !said.is_empty() {
        let _ = writeln!(text, "{name}\n{said}");
    }
}

fn how_sampled(sampled: &Sampled) -> String {
    match sampled {
        Sampled::KeyRange { column, ranges } => {
            format!("sampled by {ranges} ranges of {column}")
        }
        Sampled::KeyHash => "sampled by the hash of its keys: all of it was read".into(),
    }
}

/// A row that differs, in one line.
pub(crate) fn in_a_line(finding: &Finding) -> String {
    let mut text = headline(finding, 0);
    for Difference { column, postgres, clickhouse } in &finding.columns {
        let _ = write!(text, "; {column}: {postgres} in PostgreSQL, {clickhouse} in ClickHouse");
    }
    text
}

fn headline(finding: &Finding, class_width: usize) -> String {
    let key: Vec<_> = finding.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let key = if key.is_empty() { "a row that has changed since".into() } else { key.join(", ") };
    let class = format!("{:?}", finding.class).to_lowercase();
    format!("{class:<class_width$} {key}: {}", finding.reason)
}

fn put_finding(text: &mut String, finding: &Finding) {
    let _ = writeln!(text, "  {}", headline(finding, 12));
    for difference in &finding.columns {
        let _ = writeln!(
            text,
            "               {}: {} in PostgreSQL, {} in ClickHouse",
            difference.column, difference.postgres, difference.clickhouse
        );
    }
}

fn verdict(verified: &Verified) -> String {
    let Verified { verdict, sample, seconds, tables } = verified;
    let rows: u64 = tables.iter().map(|table| table.counts.postgres_rows).sum();
    let differing: u64 = tables.iter().map(|table| table.counts.differing()).sum();
    let all =
        sample.map_or_else(String::new, |share| format!(" of a sample of {} %", share * 100.0));
    let compared = format!("{} rows{all} compared in {seconds:.1} s", count(rows));
    match verdict {
        Verdict::Nothing => "INCONCLUSIVE: the publication has no tables".into(),
        Verdict::Same => format!("SAME: {compared}; each has arrived, and no other is there"),
        Verdict::Different if differing == 1 => format!("DIFFERENT: {compared}; 1 differs"),
        Verdict::Different => format!("DIFFERENT: {compared}; {} differ", count(differing)),
    }
}
