//! The replication connections over TCP: what the kernel counts at each of their ends that is on this
//! machine. Whoever follows, it costs neither of them anything.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use walbench_metrics::vitals::TcpUse;
use walbench_profiles::{TcpEnd, TcpMeter};

use crate::event::Walsender;
use crate::postgres::control::Control;

/// See the module.
#[derive(Debug)]
pub(super) struct Connections {
    meter: TcpMeter,
    /// Where we have reached the server, by its own account.
    server: SocketAddr,
    ends: Vec<(String, TcpEnd)>,
}

impl Connections {
    /// `None` where the server is reached over a Unix socket, and where the kernel does not tell.
    pub(super) async fn begin(control: &Control) -> Option<Self> {
        let sql = "SELECT host(inet_server_addr()), inet_server_port()";
        let row = control.client.query_one(sql, &[]).await.ok()?;
        let server = address(row.get(0), row.get(1))?;
        Some(Self { meter: TcpMeter::open().ok()?, server, ends: Vec::new() })
    }

    /// From here on the connections of these walsenders are read; the same as before, where the server
    /// did not answer who they are.
    pub(super) fn follow(&mut self, walsenders: &[Walsender]) {
        if walsenders.is_empty() {
            return;
        }
        let clients = walsenders.iter().filter_map(|it| Some((it.slot, it.client?)));
        let ends = clients.flat_map(|(slot, client)| {
            [
                (format!("walsender-{slot}"), (self.server, client)),
                (format!("consumer-{slot}"), (client, self.server)),
            ]
        });
        self.ends = ends.collect();
        let known: Vec<TcpEnd> = self.ends.iter().map(|(_, end)| *end).collect();
        self.meter.keep(&known);
    }

    /// What each of their ends did since the last time.
    pub(super) fn used(&mut self) -> BTreeMap<String, TcpUse> {
        let ends = self.ends.iter();
        ends.filter_map(|(name, end)| Some((name.clone(), self.meter.read(*end)?))).collect()
    }
}

/// An address as PostgreSQL gives it; a Unix socket has none.
pub(super) fn address(host: Option<&str>, port: Option<i32>) -> Option<SocketAddr> {
    let host: IpAddr = host?.parse().ok()?;
    Some(SocketAddr::new(host, u16::try_from(port?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_address_is_no_tcp() {
        let of = |host, port| address(host, port).map(|address| address.to_string());
        assert_eq!(of(Some("10.0.0.1"), Some(5432)).as_deref(), Some("10.0.0.1:5432"));
        assert_eq!(of(Some("::1"), Some(5432)).as_deref(), Some("[::1]:5432"));
        for (host, port) in [(None, Some(-1)), (Some("10.0.0.1"), Some(-1)), (Some("::1"), None)] {
            assert_eq!(of(host, port), None, "{host:?} {port:?}");
        }
    }
}
