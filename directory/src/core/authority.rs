//! The authority itself: what comes in, and how a round goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tunic_proto::dir::{
    Accepted, AuthoritySet, CLOCK_TOLERANCE, ConsensusBody, ConsensusStore, Digest, DirError, SignatureLine,
    SignedConsensus, SignedDescriptor, UncheckedDescriptor, UncheckedVote, Vote, compute,
};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::Signer;
use tunic_proto::special;
use tunic_proto::time::UnixTime;

use super::limits::RateLimiter;
use super::output::NO_SUCH_ROUND;
use super::relays::RelayTable;
use super::round::{Ballot, Counted, Round, Signed};
use super::{BadSettings, Counters, Moment, Output, Refusal, RoundFailure, Settings};

/// An authority: feed it with `handle_*`, then do what [`Authority::poll_output`] says until it is empty, and call
/// [`Authority::handle_timeout`] at [`Authority::poll_timeout`].
#[derive(Debug)]
pub struct Authority {
    settings: Settings,
    signer: Arc<Signer>,
    store: ConsensusStore,
    relays: RelayTable,
    limiter: RateLimiter,
    round: Option<Round>,
    /// The newest vote of its own, with its round, for peers that missed it.
    own_vote: Option<(UnixTime, Arc<[u8]>)>,
    /// The newest round that was started or skipped: never voted in again.
    last_round: UnixTime,
    next_round: UnixTime,
    /// Votes for the next round, by peers whose clocks are a little ahead.
    ahead: Option<Ballot>,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Authority {
    /// Whether this is the identity of one of the network's authorities.
    pub fn is_authority(&self, id: &RelayId) -> bool {
        self.store.authorities().contains(id)
    }

    /// An authority among these, which include itself. It takes part from the next round on.
    ///
    /// # Errors
    /// [`BadSettings`].
    pub fn new(
        settings: Settings,
        signer: Arc<Signer>,
        authorities: AuthoritySet,
        now: Moment,
    ) -> Result<Self, BadSettings> {
        settings.check()?;
        let mut authority = Authority {
            settings,
            signer,
            store: ConsensusStore::new(authorities),
            relays: RelayTable::default(),
            limiter: RateLimiter::default(),
            round: None,
            own_vote: None,
            // It may have voted in the current round before it was restarted.
            last_round: now.unix(),
            next_round: UnixTime(0),
            ahead: None,
            outputs: VecDeque::new(),
            counters: Counters::default(),
        };
        authority.fetch_consensus(now);
        authority.schedule(now);
        Ok(authority)
    }

    /// The consensus in force.
    pub fn consensus(&self, now: UnixTime) -> Option<&Arc<SignedConsensus>> {
        self.store.current(now)
    }

    /// How many relays answered their last probe.
    pub fn running_relays(&self) -> usize {
        self.relays.running()
    }

    /// What has happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Signs with this key from now on: the old certificate is about to expire.
    pub fn set_signer(&mut self, signer: Arc<Signer>) {
        self.signer = signer;
    }

    /// This authority's vote, if this is the newest round that it voted in.
    pub fn own_vote(&self, valid_after: UnixTime) -> Option<&Arc<[u8]>> {
        self.own_vote.as_ref().filter(|(round, _)| *round == valid_after).map(|(_, bytes)| bytes)
    }

    /// A relay has uploaded a descriptor.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn handle_descriptor(&mut self, now: Moment, descriptor: UncheckedDescriptor) -> Result<(), Refusal> {
        let result = self.take_descriptor(now, descriptor);
        match result {
            Ok(()) => self.counters.descriptors += 1,
            Err(_) => self.counters.refused += 1,
        }
        self.probe(now);
        result
    }

    fn take_descriptor(&mut self, now: Moment, descriptor: UncheckedDescriptor) -> Result<(), Refusal> {
        let descriptor = self.check_descriptor(now, descriptor)?;
        let mut ips = descriptor.addresses.iter().map(|address| address.ip());
        // Others may have used up the allowance of an address that is not theirs.
        let known = self.relays.is_running_there(&descriptor);
        if !known && !ips.all(|ip| self.limiter.allow(ip, now)) {
            return Err(Refusal::Policy("too many descriptors from this address"));
        }
        self.relays.insert(descriptor, now)
    }

    fn check_descriptor(
        &self,
        now: Moment,
        descriptor: UncheckedDescriptor,
    ) -> Result<SignedDescriptor, Refusal> {
        let descriptor = descriptor.check_time(now.unix())?.check_signature(now.unix())?;
        let public = descriptor.addresses.iter().all(|address| special::is_public(address.ip()));
        if !public && !self.settings.allow_private_addresses {
            return Err(Refusal::Policy("an address is not on the public internet"));
        }
        Ok(descriptor)
    }

