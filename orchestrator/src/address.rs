//! Addresses as their users give them.

use walbench_metrics::Failure;
use walbench_phases::Env;
use walbench_phases::address::{AddressError, PostgresAddress};
use walbench_phases::clickhouse::ClickhouseAddress;

use crate::ending;

/// A ClickHouse address that a flag or key gives; user and password, where it leaves them out, are
/// in the environment.
pub(crate) fn given_clickhouse(name: &str, text: &str) -> Result<ClickhouseAddress, Failure> {
    match ClickhouseAddress::parse(text) {
        Ok(address) => Ok(address.with_login_from(&Env::here())),
        Err(error) => Err(no_address(name, &error)),
    }
}

/// An address that a flag or key gives, with what it leaves out: user and password are where libpq
/// looks for them.
pub(crate) fn given_address(name: &str, text: &str) -> Result<PostgresAddress, Failure> {
    let address = PostgresAddress::parse(text).map_err(|error| no_address(name, &error))?;
    let (address, note) = address.completed(&Env::here());
    if let Some(note) = note {
        ending::say(&format!("note: {note}"));
    }
    Ok(address)
}

fn no_address(name: &str, error: &AddressError) -> Failure {
    let failure = Failure::new(format!("{name} can't be used")).caused_by(error);
    match &error.hint {
        Some(hint) => failure.hint(hint.clone()),
        None => failure,
    }
}
