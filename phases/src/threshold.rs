//! Thresholds: expressions over a phase's figures that must hold.

use std::fmt;

use crate::hint::{list, nearest};

/// A threshold, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// The expression as it was written.
    pub text: String,
    /// What is compared.
    pub metric: Metric,
    /// How.
    pub comparison: Comparison,
    /// With what, in the metric's unit: times in µs, sizes in bytes, rates in rows/s.
    pub limit: f64,
}

/// A figure of a phase that a threshold can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `throughput`: rows a second the producers achieved.
    Throughput,
    /// `errors`: failed tries of the producers' transactions.
    Errors,
    /// `failed_rows`: rows given up after all tries.
    FailedRows,
    /// `late_rows`: rows sent later than `producer.late_after_ms`.
    LateRows,
    /// `lateness.p99`, `lag.commit_to_flushed.max`, …: one statistic of a timing, in µs.
    Timing(Timing, Statistic),
    /// `consumer.throughput`: rows a second the consumers delivered.
    ConsumerThroughput,
    /// `consumer.errors`: errors of the consumers.
    ConsumerErrors,
    /// `consumer.retries`: flushes that were tried again.
    ConsumerRetries,
    /// `consumer.cpu_us_per_row`: CPU time of the consumers for each row, in µs.
    ConsumerCpuUsPerRow,
    /// `producer.cpu_us_per_row`: CPU time of the producers for each row, in µs.
    ProducerCpuUsPerRow,
    /// `drain`: time from the phase's end until its last row was flushed, in µs.
    Drain,
    /// `slot_lag_bytes`: the slots' largest lag, in bytes.
    SlotLagBytes,
    /// `lost`: rows acknowledged by PostgreSQL that never arrived.
    Lost,
    /// `duplicated`: rows that arrived more than once.
    Duplicated,
}

/// A timing that is kept as a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timing {
    /// Due to sent.
    Lateness,
    /// Sent to acknowledged.
    Service,
    /// Due to acknowledged.
    Response,
    /// One flush into the sink.
    Flush,
    /// A row's way, by stage.
    Lag(LagStage),
}

/// A stage of a row's way from PostgreSQL to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LagStage {
    /// Committed in PostgreSQL to received by the consumer.
    CommitToReceived,
    /// Received by the consumer to acknowledged by the sink.
    ReceivedToFlushed,
    /// Committed in PostgreSQL to acknowledged by the sink.
    CommitToFlushed,
    /// Due by the schedule to acknowledged by the sink.
    DueToFlushed,
    /// Committed in PostgreSQL to be read in ClickHouse, of probe rows.
    CommitToVisible,
}

/// A statistic of a timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Statistic {
    /// The median.
    P50,
    /// The 90th percentile.
    P90,
    /// The 95th percentile.
    P95,
    /// The 99th percentile.
    P99,
    /// The 99.9th percentile.
    P999,
    /// The largest.
    Max,
    /// The arithmetic mean.
    Mean,
}

