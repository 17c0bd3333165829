//! The mark that tells our databases from everyone else's.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;
use walbench_metrics::Failure;

use walbench_producer::workload::quote as quote_identifier;

use super::control::refused;
use super::quote;

/// Stands as the database's comment. A slot is ours when its database is: slots can't be marked,
/// and they can't outlive their database either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Says whose database it is.
    pub(crate) made_by: MadeBy,
    /// The run it was made for.
    pub(crate) run_id: String,
    /// The user wants to keep it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
}

/// Always `walbench`; anything else is not our mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MadeBy {
    #[serde(rename = "walbench")]
    Walbench,
}

/// What a database of some name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// There is none.
    Absent,
    /// Made by us.
    Ours(Mark),
    /// Somebody else's.
    Foreign,
}

/// The statement that marks a database.
pub(crate) fn comment(database: &str, run_id: &str, kept: bool) -> String {
    let mark = Mark { made_by: MadeBy::Walbench, run_id: run_id.into(), kept };
    let text = serde_json::to_string(&mark).unwrap_or_default();
    format!("COMMENT ON DATABASE {} IS {}", quote_identifier(database), quote(&text))
}

/// Reads a database's comment.
pub(crate) fn read(comment: Option<&str>) -> Ownership {
    match comment.and_then(|text| serde_json::from_str(text).ok()) {
        Some(mark) => Ownership::Ours(mark),
        None => Ownership::Foreign,
    }
}

/// Whose a database is.
pub(crate) async fn of_database(client: &Client, name: &str) -> Result<Ownership, Failure> {
    let sql = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = $1";
    let row =
        client.query_opt(sql, &[&name]).await.map_err(|e| refused("look up the database", &e))?;
    Ok(row.map_or(Ownership::Absent, |row| read(row.get::<_, Option<&str>>(0))))
}

/// Our databases on a server, by name.
pub(crate) async fn all(client: &Client) -> Result<Vec<(String, Mark)>, Failure> {
    let sql = "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database \
               WHERE NOT datistemplate ORDER BY datname";
    let rows = client.query(sql, &[]).await.map_err(|e| refused("list the databases", &e))?;
    let ours = rows.into_iter().filter_map(|row| match read(row.get::<_, Option<&str>>(1)) {
        Ownership::Ours(mark) => Some((row.get(0), mark)),
        _ => None,
    });
    Ok(ours.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mark_is_known_again_and_no_other_comment_is() {
        let sql = comment("it's \"mine\"", "20260101T000000Z-o'clock", false);
        assert!(sql.starts_with("COMMENT ON DATABASE \"it's \"\"mine\"\"\" IS '"), "{sql}");
        let text = r#"{"made_by":"walbench","run_id":"x"}"#;
        assert!(matches!(read(Some(text)), Ownership::Ours(mark) if mark.run_id == "x"));
        for other in [None, Some(""), Some("walbench"), Some(r#"{"made_by":"me","run_id":"x"}"#)] {
            assert_eq!(read(other), Ownership::Foreign, "{other:?}");
        }
    }
}
