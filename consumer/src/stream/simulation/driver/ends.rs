//! How cycles end.

use std::time::Duration;

use walbench_metrics::Failure;

use super::super::boundary::End;
use super::super::check::{Promise, equal, ledger};
use super::super::database::Txn;
use super::super::server::{Slot, Walsender};
use super::super::sink::Sink;
use super::{Broken, Running, Step, Stop, World, broken, mangled};
use crate::sink::SinkError;
use crate::stream::fault::{Fault, is_planted};
use crate::stream::{Machine, Status};

impl World {
    /// A cycle ends in this way.
    pub(super) fn finish_cycle(&mut self, end: End) -> Result<(), Broken> {
        self.counts.cycles += 1;
        self.counts.ends[end as usize] += 1;
        self.is_smooth &= end == End::Quiet;
        let ended = match end {
            End::Cut | End::Unanswered => self.disconnect(),
            End::Crash => self.crash(),
            End::Kill | End::Overtake => self.kill(end),
            End::CrashAndKill => self.crash().and_then(|()| self.kill(end)),
            End::Stop => self.stop(),
            End::Quiet => self.settle(),
            End::Dead => self.die(),
            End::GiveUp => self.give_up(),
            End::Until => self.until(),
            End::Rewind => self.rewind(),
        };
        self.catalogue.fail_after(None);
        ended.and_then(|()| self.check().map_err(Stop::Broken)).map_err(|stop| match stop {
            Stop::Broken(broken) => broken,
            Stop::Boundary(_) | Stop::Unanswered => unreachable!("they end cycles, and not these"),
        })
    }

    /// Some of what was on its way to the server arrives.
    fn lose_connection(&mut self) -> Step {
        while !self.statuses.is_empty() && self.draw.chance(50) {
            self.confirm()?;
        }
        self.statuses.clear();
        self.received.clear();
        self.walsender = None;
        Ok(())
    }

    fn disconnect(&mut self) -> Step {
        if self.walsender.is_none() {
            return Ok(());
        }
        self.lose_connection()?;
        self.machine.disconnected();
        match self.machine.spooled() {
            0 => Ok(()),
            kept => broken(Promise::MemoryIsBounded, format!("{kept} transactions are kept")),
        }
    }

    fn crash(&mut self) -> Step {
        self.disconnect()?;
        self.database.crash(&mut self.draw);
        self.slot.confirmed_lsn = self.slot.persisted_lsn;
        self.durable.forget();
        self.check_durable()
    }

    fn kill(&mut self, end: End) -> Step {
        self.lose_connection()?;
        while let Some(Running { job, is_applied }) = self.running.pop() {
            match self.draw.below(3) {
                _ if is_applied => {}
                0 => self.sink.apply(&job.work).map_err(mangled)?,
                1 if end == End::Overtake => self.sink.keep(&job.work).map_err(mangled)?,
                _ => {}
            }
        }
        self.check_durable()?;
        self.next_machine()
    }

    fn next_machine(&mut self) -> Step {
        let start_lsn = self.slot.confirmed_lsn;
        let (mut old, old_start_lsn) = (self.replace_machine(start_lsn), self.machine_start_lsn);
        let positions = (old_start_lsn, old.confirmed_lsn());
        self.machine_start_lsn = start_lsn;
        ledger(&old.into_delivered(), positions, &self.slot, &self.database, &self.sink)?;
        Ok(())
    }

    /// Another consumer, which knows nothing of the one before; returns that.
    fn replace_machine(&mut self, start_lsn: u64) -> Machine {
        let catalogue = Box::new(self.catalogue.clone());
        let machine = Machine::new(self.plan.settings(start_lsn), catalogue, self.now);
        self.machines += 1;
        self.machine_confirmed_lsn = start_lsn;
        self.running.clear();
        self.failures.clear();
        self.failed_at.clear();
        self.next_number = 0;
        // It can't tell what the one before has received of a server that comes back older.
        self.earlier = None;
        std::mem::replace(&mut self.machine, machine)
    }

    /// The server comes back as it was before: what was written since is lost.
    fn rewind(&mut self) -> Step {
        let Some((database, slot)) = self.earlier.take() else { return self.crash() };
        self.disconnect()?;
        self.database.rewind(database);
        self.slot = slot;
        self.durable.forget();
        if self.has_lost_wal() {
            self.counts.refusals += 1;
            self.start_over();
        } else {
            self.connect()?;
        }
        // Its own recovery writes more, behind which positions alone would tell nothing.
        self.database.crash(&mut self.draw);
        Ok(())
    }