/// How a figure is compared with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// Why an expression is not a threshold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ThresholdError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl Threshold {
    /// Reads `<metric> <comparison> <limit>`, such as `lag.commit_to_flushed.p99 < 500ms`.
    ///
    /// # Errors
    ///
    /// An unknown metric or comparison, or a limit that is no number or has the wrong unit.
    pub fn parse(text: &str) -> Result<Self, ThresholdError> {
        let operator = |c: char| "<>=!".contains(c);
        let (path, rest) = text.split_at(text.find(operator).unwrap_or(text.len()));
        let limit_at = rest.find(|c| !operator(c)).unwrap_or(rest.len());
        let (comparison, limit) = rest.split_at(limit_at);
        let metric = Metric::parse(path.trim())?;
        let comparison = Comparison::parse(comparison)?;
        let limit = metric.unit().parse(metric, limit.trim())?;
        Ok(Self { text: text.trim().into(), metric, comparison, limit })
    }

    /// Whether the threshold holds for `value`, in the metric's unit. Never for NaN: what was not
    /// measured doesn't pass.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        match self.comparison {
            _ if value.is_nan() => false,
            Comparison::Less => value < self.limit,
            Comparison::LessOrEqual => value <= self.limit,
            Comparison::Greater => value > self.limit,
            Comparison::GreaterOrEqual => value >= self.limit,
            Comparison::Equal => value == self.limit,
            Comparison::NotEqual => value != self.limit,
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ThresholdError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl Metric {
    /// Every metric that is no timing.
    const FIGURES: [Self; 13] = [
        Self::Throughput,
        Self::Errors,
        Self::FailedRows,
        Self::LateRows,
        Self::ConsumerThroughput,
        Self::ConsumerErrors,
        Self::ConsumerRetries,
        Self::ConsumerCpuUsPerRow,
        Self::ProducerCpuUsPerRow,
        Self::Drain,
        Self::SlotLagBytes,
        Self::Lost,
        Self::Duplicated,
    ];

    /// Every metric there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let timings = Timing::ALL.into_iter().flat_map(|timing| {
            Statistic::ALL.into_iter().map(move |statistic| Self::Timing(timing, statistic))
        });
        Self::FIGURES.into_iter().chain(timings)
    }

    /// The unit of the metric's values.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::Throughput | Self::ConsumerThroughput => Unit::RowsPerSecond,
            Self::Timing(..) | Self::Drain => Unit::Microseconds,
            Self::ConsumerCpuUsPerRow | Self::ProducerCpuUsPerRow => Unit::MicrosecondsPerRow,
            Self::SlotLagBytes => Unit::Bytes,
            Self::Errors
            | Self::FailedRows
            | Self::LateRows
            | Self::ConsumerErrors
            | Self::ConsumerRetries
            | Self::Lost
            | Self::Duplicated => Unit::Count,
        }
    }

    /// What the metric tells, for a list of all metrics.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Throughput => "rows a second the producers achieved",
            Self::Errors => "failed tries of the producers' transactions",
            Self::FailedRows => "rows given up after all tries",
            Self::LateRows => "rows sent later than producer.late_after_ms",
            Self::Timing(Timing::Lateness, _) => "due to sent",
            Self::Timing(Timing::Service, _) => "sent to acknowledged by PostgreSQL",
            Self::Timing(Timing::Response, _) => "due to acknowledged by PostgreSQL",
            Self::Timing(Timing::Flush, _) => "one flush into the sink",
            Self::Timing(Timing::Lag(LagStage::CommitToReceived), _) => {
                "committed to received by the consumer"
            }
            Self::Timing(Timing::Lag(LagStage::ReceivedToFlushed), _) => {
                "received by the consumer to acknowledged by the sink"
            }
            Self::Timing(Timing::Lag(LagStage::CommitToFlushed), _) => {
                "committed to acknowledged by the sink"
            }
            Self::Timing(Timing::Lag(LagStage::DueToFlushed), _) => {
                "due to acknowledged by the sink"
            }
            Self::Timing(Timing::Lag(LagStage::CommitToVisible), _) => {
                "committed to be read in ClickHouse"
            }
            Self::ConsumerThroughput => "rows a second the consumers delivered",
            Self::ConsumerErrors => "errors of the consumers",
            Self::ConsumerRetries => "flushes that were tried again",
            Self::ConsumerCpuUsPerRow => "CPU time of the consumers for each row",
            Self::ProducerCpuUsPerRow => "CPU time of the producers for each row",
            Self::Drain => "the phase's end until its last row was flushed",
            Self::SlotLagBytes => "the slots' largest lag",
            Self::Lost => "rows acknowledged by PostgreSQL that never arrived",
            Self::Duplicated => "rows that arrived more than once",
        }
    }

    fn parse(path: &str) -> Result<Self, ThresholdError> {
        Self::all().find(|metric| metric.to_string() == path).ok_or_else(|| {
            let message = if path.is_empty() {
                "the expression starts with no metric".into()
            } else {
                format!("unknown metric \"{path}\"")
            };
            ThresholdError::new(message, Self::suggestion(path))
        })
    }

    fn suggestion(path: &str) -> String {
        let timings: Vec<String> = Timing::ALL.iter().map(ToString::to_string).collect();
        if timings.iter().any(|timing| timing == path) {
            let statistics = list(Statistic::ALL.into_iter().map(Statistic::as_str));
            return format!("name a statistic of it, such as {path}.p99; there are {statistics}");
        }
        if path == "lag" || (path.starts_with("lag.") && !path.contains('_')) {
            let stages = timings.iter().map(String::as_str).filter(|it| it.starts_with("lag."));
            return format!(
                "name a stage, as in lag.commit_to_flushed.p99; there are {}",
                list(stages)
            );
        }
        let all: Vec<String> = Self::all().map(|metric| metric.to_string()).collect();
        if let Some(metric) = nearest(path, all.iter().map(String::as_str)) {
            return format!("did you mean \"{metric}\"?");
        }
        let figures: Vec<String> = Self::FIGURES.iter().map(ToString::to_string).collect();
        let known = figures.iter().chain(&timings).map(String::as_str);
        format!(
            "known are {}, the last {} followed by .p99 and the like",
            list(known),
            timings.len()
        )
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timing(timing, statistic) => return write!(f, "{timing}.{}", statistic.as_str()),
            Self::Throughput => "throughput",
            Self::Errors => "errors",
            Self::FailedRows => "failed_rows",
            Self::LateRows => "late_rows",
            Self::ConsumerThroughput => "consumer.throughput",
            Self::ConsumerErrors => "consumer.errors",
            Self::ConsumerRetries => "consumer.retries",
            Self::ConsumerCpuUsPerRow => "consumer.cpu_us_per_row",
            Self::ProducerCpuUsPerRow => "producer.cpu_us_per_row",
            Self::Drain => "drain",
            Self::SlotLagBytes => "slot_lag_bytes",
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
        })
    }
}

