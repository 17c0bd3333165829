//! How far the slot may be confirmed: behind the last transaction whose every row the sink has
//! acknowledged, however the flushes overtake each other.

use std::collections::VecDeque;

use super::fault::{Fault, is_planted};

/// A transaction that ended inside a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its stamp, if it had one of this run: phase, producer, sequence.
    pub stamp: Option<(u32, u32, u64)>,
    /// Its row versions, over all batches it lies in.
    pub rows: u64,
}

/// What is safe once a batch, and all batches before it, are acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Position up to which everything is in this batch or in earlier ones.
    pub end_lsn: u64,
    /// Transactions whose last row is in this batch or in an earlier one.
    pub ended: Vec<Ended>,
}

impl Mark {
    fn absorb(&mut self, other: &mut Self) {
        self.end_lsn = self.end_lsn.max(other.end_lsn);
        self.ended.append(&mut other.ended);
        other.end_lsn = 0;
    }
}

#[derive(Debug)]
struct Pending {
    acknowledged: bool,
    mark: Mark,
}

/// Batches in the order they were cut, and the position confirmed so far.
#[derive(Debug, Default)]
pub(crate) struct Confirmations {
    pending: VecDeque<Pending>,
    first: u64,
    /// Transactions in all of them.
    ended: usize,
    cut_lsn: u64,
    confirmed_lsn: u64,
}

impl Confirmations {
    /// Everything before this position is durable.
    pub(crate) fn new(confirmed_lsn: u64) -> Self {
        Self { cut_lsn: confirmed_lsn, confirmed_lsn, ..Self::default() }
    }

    /// A batch was cut, with what ended in it; returns its number. `mark` is left empty.
    pub(crate) fn cut(&mut self, mark: &mut Mark) -> u64 {
        let mut pending = Pending { acknowledged: false, mark: Mark::default() };
        self.cut_lsn = self.cut_lsn.max(mark.end_lsn);
        self.ended += mark.ended.len();
        pending.mark.absorb(mark);
        self.pending.push_back(pending);
        self.first + self.pending.len() as u64 - 1
    }

    /// Something ended with no row after the last cut batch; calls `ended` when it is safe at
    /// once, because nothing is pending. `mark` is left empty.
    pub(crate) fn mark(&mut self, mark: &mut Mark, ended: impl FnMut(Ended)) {
        self.cut_lsn = self.cut_lsn.max(mark.end_lsn);
        match self.pending.back_mut() {
            Some(last) => {
                self.ended += mark.ended.len();
                last.mark.absorb(mark);
            }
            None => self.confirm(std::mem::take(mark), ended),
        }
    }

    /// The sink acknowledged a batch; calls `ended` for each transaction that is safe now.
    pub(crate) fn acknowledge(&mut self, number: u64, mut ended: impl FnMut(Ended)) {
        let index = usize::try_from(number - self.first).expect("a batch's number is small");
        self.pending[index].acknowledged = true;
        if is_planted(Fault::ConfirmOutOfOrder) {
            let mark = self.pending[index].mark.clone();
            self.confirm(mark, &mut ended);
        }
        while self.pending.front().is_some_and(|p| p.acknowledged) {
            let pending = self.pending.pop_front().expect("there is a front");
            self.first += 1;
            self.ended -= pending.mark.ended.len();
            self.confirm(pending.mark, &mut ended);
        }
    }

    fn confirm(&mut self, mark: Mark, ended: impl FnMut(Ended)) {
        self.confirmed_lsn = self.confirmed_lsn.max(mark.end_lsn);
        mark.ended.into_iter().for_each(ended);
    }

    /// Bytes that it takes itself: batches may be acknowledged in any number while one before them
    /// is not, and any number of transactions may end without a row.
    pub(crate) fn bytes(&self) -> u64 {
        (self.pending.len() * size_of::<Pending>() + self.ended * size_of::<Ended>()) as u64
    }

    /// Everything before this position is durable.
    #[must_use]
    pub(crate) fn confirmed_lsn(&self) -> u64 {
        self.confirmed_lsn
    }

    /// Everything before this position was cut, acknowledged or not.
    #[must_use]
    pub(crate) fn cut_lsn(&self) -> u64 {
        self.cut_lsn
    }

    /// Batches that are not acknowledged, or wait for one that is not, and transactions that ended
    /// in them.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (u64, u64) {
        let ended = self.pending.iter().map(|pending| pending.mark.ended.len() as u64);
        (self.pending.len() as u64, ended.sum())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mark(end_lsn: u64) -> Mark {
        Mark { end_lsn, ended: vec![Ended { stamp: None, rows: end_lsn }] }
    }

    #[test]
    fn a_position_without_rows_waits_for_the_batch_before_it() {
        let mut confirmations = Confirmations::default();
        confirmations.mark(&mut mark(5), |_| ());
        assert_eq!(confirmations.confirmed_lsn(), 5);
        let batch = confirmations.cut(&mut mark(10));
        confirmations.mark(&mut mark(20), |_| panic!("the batch before it is pending"));
        assert_eq!(confirmations.confirmed_lsn(), 5);
        let mut rows = Vec::new();
        confirmations.acknowledge(batch, |e| rows.push(e.rows));
        assert_eq!((confirmations.confirmed_lsn(), rows), (20, vec![10, 20]));
    }

    proptest! {
        /// Batches acknowledged in any order: at each step exactly the transactions of the
        /// acknowledged prefix are out, in order, and the position is the last one's.
        #[test]
        fn confirmed_is_the_acknowledged_prefix(
            order in (1usize..40).prop_flat_map(|n| Just((0..n as u64).collect::<Vec<_>>()).prop_shuffle()),
        ) {
            let mut confirmations = Confirmations::default();
            for n in 0..order.len() as u64 {
                prop_assert_eq!(confirmations.cut(&mut mark((n + 1) * 10)), n);
            }
            let (mut acknowledged, mut out) = (vec![false; order.len()], Vec::new());
            for number in order {
                confirmations.acknowledge(number, |e| out.push(e.rows));
                acknowledged[number as usize] = true;
                let prefix = acknowledged.iter().take_while(|a| **a).count() as u64;
                prop_assert_eq!(confirmations.confirmed_lsn(), prefix * 10);
                prop_assert_eq!(&out, &(1..=prefix).map(|n| n * 10).collect::<Vec<_>>());
                prop_assert_eq!(confirmations.remembered().0, acknowledged.len() as u64 - prefix);
            }
        }
    }
}
