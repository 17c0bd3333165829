//! Ways to log in, and ways not to.

use std::error::Error;
use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use walbench_consumer::replication::Connection;
use walbench_phases::address::{Host, PostgresAddress, SslMode, SslPolicy};

use crate::cluster::{Cluster, Version};
use crate::database::{Database, assert_said, on_every_server};

on_every_server![
    trust_and_scram_log_in,
    a_refused_login_is_said_with_what_to_do,
    the_old_ways_log_in,
    tls_is_verified_as_far_as_the_policy_says,
    what_can_not_be_reached_is_said_without_the_password,
];

fn over_tcp(address: &PostgresAddress, mode: SslMode) -> PostgresAddress {
    PostgresAddress {
        host: Host::Tcp("127.0.0.1".into()),
        ssl: SslPolicy { mode, root_cert: None },
        ..address.clone()
    }
}

/// What the server says of our connection, or why there is none.
fn log_in(address: &PostgresAddress) -> Result<String, String> {
    let mut connection =
        Connection::open(address, "test").map_err(|e| e.into_failure().to_string())?;
    let rows = connection
        .query(
            "anything",
            "SELECT current_user || CASE WHEN ssl THEN ' by TLS' ELSE '' END \
                            FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        )
        .map_err(|e| e.into_failure().to_string())?;
    Ok(rows[0][0].clone().unwrap())
}

async fn trust_and_scram_log_in(version: Version) {
    let database = Database::new(version).await;
    assert_eq!(log_in(&database.address), Ok("postgres".into()));
    let password = "a'b\\c \"d\" %&=?@/: é";
    let role = "CREATE ROLE password_user LOGIN REPLICATION PASSWORD";
    database.execute(&format!("{role} E'a\\'b\\\\c \"d\" %&=?@/: é'")).await;
    let mut address = over_tcp(&database.address, SslMode::Prefer);
    address.user = Some("password_user".into());
    address.password = Some(password.into());
    assert_eq!(log_in(&address), Ok("password_user".into()));

    address.password = Some("wrong".into());
    let refused = log_in(&address).unwrap_err();
    assert!(refused.contains("28P01") && refused.contains("hint: check user"), "{refused}");
    assert!(!refused.contains("wrong"), "{refused}");
    address.password = None;
    let refused = log_in(&address).unwrap_err();
    assert!(refused.contains("wants a password, and neither the URL has one"), "{refused}");
}

async fn a_refused_login_is_said_with_what_to_do(version: Version) {
    let database = Database::new(version).await;
    let mut address = over_tcp(&database.address, SslMode::Disable);
    address.password = Some("secret".into());
    let refused = |user: &str, database: &str| {
        let mut address = address.with_database(database);
        address.user = Some(user.into());
        let error = Connection::open(&address, "test").unwrap_err();
        assert!(error.is_usage() && !error.is_transient(), "{error:?}");
        // The server's own words change from version to version.
        let words = error.source().unwrap().to_string();
        let text = error.into_failure().to_string();
        assert!(!text.contains("secret"), "{text}");
        text.replace(&words, "<its words>")
    };
    // Wrong password, or no such user: the server does not tell them apart.
    assert_said!(refused("password_user", "postgres"), @r#"
    error: PostgreSQL refused the login of user "password_user"
      caused by: <its words>
      hint: check user, password and pg_hba.conf (a line for `replication` is not needed; logical replication uses the database's line)
    "#);
    // No line of pg_hba.conf.
    assert_said!(refused("stranger", "postgres"), @r#"
    error: PostgreSQL refused the login of user "stranger"
      caused by: <its words>
      hint: check user, password and pg_hba.conf (a line for `replication` is not needed; logical replication uses the database's line)
    "#);
    assert_said!(refused("postgres", "no\"where"), @r#"
    error: database "no"where" does not exist
      caused by: <its words>
      hint: name another database in the address, or CREATE DATABASE "no""where"
    "#);
}

async fn the_old_ways_log_in(version: Version) {
    let database = Database::new(version).await;
    database.execute("CREATE ROLE clear_user LOGIN REPLICATION PASSWORD 'c'").await;
    let mut address = over_tcp(&database.address, SslMode::Disable);
    address.user = Some("clear_user".into());
    address.password = Some("c".into());
    assert_eq!(log_in(&address), Ok("clear_user".into()));
    database
        .execute(
            "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN REPLICATION PASSWORD 'm'",
        )
        .await;
    let mut address = over_tcp(&database.address, SslMode::Disable);
    address.user = Some("md5_user".into());
    address.password = Some("m".into());
    assert_eq!(log_in(&address), Ok("md5_user".into()));
}

async fn tls_is_verified_as_far_as_the_policy_says(version: Version) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap().pem();
    let (certificate_file, other_file) = (temporary(&certificate), {
        let other = CertificateParams::new(vec!["localhost".into()]).unwrap();
        temporary(&other.self_signed(&KeyPair::generate().unwrap()).unwrap().pem())
    });
    let settings = ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"];
    let files = [("server.crt", certificate.as_str()), ("server.key", &key.serialize_pem())];
    let server = Cluster::start_with(version, &settings, &files);

    let log_in_as = |host: &str, mode, root: Option<&PathBuf>| {
        let mut address = over_tcp(&server.address(), mode);
        address.host = Host::Tcp(host.into());
        address.ssl.root_cert = root.cloned();
        log_in(&address)
    };
    let by_tls = Ok("postgres by TLS".to_owned());
    let root = Some(&certificate_file.1);
    assert_eq!(log_in_as("127.0.0.1", SslMode::Disable, None), Ok("postgres".into()));
    assert_eq!(log_in_as("127.0.0.1", SslMode::Prefer, None), by_tls);
    assert_eq!(log_in_as("127.0.0.1", SslMode::Require, None), by_tls);
    assert_eq!(log_in_as("127.0.0.1", SslMode::VerifyCa, root), by_tls);
    assert_eq!(log_in_as("localhost", SslMode::VerifyFull, root), by_tls);
    let wrong_name = log_in_as("127.0.0.1", SslMode::VerifyFull, root).unwrap_err();
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
    let untrusted = log_in_as("localhost", SslMode::VerifyCa, Some(&other_file.1)).unwrap_err();
    assert!(untrusted.contains("invalid peer certificate"), "{untrusted}");
}

async fn what_can_not_be_reached_is_said_without_the_password(version: Version) {
    let database = Database::new(version).await;
    let mut address = over_tcp(&database.address, SslMode::Require);
    address.password = Some("secret".into());
    let no_tls = log_in(&address).unwrap_err();
    assert!(no_tls.contains("does not offer TLS, which sslmode requires"), "{no_tls}");
    address.port = 1;
    let refused = log_in(&address).unwrap_err();
    assert!(refused.contains("can't connect to PostgreSQL at postgres://"), "{refused}");
    assert!(!refused.contains("secret") && !no_tls.contains("secret"), "{refused} {no_tls}");
}

fn temporary(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.crt");
    std::fs::write(&path, content).unwrap();
    (folder, path)
}
