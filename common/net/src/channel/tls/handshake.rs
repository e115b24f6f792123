//! A TLS session until it is open: `rustls` does the handshake, and leaves the secrets from which its records' keys follow.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::crypto::tls13::OkmBlock;
use rustls::{Connection, KeyLog};

use super::records::{Records, record_len};

/// A handshake that has begun.
pub struct TlsHandshake {
    tls: Connection,
    secrets: Arc<TrafficSecrets>,
    /// What is missing of the record that `rustls` is being given.
    missing: usize,
}

impl TlsHandshake {
    pub(super) fn new(tls: Connection, secrets: Arc<TrafficSecrets>) -> TlsHandshake {
        TlsHandshake { tls, secrets, missing: 0 }
    }

    /// Whether all that the peer had to say has come; [`TlsHandshake::send`] may still have something.
    pub fn is_done(&self) -> bool {
        !self.tls.is_handshaking()
    }

    /// Appends what is to be sent.
    pub fn send(&mut self, wire: &mut Vec<u8>) {
        // A vector takes all of it and has no errors.
        while self.tls.wants_write() && self.tls.write_tls(wire).is_ok() {}
    }

    /// Takes what has come, up to the end of the handshake; returns how much that was. What is left is to be given again with what
    /// follows, or to [`Records::open`].
    ///
    /// # Errors
    /// The peer is wrong; [`TlsHandshake::send`] has the alert that says so.
    pub fn receive(&mut self, wire: &[u8]) -> Result<usize, rustls::Error> {
        let mut rest = wire;
        while !self.is_done() {
            if self.missing == 0 {
                // Not a byte of the next record may go to rustls if this one is the last.
                let Some(len) = record_len(rest) else { break };
                self.missing = len;
            }
            let (mut part, behind) = rest.split_at(self.missing.min(rest.len()));
            if part.is_empty() {
                break;
            }
            self.missing -= part.len();
            rest = behind;
            while !part.is_empty() {
                let taken = self.tls.read_tls(&mut part);
                self.tls.process_new_packets()?;
                if !matches!(taken, Ok(1..)) {
                    return Err(rustls::Error::General("rustls takes no more".into()));
                }
            }
        }
        Ok(wire.len() - rest.len())
    }

    /// A secret of both ends of this session (RFC 8446 §7.5).
    ///
    /// # Errors
    /// The handshake is not done.
    pub(in crate::channel) fn export<T: AsMut<[u8]>>(
        &self,
        output: T,
        label: &[u8],
    ) -> Result<T, rustls::Error> {
        self.tls.export_keying_material(output, label, None)
    }

    #[cfg(test)]
    pub(super) fn group(&self) -> Option<rustls::NamedGroup> {
        self.tls.negotiated_key_exchange_group().map(|group| group.name())
    }

    /// The open session. What [`TlsHandshake::send`] had to say goes before its first record.
    ///
    /// # Errors
    /// The handshake is not done, or keys have been used that are to be ours alone.
    pub fn finish(self) -> Result<Records, rustls::Error> {
        let suite = self.tls.negotiated_cipher_suite().and_then(|suite| suite.tls13());
        let secrets = std::mem::take(&mut *self.secrets.lock());
        let (Some(suite), Secrets { client: Some(client), server: Some(server) }) = (suite, secrets) else {
            return Err(rustls::Error::HandshakeNotComplete);
        };
        let (ours, theirs) = match self.tls {
            Connection::Client(_) => (client, server),
            Connection::Server(_) => (server, client),
        };
        // It also refuses while the handshake lasts, or while something waits to be sent.
        let extracted = self.tls.dangerous_extract_secrets()?;
        if (extracted.tx.0, extracted.rx.0) != (0, 0) {
            return Err(rustls::Error::General("records before the first".into()));
        }
        Records::new(suite, ours, theirs).map_err(|error| rustls::Error::General(error.to_string()))
    }
}

#[derive(Default)]
struct Secrets {
    client: Option<Box<OkmBlock>>,
    server: Option<Box<OkmBlock>>,
}

/// The traffic secrets of one session, in boxes, so that no copies stay where they were. What `rustls` lets extract are keys from which no
/// others follow; its log of keys is told the secrets, and this one keeps them for the session itself.
#[derive(Default)]
pub(super) struct TrafficSecrets(Mutex<Secrets>);

impl TrafficSecrets {
    fn lock(&self) -> MutexGuard<'_, Secrets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TrafficSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrafficSecrets")
    }
}

const OF_CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const OF_SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

impl KeyLog for TrafficSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        let secret = Some(Box::new(OkmBlock::new(secret)));
        match label {
            OF_CLIENT => self.lock().client = secret,
            OF_SERVER => self.lock().server = secret,
            _ => {}
        }
    }

    fn will_log(&self, label: &str) -> bool {
        matches!(label, OF_CLIENT | OF_SERVER)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use crate::channel::tls::tests::{hear, rustls_peer, said};
    use crate::channel::tls::{Buffer, Tls};

    #[test]
    fn what_comes_right_behind_the_handshake_is_left_for_the_records() {
        let mut tls = Tls::new().unwrap();
        // Data behind the server's own part of the handshake, before the client has finished.
        tls.server.send_half_rtt_data = true;
        let (mut ours, mut server) = (tls.initiate().unwrap(), rustls_peer(&tls, false));
        let mut wire = Vec::new();
        ours.send(&mut wire);
        hear(&mut server, &wire);
        server.writer().write_all(b"early").unwrap();
        let flight = said(&mut server);
        let taken = ours.receive(&flight).unwrap();
        assert!(ours.is_done() && taken < flight.len());
        ours.send(&mut wire);
        let mut plain = Buffer::new();
        let opened = ours.finish().unwrap().open(&flight[taken..], &mut plain).unwrap();
        assert_eq!((taken + opened, &plain[..]), (flight.len(), &b"early"[..]));
    }

    #[test]
    fn a_flight_may_come_in_parts_of_any_size() {
        let tls = Tls::new().unwrap();
        for size in [1, 4, 5, 6, 100, 4096] {
            let (mut ours, mut server) = (tls.initiate().unwrap(), rustls_peer(&tls, false));
            let mut wire = Vec::new();
            ours.send(&mut wire);
            hear(&mut server, &wire);
            let flight = said(&mut server);
            let mut held = Vec::new();
            for part in flight.chunks(size) {
                held.extend_from_slice(part);
                let taken = ours.receive(&held).unwrap();
                held.drain(..taken);
            }
            assert!(ours.is_done() && held.is_empty(), "{size}");
        }
    }

    #[test]
    fn another_protocol_is_refused_at_once_and_told_why() {
        let mut ours = Tls::new().unwrap().respond().unwrap();
        assert!(ours.receive(b"GET / HTTP/1.1\r\n").is_err());
        let mut wire = Vec::new();
        ours.send(&mut wire);
        assert_eq!(wire.first(), Some(&21), "an alert");
    }
}
