//! Circuits of which the test itself is one end: it can send what no honest client or relay would.

use tunic_proto::cell::{self, Cell, Command, PAYLOAD_LEN};
use tunic_proto::circuit::HopSpec;
use tunic_proto::crypto::fragment::{Create, Created, Extend, Extended, create_message, parse_create};
use tunic_proto::crypto::handshake::{ClientHandshake, HopKeys};
use tunic_proto::crypto::layer::{BackwardLayers, HopOpener, HopSealer, Routing, inner_len};
use tunic_proto::ids::{CircId, HopNum, StreamId};
use tunic_proto::message::{self, Backward, Code};

use rand_chacha::ChaCha20Rng;

use super::node::NodeId;
use super::world::World;

/// The keys of a circuit, and the cells that it is built with.
pub struct RawCircuit {
    /// Its id on the channel.
    pub id: CircId,
    forward: Vec<HopSealer>,
    backward: BackwardLayers,
    handshake: Option<ClientHandshake>,
    created: Created,
    extended: Extended,
}

impl RawCircuit {
    /// The three cells of `CREATE` with this depth.
    pub fn create(
        id: CircId,
        hop: &HopSpec,
        depth: HopNum,
        rng: &mut ChaCha20Rng,
    ) -> (RawCircuit, Vec<Cell>) {
        let (handshake, request) = ClientHandshake::start(hop.id, hop.onion_key, rng);
        let message = create_message(depth, &request);
        let cells =
            Create::split(&message).map(|payload| cell::build(id, Command::Create, &payload)).collect();
        let circuit = RawCircuit {
            id,
            forward: Vec::new(),
            backward: BackwardLayers::new(),
            handshake: Some(handshake),
            created: Created::new(),
            extended: Extended::new(),
        };
        (circuit, cells)
    }

    /// The four cells of `EXTEND`.
    pub fn extend(&mut self, hop: &HopSpec, rng: &mut ChaCha20Rng) -> Vec<Cell> {
        let (handshake, request) = ClientHandshake::start(hop.id, hop.onion_key, rng);
        self.handshake = Some(handshake);
        self.extended = Extended::new();
        let fragments: Vec<_> = Extend::split(&request).collect();
        fragments.iter().map(|fragment| self.message(Code::Extend, 0, fragment)).collect()
    }

    /// Takes a cell that came back; true when it made the circuit a hop longer.
    ///
    /// # Panics
    /// If an honest relay would not have sent it.
    pub fn handle(&mut self, cell: &Cell) -> bool {
        let reply = match cell::parse_header(cell) {
            Ok((_, Command::Created)) => self.created.push(cell::payload(cell)).ok().flatten(),
            Ok((_, Command::Relay | Command::RelayBlocked)) => {
                let (hop, payload) = self.open(cell);
                match Backward::parse(&payload[..inner_len(hop)]) {
                    Ok(Backward::Extended(fragment)) => self.extended.push(fragment).ok().flatten(),
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(reply) = reply else { return false };
        let keys = self.handshake.take().and_then(|handshake| handshake.finish(&reply).ok());
        let Some(keys) = keys else { panic!("the handshake failed") };
        self.add(&keys);
        true
    }

    fn add(&mut self, keys: &HopKeys) {
        let Some(hop) = HopNum::new(self.forward.len() as u8) else { panic!("too many hops") };
        self.forward.push(HopSealer::new(keys.cipher, &keys.forward, hop));
        let added = self.backward.push(HopOpener::new(keys.cipher, &keys.backward, hop));
        assert!(added.is_ok());
    }

    /// Opens a cell that came back: who sent it, and what.
    ///
    /// # Panics
    /// If it does not open.
    pub fn open(&mut self, cell: &Cell) -> (HopNum, [u8; PAYLOAD_LEN]) {
        let mut payload = *cell::payload(cell);
        match self.backward.open(&mut payload) {
            Ok(hop) => (hop, payload),
            Err(error) => panic!("{error}"),
        }
    }

    /// The last hop.
    pub fn last_hop(&self) -> HopNum {
        HopNum::new(self.forward.len().saturating_sub(1) as u8).unwrap_or(HopNum::FIRST)
    }

    /// A message for the last hop.
    pub fn message(&mut self, code: Code, stream: u16, data: &[u8]) -> Cell {
        self.message_to(self.last_hop(), code, stream, data)
    }

    /// A message for any hop.
    pub fn message_to(&mut self, hop: HopNum, code: Code, stream: u16, data: &[u8]) -> Cell {
        let mut inner = vec![0; inner_len(hop)];
        message::write(&mut inner, code, StreamId(stream), data);
        self.sealed(hop, &inner)
    }

    /// Any bytes for any hop.
    pub fn sealed(&mut self, hop: HopNum, inner: &[u8]) -> Cell {
        self.layers(hop, inner, Routing::Here)
    }

    /// Any bytes that this hop shall pass on, whether or not there is a next one.
    pub fn passed_on(&mut self, hop: HopNum, inner: &[u8]) -> Cell {
        self.layers(hop, inner, Routing::PassOn)
    }

    fn layers(&mut self, last: HopNum, inner: &[u8], routing: Routing) -> Cell {
        let mut payload = [0; PAYLOAD_LEN];
        payload[..inner.len()].copy_from_slice(inner);
        let mut routing = routing;
        for hop in self.forward[..=last.index()].iter_mut().rev() {
            assert!(hop.seal(&mut payload, routing).is_ok());
            routing = Routing::PassOn;
        }
        cell::build(self.id, Command::Relay, &payload)
    }
}

/// The first relay of an honest client's circuit.
pub struct RawHop {
    /// The circuit's id on the channel.
    pub id: CircId,
    sealer: HopSealer,
}

impl RawHop {
    /// Answers the `CREATE` in these cells as the relay that they ask for.
    pub fn answer(world: &mut World, relay: NodeId, create: &[Cell]) -> Option<(RawHop, Vec<Cell>)> {
        let (id, _) = cell::parse_header(create.first()?).ok()?;
        let mut fragments = Create::new();
        let mut messages =
            create.iter().filter_map(|cell| fragments.push(cell::payload(cell)).ok().flatten());
        let message = messages.next()?;
        let (hop, request) = parse_create(&message)?;
        let (reply, keys) = world.respond(relay, &request)?;
        let cells =
            Created::split(&reply).map(|payload| cell::build(id, Command::Created, &payload)).collect();
        Some((RawHop { id, sealer: HopSealer::new(keys.cipher, &keys.backward, hop) }, cells))
    }

    /// Any bytes for the client, as from this hop.
    pub fn sealed(&mut self, inner: &[u8], routing: Routing) -> Cell {
        let mut payload = [0; PAYLOAD_LEN];
        payload[..inner.len()].copy_from_slice(inner);
        assert!(self.sealer.seal(&mut payload, routing).is_ok());
        cell::build(self.id, Command::Relay, &payload)
    }

    /// A message for the client.
    pub fn message(&mut self, code: Code, stream: u16, data: &[u8]) -> Cell {
        let mut inner = vec![0; inner_len(self.sealer.hop())];
        message::write(&mut inner, code, StreamId(stream), data);
        self.sealed(&inner, Routing::Here)
    }
}
