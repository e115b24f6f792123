//! How a channel opens (docs/protocol.md §3.2–3.5), once TLS is up:
//!
//! 1. Both sides send `HELLO`, `AUTH`, `NETINFO` at once.
//! 2. `State::Hello`: versions are compared.
//! 3. `State::Auth`: the peer's identity is checked against this TLS session and against whom we called.
//! 4. `State::Netinfo`: clocks and addresses are noted. The channel is open.

use std::net::SocketAddr;

use crate::cell::{self, Auth, Cell, CellError, Command, Netinfo};
use crate::ids::RelayId;
use crate::keys::{KeyError, Signer};
use crate::time::UnixTime;
use zeroize::Zeroizing;

/// Label of the TLS exporter that identities are bound to.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-tunic-channel-v1";
/// Length of the exporter's output in bytes.
pub const EXPORTER_LEN: usize = 32;
const AUTH_CONTEXT: &[u8] = b"tunic-channel-auth-v1\0";

/// Which side of the channel this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It opened the connection.
    Initiator = 0,
    /// It accepted the connection.
    Responder = 1,
}

impl Role {
    fn other(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }
}

/// Why a channel did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// A cell was malformed.
    #[error(transparent)]
    Cell(#[from] CellError),
    /// Another cell than the one that comes next.
    #[error("{0:?} out of order")]
    OutOfOrder(Command),
    /// The peer speaks no version that we do.
    #[error("no common version")]
    NoCommonVersion,
    /// The certificate or the proof is wrong.
    #[error("identity not proved: {0}")]
    BadProof(#[from] KeyError),
    /// The peer proved another identity than the one called, or none.
    #[error("not the relay that was called")]
    WrongIdentity,
}

/// What a side knows before the handshake.
pub struct Local<'a> {
    /// Which side it is.
    pub role: Role,
    /// With what it proves who it is; `None` for a client.
    pub signer: Option<&'a Signer>,
    /// The exporter of this TLS session, a secret of its two ends.
    pub exporter: Zeroizing<[u8; EXPORTER_LEN]>,
    /// Its clock.
    pub now: UnixTime,
    /// Where it sees the peer; told only by relays.
    pub peer_address: Option<SocketAddr>,
}

/// What a side knows after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who the peer proved to be; `None` for a client.
    pub id: Option<RelayId>,
    /// What the peer said of its clock and of our address.
    pub netinfo: Netinfo,
}

fn signed_message(role: Role, exporter: &[u8; EXPORTER_LEN]) -> [u8; 1 + EXPORTER_LEN] {
    let mut message = [role as u8; 1 + EXPORTER_LEN];
    message[1..].copy_from_slice(exporter);
    message
}

/// The handshake, in the state in which it expects its next cell.
pub struct Handshake {
    state: State,
    role: Role,
    exporter: Zeroizing<[u8; EXPORTER_LEN]>,
    expected: Option<RelayId>,
    now: UnixTime,
}

/// Which cell comes next, and what the ones before it told.
#[derive(Debug, Clone, Copy)]
enum State {
    Hello,
    Auth,
    Netinfo(Option<RelayId>),
}

/// Shows what it waits for, not the exporter.
impl std::fmt::Debug for Handshake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handshake({:?}, {:?})", self.role, self.state)
    }
}

/// What came of a cell.
#[derive(Debug)]
pub enum Step {
    /// More cells are needed.
    Wait(Handshake),
    /// The channel is open.
    Open(PeerInfo),
}

impl Handshake {
    /// Starts, with the cells to send at once. `expected` is whom we called.
    pub fn start(local: &Local<'_>, expected: Option<RelayId>) -> (Handshake, [Cell; 3]) {
        let auth = match local.signer {
            Some(signer) => {
                let proof = signer.sign(AUTH_CONTEXT, &signed_message(local.role, &local.exporter));
                cell::auth_relay(signer.cert().as_bytes(), &proof)
            }
            None => cell::auth_client(),
        };
        let is_relay = local.signer.is_some();
        let netinfo = Netinfo {
            time: is_relay.then_some(local.now),
            observed: local.peer_address.filter(|_| is_relay),
        };
        let handshake = Handshake {
            state: State::Hello,
            role: local.role,
            exporter: local.exporter.clone(),
            expected,
            now: local.now,
        };
        (handshake, [cell::hello(), auth, netinfo.to_cell()])
    }

