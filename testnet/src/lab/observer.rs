//! The observer: a process of its own that stands beside the lines and writes down when a packet passed, which way, and
//! how long it was. It has no other source: no log, no state, no memory of any other process.
//!
//! 1. It enters the namespace where the far ends of all watched lines lie, and opens one packet socket there.
//! 2. The kernel says of each packet when it came, on which interface, and whether it left or arrived.
//! 3. TCP and IP headers, which everybody on the way can read, say how much a packet carries, and, on the line to the
//!    sites, which of their addresses it goes to.
//! 4. It ends when its stdin does, and says what it saw and missed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, IoSliceMut, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Args;
use etherparse::{LaxPacketHeaders, NetHeaders, TransportHeader};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use serde::{Deserialize, Serialize};

use super::trace::{Packet, SITE_LINKS, Writer};
use crate::launch::place::Namespace;

/// The interface behind which the sites are; every other one that is watched leads to a client.
pub const SITES_INTERFACE: &str = "sites";
/// What the observer says once it sees packets.
pub const READY: &str = "ready";
/// Enough of a packet for its headers.
const SNAP_LEN: usize = 128;
/// What the kernel may hold until it is read.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How often it looks whether it shall end.
const LOOK_MS: i64 = 100;
/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u8 = 4;
const ETHERNET_HEADER_LEN: u16 = 14;

/// What the observer is told.
#[derive(Debug, Args)]
pub struct ObserveArgs {
    /// The namespace to watch in
    #[arg(long)]
    netns: Namespace,
    /// Interfaces of clients, in the order of their numbers
    #[arg(long, value_delimiter = ',')]
    clients: Vec<String>,
    /// The last byte of the address of the first client's server
    #[arg(long)]
    first_server: u8,
    /// Where to write the trace
    #[arg(long)]
    out: PathBuf,
}

/// What it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Packets in the trace.
    pub packets: u64,
    /// Packets that the kernel could not keep until they were read.
    pub missed: u32,
}

/// Watches until stdin closes.
///
/// # Errors
/// Without root, or if the trace cannot be written.
pub fn run(args: &ObserveArgs) -> anyhow::Result<()> {
    args.netns.enter()?;
    let lines = Lines::find(args)?;
    let socket = open().context("cannot open a packet socket; that takes root")?;
    let file = File::create(&args.out).with_context(|| format!("cannot write {}", args.out.display()))?;
    let mut trace = Writer::new(BufWriter::new(file))?;
    let ended = end_with_stdin();
    println!("{READY}");
    io::stdout().flush()?;
    let mut seen = Seen { packets: 0, missed: 0 };
    while !ended.load(Ordering::Relaxed) {
        let Some(frame) = receive(&socket, &mut seen.missed)? else { continue };
        if let Some(packet) = lines.packet(&frame) {
            trace.write(&packet)?;
            seen.packets += 1;
        }
    }
    trace.finish()?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(LOOK_MS))?;
    Ok(socket)
}

fn end_with_stdin() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        flag.store(true, Ordering::Relaxed);
    });
    ended
}

/// A packet as the kernel hands it over.
struct Frame {
    time_us: u64,
    interface: usize,
    outgoing: bool,
    head: [u8; SNAP_LEN],
    len: usize,
}

/// The next packet, or `None` if none came for a while.
fn receive(socket: &OwnedFd, missed: &mut u32) -> anyhow::Result<Option<Frame>> {
    let mut head = [0; SNAP_LEN];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
    let (len, address, time_us) = {
        let mut into = [IoSliceMut::new(&mut head)];
        let flags = MsgFlags::empty();
        let message = match recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut into, Some(&mut control), flags) {
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            message => message.context("cannot receive packets")?,
        };
        let mut time_us = None;
        for said in message.cmsgs()? {
            match said {
                ControlMessageOwned::ScmTimestampns(at) => {
                    time_us =
                        Some(at.tv_sec().cast_unsigned() * 1_000_000 + at.tv_nsec().cast_unsigned() / 1_000);
                }
                ControlMessageOwned::RxqOvfl(total) => *missed = total,
                _ => {}
            }
        }
        (message.bytes, message.address, time_us)
    };
    let (Some(address), Some(time_us)) = (address, time_us) else { return Ok(None) };
    let outgoing = address.pkttype() == OUTGOING;
    Ok(Some(Frame { time_us, interface: address.ifindex(), outgoing, head, len }))
}

/// The lines that are watched, by the kernel's numbers of their interfaces.
struct Lines {
    clients: HashMap<usize, u16>,
    sites: usize,
    first_server: u8,
}

