//! Where the stream comes from and how it is asked for: everything between an address and a
//! running stream, the first time and after each loss.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{ColumnFormat, Consumer, Origin, Streaming};

use crate::catalogue::Catalogue;
use crate::news::News;
use crate::pgoutput::Relation;
use crate::replication::{Connection, ReplicationError, Stream, StreamOption, newest_protocol};
use crate::rowbinary::{Policy, Table, TableFacts};
use crate::stream::Describe;
use crate::thread::StartError;

/// Wait before the first try to connect again; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// And is never longer than this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Of tries that fail, the first is told, and then no more than one in this time.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What the stream comes over.
pub(crate) const CONNECTION: &str = "the replication connection";

/// A publication, followed through a slot.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The database.
    pub address: PostgresAddress,
    /// What PostgreSQL's views call us.
    pub application_name: String,
    /// The slot; it exists.
    pub slot: String,
    /// The publication; it exists.
    pub publication: String,
}

/// A connection that can start the stream.
pub(crate) struct Opened {
    /// It.
    pub connection: Connection,
    /// The published tables.
    pub catalogue: Catalogue,
    /// How the stream will come.
    pub terms: Terms,
    /// Where the slot is confirmed.
    pub confirmed_lsn: u64,
    /// The server gives up on a client that is silent for longer; `None` if it never does.
    pub silence_limit: Option<Duration>,
    /// From where the server reads the slot's changes: none of those it brings lies before.
    pub restart_lsn: u64,
}

/// How the stream is asked for, as the server has it.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Which server it is.
    system_id: String,
    protocol_version: u32,
    streaming: Option<&'static str>,
    binary: bool,
    two_phase: bool,
    origin: Option<&'static str>,
}

impl Source {
    /// Connects for the first time, and settles with the server how the stream is to come.
    ///
    /// # Errors
    /// The server can't be reached, has not what the plan wants, or the slot can't be followed.
    pub(crate) fn open(&self, plan: &Consumer) -> Result<Opened, StartError> {
        let mut connection = self.connection()?;
        connection.check_publication(&self.publication)?;
        let slot = connection.check_slot(&self.slot, None)?;
        let system_id = connection.identify()?.system_id;
        let catalogue = self.catalogue()?;
        let terms = Terms::new(plan, connection.server_version(), &catalogue)?;
        let confirmed_lsn = slot.confirmed_flush_lsn.unwrap_or_default();
        let restart_lsn = slot.restart_lsn.unwrap_or_default();
        let silence_limit = silence_limit(&mut connection)?;
        let terms = Terms { system_id, ..terms };
        Ok(Opened { connection, catalogue, terms, confirmed_lsn, silence_limit, restart_lsn })
    }

    /// Reads the catalogue, in a session of its own: one that has looked at the tables as they are
    /// now remembers that, and would decode rows from before an ALTER TABLE as if they were like
    /// that already. It takes none of the places of WAL senders.
    fn catalogue(&self) -> Result<Catalogue, ReplicationError> {
        let Self { address, application_name, publication, .. } = self;
        let mut connection = Connection::open_for_queries(address, application_name)?;
        let catalogue = Catalogue::read(&mut connection, publication)?;
        connection.terminate();
        Ok(catalogue)
    }

    /// A connection that streams nothing yet.
    pub(crate) fn connection(&self) -> Result<Connection, ReplicationError> {
        Connection::open(&self.address, &self.application_name)
    }

    /// Starts the stream from `start_lsn`, or from where it is confirmed if that is later.
    pub(crate) fn start(
        &self,
        connection: &mut Connection,
        terms: &Terms,
        start_lsn: u64,
    ) -> Result<(), ReplicationError> {
        let Terms { protocol_version, streaming, binary, two_phase, origin, .. } = *terms;
        connection.start(&Stream {
            slot: &self.slot,
            publication: &self.publication,
            start_lsn,
            protocol_version,
            streaming,
            binary,
            two_phase,
            origin,
        })
    }

    /// Connects again and goes on behind what was received, at `resume_lsn`: PostgreSQL starts at a
    /// position behind the slot's as well.
    pub(crate) fn resume(
        &self,
        terms: &Terms,
        confirmed_lsn: u64,
        resume_lsn: u64,
    ) -> Result<Connection, ReplicationError> {
        let mut connection = self.connection()?;
        let identity = connection.identify()?;
        if identity.system_id != terms.system_id {
            let (ours, theirs) = (terms.system_id.clone(), identity.system_id);
            return Err(ReplicationError::ServerChanged { ours, theirs });
        }
        // PostgreSQL would start at a position that it has not reached, and skip what comes before.
        if identity.wal_end_lsn < resume_lsn {
            let (ours, theirs) = (resume_lsn, identity.wal_end_lsn);
            return Err(ReplicationError::WalLost { ours, theirs });
        }
        connection.check_slot(&self.slot, Some(confirmed_lsn))?;
        self.start(&mut connection, terms, resume_lsn)?;
        Ok(connection)
    }
}

