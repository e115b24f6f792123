//! The event loop: nodes, connections and applications on one clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash};
use std::rc::Rc;
use std::task::Context;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::channel::handshake::Step;
use tunic_proto::channel::{Channel, Event, ExtendJob, Role};
use tunic_proto::circuit::CircuitHandle;
use tunic_proto::message::{Begin, DestroyReason};

use super::apps::{self, App, Next};
use super::dirs::Serve;
use super::link::{Closed, End, EndId, LinkSpec, State};
use super::node::{Node, NodeId, Reach};
use super::ready::{Ready, Task};

/// Steps without a moment passing, after which the world is thought to turn in circles.
const MAX_STEPS: usize = 10_000_000;

/// What happens at a moment.
pub(super) enum Happening {
    Deliver(EndId, Vec<u8>),
    Lost(EndId),
    Wake(Task),
    DialFailed(ExtendJob),
    Computed(NodeId),
}

struct Timed {
    at: Duration,
    order: u64,
    what: Happening,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// A network in memory.
pub struct World {
    pub(super) origin: Instant,
    pub(super) now: Duration,
    pub(super) rng: ChaCha20Rng,
    /// For connections that relays open by themselves.
    pub default_link: LinkSpec,
    pub(super) nodes: Vec<Node>,
    /// Kept for directory requests.
    pub(super) circuits: HashMap<(NodeId, NodeId), Rc<CircuitHandle>>,
    pub(super) ends: Vec<End>,
    pub(super) apps: Vec<Option<Box<dyn App>>>,
    pub(super) ready: Ready,
    future: BinaryHeap<Reverse<Timed>>,
    order: u64,
    pub(super) trace: DefaultHasher,
    buffer: Vec<u8>,
}

impl World {
    /// An empty world in which whatever is random follows from the seed.
    pub fn new(seed: u64) -> World {
        #[expect(
            clippy::disallowed_methods,
            reason = "Instant has no other origin; only differences to it are used"
        )]
        let origin = Instant::now();
        World {
            origin,
            now: Duration::ZERO,
            rng: ChaCha20Rng::seed_from_u64(seed),
            default_link: LinkSpec::delay_ms(5),
            nodes: Vec::new(),
            circuits: HashMap::new(),
            ends: Vec::new(),
            apps: Vec::new(),
            ready: Ready::default(),
            future: BinaryHeap::new(),
            order: 0,
            trace: DefaultHasher::new(),
            buffer: Vec::new(),
        }
    }

    pub(super) fn instant(&self) -> Instant {
        self.origin + self.now
    }

    /// Runs for so long.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until this is so, or so long; says whether it is so.
    ///
    /// # Panics
    /// If the world turns in circles without time passing.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&World) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.settle();
            if done(self) {
                return true;
            }
            match self.future.pop() {
                Some(Reverse(timed)) if timed.at <= end => {
                    self.now = self.now.max(timed.at);
                    self.happen_together(timed.what);
                }
                later => {
                    self.future.extend(later);
                    self.now = end;
                    return false;
                }
            }
        }
    }

    fn settle(&mut self) {
        let mut steps = 0;
        while let Some(task) = self.ready.pop() {
            match task {
                Task::End(end) => self.serve_end(end),
                Task::App(app) => self.serve_app(app),
            }
            steps += 1;
            assert!(steps < MAX_STEPS, "{task:?} turns in circles at {:?}", self.now);
        }
    }

    pub(super) fn schedule(&mut self, after: Duration, what: Happening) {
        self.order += 1;
        self.future.push(Reverse(Timed { at: self.now + after, order: self.order, what }));
    }

    /// Does what happens now. Cells that arrive at one moment arrive together, as one read brings them.
    fn happen_together(&mut self, first: Happening) {
        let mut all = vec![first];
        while self.future.peek().is_some_and(|next| next.0.at <= self.now)
            && let Some(Reverse(timed)) = self.future.pop()
        {
            match (timed.what, all.last_mut()) {
                (Happening::Deliver(end, more), Some(Happening::Deliver(last, bytes))) if end == *last => {
                    bytes.extend(more);
                }
                (what, _) => all.push(what),
            }
        }
        all.into_iter().for_each(|what| self.happen(what));
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver(end, bytes) => self.deliver(end, bytes),
            Happening::Lost(end) => self.close(end, Closed::Lost),
            Happening::Wake(task) => self.ready.push(task),
            Happening::Computed(node) => self.computed(node),
            Happening::DialFailed(job) => job.answer(Err(DestroyReason::ConnectFailed)),
        }
    }

    fn deliver(&mut self, id: EndId, mut bytes: Vec<u8>) {
        (self.now, id, &bytes).hash(&mut self.trace);
        let now = self.instant();
        let mut result = Ok(());
        match &mut self.ends[id.0].state {
            State::Closed(_) => {}
            State::Raw(cells) => cells.extend(bytes.as_chunks::<CELL_LEN>().0),
            State::Open(channel) => result = channel.handle_cells(now, &mut bytes).map_err(Closed::Error),
            State::Opening(_) => return self.handshake(id, &bytes),
        }
        match result {
            Ok(()) => self.ready.push(Task::End(id)),
            Err(why) => self.close(id, why),
        }
    }

    fn handshake(&mut self, id: EndId, bytes: &[u8]) {
        let (cells, _) = bytes.as_chunks::<CELL_LEN>();
        for (n, cell) in cells.iter().enumerate() {
            let State::Opening(handshake) = &mut self.ends[id.0].state else { return };
            let Some(current) = handshake.take() else { return };
            match current.handle(cell) {
                Ok(Step::Wait(next)) => *handshake = Some(next),
                Ok(Step::Open(peer)) => {
                    let role = if id.0.is_multiple_of(2) { Role::Initiator } else { Role::Responder };
                    let node = &mut self.nodes[self.ends[id.0].node.0];
                    self.ends[id.0].state = match node.raw {
                        true => State::Raw(VecDeque::new()),
                        false => State::Open(Box::new(node.channel(role, peer, self.origin))),
                    };
                    self.opened(id);
                    return self.deliver(id, bytes[(n + 1) * CELL_LEN..].to_vec());
                }
                Err(error) => return self.close(id, Closed::Handshake(error)),
            }
        }
    }

    /// Hands a channel to the circuits that wait for it.
    fn opened(&mut self, id: EndId) {
        let peer = self.ends[id.peer().0].node;
        let jobs = self.nodes[self.ends[id.0].node.0].waiting.remove(&peer).unwrap_or_default();
        for job in jobs {
            match self.channel(id) {
                Some(channel) => job.answer(Ok(channel.inbox().clone())),
                None => job.answer(Err(DestroyReason::ConnectFailed)),
            }
        }
    }

    /// Closes an end, as its shell does; the other end notices after the delay.
    pub fn close(&mut self, id: EndId, why: Closed) {
        let end = &mut self.ends[id.0];
        if matches!(end.state, State::Closed(_)) {
            return;
        }
        if let State::Open(mut channel) = std::mem::replace(&mut end.state, State::Closed(why)) {
            channel.close();
        }
        self.leave_guarded(id);
        self.opened(id);
        self.schedule(self.ends[id.0].spec.delay, Happening::Lost(id.peer()));
    }

    fn serve_end(&mut self, id: EndId) {
        let now = self.instant();
        let waker = self.ready.waker(Task::End(id));
        let Some(channel) = self.ends[id.0].channel_mut() else { return };
        let mut cx = Context::from_waker(&waker);
        if channel.poll_timeout().is_some_and(|at| at <= now) {
            channel.handle_timeout(now);
        }
        while channel.inbox().clone().poll_pending(&mut cx).is_ready() {
            channel.handle_inbox(now);
        }
        while let Some(event) = self.ends[id.0].channel_mut().and_then(Channel::poll_event) {
            self.handle_event(id, event);
        }
        self.flush(id);
        self.set_timer(id);
    }

    fn handle_event(&mut self, end: EndId, event: Event) {
        let node = self.ends[end.0].node;
        match event {
            Event::Handshake(job) => self.handshake_job(end, job),
            Event::Extend(job) => self.extend(node, job),
            Event::Begin(begin, stream) => match self.nodes[node.0].directory.clone() {
                Some(service) if begin == Begin::Directory => {
                    self.spawn(Box::new(Serve::new(stream, service)))
                }
                _ => apps::serve(begin, stream).into_iter().for_each(|app| self.spawn(app)),
            },
        }
    }

    fn extend(&mut self, node: NodeId, job: ExtendJob) {
        let target = (0..self.nodes.len()).map(NodeId).find(|to| self.hop(*to).id == job.id);
        let listed = target.filter(|to| self.nodes[to.0].reach != Reach::Unlisted);
        let Some(to) = listed else { return job.answer(Err(DestroyReason::UnknownRelay)) };
        if let Some(channel) = self.end_between(node, to).and_then(|end| self.channel(end)) {
            return job.answer(Ok(channel.inbox().clone()));
        }
        if self.nodes[to.0].reach == Reach::Unreachable {
            return self.schedule(self.default_link.delay, Happening::DialFailed(job));
        }
        let waiting = self.nodes[node.0].waiting.entry(to).or_default();
        waiting.push(job);
        if waiting.len() == 1 {
            self.connect(node, to, self.default_link);
        }
    }

    fn flush(&mut self, id: EndId) {
        let now = self.instant();
        loop {
            let end = &mut self.ends[id.0];
            let limit = end.spec.write_cells();
            let State::Open(channel) = &mut end.state else { return };
            if !channel.has_output() {
                return;
            }
            if end.busy_until > self.now {
                let after = end.busy_until - self.now;
                return self.schedule(after, Happening::Wake(Task::End(id)));
            }
            let mut bytes = std::mem::take(&mut self.buffer);
            channel.poll_output(now, &mut bytes, limit);
            if bytes.is_empty() {
                return;
            }
            self.transmit(id, bytes);
        }
    }

    pub(super) fn transmit(&mut self, id: EndId, bytes: Vec<u8>) {
        let end = &mut self.ends[id.0];
        end.sent += bytes.len() as u64;
        end.watched.iter_mut().for_each(|seen| seen.push((self.now, bytes.len())));
        end.busy_until = self.now.max(end.busy_until) + end.spec.duration(bytes.len());
        let after = end.busy_until + end.spec.delay - self.now;
        let bytes = end.tampered(bytes);
        self.schedule(after, Happening::Deliver(id.peer(), bytes));
    }

    fn set_timer(&mut self, id: EndId) {
        let end = &self.ends[id.0];
        let Some(at) = end.channel().and_then(Channel::poll_timeout) else { return };
        let at = at - self.origin;
        if end.timer.is_none_or(|set| set <= self.now || set > at) {
            self.ends[id.0].timer = Some(at);
            self.schedule(at.saturating_sub(self.now), Happening::Wake(Task::End(id)));
        }
    }

    fn serve_app(&mut self, index: usize) {
        let waker = self.ready.waker(Task::App(index));
        let Some(app) = &mut self.apps[index] else { return };
        match app.poll(&mut Context::from_waker(&waker), self.now) {
            Next::Woken => {}
            Next::At(at) => {
                let after = at.saturating_sub(self.now);
                self.schedule(after, Happening::Wake(Task::App(index)));
            }
            Next::Done => self.apps[index] = None,
        }
    }
}