    /// A server was refused: somebody copies it as it is now, and begins anew behind that.
    fn start_over(&mut self) {
        let end_lsn = self.database.end_lsn();
        note!(self, "a server that ends at {end_lsn} is refused");
        self.sink = Sink::copied(&self.database.model);
        self.slot = Slot { confirmed_lsn: end_lsn, persisted_lsn: end_lsn, two_phase_at: None };
        self.replace_machine(end_lsn);
        self.machine_start_lsn = end_lsn;
    }

    /// As the receiving thread ends: with what was received durable, as far as so many rounds
    /// suffice for that.
    fn finish(&mut self, rounds: u64) -> Step {
        for _ in 0..rounds {
            if self.machine.is_idle() {
                break;
            }
            self.machine.cut();
            if self.machine.wants_to_advance() {
                self.advance_at_end()?;
            }
            self.flush_some()?;
            self.now = self.machine.deadline().max(self.now + Duration::from_millis(20));
        }
        if self.walsender.is_some() {
            let Status { written_lsn, flushed_lsn } = self.machine.status_now(self.now);
            note!(self, "{flushed_lsn} of {written_lsn} is confirmed at the end");
            let is_faulty = is_planted(Fault::ConfirmGivenUp);
            self.statuses.push_back(if is_faulty { written_lsn } else { flushed_lsn });
            while !self.statuses.is_empty() {
                self.confirm()?;
            }
        }
        Ok(())
    }

    /// What the catalogue can't be asked at the end comes again after a restart.
    fn advance_at_end(&mut self) -> Step {
        match self.advance() {
            Err(Stop::Unanswered) => {
                self.machine.disconnected();
                Ok(())
            }
            step => step,
        }
    }

    fn stop(&mut self) -> Step {
        self.draw_outage();
        self.finish(2_000)?;
        if !self.machine.is_idle() {
            return broken(Promise::EverythingEnds, "a stopped machine does not become idle");
        }
        let received_lsn = self.machine.received_lsn();
        self.check_received(received_lsn)?;
        self.lose_connection()?;
        self.next_machine()
    }

    /// What is not durable in time comes again.
    fn give_up(&mut self) -> Step {
        let rounds = self.draw.below(4);
        self.finish(rounds)?;
        self.kill(End::Overtake)
    }

    /// Ends at a position that was set, with everything before it durable, whatever becomes of the
    /// connection once that was received.
    fn until(&mut self) -> Step {
        let received_lsn = self.machine.received_lsn();
        let until_lsn = self.draw.between(received_lsn, self.database.end_lsn().max(received_lsn));
        note!(self, "receives until {until_lsn}");
        let mut rounds = 0;
        while self.machine.received_lsn() < until_lsn {
            if !self.settle_once()? {
                self.now = self.machine.deadline().max(self.now);
            }
            rounds += 1;
            if rounds > 10_000 {
                return broken(Promise::EverythingEnds, format!("{until_lsn} is not reached"));
            }
        }
        if self.draw.one_in(3) {
            let rounds = self.draw.below(3);
            self.finish(rounds)?;
            self.machine.cut();
            self.disconnect()?;
        }
        self.finish(if is_planted(Fault::EndWhenReceived) { 0 } else { 2_000 })?;
        self.check_received(until_lsn)?;
        self.lose_connection()?;
        self.next_machine()
    }

    /// What a stopped machine has received is durable, up to what is prepared and not decided.
    fn check_received(&mut self, received_lsn: u64) -> Step {
        let is_undecided = |txn: &&Txn| txn.ended.is_none_or(|end| end.end_lsn > received_lsn);
        let txns = self.database.txns.iter().filter(is_undecided);
        let oldest = txns.filter_map(|txn| txn.prepared).map(|prepared| prepared.lsn).min();
        let expected = received_lsn.min(oldest.unwrap_or(received_lsn));
        let confirmed_lsn = self.machine.confirmed_lsn();
        if confirmed_lsn < expected {
            let how = format!("received up to {received_lsn}, and confirmed at {confirmed_lsn}");
            return broken(Promise::EverythingEnds, how);
        }
        Ok(())
    }

    /// The sink carries out some of what it is given, and fails at times.
    fn flush_some(&mut self) -> Step {
        self.machine.cut_if_due(self.now);
        while let Some(job) = self.machine.start_flush(self.now) {
            self.begin_job(job)?;
        }
        for _ in 0..self.draw.index(self.running.len() + 1) {
            self.end_job()?;
        }
        Ok(())
    }