/// `wal_sender_timeout` as it holds for this session.
fn silence_limit(connection: &mut Connection) -> Result<Option<Duration>, ReplicationError> {
    let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
    let rows = connection.query("to look up wal_sender_timeout", sql)?;
    let setting = rows.first().and_then(|row| row.first()?.as_deref());
    let limit_ms = setting.and_then(|ms| ms.parse().ok()).filter(|ms| *ms > 0);
    Ok(limit_ms.map(Duration::from_millis))
}

impl Terms {
    fn new(
        plan: &Consumer,
        server_version: u32,
        catalogue: &Catalogue,
    ) -> Result<Self, StartError> {
        let tables = catalogue.tables(Policy::from(plan));
        let unreadable: Vec<_> = tables.iter().flat_map(Table::binary_unreadable).collect();
        let is_binary_known = StreamOption::Binary.is_known_to(server_version);
        let binary = match plan.column_format {
            ColumnFormat::Text => false,
            ColumnFormat::Binary => true,
            ColumnFormat::Auto => is_binary_known && unreadable.is_empty(),
        };
        let newest = newest_protocol(server_version);
        let protocol_version = plan.protocol_version.unwrap_or(newest);
        let refused =
            |what: String, hint: &str| Err(StartError::usage(Failure::new(what).hint(hint)));
        if plan.column_format == ColumnFormat::Binary && !unreadable.is_empty() {
            let what = format!("the binary form of {} is not read", unreadable.join(", "));
            return refused(what, "consumer.column_format = \"auto\" asks for text then");
        }
        if protocol_version > newest {
            let what = format!(
                "consumer.protocol_version = {protocol_version}: the server knows 1 to {newest}"
            );
            return refused(what, "leave the key out to have the newest");
        }
        for (option, key, protocol) in wanted(plan) {
            if !option.is_known_to(server_version) {
                let (since, is) = (option.since(), server_version / 10_000);
                let what = format!("{key} needs PostgreSQL {since}, and the server is {is}");
                return refused(what, "leave the key out, or follow a newer server");
            }
            if protocol > protocol_version {
                let what = format!("{key} needs consumer.protocol_version = {protocol} or newer");
                return refused(what, "leave consumer.protocol_version out to have the newest");
            }
        }
        let streaming = match plan.streaming {
            Streaming::Off => None,
            Streaming::On => Some("on"),
            Streaming::Parallel => Some("parallel"),
        };
        let origin = (plan.origin == Origin::None).then_some("none");
        let two_phase = plan.two_phase;
        Ok(Self {
            system_id: String::new(),
            protocol_version,
            streaming,
            binary,
            two_phase,
            origin,
        })
    }
}

/// What a plan asks for beyond the least, with its key and the protocol it needs. What the server
/// has not is not left out in silence.
fn wanted(plan: &Consumer) -> impl Iterator<Item = (StreamOption, &'static str, u32)> {
    let streaming = match plan.streaming {
        Streaming::Off => None,
        Streaming::On => Some((StreamOption::Streaming, "consumer.streaming", 2)),
        Streaming::Parallel => {
            Some((StreamOption::ParallelStreaming, "consumer.streaming = \"parallel\"", 4))
        }
    };
    let binary = plan.column_format == ColumnFormat::Binary;
    [
        streaming,
        plan.two_phase.then_some((StreamOption::TwoPhase, "consumer.two_phase", 3)),
        (plan.origin == Origin::None).then_some((StreamOption::Origin, "consumer.origin", 1)),
        binary.then_some((StreamOption::Binary, "consumer.column_format = \"binary\"", 1)),
    ]
    .into_iter()
    .flatten()
}

/// The catalogue, looked up again when the stream describes what it does not know.
pub(crate) struct LiveCatalogue {
    source: Source,
    catalogue: Catalogue,
    /// Descriptions that were looked up and differ from the catalogue: it is ahead of the stream,
    /// or knows less of it.
    looked_up: HashMap<u32, Description>,
    unanswered: Unanswered,
}

/// Why the catalogue could not be asked, if that may pass: then the stream can begin anew where it
/// was, and ask again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unanswered(Arc<Mutex<Option<ReplicationError>>>);

impl Unanswered {
    /// What it is; nothing from then on.
    pub(crate) fn take(&self) -> Option<ReplicationError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, error: ReplicationError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// What tells one description of a table from another: name, type and modifier of each column, and
/// whether it is part of the replica identity.
type Description = Vec<(String, u32, i32, bool)>;

fn description(relation: &Relation<'_>) -> Description {
    let columns = relation.columns.iter();
    columns.map(|c| (c.name.to_owned(), c.type_oid, c.type_modifier, c.key)).collect()
}

impl LiveCatalogue {
    pub(crate) fn new(source: Source, catalogue: Catalogue) -> Self {
        Self { source, catalogue, looked_up: HashMap::new(), unanswered: Unanswered::default() }
    }