    /// Takes a descriptor that was there before a restart. The relay is probed like a new one.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn restore_descriptor(
        &mut self,
        now: Moment,
        descriptor: UncheckedDescriptor,
    ) -> Result<(), Refusal> {
        let descriptor = self.check_descriptor(now, descriptor)?;
        self.relays.insert(descriptor, now)
    }

    /// All descriptors one after the other, for [`Authority::restore_descriptor`]: relays upload theirs only now and then.
    pub fn descriptors(&self) -> Vec<u8> {
        self.relays.descriptors().collect::<Vec<_>>().concat()
    }

    /// A probe that [`Output::Probe`] asked for has ended.
    pub fn handle_probe_result(&mut self, now: Moment, relay: RelayId, ok: bool) {
        self.relays.handle_probe_result(relay, ok, now);
        self.probe(now);
    }

    /// A vote has come, posted by anyone or fetched from its authority.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn handle_vote(&mut self, now: Moment, vote: UncheckedVote) -> Result<(), Refusal> {
        let result = self.take_vote(now, vote);
        self.counters.refused += u64::from(result.is_err());
        result
    }

    fn take_vote(&mut self, now: Moment, vote: UncheckedVote) -> Result<(), Refusal> {
        let current = self.round.as_ref().map(|round| round.ballot.start).filter(|start| vote.is_for(*start));
        let is_ahead =
            current.is_none() && vote.is_for(self.next_round) && self.is_soon(self.next_round, now);
        let start = match current {
            Some(start) => start,
            None if is_ahead => self.next_round,
            None => return Err(NO_SUCH_ROUND),
        };
        let vote = vote.check_round(start)?.check_signature(self.store.authorities(), now.unix())?;
        let authority = vote.authority;
        let ballot = match &mut self.round {
            Some(round) if !is_ahead => {
                if !round.is_voting() && !round.ballot.has(&authority) {
                    return Err(Refusal::Policy("the vote came too late"));
                }
                &mut round.ballot
            }
            _ => self.ahead.get_or_insert_with(|| Ballot::new(start)),
        };
        if ballot.insert(vote) == Counted::Equivocation {
            self.counters.equivocations += 1;
            self.outputs.push_back(Output::Equivocation(authority));
        }
        self.advance(now);
        Ok(())
    }

    /// Somebody says that an authority signed a consensus.
    ///
    /// # Errors
    /// Why it does not count.
    pub fn handle_signature(
        &mut self,
        now: Moment,
        valid_after: UnixTime,
        digest: Digest,
        line: SignatureLine,
    ) -> Result<(), Refusal> {
        let result = self.take_signature(now, valid_after, digest, line);
        self.counters.refused += u64::from(result.is_err());
        self.advance(now);
        result
    }

    fn take_signature(
        &mut self,
        now: Moment,
        valid_after: UnixTime,
        digest: Digest,
        line: SignatureLine,
    ) -> Result<(), Refusal> {
        if !self.store.authorities().contains(&line.claimed_signer()) {
            return Err(DirError::WrongSigner.into());
        }
        if self.store.current(now.unix()).is_some_and(|consensus| consensus.digest() == digest) {
            return Ok(());
        }
        let round = self.round.as_mut().filter(|round| round.ballot.start == valid_after);
        let Some(round) = round else {
            let soon = valid_after == self.next_round && self.is_soon(valid_after, now);
            return Err(if soon { Refusal::Busy } else { NO_SUCH_ROUND });
        };
        match round.insert_signature(digest, line, now.unix()) {
            Signed::Taken | Signed::Kept => Ok(()),
            Signed::Full => Err(Refusal::Busy),
            Signed::Bad(error) => Err(error.into()),
            Signed::Differs => {
                self.counters.disagreements += 1;
                Err(DirError::Conflict.into())
            }
        }
    }

    /// A consensus has come from a peer or from disk.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn handle_consensus(&mut self, now: Moment, bytes: &[u8]) -> Result<(), Refusal> {
        if self.store.accept(bytes, now.unix())? == Accepted::Replaced {
            self.publish(now);
        }
        Ok(())
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.advance(now);
        if now >= Moment::at(self.next_round) {
            self.start_round(now);
        }
        self.schedule(now);
        self.probe(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Authority::handle_timeout`].
    pub fn poll_timeout(&self) -> Moment {
        let round = self.round.as_ref().map(|round| match (round.is_voting(), round.asked) {
            (true, false) => round.times.ask,
            (true, true) => round.times.vote_deadline,
            (false, _) => round.times.end,
        });
        let next = Moment::at(self.next_round);
        [round, self.relays.poll_timeout()].into_iter().flatten().fold(next, Moment::min)
    }

    fn probe(&mut self, now: Moment) {
        while let Some((relay, addresses)) = self.relays.poll_probe(now) {
            self.outputs.push_back(Output::Probe { relay, addresses });
        }
    }

    /// Whether a peer whose clock is a little ahead may already be in this round.
    fn is_soon(&self, start: UnixTime, now: Moment) -> bool {
        Moment::at(start) <= now.plus(CLOCK_TOLERANCE)
    }

    fn is_bootstrapping(&self, now: Moment) -> bool {
        self.store.current(now.unix()).is_none()
    }

    fn schedule(&mut self, now: Moment) {
        let bootstrap = self.is_bootstrapping(now);
        let mut next = self.settings.round_after(self.last_round, bootstrap);
        if let Some(consensus) = self.store.current(now.unix()) {
            // Should it expire before the next round, bootstrap rounds begin at once.
            next = next.min(consensus.valid_until.plus(Duration::from_secs(1)));
        }
        self.next_round = next;
        if self.ahead.as_ref().is_some_and(|ahead| ahead.start != next) {
            self.ahead = None;
        }
    }

    fn start_round(&mut self, now: Moment) {
        let bootstrap = self.is_bootstrapping(now);
        let start = self.settings.round_at(now, bootstrap);
        let times = self.settings.times(start, bootstrap);
        if start <= self.last_round {
            return;
        }
        self.last_round = start;
        if now >= times.vote_deadline {
            // This machine slept: a vote would only come too late.
            return;
        }
        self.fail_if_open(now);
        self.relays.expire(now);
        let ahead = self.ahead.take().filter(|ahead| ahead.start == start);
        let ballot = ahead.unwrap_or_else(|| Ballot::new(start));
        let vote = Vote {
            authority: self.signer.id(),
            valid_after: start,
            fresh_until: times.fresh_until,
            valid_until: times.valid_until,
            params: self.settings.params.clone(),
            relays: self.relays.vote_entries(now),
        };
        let mut round = Round::new(times, bootstrap, ballot);
        match vote.sign(&self.signer) {
            Ok(vote) => {
                let (bytes, until) = (vote.bytes().clone(), times.vote_deadline);
                round.ballot.insert(vote);
                self.own_vote = Some((start, bytes.clone()));
                self.round = Some(round);
                if self.store.authorities().ids.len() > 1 {
                    self.outputs.push_back(Output::SendVote { bytes, until });
                }
            }
            Err(error) => {
                self.round = Some(round);
                self.fail(now, error.into());
            }
        }
        self.advance(now);
    }

    /// Does what the round is ready for. A round that has succeeded or failed is gone afterwards.
    fn advance(&mut self, now: Moment) {
        let Some(round) = &mut self.round else { return };
        let missing = round.ballot.missing(self.store.authorities());
        if round.is_voting() {
            if missing.is_empty() || now >= round.times.vote_deadline {
                if let Err(failure) = self.compute(now) {
                    return self.fail(now, failure);
                }
            } else if now >= round.times.ask && !round.asked {
                round.asked = true;
                let valid_after = round.ballot.start;
                let fetch = missing.into_iter().map(|from| Output::FetchVote { from, valid_after });
                self.outputs.extend(fetch);
            }
        }
        self.conclude(now);
    }

    fn compute(&mut self, now: Moment) -> Result<(), RoundFailure> {
        let Some(round) = &mut self.round else { return Ok(()) };
        let consensus = compute(&round.ballot.votes(), self.store.authorities().ids.len())?;
        let need = if round.bootstrap { self.settings.bootstrap_relays } else { 1 };
        let have = consensus.relays.len();
        if have < need {
            return Err(RoundFailure::TooFewRelays { have, need });
        }
        let body = ConsensusBody::new(consensus)?;
        let (digest, line) = (body.digest(), body.sign(&self.signer));
        round.start_signing(body, now.unix());
        round.insert_signature(digest, line.clone(), now.unix());
        if self.store.authorities().ids.len() > 1 {
            self.outputs.push_back(Output::SendSignature {
                valid_after: round.ballot.start,
                digest,
                line: Box::new(line),
                until: round.times.end,
            });
        }
        Ok(())
    }

    /// Publishes with enough signatures; fails at the end of the round.
    fn conclude(&mut self, now: Moment) {
        let Some(round) = self.round.as_ref().filter(|round| !round.is_voting()) else { return };
        let (have, need) = (round.signatures(), self.store.authorities().threshold());
        if have >= need {
            let accepted = round.assemble().and_then(|bytes| self.store.accept(&bytes, now.unix()));
            match accepted {
                Ok(_) => {
                    self.round = None;
                    self.counters.rounds_ok += 1;
                    self.publish(now);
                }
                Err(error) => self.fail(now, error.into()),
            }
        } else if now >= round.times.end {
            self.fail(now, RoundFailure::TooFewSignatures { have, need });
        }
    }

    fn fail_if_open(&mut self, now: Moment) {
        if let Some(round) = &self.round {
            let (have, need) = (round.signatures(), self.store.authorities().threshold());
            self.fail(now, RoundFailure::TooFewSignatures { have, need });
        }
    }

    fn fail(&mut self, now: Moment, failure: RoundFailure) {
        self.round = None;
        self.counters.rounds_failed += 1;
        let bootstrap = self.is_bootstrapping(now);
        self.outputs.push_back(Output::RoundFailed { failure, bootstrap });
        self.fetch_consensus(now);
    }

    fn fetch_consensus(&mut self, now: Moment) {
        if self.store.authorities().ids.len() > 1 {
            self.outputs.push_back(Output::FetchConsensus { have: self.store.have(now.unix()) });
        }
    }

    fn publish(&mut self, now: Moment) {
        if let Some(consensus) = self.store.current(now.unix()) {
            self.outputs.push_back(Output::Publish(consensus.clone()));
        }
        self.schedule(now);
    }
}
