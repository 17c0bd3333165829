//! Databases of the tests' own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use walbench_phases::address::PostgresAddress;
use walbench_producer::{Connected, connect};

use crate::cluster::Cluster;

/// A new server, with its address.
pub(crate) async fn own_server() -> (Cluster, PostgresAddress) {
    let cluster = Cluster::start();
    let address = cluster.address();
    (cluster, address)
}

/// A new database of this test's own.
pub(crate) async fn database() -> PostgresAddress {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTER.get_or_init(Cluster::start);
    let address = cluster.address();
    let name = format!("test {}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let admin = connect(&address, "test").await.unwrap();
    admin.client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await.unwrap();
    address.with_database(&name)
}

/// A connection for looking at what a producer did.
pub(crate) async fn look(address: &PostgresAddress) -> Connected {
    connect(address, "test").await.unwrap()
}
