//! Which user of this machine is at the other end of a connection over loopback, by Linux's own list of sockets
//! (proc_pid_net(5), `/proc/net/tcp` and `tcp6`).
//!
//! A port on loopback is open to every user of the machine. What the client tells, and the token that the page carries,
//! are for its own user only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The user id of the superuser, who can read the client's memory anyway.
const ROOT: u32 = 0;

/// The user whose socket this line of the list describes, if it is the one at `theirs` that is connected to `ours`. The
/// socket of a program that has closed it already belongs to nobody.
pub fn owner(line: &str, theirs: SocketAddr, ours: SocketAddr) -> Option<u32> {
    // sl, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode.
    let mut fields = line.split_ascii_whitespace().skip(1);
    let ends = (address(fields.next()?)?, address(fields.next()?)?);
    if ends != (canonical(theirs), canonical(ours)) {
        return None;
    }
    let uid = fields.nth(4)?.parse().ok()?;
    let inode: u64 = fields.nth(1)?.parse().ok()?;
    (inode != 0).then_some(uid)
}

/// Whether this user may ask a client of user `us`.
pub fn may_ask(owner: u32, us: u32) -> bool {
    owner == us || owner == ROOT
}

/// An IPv4 address may be written as IPv6 on one side of a connection.
fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Words of 32 bits in hexadecimal, each in the machine's byte order, and a port.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(words.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match words.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let octets: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(word: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(word))
    }

    fn line(theirs: &str, ours: &str, uid: u32, inode: u64) -> String {
        format!(
            "   4: {theirs} {ours} 01 00000000:00000000 00:00000000 00000000  {uid}        0 {inode} 1 0000000000000000 20 4 30 10 -1"
        )
    }

    #[track_caller]
    fn check(line: &str, expect: Option<u32>) {
        let (theirs, ours) = ("127.0.0.1:40000".parse().unwrap(), "127.0.0.1:9152".parse().unwrap());
        assert_eq!(owner(line, theirs, ours), expect, "{line}");
    }

    #[test]
    fn the_user_is_that_of_the_other_end() {
        let local = hex([127, 0, 0, 1]);
        let (theirs, ours) = (format!("{local}:9C40"), format!("{local}:23C0"));
        check(&line(&theirs, &ours, 1_000, 77), Some(1_000));
        check(&line(&ours, &theirs, 1_000, 77), None);
        check(&line(&theirs, &format!("{local}:23C1"), 1_000, 77), None);
        check(&line(&format!("{}:9C40", hex([127, 0, 0, 2])), &ours, 1_000, 77), None);
        let mapped = [hex([0; 4]), hex([0; 4]), hex([0, 0, 255, 255]), local].concat();
        check(&line(&format!("{mapped}:9C40"), &format!("{mapped}:23C0"), 5, 77), Some(5));
    }

    #[test]
    fn a_socket_that_was_closed_already_is_not_roots() {
        let local = hex([127, 0, 0, 1]);
        check(&line(&format!("{local}:9C40"), &format!("{local}:23C0"), 0, 0), None);
    }

    #[test]
    fn other_addresses_and_nonsense_are_nobodys() {
        let (theirs, ours) = ("[::1]:40000".parse().unwrap(), "[::1]:9152".parse().unwrap());
        let loopback = [hex([0; 4]), hex([0; 4]), hex([0; 4]), hex([0, 0, 0, 1])].concat();
        let six = line(&format!("{loopback}:9C40"), &format!("{loopback}:23C0"), 12, 77);
        assert_eq!(owner(&six, theirs, ours), Some(12));
        for nonsense in
            ["", "  sl  local_address rem_address   st", "0: 1:2 3:4", "0: äöüäöüä:9C40 0100007F:23C0"]
        {
            check(nonsense, None);
        }
    }

    #[test]
    fn only_the_same_user_and_root_may_ask() {
        assert_eq!([1_000, 0, 1_001, 65_534].map(|owner| may_ask(owner, 1_000)), [true, true, false, false]);
    }
}
