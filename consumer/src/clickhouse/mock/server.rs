//! The mock behind its port: it listens, except during outages.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use walbench_metrics::Failure;
use walbench_metrics::clock::wall_us;
use walbench_phases::faults::{PhaseStarts, is_active, next_change_us};
use walbench_phases::plan::FaultKind;

use super::engine::{Mock, MockEngine};
use crate::clickhouse::front::Front;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// What running inserts are given at a stop.
const GRACE: Duration = Duration::from_secs(5);

/// A port on loopback that is nobody else's for as long as this lives, though nobody listens.
#[derive(Debug)]
pub struct ReservedPort {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// A free one, or a certain one.
    ///
    /// # Errors
    /// None is free, or that one is not.
    pub fn take(port: u16) -> io::Result<Self> {
        let socket = socket()?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: socket })
    }

    /// Its number.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

/// Sockets of one user share a port if all of them say so.
fn socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    Ok(socket)
}

fn listen(port: u16) -> Result<TcpListener, Failure> {
    let listening = socket().and_then(|socket| {
        socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
        socket.listen(BACKLOG)
    });
    listening
        .map_err(|e| Failure::new(format!("the mock can't listen on port {port}")).caused_by(&e))
}

/// Serves a mock on a reserved port until `stopped` ends. `ready` is called once it listens.
///
/// # Errors
/// It can't listen.
pub async fn serve(
    mock: Arc<Mock>,
    port: u16,
    ready: impl FnOnce(),
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut ready = Some(ready);
    let mut starts = mock.starts();
    tokio::pin!(stopped);
    loop {
        let listener = listen(port)?;
        let front = Front::start(listener, Arc::new(MockEngine(mock.clone())), None)
            .map_err(|e| Failure::new("the mock can't be served").caused_by(&e))?;
        if let Some(ready) = ready.take() {
            ready();
        }
        tokio::select! {
            () = until_outage(&mock, &mut starts, true) => front.cut().await,
            () = &mut stopped => {
                front.stop(GRACE).await;
                return Ok(());
            }
        }
        mock.count_faults(&[FaultKind::Outage]);
        tokio::select! {
            () = until_outage(&mock, &mut starts, false) => {}
            () = &mut stopped => return Ok(()),
        }
    }
}

/// Waits until there is an outage, or none.
async fn until_outage(mock: &Mock, starts: &mut watch::Receiver<PhaseStarts>, wanted: bool) {
    loop {
        let (now_us, known) = (wall_us(), starts.borrow_and_update().clone());
        let mut outages = mock.faults().iter().filter(|fault| fault.kind == FaultKind::Outage);
        if outages.any(|fault| is_active(fault, &known, now_us)) == wanted {
            return;
        }
        let next_us = next_change_us(mock.faults(), FaultKind::Outage, &known, now_us);
        let wait = next_us.map(|at| Duration::from_micros(at.abs_diff(now_us)));
        tokio::select! {
            () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
            _ = starts.changed() => {}
        }
    }
}
