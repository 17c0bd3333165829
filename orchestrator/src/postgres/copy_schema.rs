//! Copies another database's schema into ours: `pg_dump --schema-only` into `psql`.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;
use walbench_metrics::Failure;
use walbench_phases::address::{Host, PostgresAddress};

use super::binaries::Binaries;

/// Copies the schema; publications, owners and grants stay behind.
pub(crate) async fn copy(
    from: &PostgresAddress,
    to: &PostgresAddress,
    pg_bin: Option<&Path>,
) -> Result<(), Failure> {
    let programs = Binaries::find_client(pg_bin)
        .map_err(|f| Failure::new("postgres.schema_from needs pg_dump and psql").because(f))?;
    let dump = [
        "--schema-only",
        "--no-owner",
        "--no-privileges",
        "--no-publications",
        "--no-subscriptions",
        "--no-tablespaces",
        "--lock-wait-timeout=30s",
    ];
    let mut pg_dump = client(&programs, "pg_dump", from);
    let mut dumping = pg_dump
        .args(dump)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Failure::new("pg_dump can't be started").caused_by(&e))?;
    let pipe = dumping.stdout.take().map(TryInto::<Stdio>::try_into);
    let pipe = pipe.and_then(Result::ok).ok_or_else(|| Failure::new("pg_dump has no output"))?;
    let psql = client(&programs, "psql", to)
        .args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--set=ON_ERROR_STOP=1"])
        .stdin(pipe)
        .output();
    let (dumped, restored) = tokio::join!(dumping.wait_with_output(), psql);
    finished("pg_dump", from, dumped)?;
    finished("psql", to, restored)
}

/// A client program with its connection in the environment, where other users can't read it.
fn client(programs: &Binaries, name: &str, address: &PostgresAddress) -> Command {
    let mut command = Command::from(super::command(programs.program(name)));
    let host = match &address.host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    };
    command.env("PGHOST", host).env("PGPORT", address.port.to_string());
    let mut set = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            command.env(name, value);
        }
    };
    set("PGUSER", address.user.as_deref());
    set("PGPASSWORD", address.password.as_deref());
    set("PGDATABASE", address.dbname.as_deref());
    set("PGSSLMODE", Some(address.ssl.mode.as_str()));
    let root = address.ssl.root_cert.as_ref().map(|path| path.display().to_string());
    set("PGSSLROOTCERT", root.as_deref());
    set("PGOPTIONS", address.options.get("options").map(String::as_str));
    set("PGCONNECT_TIMEOUT", address.options.get("connect_timeout").map(String::as_str));
    set("PGCHANNELBINDING", address.options.get("channel_binding").map(String::as_str));
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn finished(
    name: &str,
    address: &PostgresAddress,
    output: std::io::Result<std::process::Output>,
) -> Result<(), Failure> {
    let text = || format!("the schema can't be copied: {name} failed on {address}");
    let output = output.map_err(|e| Failure::new(text()).caused_by(&e))?;
    if output.status.success() {
        return Ok(());
    }
    let mut failure = Failure::new(text());
    let said = String::from_utf8_lossy(&output.stderr);
    failure.causes.extend(said.lines().take(10).map(str::to_owned));
    let hint = match name {
        "pg_dump" => "check postgres.schema_from; pg_dump must be at least as new as its server",
        _ => "the schema may need extensions that this server does not have",
    };
    Err(failure.hint(hint))
}
