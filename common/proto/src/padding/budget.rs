//! How much padding a circuit may carry in one direction: so many cells, and beyond them a share of the others.

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Padding cells before the share counts.
    pub cells: u32,
    /// Padding cells for 100 others, both directions of the circuit counted.
    pub percent: u16,
}

/// What a machine's budget is counted from, the same at both ends as soon as nothing is under way (docs/protocol.md §11.6).
/// Units: cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// `RELAY` cells between the client and the relay that are no padding between these two, both directions, since the
    /// circuit began.
    pub others: u64,
    /// `DROP` from the client to the relay since it asked for the machine.
    pub forward: u64,
    /// `DROP` from the relay to the client.
    pub backward: u64,
}

impl Budget {
    /// Whether it is within another one.
    pub fn fits(self, most: Budget) -> bool {
        self.cells <= most.cells && self.percent <= most.percent
    }

    /// Whether nothing can ever be sent from it.
    pub(crate) fn is_empty(self) -> bool {
        self.cells == 0 && self.percent == 0
    }
}

/// What was used of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meter {
    budget: Budget,
    spare: u32,
    others: u64,
    padding: u64,
}

impl Meter {
    /// For a sender.
    pub(crate) fn new(budget: Budget) -> Meter {
        Meter { budget, spare: 0, others: 0, padding: 0 }
    }

    /// For a receiver, who has not seen all that the sender has: so many cells more.
    pub(crate) fn with_spare(budget: Budget, spare: u32) -> Meter {
        Meter { spare, ..Meter::new(budget) }
    }

    /// How many cells there were so far that are no padding, in either direction.
    pub(crate) fn set_others(&mut self, cells: u64) {
        self.others = cells;
    }

    /// How many padding cells there were so far.
    pub(crate) fn set_padding(&mut self, cells: u64) {
        self.padding = cells;
    }

    /// Padding cells taken.
    pub(crate) fn padding(&self) -> u64 {
        self.padding
    }

    /// Cells that may follow.
    pub(crate) fn left(&self) -> u64 {
        let share = self.others.saturating_mul(self.budget.percent.into()) / 100;
        let most = u64::from(self.budget.cells) + u64::from(self.spare) + share;
        most.saturating_sub(self.padding)
    }

    /// Takes one padding cell; false if there is none left.
    #[must_use]
    pub(crate) fn take(&mut self) -> bool {
        let fits = self.left() > 0;
        self.padding += u64::from(fits);
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_the_cells_and_then_the_share() {
        let mut meter = Meter::new(Budget { cells: 2, percent: 50 });
        assert!(meter.take() && meter.take() && !meter.take());
        meter.set_others(3);
        assert!(meter.take() && !meter.take());
        meter.set_others(4);
        assert!(meter.take() && !meter.take());
        let mut receiver = Meter::with_spare(Budget { cells: 0, percent: 0 }, 1);
        assert!(receiver.take() && !receiver.take());
    }
}
