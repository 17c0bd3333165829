//! What is told of flushes that fail, whichever they are: that it began, now and then that it goes
//! on, and that it is over.

use std::time::{Duration, Instant};

/// While it lasts, no more is told than one sentence in this time.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Whether flushes fail at the moment.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// When the first of those failed that no success has followed, and how many did.
    now: Option<(Instant, u64)>,
    told_at: Option<Instant>,
    /// The last that was told is that they fail.
    is_told: bool,
}

impl Outage {
    /// A flush failed: what is to be told, if anything.
    pub(crate) fn failed(&mut self, why: impl FnOnce() -> String, now: Instant) -> Option<String> {
        let (since, tries) = self.now.get_or_insert((now, 0));
        *tries += 1;
        let (since, tries) = (*since, *tries);
        if self.told_at.is_some_and(|told_at| now - told_at < TELL_INTERVAL) {
            return None;
        }
        self.told_at = Some(now);
        self.is_told = true;
        Some(match tries {
            1 => format!("the first try of a flush failed: {}", why()),
            _ => format!("flushes still fail {}: {}", after(since, now, tries), why()),
        })
    }

    /// A flush succeeded: what is to be told, if anything.
    pub(crate) fn succeeded(&mut self, now: Instant) -> Option<String> {
        let (since, tries) = self.now.take()?;
        let is_told = std::mem::take(&mut self.is_told);
        is_told.then(|| format!("flushes succeed again {}", after(since, now, tries)))
    }
}

fn after(since: Instant, now: Instant, tries: u64) -> String {
    let plural = if tries == 1 { "failure" } else { "failures" };
    format!("after {:.1} s ({tries} {plural})", (now - since).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_when_it_begins_now_and_then_and_when_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::default();
        let fail = |outage: &mut Outage, seconds| outage.failed(|| "why".into(), at(seconds));
        assert_eq!(outage.succeeded(at(0)), None);
        let first = "the first try of a flush failed: why";
        assert_eq!(fail(&mut outage, 1).as_deref(), Some(first));
        assert_eq!(fail(&mut outage, 5), None);
        let second = "flushes still fail after 10.0 s (3 failures): why";
        assert_eq!(fail(&mut outage, 11).as_deref(), Some(second));
        let over = "flushes succeed again after 12.5 s (3 failures)";
        let end = at(13) + Duration::from_millis(500);
        assert_eq!(outage.succeeded(end).as_deref(), Some(over));
        assert_eq!(outage.succeeded(at(14)), None);
        // One that is over at once, and comes again and again, is told no more often.
        assert_eq!(fail(&mut outage, 15), None);
        assert_eq!(outage.succeeded(at(15)), None);
        assert_eq!(fail(&mut outage, 22).as_deref(), Some(first));
    }
}
