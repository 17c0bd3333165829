//! Where the stream comes from and how it is asked for: everything between an address and a
//! running stream, the first time and after each loss.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use walbench_metrics::Failure;
use walbench_phases::address::PostgresAddress;
use walbench_phases::plan::{ColumnFormat, Consumer, Origin, Streaming};

use crate::catalogue::Catalogue;
use crate::pgoutput::Relation;
use crate::replication::{Connection, ReplicationError, Stream, StreamOption, newest_protocol};
use crate::rowbinary::{Policy, Table, TableFacts};
use crate::stream::Describe;
use crate::thread::StartError;

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
    /// Values come in binary form.
    pub binary: bool,
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
    /// position behind the slot's as well. A server that has sent it has WAL up to `seen_lsn`.
    pub(crate) fn resume(
        &self,
        terms: &Terms,
        confirmed_lsn: u64,
        resume_lsn: u64,
        seen_lsn: u64,
    ) -> Result<Connection, ReplicationError> {
        let mut connection = self.connection()?;
        let identity = connection.identify()?;
        if identity.system_id != terms.system_id {
            let (ours, theirs) = (terms.system_id.clone(), identity.system_id);
            return Err(ReplicationError::ServerChanged { ours, theirs });
        }
        // PostgreSQL would start at a position that it has not reached, and skip what comes before.
        if identity.wal_end_lsn < seen_lsn {
            let (ours, theirs) = (seen_lsn, identity.wal_end_lsn);
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
    policy: Policy,
    /// Values come in binary form, and may as well come as text.
    may_change_form: bool,
    interruption: Interruption,
}

/// Why a description can't be taken now, though it can when the stream begins anew where it was.
#[derive(Debug)]
pub(crate) enum Anew {
    /// The catalogue could not be asked, and may be later.
    Unanswered(ReplicationError),
    /// Values of some type can't be read in binary form: they must come as text.
    AsText,
}

/// Where the catalogue puts that, and the receiving thread finds it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interruption(Arc<Mutex<Option<Anew>>>);

impl Interruption {
    /// What it is; nothing from then on.
    pub(crate) fn take(&self) -> Option<Anew> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, anew: Anew) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(anew);
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
    /// For a stream on these terms.
    pub(crate) fn new(
        source: Source,
        catalogue: Catalogue,
        terms: &Terms,
        plan: &Consumer,
    ) -> Self {
        Self {
            source,
            catalogue,
            looked_up: HashMap::new(),
            policy: Policy::from(plan),
            may_change_form: terms.binary && plan.column_format == ColumnFormat::Auto,
            interruption: Interruption::default(),
        }
    }

    /// Where it puts why the stream must begin anew.
    pub(crate) fn interruption(&self) -> Interruption {
        self.interruption.clone()
    }

    fn read(&self, relation: u32) -> Result<Catalogue, ReplicationError> {
        let Source { address, application_name, .. } = &self.source;
        let mut connection = Connection::open_for_queries(address, application_name)?;
        let catalogue = Catalogue::read_table(&mut connection, relation)?;
        connection.terminate();
        Ok(catalogue)
    }

    /// A table may come, or a column, whose type is not read in binary form.
    fn check_form(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
        let table = Table::new(relation, self.catalogue.facts(relation.id), self.policy);
        let unreadable = table.binary_unreadable();
        if unreadable.is_empty() {
            return Ok(());
        }
        self.may_change_form = false;
        self.interruption.put(Anew::AsText);
        Err(Failure::new(format!("the binary form of {} is not read", unreadable.join(", "))))
    }

    /// Makes sure that it knows what the catalogue can say of a relation.
    fn look_up(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
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
                    self.interruption.put(Anew::Unanswered(error));
                    return Err(Failure::new(what));
                }
                return Err(Failure::new(what).because(error.into_failure()));
            }
        };
        self.looked_up.insert(relation.id, described);
        self.catalogue.learn(later);
        Ok(())
    }
}

impl Describe for LiveCatalogue {
    fn learn(&mut self, relation: &Relation<'_>) -> Result<(), Failure> {
        self.look_up(relation)?;
        if self.may_change_form { self.check_form(relation) } else { Ok(()) }
    }

    fn facts(&self, relation: u32) -> Option<&TableFacts> {
        self.catalogue.facts(relation)
    }
}
