//! Addresses as their users give them.

use walbench_metrics::Failure;
use walbench_phases::Env;
use walbench_phases::address::PostgresAddress;

use crate::ending;

/// An address that a flag or key gives, with what it leaves out: user and password are where libpq
/// looks for them.
pub(crate) fn given_address(name: &str, text: &str) -> Result<PostgresAddress, Failure> {
    let address = PostgresAddress::parse(text).map_err(|error| {
        let failure = Failure::new(format!("{name} can't be used")).caused_by(&error);
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })?;
    let (address, note) = address.completed(&Env::here());
    if let Some(note) = note {
        ending::say(&format!("note: {note}"));
    }
    Ok(address)
}
