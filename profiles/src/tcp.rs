//! What the kernel says of TCP connections, from outside of the processes that have them: sock_diag(7),
//! which anybody may ask. Ends on other machines and in other network namespaces are not there.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::nlas::{Nla, TcpInfo};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use walbench_metrics::vitals::{Gauge, TcpUse};

/// One end of a connection: its own address, and the other's.
pub type TcpEnd = (SocketAddr, SocketAddr);

/// Which one of several sockets is meant is not asked.
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// Reads what ends of connections did since the last time.
pub struct TcpMeter {
    socket: Socket,
    before: HashMap<TcpEnd, (Instant, TcpInfo)>,
}

impl std::fmt::Debug for TcpMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TcpMeter({} ends)", self.before.len())
    }
}

impl TcpMeter {
    /// A way to the kernel.
    ///
    /// # Errors
    /// The kernel has no sock_diag, or something forbids it.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
        // It answers at once, or not at all.
        socket.set_non_blocking(true)?;
        Ok(Self { socket, before: HashMap::new() })
    }

    /// What that end did since it was asked for the last time; `None` for the first time, and where it
    /// is not on this machine.
    pub fn read(&mut self, end: TcpEnd) -> Option<TcpUse> {
        let now = Instant::now();
        let Some(info) = self.info(end) else {
            self.before.remove(&end);
            return None;
        };
        let (then, before) = self.before.insert(end, (now, info.clone()))?;
        let passed_us = u64::try_from((now - then).as_micros()).unwrap_or(u64::MAX);
        used(&before, &info, passed_us)
    }

    /// Forgets all ends but these.
    pub fn keep(&mut self, ends: &[TcpEnd]) {
        self.before.retain(|end, _| ends.contains(end));
    }

    fn info(&self, end: TcpEnd) -> Option<TcpInfo> {
        // An answer that came too late would be taken for this one's.
        while self.socket.recv_from_full().is_ok() {}
        self.socket.send(&request(end), 0).ok()?;
        let (answer, _) = self.socket.recv_from_full().ok()?;
        let message = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).ok()?;
        let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = message.payload
        else {
            return None;
        };
        response.nlas.into_iter().find_map(|nla| match nla {
            Nla::TcpInfo(info) => Some(info),
            _ => None,
        })
    }
}

fn request((local, remote): TcpEnd) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let socket_id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip(),
        destination_address: remote.ip(),
        interface_id: 0,
        cookie: ANY_COOKIE,
    };
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states: StateFlags::all(),
        socket_id,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// `None` where counters went backwards: another connection has the same addresses.
fn used(before: &TcpInfo, now: &TcpInfo, passed_us: u64) -> Option<TcpUse> {
    let mut round_trip_us = Gauge::default();
    round_trip_us.see(now.rtt.into());
    // Some are counters of 32 bits.
    let wrapping = |before: u32, now: u32| u64::from(now.wrapping_sub(before));
    Some(TcpUse {
        passed_us,
        round_trip_us,
        acknowledged_bytes: now.bytes_acked.checked_sub(before.bytes_acked)?,
        sent_segments: wrapping(before.data_segs_out, now.data_segs_out),
        retransmits: wrapping(before.total_retrans, now.total_retrans),
        busy_us: now.busy_time.checked_sub(before.busy_time)?,
        window_limited_us: now.rwnd_limited.checked_sub(before.rwnd_limited)?,
        buffer_limited_us: now.sndbuf_limited.checked_sub(before.sndbuf_limited)?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn pair(address: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// More than both ends' buffers hold.
    const BYTES: usize = 64 << 20;

    #[test]
    fn a_reader_without_room_is_seen_at_the_other_end() {
        let (mut reader, mut writer) = pair("127.0.0.1");
        let end = (writer.local_addr().unwrap(), writer.peer_addr().unwrap());
        let mut meter = TcpMeter::open().unwrap();
        assert_eq!(meter.read(end), None, "there is nothing before");
        let idle = meter.read(end).unwrap();
        assert_eq!((idle.acknowledged_bytes, idle.busy_us, idle.retransmits), (0, 0, 0));
        assert_eq!(idle.round_trip_us.looks, 1);
        let writing = std::thread::spawn(move || {
            writer.write_all(&vec![7; BYTES]).unwrap();
            writer
        });
        std::thread::sleep(Duration::from_millis(300));
        let stuck = meter.read(end).unwrap();
        assert!(stuck.passed_us >= 300_000 && stuck.busy_us > 100_000, "{stuck:?}");
        assert!(stuck.window_limited_us > 100_000, "{stuck:?}");
        assert!(stuck.window_limited_us <= stuck.busy_us, "{stuck:?}");
        let mut taken = vec![0; BYTES];
        reader.read_exact(&mut taken).unwrap();
        let _writer = writing.join().unwrap();
        let mut all = stuck;
        all.merge(&meter.read(end).unwrap());
        assert!(all.acknowledged_bytes <= BYTES as u64, "{all:?}");
        assert!(all.acknowledged_bytes > BYTES as u64 / 2 && all.sent_segments > 0, "{all:?}");
        meter.keep(&[]);
        assert_eq!(meter.read(end), None, "it is forgotten");
    }

    #[test]
    fn both_ends_of_a_connection_over_ipv6_are_there_and_no_other() {
        let Ok(listener) = TcpListener::bind(("::1", 0)) else { return };
        drop(listener);
        let (one, _other) = pair("::1");
        let (local, remote) = (one.local_addr().unwrap(), one.peer_addr().unwrap());
        let mut meter = TcpMeter::open().unwrap();
        for end in [(local, remote), (remote, local)] {
            assert_eq!(meter.read(end), None);
            assert!(meter.read(end).is_some(), "{end:?}");
        }
        let nobody = (local, SocketAddr::new(remote.ip(), 1));
        assert!(meter.read(nobody).is_none() && meter.read(nobody).is_none());
    }
}
