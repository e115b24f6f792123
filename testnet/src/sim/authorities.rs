//! Directory authorities in the simulator: their pure cores, and what their shells do for them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tunic_directory::core::{Authority, BadSettings, Moment, Output, Refusal, RoundFailure, Settings};
use tunic_proto::dir::{
    AuthoritySet, Descriptor, ExitPolicy, Request, Response, SignedConsensus, UncheckedDescriptor,
    UncheckedVote,
};
use tunic_proto::ids::RelayId;

use super::dirs::{Answer, Ticket};
use super::link::{EndId, LinkSpec};
use super::node::{EPOCH, NodeId};
use super::world::World;

/// How often the authorities look at the clock and at what came.
const STEP: Duration = Duration::from_millis(20);

/// Authorities and relays in a [`World`].
pub struct Authorities {
    /// Everything else.
    pub world: World,
    /// The authorities.
    pub nodes: Vec<NodeId>,
    /// Every consensus that each one published.
    pub published: Vec<Vec<Arc<SignedConsensus>>>,
    /// Every round of each one that failed.
    pub failures: Vec<Vec<RoundFailure>>,
    cores: Vec<Rc<RefCell<Authority>>>,
    relays: Vec<NodeId>,
    posts: Vec<Post>,
    fetches: Vec<Fetch>,
    probes: Vec<Probe>,
}

/// Something that is posted until it is taken or refused, or of no use.
struct Post {
    from: usize,
    to: usize,
    request: Request,
    until: Moment,
    ticket: Ticket,
}

/// A vote or a consensus that was asked for.
struct Fetch {
    by: usize,
    request: Request,
    ticket: Ticket,
}

struct Probe {
    by: usize,
    relay: RelayId,
    end: Option<EndId>,
    until: Moment,
}

/// The authorities' clock at a time of the world.
fn moment(now: Duration) -> Moment {
    Moment::at(EPOCH).plus(now)
}

impl Authorities {
    /// So many authorities, and relays that they do not know yet.
    ///
    /// # Errors
    /// [`BadSettings`].
    pub fn new(
        seed: u64,
        authorities: usize,
        relays: usize,
        settings: &Settings,
    ) -> Result<Authorities, BadSettings> {
        let mut world = World::new(seed);
        let nodes = world.relays(authorities);
        let relays = world.relays(relays);
        let set = AuthoritySet::new(nodes.iter().map(|node| world.hop(*node).id));
        let signers = nodes.iter().filter_map(|node| world.signer(*node)).collect::<Vec<_>>();
        let start = |signer| Authority::new(settings.clone(), signer, set.clone(), moment(world.now()));
        let started: Vec<Authority> = signers.into_iter().map(start).collect::<Result<_, _>>()?;
        let cores: Vec<_> = started.into_iter().map(|core| Rc::new(RefCell::new(core))).collect();
        for (node, core) in nodes.iter().zip(&cores) {
            let core = core.clone();
            let answer = move |now, request| respond(&mut core.borrow_mut(), moment(now), request);
            world.serve_directory(*node, Rc::new(answer));
        }
        Ok(Authorities {
            published: vec![vec![]; nodes.len()],
            failures: vec![vec![]; nodes.len()],
            world,
            nodes,
            cores,
            relays,
            posts: vec![],
            fetches: vec![],
            probes: vec![],
        })
    }

    /// Every relay uploads its descriptor to every authority.
    ///
    /// # Errors
    /// If a descriptor cannot be signed.
    pub fn publish_descriptors(&mut self) -> Result<Vec<Ticket>, tunic_proto::dir::DirError> {
        let mut tickets = vec![];
        for (n, relay) in self.relays.clone().into_iter().enumerate() {
            let Some(signer) = self.world.signer(relay) else { continue };
            let descriptor = Descriptor {
                nickname: format!("relay{n}"),
                identity: signer.id(),
                published: moment(self.world.now()).unix(),
                addresses: vec![([10, 0, n as u8, 1], 9001).into()],
                onion_key: self.world.hop(relay).onion_key,
                exit: ExitPolicy::accept_all(),
                family: vec![],
                bandwidth: 1_000_000,
                version: "simulated".into(),
                protocols: vec![1],
            };
            let bytes = descriptor.sign(&signer)?.bytes().to_vec();
            for authority in self.nodes.clone() {
                tickets.push(self.world.ask(relay, authority, &Request::PostDescriptor(bytes.clone())));
            }
        }
        Ok(tickets)
    }

    /// An authority's consensus as anybody may fetch it.
    pub fn fetch_consensus(&mut self, from: NodeId, authority: NodeId) -> Ticket {
        self.world.ask(from, authority, &Request::GetConsensus { have: tunic_proto::time::UnixTime(0) })
    }

