//! Connections that come about, and those that don't, with what to do about it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use walbench_phases::address::{Host, PostgresAddress, SslMode, SslPolicy};
use walbench_producer::{connect, connection_failure};

use crate::database::{database, look};

/// The same server over TCP.
fn over_tcp(address: &PostgresAddress, user: &str, mode: SslMode) -> PostgresAddress {
    PostgresAddress {
        host: Host::Tcp("127.0.0.1".into()),
        user: Some(user.into()),
        ssl: SslPolicy { mode, root_cert: None },
        ..address.clone()
    }
}

async fn failure(address: &PostgresAddress) -> String {
    let error = connect(address, "test").await.expect_err("it connects");
    connection_failure(address, &error).to_string()
}

#[tokio::test]
async fn prefer_goes_on_in_plain_text_when_the_server_has_no_tls() {
    let address = over_tcp(&database().await, "postgres", SslMode::Prefer);
    let connected = connect(&address, "it's \"me\"").await.unwrap();
    let row = connected.client.query_one("SHOW application_name", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "it's \"me\"");
}

#[tokio::test]
async fn a_password_with_any_character_logs_in() {
    let address = database().await;
    let ddl = r#"CREATE ROLE password_user LOGIN PASSWORD 'a''b\c "d" %&=?@/:'"#;
    look(&address).await.client.batch_execute(ddl).await.unwrap();
    let mut address = over_tcp(&address, "password_user", SslMode::Disable);
    address.password = Some(r#"a'b\c "d" %&=?@/:"#.into());
    connect(&address, "test").await.unwrap();
    address.password = Some("wrong".into());
    let text = failure(&address).await;
    assert!(text.contains("hint: check user and password"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
    address.password = None;
    let text = failure(&address).await;
    assert!(text.contains("hint: put the password in the URL"), "{text}");
}

#[tokio::test]
async fn each_way_to_fail_says_what_to_do() {
    let address = database().await;
    let text = failure(&over_tcp(&address, "postgres", SslMode::Require)).await;
    assert!(text.contains("hint: check the server's ssl setting and sslmode"), "{text}");
    let text = failure(&over_tcp(&address, "nobody_known", SslMode::Disable)).await;
    assert!(text.contains("pg_hba.conf"), "{text}");
    let text = failure(&address.with_database("nowhere")).await;
    assert!(text.contains("hint: create the database nowhere"), "{text}");
    for host in [Host::Tcp("127.0.0.1".into()), Host::Unix(PathBuf::from("/nowhere"))] {
        let text = failure(&PostgresAddress { host, port: 1, ..address.clone() }).await;
        assert!(text.contains("can't connect to PostgreSQL at"), "{text}");
        assert!(text.contains("hint: check that the server is running"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = PostgresAddress {
        port: silent.local_addr().unwrap().port(),
        options: BTreeMap::from([("connect_timeout".into(), "1".into())]),
        ..over_tcp(&database().await, "postgres", SslMode::Disable)
    };
    let text = failure(&address).await;
    assert!(text.contains("no answer within 1 s"), "{text}");
}