impl Lines {
    fn find(args: &ObserveArgs) -> anyhow::Result<Lines> {
        let numbers = args.clients.iter().zip(0..).map(|(name, link)| Ok((interface(name)?, link)));
        let clients = numbers.collect::<anyhow::Result<_>>()?;
        Ok(Lines { clients, sites: interface(SITES_INTERFACE)?, first_server: args.first_server })
    }

    /// What is written down about it, if its line is watched and it is TCP.
    fn packet(&self, frame: &Frame) -> Option<Packet> {
        let client = self.clients.get(&frame.interface);
        if client.is_none() && frame.interface != self.sites {
            return None;
        }
        let headers = LaxPacketHeaders::from_ethernet(&frame.head[..frame.len]).ok()?;
        let Some(NetHeaders::Ipv4(ip, _)) = headers.net else { return None };
        let Some(TransportHeader::Tcp(tcp)) = headers.transport else { return None };
        let header_len = u16::try_from(ip.header_len() + tcp.header_len()).ok()?;
        // What leaves here goes to the person on a client's line, and away from them on the sites'.
        let (link, forward) = match client {
            Some(link) => (*link, !frame.outgoing),
            None => {
                let server = if frame.outgoing { ip.destination } else { ip.source };
                (self.site_link(server)?, frame.outgoing)
            }
        };
        Some(Packet {
            time_us: frame.time_us,
            link,
            bytes: ip.total_len.saturating_add(ETHERNET_HEADER_LEN),
            payload: ip.total_len.saturating_sub(header_len),
            forward,
        })
    }

    fn site_link(&self, server: [u8; 4]) -> Option<u16> {
        let [.., last] = Ipv4Addr::from(server).octets();
        last.checked_sub(self.first_server).map(|client| SITE_LINKS + u16::from(client))
    }
}

/// The kernel's number of an interface of the namespace that this thread is in. (`/sys` shows the namespace in which it
/// was mounted, so it cannot be asked.)
fn interface(name: &str) -> anyhow::Result<usize> {
    let number = nix::net::if_::if_nametoindex(name);
    Ok(number.with_context(|| format!("there is no interface {name}"))? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const CLIENT: usize = 5;
    const SITES: usize = 9;
    const SERVER: [u8; 4] = [10, 89, 0, 13];
    const EXIT: [u8; 4] = [10, 89, 0, 1];

    fn lines() -> Lines {
        Lines { clients: HashMap::from([(CLIENT, 3)]), sites: SITES, first_server: 10 }
    }

    fn tcp(from: [u8; 4], to: [u8; 4], payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        let packet = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(from, to, 64).tcp(4_000, 80, 7, 1_000);
        packet.write(&mut frame, &vec![0; payload]).unwrap();
        frame
    }

    fn seen(interface: usize, outgoing: bool, frame: &[u8]) -> Option<Packet> {
        let len = frame.len().min(SNAP_LEN);
        let mut head = [0; SNAP_LEN];
        head[..len].copy_from_slice(&frame[..len]);
        lines().packet(&Frame { time_us: 1, interface, outgoing, head, len })
    }

    #[test]
    fn a_clients_packet_has_its_line_direction_and_length_though_only_its_head_is_read() {
        let frame = tcp([10, 88, 3, 2], [10, 77, 0, 1], 1_400);
        let expect = Packet { time_us: 1, link: 3, bytes: 1_454, payload: 1_400, forward: true };
        assert_eq!(seen(CLIENT, false, &frame), Some(expect));
        assert_eq!(seen(CLIENT, true, &frame), Some(Packet { forward: false, ..expect }));
    }

    #[test]
    fn a_packet_at_the_sites_belongs_to_the_server_at_either_end_of_it() {
        let to = seen(SITES, true, &tcp(EXIT, SERVER, 0)).unwrap();
        let from = seen(SITES, false, &tcp(SERVER, EXIT, 9)).unwrap();
        assert_eq!((to.link, to.forward, to.payload), (SITE_LINKS + 3, true, 0));
        assert_eq!((from.link, from.forward, from.payload), (SITE_LINKS + 3, false, 9));
    }

    #[test]
    fn other_lines_protocols_and_garbage_are_left_out() {
        let mut udp = Vec::new();
        let packet = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(EXIT, SERVER, 64).udp(1, 2);
        packet.write(&mut udp, &[0; 9]).unwrap();
        assert_eq!(seen(CLIENT, true, &udp), None);
        assert_eq!(seen(7, true, &tcp(EXIT, SERVER, 9)), None);
        assert_eq!(seen(SITES, true, &tcp(EXIT, [10, 89, 0, 9], 9)), None, "no server has this address");
        assert_eq!(seen(CLIENT, true, &tcp(EXIT, SERVER, 9)[..40]), None);
        assert_eq!(seen(CLIENT, true, &[]), None);
    }
}