    /// Runs until this is so, or so long; says whether it is so.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Authorities) -> bool) -> bool {
        let end = self.world.now() + limit;
        while self.world.now() < end {
            if done(self) {
                return true;
            }
            self.world.run_for(STEP);
            (0..self.cores.len()).for_each(|n| self.serve(n));
            self.collect();
        }
        false
    }

    fn serve(&mut self, n: usize) {
        if self.world.is_dead(self.nodes[n]) {
            return;
        }
        let now = moment(self.world.now());
        if now >= self.cores[n].borrow().poll_timeout() {
            self.cores[n].borrow_mut().handle_timeout(now);
        }
        loop {
            let output = self.cores[n].borrow_mut().poll_output();
            let Some(output) = output else { return };
            self.perform(n, output);
        }
    }

    fn perform(&mut self, n: usize, output: Output) {
        match output {
            Output::Probe { relay, .. } => self.probe(n, relay),
            Output::SendVote { bytes, until } => self.post(n, &Request::PostVote(bytes.to_vec()), until),
            Output::SendSignature { valid_after, digest, line, until } => {
                self.post(n, &Request::PostSignature { valid_after, digest, line }, until);
            }
            Output::FetchVote { from, valid_after } => {
                let peer = self.nodes.iter().copied().find(|node| self.world.hop(*node).id == from);
                peer.into_iter().for_each(|peer| self.fetch(n, peer, Request::GetVote { valid_after }));
            }
            Output::FetchConsensus { have } => {
                for peer in self.peers(n) {
                    self.fetch(n, self.nodes[peer], Request::GetConsensus { have });
                }
            }
            Output::Publish(consensus) => self.published[n].push(consensus),
            Output::RoundFailed { failure, .. } => self.failures[n].push(failure),
            Output::Equivocation(_) => {}
        }
    }

    fn peers(&self, n: usize) -> Vec<usize> {
        (0..self.nodes.len()).filter(|peer| *peer != n).collect()
    }

    fn post(&mut self, from: usize, request: &Request, until: Moment) {
        for to in self.peers(from) {
            let ticket = self.world.ask(self.nodes[from], self.nodes[to], request);
            self.posts.push(Post { from, to, request: request.clone(), until, ticket });
        }
    }

    fn fetch(&mut self, by: usize, peer: NodeId, request: Request) {
        let ticket = self.world.ask(self.nodes[by], peer, &request);
        self.fetches.push(Fetch { by, request, ticket });
    }

    /// Calls the relay on a connection of its own.
    fn probe(&mut self, by: usize, relay: RelayId) {
        let target = self.relays.iter().copied().find(|node| self.world.hop(*node).id == relay);
        let alive = target.filter(|node| !self.world.is_dead(*node));
        let end = alive.map(|node| self.world.connect(self.nodes[by], node, LinkSpec::delay_ms(5)));
        let until = moment(self.world.now()).plus(Duration::from_secs(10));
        self.probes.push(Probe { by, relay, end, until });
    }

    /// Hands the authorities what came.
    fn collect(&mut self) {
        let now = moment(self.world.now());
        for mut post in std::mem::take(&mut self.posts) {
            let answer = post.ticket.borrow().clone();
            match answer {
                Answer::Waiting => self.posts.push(post),
                Answer::Failed | Answer::Got(Response::Busy) if now < post.until => {
                    let (from, to) = (self.nodes[post.from], self.nodes[post.to]);
                    post.ticket = self.world.ask(from, to, &post.request);
                    self.posts.push(post);
                }
                _ => {}
            }
        }
        for fetch in std::mem::take(&mut self.fetches) {
            let answer = fetch.ticket.borrow().clone();
            match answer {
                Answer::Waiting => self.fetches.push(fetch),
                Answer::Got(Response::Ok(bytes)) => self.fetched(&fetch, now, &bytes),
                _ => {}
            }
        }
        for probe in std::mem::take(&mut self.probes) {
            let open = probe.end.is_some_and(|end| self.world.is_open(end));
            if !open && now < probe.until {
                self.probes.push(probe);
                continue;
            }
            probe.end.into_iter().for_each(|end| self.world.cut(end));
            self.cores[probe.by].borrow_mut().handle_probe_result(now, probe.relay, open);
        }
    }

    fn fetched(&self, fetch: &Fetch, now: Moment, bytes: &[u8]) {
        let mut core = self.cores[fetch.by].borrow_mut();
        // What does not hold is refused and counted by the core; nobody else has to know.
        let _ = match fetch.request {
            Request::GetVote { .. } => UncheckedVote::parse(bytes)
                .map_err(Refusal::from)
                .and_then(|vote| core.handle_vote(now, vote)),
            _ => core.handle_consensus(now, bytes),
        };
    }
}

/// As the daemon answers.
fn respond(core: &mut Authority, now: Moment, request: Request) -> Response {
    let outcome = match request {
        Request::GetConsensus { have } => {
            return match core.consensus(now.unix()) {
                None => Response::NotFound,
                Some(consensus) if consensus.valid_after <= have => Response::NotModified,
                Some(consensus) => Response::Ok(consensus.bytes().clone()),
            };
        }
        Request::GetVote { valid_after } => {
            let vote = core.own_vote(valid_after);
            return vote.map_or(Response::NotFound, |vote| Response::Ok(vote.clone()));
        }
        Request::PostDescriptor(bytes) => UncheckedDescriptor::parse(&bytes)
            .map_err(Refusal::from)
            .and_then(|descriptor| core.handle_descriptor(now, descriptor)),
        Request::PostVote(bytes) => {
            UncheckedVote::parse(&bytes).map_err(Refusal::from).and_then(|vote| core.handle_vote(now, vote))
        }
        Request::PostSignature { valid_after, digest, line } => {
            core.handle_signature(now, valid_after, digest, *line)
        }
    };
    outcome.map_or_else(Response::from, |()| Response::done())
}