    /// Where it puts what it could not ask.
    pub(crate) fn unanswered(&self) -> Unanswered {
        self.unanswered.clone()
    }

    fn read(&self, relation: u32) -> Result<Catalogue, ReplicationError> {
        let Source { address, application_name, .. } = &self.source;
        let mut connection = Connection::open_for_queries(address, application_name)?;
        let catalogue = Catalogue::read_table(&mut connection, relation)?;
        connection.terminate();
        Ok(catalogue)
    }
}

impl Describe for LiveCatalogue {
    fn learn(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
        let known = self.catalogue.facts(relation.id);
        if known.is_some_and(|facts| facts.relation() == *relation) {
            return Ok(());
        }
        let described = description(relation);
        if self.looked_up.get(&relation.id) == Some(&described) {
            return Ok(());
        }
        // The catalogue is ahead of the stream: what that describes may be gone by now, and then
        // stays unknown.
        let later = match self.read(relation.id) {
            Ok(later) => later,
            Err(error) => {
                let table = format!("{}.{}", relation.namespace, relation.name);
                let what = format!("{table} is new or changed, and can't be looked up");
                if error.is_transient() {
                    self.unanswered.put(error);
                    return Err(Failure::new(what));
                }
                return Err(Failure::new(what).because(error.into_failure()));
            }
        };
        self.looked_up.insert(relation.id, described);
        self.catalogue.learn(later);
        Ok(())
    }

    fn facts(&self, relation: u32) -> Option<&TableFacts> {
        self.catalogue.facts(relation)
    }
}

/// When to try again after a loss, and when no more.
#[derive(Debug)]
pub(crate) struct Reconnecting {
    what: &'static str,
    patience: Duration,
    news: News,
    /// When it was last told that a try failed.
    told_at: Option<Instant>,
    /// The last that was told is not that it is back.
    is_told: bool,
    lost_at: Instant,
    tries: u32,
    /// When the next try is due.
    pub next_try: Instant,
    /// Why the last try, or the connection itself, failed.
    pub error: ReplicationError,
}

impl Reconnecting {
    /// There is no connection from now on.
    pub(crate) fn new(what: &'static str, patience: Duration, news: News, now: Instant) -> Self {
        Self {
            what,
            patience,
            news,
            told_at: None,
            is_told: false,
            lost_at: now,
            tries: 0,
            next_try: now + FIRST_WAIT,
            error: ReplicationError::Closed,
        }
    }

    /// There was one, and this is how it ended.
    pub(crate) fn lost(mut self, error: ReplicationError) -> Self {
        self.tell(format!("lost {}: {}", self.what, error.line()), true);
        self.error = error;
        self
    }

    /// There is one again.
    pub(crate) fn came_back(mut self) -> Self {
        if self.is_told {
            let after = self.after(self.tries + 1);
            self.tell(format!("{} is back {after}", self.what), false);
        }
        self
    }

    fn tell(&mut self, text: String, is_told: bool) {
        self.news.tell(text);
        self.is_told = is_told;
    }

    fn tell_failed(&mut self, now: Instant) {
        if self.told_at.is_none_or(|told_at| now - told_at >= TELL_INTERVAL) {
            self.told_at = Some(now);
            let after = self.after(self.tries);
            let text = format!("{} is not back {after}: {}", self.what, self.error.line());
            self.tell(text, true);
        }
    }

    fn after(&self, tries: u32) -> String {
        let plural = if tries == 1 { "try" } else { "tries" };
        format!("after {:.1} s ({tries} {plural})", self.lost_at.elapsed().as_secs_f64())
    }

    /// A try failed: says whether there is another.
    pub(crate) fn failed(&mut self, error: ReplicationError, now: Instant) -> bool {
        let may_pass = error.is_transient() || error.is_slot_active();
        self.error = error;
        self.tries += 1;
        let wait = FIRST_WAIT.saturating_mul(1 << self.tries.min(16)).min(LONGEST_WAIT);
        let end = self.lost_at + self.patience;
        // The last try is at the end of the patience, and not before.
        self.next_try = (now + wait).min(end.max(now));
        let is_another = may_pass && now < end;
        // What ends it is said by the error that it ends with.
        if is_another {
            self.tell_failed(now);
        }
        is_another
    }

    /// The connection that had come back was lost again before it brought anything.
    pub(crate) fn again(mut self, error: ReplicationError, now: Instant) -> Result<Self, Failure> {
        if self.failed(error, now) { Ok(self) } else { Err(self.give_up()) }
    }

    /// No more tries.
    pub(crate) fn give_up(&mut self) -> Failure {
        let error = std::mem::replace(&mut self.error, ReplicationError::Closed);
        let failure = error.into_failure();
        if self.tries == 0 {
            return failure;
        }
        let seconds = self.lost_at.elapsed().as_secs_f64();
        let tries = self.tries;
        Failure::new(format!(
            "the replication connection was lost and did not come back in {seconds:.1} s ({tries} tries)"
        ))
        .because(failure)
    }
}
