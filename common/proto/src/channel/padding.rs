//! Padding of the channel itself: what is agreed with the peer, and `PADDING` cells (docs/protocol.md §11).

use std::net::IpAddr;
use std::time::Instant;

use super::{Channel, ChannelError};
use crate::cell::{self, CELL_LEN, Cell, Command};
use crate::ids::CircId;
use crate::padding::link::{Excess, LinkPadding};
use crate::padding::{PaddingRole, negotiate, negotiated, parse_negotiate, parse_negotiated};

impl Channel {
    /// Says what this side does about padding; before anything else is asked of the channel.
    pub fn set_padding(&mut self, role: PaddingRole) {
        self.padding = LinkPadding::new(role);
    }

    /// The peer is a client, whatever it has proved, and counted under this subnet; or a relay of the network, if it has proved an
    /// identity, for `None`.
    pub fn count_under(&mut self, subnet: Option<IpAddr>) {
        self.padding.count_under(subnet);
    }

    /// A circuit of so many hops begins here.
    pub(super) fn ask_for_padding(&mut self, hops: usize) {
        if let Some(mode) = self.padding.ask(hops) {
            self.send_cell(negotiate(mode));
        }
    }

    pub(super) fn handle_padding_negotiate(&mut self, now: Instant, cell: &Cell) -> Result<(), ChannelError> {
        let illegal = ChannelError::State(Command::PaddingNegotiate);
        // Relays do not pad between themselves.
        if self.config.peer.id.is_some() {
            return Err(illegal);
        }
        let answer = self.padding.asked(parse_negotiate(cell)?, now, &mut self.config.rng).ok_or(illegal)?;
        self.send_cell(negotiated(answer));
        Ok(())
    }

    pub(super) fn handle_padding_negotiated(
        &mut self,
        now: Instant,
        cell: &Cell,
    ) -> Result<(), ChannelError> {
        let illegal = ChannelError::State(Command::PaddingNegotiated);
        let instead =
            self.padding.answered(parse_negotiated(cell)?, now, &mut self.config.rng).map_err(|_| illegal)?;
        instead.into_iter().for_each(|mode| self.send_cell(negotiate(mode)));
        Ok(())
    }

    /// So many of these cells were `PADDING`.
    pub(super) fn count_padding(
        &mut self,
        now: Instant,
        cells: &[u8],
        padding: usize,
    ) -> Result<(), ChannelError> {
        self.padding.received(now, cells.len() / CELL_LEN, padding).map_err(|excess| match excess {
            Excess::NotAgreed => ChannelError::State(Command::Padding),
            Excess::TooMuch => ChannelError::Padding,
        })
    }

    pub(super) fn padding_timeout(&mut self, now: Instant) {
        if self.padding.poll_timeout().is_some_and(|at| at <= now) {
            let (control, grants, table) = (&self.control, &self.grants, &self.table);
            let backlog = || control.len() + usize::from(!grants.is_empty()) + table.waiting_cells();
            let step = self.padding.handle_timeout(now, &mut self.config.rng, backlog);
            step.into_iter().for_each(|mode| self.send_cell(negotiate(mode)));
        }
    }

    /// Appends the padding that belongs behind what was written from `start` on.
    pub(super) fn put_padding(&mut self, now: Instant, start: usize, limit: usize, out: &mut Vec<u8>) {
        let written = (out.len() - start) / CELL_LEN;
        self.settle_machines(now);
        let padding = self.padding.fill(now, written, limit.saturating_sub(written));
        if padding > 0 {
            let cell = cell::build(CircId::CHANNEL, Command::Padding, &[]);
            (0..padding).for_each(|_| out.extend_from_slice(&cell));
        }
    }
}
