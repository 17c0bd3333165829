//! The command, from its start to its end.

use std::io;
use std::os::fd::AsFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};
use walbench_metrics::Failure;
use walbench_phases::address::{Host, PostgresAddress};
use walbench_phases::clickhouse::ClickhouseAddress;
use walbench_phases::command::{Placeholder, expand};

use crate::serve::Prepare;

/// Who ends the command has this long for it: its grace period and a little more.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running {
    /// Who keeps it.
    guard: Child,
    /// Closed, by us or by our end, it makes the guard end the command. Waiting for a child closes its
    /// standard input, so it is not held there.
    wanted: Option<ChildStdin>,
    ended: Option<io::Result<ExitStatus>>,
}

impl Running {
    /// Starts the command of a plan. What it says goes where we say it.
    pub(super) fn start(guard: &[&str], worker: &str, prepare: &Prepare) -> Result<Self, Failure> {
        let failed = |e: &dyn std::error::Error| {
            Failure::new("the command's guard can't be started").caused_by(e)
        };
        let value = |placeholder| value(placeholder, worker, prepare);
        let command = &prepare.plan.consumer.command;
        let words: Result<Vec<String>, _> =
            command.iter().map(|word| expand(word, value)).collect();
        let words = words.map_err(|e| Failure::new(e.message).hint(e.hint))?;
        let (program, arguments) =
            guard.split_first().ok_or_else(|| Failure::new("there is no guard for a command"))?;
        let said = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
        let mut guard = Command::new(program)
            .args(arguments)
            .args(words)
            .envs(environment(prepare))
            .stdin(Stdio::piped())
            .stdout(said().map_err(|e| failed(&e))?)
            .stderr(said().map_err(|e| failed(&e))?)
            .process_group(0)
            .spawn()
            .map_err(|e| failed(&e))?;
        Ok(Self { wanted: guard.stdin.take(), guard, ended: None })
    }

    /// Waits for its end. Cancelling this loses nothing.
    pub(super) async fn ended(&mut self) -> Failure {
        if self.ended.is_none() {
            self.ended = Some(self.guard.wait().await);
        }
        match &self.ended {
            Some(Ok(status)) => Failure::new(format!("the command ended by itself ({status})")),
            _ => Failure::new("the command's end can't be waited for"),
        }
    }

    /// Ends it, if it has not ended: first by asking it to.
    pub(super) async fn stop(&mut self) {
        drop(self.wanted.take());
        let _ = tokio::time::timeout(STOP_TIMEOUT, self.ended()).await;
    }
}

fn value(placeholder: Placeholder, worker: &str, prepare: &Prepare) -> String {
    let Prepare { address, clickhouse, slot, publication, .. } = prepare;
    let clickhouse = clickhouse.as_ref();
    match placeholder {
        Placeholder::PostgresUrl => address.to_url(),
        Placeholder::PostgresHost => host(address),
        Placeholder::PostgresPort => address.port.to_string(),
        Placeholder::PostgresUser => address.user.clone().unwrap_or_default(),
        Placeholder::PostgresPassword => address.password.clone().unwrap_or_default(),
        Placeholder::PostgresDatabase => address.dbname.clone().unwrap_or_default(),
        Placeholder::Slot => slot.clone(),
        Placeholder::Publication => publication.clone(),
        Placeholder::ClickhouseUrl => clickhouse.map(ClickhouseAddress::to_url).unwrap_or_default(),
        Placeholder::ClickhouseDatabase => {
            clickhouse.and_then(|it| it.database.clone()).unwrap_or_default()
        }
        Placeholder::Worker => worker.to_owned(),
    }
}

/// `text` with the placeholders that a query may have.
pub(super) fn filled_in(text: &str, worker: &str, prepare: &Prepare) -> Result<String, Failure> {
    let filled = expand(text, |placeholder| value(placeholder, worker, prepare));
    filled.map_err(|e| Failure::new(e.message).hint(e.hint))
}

fn host(address: &PostgresAddress) -> String {
    match &address.host {
        Host::Tcp(host) => host.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    }
}

/// What needs not stand on a command line, where all users of the machine can read it.
fn environment(prepare: &Prepare) -> Vec<(&'static str, String)> {
    let Prepare { address, clickhouse, slot, publication, .. } = prepare;
    let mut variables = vec![
        ("PGHOST", host(address)),
        ("PGPORT", address.port.to_string()),
        ("WALBENCH_SLOT", slot.clone()),
        ("WALBENCH_PUBLICATION", publication.clone()),
    ];
    variables.extend(address.user.clone().map(|user| ("PGUSER", user)));
    variables.extend(address.password.clone().map(|password| ("PGPASSWORD", password)));
    variables.extend(address.dbname.clone().map(|database| ("PGDATABASE", database)));
    variables.extend(clickhouse.as_ref().map(|it| ("WALBENCH_CLICKHOUSE_URL", it.to_url())));
    if matches!(address.host, Host::Tcp(_)) {
        variables.push(("PGSSLMODE", address.ssl.mode.as_str().into()));
        let root = address.ssl.root_cert.as_ref();
        variables.extend(root.map(|path| ("PGSSLROOTCERT", path.display().to_string())));
    }
    variables
}