    /// Takes the peer's next cell.
    ///
    /// # Errors
    /// [`HandshakeError`]: the channel ends.
    pub fn handle(mut self, cell: &Cell) -> Result<Step, HandshakeError> {
        let (_, command) = cell::parse_header(cell)?;
        self.state = match (self.state, command) {
            (State::Hello, Command::Hello) => {
                let versions = cell::parse_hello(cell)?;
                if !versions.contains(&cell::VERSION) {
                    return Err(HandshakeError::NoCommonVersion);
                }
                State::Auth
            }
            (State::Auth, Command::Auth) => State::Netinfo(self.check_auth(cell)?),
            (State::Netinfo(id), Command::Netinfo) => {
                let netinfo = Netinfo::parse(cell)?;
                return Ok(Step::Open(PeerInfo { id, netinfo }));
            }
            (_, command) => return Err(HandshakeError::OutOfOrder(command)),
        };
        Ok(Step::Wait(self))
    }

    fn check_auth(&self, cell: &Cell) -> Result<Option<RelayId>, HandshakeError> {
        let id = match cell::parse_auth(cell)? {
            Auth::Client => None,
            Auth::Relay { cert, signature } => {
                let cert = cert.check(self.now)?;
                let message = signed_message(self.role.other(), &self.exporter);
                cert.verify(AUTH_CONTEXT, &message, &signature)?;
                Some(cert.identity())
            }
        };
        let required = self.role == Role::Initiator;
        if required && (id.is_none() || id != self.expected) {
            return Err(HandshakeError::WrongIdentity);
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::IdentityKey;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    const NOW: UnixTime = UnixTime(1_000);

    fn signer(seed: u64) -> Signer {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        IdentityKey::generate(&mut rng).certify(UnixTime(2_000), &mut rng)
    }

    fn local(role: Role, signer: Option<&Signer>, exporter: u8) -> Local<'_> {
        Local {
            role,
            signer,
            exporter: Zeroizing::new([exporter; EXPORTER_LEN]),
            now: NOW,
            peer_address: None,
        }
    }

    fn run(mut handshake: Handshake, cells: &[Cell]) -> Result<PeerInfo, HandshakeError> {
        for cell in cells {
            match handshake.handle(cell)? {
                Step::Wait(next) => handshake = next,
                Step::Open(info) => return Ok(info),
            }
        }
        panic!("did not finish")
    }

    /// What an initiator that calls `called` makes of a relay whose session has exporter 1.
    fn call(called: RelayId, relay: Option<&Signer>, exporter: u8) -> Result<PeerInfo, HandshakeError> {
        let (ours, _) = Handshake::start(&local(Role::Initiator, None, exporter), Some(called));
        let (_, theirs) = Handshake::start(&local(Role::Responder, relay, 1), None);
        run(ours, &theirs)
    }

    #[test]
    fn a_relay_proves_its_identity_for_this_session_only() {
        let (relay, other) = (signer(1), signer(2));
        assert_eq!(call(relay.id(), Some(&relay), 1).map(|info| info.id), Ok(Some(relay.id())));
        assert_eq!(call(relay.id(), Some(&other), 1), Err(HandshakeError::WrongIdentity));
        assert_eq!(call(relay.id(), None, 1), Err(HandshakeError::WrongIdentity));
        let replayed = call(relay.id(), Some(&relay), 2);
        assert_eq!(replayed, Err(HandshakeError::BadProof(KeyError::BadSignature)));
    }

    #[test]
    fn a_proof_does_not_serve_the_other_side() {
        let relay = signer(1);
        let (_, mut echoed) = Handshake::start(&local(Role::Initiator, Some(&relay), 1), None);
        let (ours, _) = Handshake::start(&local(Role::Initiator, None, 1), Some(relay.id()));
        assert!(matches!(run(ours, &echoed), Err(HandshakeError::BadProof(_))));
        let (ours, _) = Handshake::start(&local(Role::Responder, None, 1), None);
        assert_eq!(run(ours, &echoed).map(|info| info.id), Ok(Some(relay.id())));
        echoed.swap(0, 1);
        let (ours, _) = Handshake::start(&local(Role::Responder, None, 1), None);
        assert_eq!(run(ours, &echoed), Err(HandshakeError::OutOfOrder(Command::Auth)));
    }

    #[test]
    fn a_client_tells_nothing() {
        let mut telling = local(Role::Initiator, None, 1);
        telling.peer_address = Some(([192, 0, 2, 1], 1).into());
        let (_, cells) = Handshake::start(&telling, None);
        let (ours, _) = Handshake::start(&local(Role::Responder, None, 1), None);
        let info = run(ours, &cells).unwrap();
        assert_eq!(info, PeerInfo { id: None, netinfo: Netinfo { time: None, observed: None } });
    }
}