impl Timing {
    const ALL: [Self; 9] = [
        Self::Lateness,
        Self::Service,
        Self::Response,
        Self::Flush,
        Self::Lag(LagStage::CommitToReceived),
        Self::Lag(LagStage::ReceivedToFlushed),
        Self::Lag(LagStage::CommitToFlushed),
        Self::Lag(LagStage::DueToFlushed),
        Self::Lag(LagStage::CommitToVisible),
    ];
}

impl fmt::Display for Timing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lateness => "lateness",
            Self::Service => "service",
            Self::Response => "response",
            Self::Flush => "flush",
            Self::Lag(LagStage::CommitToReceived) => "lag.commit_to_received",
            Self::Lag(LagStage::ReceivedToFlushed) => "lag.received_to_flushed",
            Self::Lag(LagStage::CommitToFlushed) => "lag.commit_to_flushed",
            Self::Lag(LagStage::DueToFlushed) => "lag.due_to_flushed",
            Self::Lag(LagStage::CommitToVisible) => "lag.commit_to_visible",
        })
    }
}

impl Statistic {
    const ALL: [Self; 7] =
        [Self::P50, Self::P90, Self::P95, Self::P99, Self::P999, Self::Max, Self::Mean];

    fn as_str(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p999",
            Self::Max => "max",
            Self::Mean => "mean",
        }
    }
}

impl Comparison {
    const ALL: [(&str, Self); 6] = [
        ("<", Self::Less),
        ("<=", Self::LessOrEqual),
        (">", Self::Greater),
        (">=", Self::GreaterOrEqual),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
    ];

    fn parse(text: &str) -> Result<Self, ThresholdError> {
        let found = Self::ALL.iter().find(|(symbol, _)| *symbol == text);
        found.map(|(_, comparison)| *comparison).ok_or_else(|| {
            let message = if text.is_empty() {
                "the metric is compared with nothing".into()
            } else {
                format!("unknown comparison \"{text}\"")
            };
            let symbols = list(Self::ALL.iter().map(|(symbol, _)| *symbol));
            ThresholdError::new(message, format!("there are {symbols}"))
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = Self::ALL.iter().find(|(_, comparison)| comparison == self);
        f.write_str(symbol.map_or("", |(symbol, _)| symbol))
    }
}

/// What a metric's values are measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// A number of things.
    Count,
    /// Rows a second.
    RowsPerSecond,
    /// Time, in µs.
    Microseconds,
    /// CPU time for each row, in µs.
    MicrosecondsPerRow,
    /// Bytes.
    Bytes,
}

/// Suffixes of a limit and what each multiplies it by. An empty suffix allows a bare number.
type Suffixes = &'static [(&'static str, f64)];