    /// The sink carries out all that it is given; says whether there was anything.
    fn flush_all(&mut self) -> Result<bool, Stop> {
        let mut any = false;
        self.machine.cut_if_due(self.now);
        while let Some(job) = self.machine.start_flush(self.now) {
            self.begin_job(job)?;
        }
        while !self.running.is_empty() {
            any = true;
            let at = self.draw.index(self.running.len());
            self.apply(at)?;
            self.report(at, true)?;
        }
        Ok(any)
    }

    /// The sink fails from now on, until the machine gives up.
    fn die(&mut self) -> Step {
        let may_pass = self.draw.chance(70);
        let mut is_over = false;
        for _ in 0..3_000 {
            if is_over || self.machine.is_idle() {
                break;
            }
            match self.next_to_fail()? {
                Some(Running { job, .. }) => {
                    let is_last = self.fail(job.number) || !may_pass;
                    let error = SinkError { failure: Failure::new("dead"), transient: may_pass };
                    is_over = self.machine.flush_ended(job, Err(error), self.now).is_err();
                    if is_over != is_last {
                        let how = format!("over: {is_over}, patience is at its end: {is_last}");
                        return broken(Promise::RetriesEnd, how);
                    }
                }
                None => {
                    self.now = self.machine.deadline().max(self.now + Duration::from_millis(20));
                }
            }
        }
        if !is_over && !self.machine.is_idle() {
            return broken(Promise::RetriesEnd, "what fails for ever is tried for ever");
        }
        self.kill(End::Dead)
    }

    /// One of the jobs that are under way, of which there are as many as may.
    fn next_to_fail(&mut self) -> Result<Option<Running>, Stop> {
        self.machine.cut();
        if self.machine.wants_to_advance() {
            self.advance()?;
        }
        while let Some(job) = self.machine.start_flush(self.now) {
            self.check_job(&job)?;
            self.running.push(Running { job, is_applied: false });
        }
        Ok(self.running.pop())
    }

    /// Everything is delivered, and then checked.
    fn settle(&mut self) -> Step {
        self.database.settle(&mut self.draw);
        let mut idle_rounds = 0;
        while !self.is_settled() {
            if self.settle_once()? {
                idle_rounds = 0;
            } else {
                idle_rounds += 1;
                self.now = self.machine.deadline().max(self.now);
            }
            if idle_rounds > 100 {
                let (confirmed, end) = (self.slot.confirmed_lsn, self.database.end_lsn());
                let how = format!("nothing moves, with {confirmed} of {end} confirmed");
                return broken(Promise::EverythingEnds, how);
            }
        }
        Ok(equal(&self.database, &self.sink, self.is_smooth)?)
    }

    fn settle_once(&mut self) -> Result<bool, Stop> {
        let Some(walsender) = &mut self.walsender else { return self.connect().map(|()| true) };
        while !walsender.is_at_end(&self.database) {
            walsender.decode_next(&self.database, &mut self.draw);
        }
        let mut any = !walsender.out.is_empty();
        if !any && self.received.is_empty() {
            walsender.keepalive(self.draw.chance(50));
        }
        self.received.extend(walsender.out.drain(..));
        while self.machine.wants_data() && !self.received.is_empty() {
            self.take_message()?;
        }
        if self.machine.wants_to_advance() {
            any = true;
            self.advance()?;
        }
        any |= self.flush_all()?;
        if let Some(status) = self.machine.status(self.now) {
            note!(self, "{status:?}");
            self.statuses.push_back(status.flushed_lsn);
        }
        while !self.statuses.is_empty() {
            self.confirm()?;
        }
        self.check()?;
        Ok(any)
    }

    fn is_settled(&self) -> bool {
        let is_sent =
            |walsender: &Walsender| walsender.is_at_end(&self.database) && walsender.out.is_empty();
        let txns = self.database.prepared.iter().map(|of| &self.database.txns[*of]);
        let oldest = txns.filter_map(|txn| txn.prepared).map(|prepared| prepared.lsn).min();
        let end_lsn = self.database.end_lsn();
        self.walsender.as_ref().is_some_and(is_sent)
            && self.received.is_empty()
            && self.machine.is_idle()
            && self.slot.confirmed_lsn >= oldest.map_or(end_lsn, |oldest| oldest.min(end_lsn))
    }
}