const COUNTS: Suffixes = &[("", 1.0), ("k", 1e3), ("M", 1e6)];
const TIMES: Suffixes = &[("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6), ("min", 60e6)];
// A bare number is clear here: the metric's name says µs.
const TIMES_PER_ROW: Suffixes = &[("", 1.0), ("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)];
const SIZES: Suffixes = &[
    ("", 1.0),
    ("B", 1.0),
    ("KB", 1e3),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];

impl Unit {
    fn suffixes(self) -> Suffixes {
        match self {
            Self::Count | Self::RowsPerSecond => COUNTS,
            Self::Microseconds => TIMES,
            Self::MicrosecondsPerRow => TIMES_PER_ROW,
            Self::Bytes => SIZES,
        }
    }

    fn parse(self, metric: Metric, text: &str) -> Result<f64, ThresholdError> {
        let number_ends = |c: char| !(c.is_ascii_digit() || ".-+_".contains(c));
        let (digits, suffix) = text.split_at(text.find(number_ends).unwrap_or(text.len()));
        let suffix = suffix.trim();
        let number: f64 = digits.replace('_', "").parse().map_err(|_| {
            let message = format!("the limit of {metric} is not a number");
            ThresholdError::new(message, self.example(metric))
        })?;
        let factor = self.suffixes().iter().find(|(known, _)| *known == suffix);
        factor.map(|(_, factor)| number * factor).ok_or_else(|| {
            let message = if suffix.is_empty() {
                format!("the limit of {metric} needs a unit")
            } else {
                format!("the limit of {metric} can't have the unit \"{suffix}\"")
            };
            ThresholdError::new(message, self.example(metric))
        })
    }

    fn example(self, metric: Metric) -> String {
        match self {
            Self::Count => {
                format!("write a number, as in {metric} == 0, with k or M after it if large")
            }
            Self::RowsPerSecond => {
                format!("write rows a second, with k or M after it if large, as in {metric} >= 10k")
            }
            Self::Microseconds => {
                format!("write the time in us, ms, s or min, as in {metric} < 500ms")
            }
            Self::MicrosecondsPerRow => {
                format!("write the time in us, ms or s, as in {metric} < 20us")
            }
            Self::Bytes => {
                format!("write the size in B, KB, MB, GB, KiB, MiB or GiB, as in {metric} < 64MiB")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn parse(text: &str) -> Threshold {
        Threshold::parse(text).unwrap()
    }

    #[test]
    fn limits_are_in_the_unit_of_their_metric() {
        for (text, limit) in [
            ("lag.commit_to_flushed.p99 < 500ms", 500_000.0),
            ("lateness.max<=1.5 s", 1_500_000.0),
            ("drain < 2min", 120_000_000.0),
            ("flush.p50 < 20µs", 20.0),
            ("throughput >= 10k", 10_000.0),
            ("consumer.throughput > 1.5M", 1_500_000.0),
            ("errors == 0", 0.0),
            ("late_rows < 10_000", 10_000.0),
            ("slot_lag_bytes < 64MiB", 67_108_864.0),
            ("slot_lag_bytes < 1024", 1024.0),
            ("consumer.cpu_us_per_row < 12.5", 12.5),
        ] {
            assert_eq!(parse(text).limit, limit, "{text}");
        }
    }

    #[test]
    fn comparisons_hold_at_their_edges() {
        let holds = |symbol: &str| {
            let threshold = parse(&format!("errors {symbol} 2"));
            [1.0, 2.0, 3.0].map(|value| threshold.holds(value))
        };
        assert_eq!(holds("<"), [true, false, false]);
        assert_eq!(holds("<="), [true, true, false]);
        assert_eq!(holds(">"), [false, false, true]);
        assert_eq!(holds(">="), [false, true, true]);
        assert_eq!(holds("=="), [false, true, false]);
        assert_eq!(holds("!="), [true, false, true]);
    }

    #[test]
    fn what_was_not_measured_never_passes() {
        for (symbol, _) in Comparison::ALL {
            assert!(!parse(&format!("errors {symbol} 2")).holds(f64::NAN), "{symbol}");
        }
    }

    #[test]
    fn errors_say_what_to_do() {
        let wrong = [
            "",
            "< 5",
            "lag",
            "lag.commit_to_flushed < 5ms",
            "lag.commit_to_flush.p99 < 5ms",
            "zebra < 5",
            "errors",
            "errors = 5",
            "errors =< 5",
            "errors < many",
            "errors < 5%",
            "errors < NaN",
            "drain < 5",
            "drain < 5 hours",
            "throughput > 5ms",
            "slot_lag_bytes < 5ms",
        ];
        let text: Vec<String> = wrong
            .iter()
            .map(|text| {
                let error = Threshold::parse(text).unwrap_err();
                format!("{text}\n  {error}\n  {}", error.hint.as_deref().unwrap())
            })
            .collect();
        insta::assert_snapshot!(text.join("\n"));
    }

    proptest! {
        #[test]
        fn every_metric_is_found_by_its_name(
            metric in select(Metric::all().collect::<Vec<_>>()),
            comparison in select(Comparison::ALL.as_slice()),
            number in 0u32..1_000_000,
        ) {
            let (suffix, factor) = metric.unit().suffixes()[1];
            let text = format!("{metric} {} {number}{suffix}", comparison.0);
            let threshold = parse(&text);
            prop_assert_eq!(threshold.metric, metric);
            prop_assert_eq!(threshold.comparison, comparison.1);
            prop_assert_eq!(threshold.limit, f64::from(number) * factor);
            prop_assert_eq!(threshold.comparison.to_string(), comparison.0);
            prop_assert_eq!(threshold.to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", limit in "\\PC*") {
            let _ = Threshold::parse(&text);
            let _ = Threshold::parse(&format!("drain < {limit}"));
        }
    }
}
