//! Which faults there are, and whom they hit.

use clap::ValueEnum;
use serde::Serialize;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A process ends without a word (SIGKILL), and is started again later
    Kill,
    /// A process stands still (SIGSTOP) with its connections open, and goes on later
    Pause,
    /// A cable is pulled and plugged in again
    Partition,
    /// A cable carries 2 Mbit/s each way, through a queue of up to 400 ms
    Slow,
    /// A process starts anew with a clock that is wrong by an hour
    Skew,
    /// A process starts anew with no space left on its disk
    Disk,
}

impl Kind {
    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Pause => "pause",
            Kind::Partition => "partition",
            Kind::Slow => "slow",
            Kind::Skew => "skew",
            Kind::Disk => "disk",
        }
    }
}

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The relay that the client talks to.
    Guard,
    /// The relay that last fetched something for it.
    Exit,
    /// The last authority.
    Authority,
    /// As many authorities as the others can do without.
    Minority,
}

/// A fault to play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// For whom.
    pub part: Part,
}

impl Fault {
    /// Everything that can be played, in order.
    pub const ALL: [Fault; 14] = [
        Fault { kind: Kind::Kill, part: Part::Exit },
        Fault { kind: Kind::Kill, part: Part::Guard },
        Fault { kind: Kind::Kill, part: Part::Authority },
        Fault { kind: Kind::Pause, part: Part::Exit },
        Fault { kind: Kind::Pause, part: Part::Guard },
        Fault { kind: Kind::Pause, part: Part::Authority },
        Fault { kind: Kind::Partition, part: Part::Guard },
        Fault { kind: Kind::Partition, part: Part::Minority },
        Fault { kind: Kind::Slow, part: Part::Guard },
        Fault { kind: Kind::Slow, part: Part::Exit },
        Fault { kind: Kind::Skew, part: Part::Exit },
        Fault { kind: Kind::Skew, part: Part::Authority },
        Fault { kind: Kind::Disk, part: Part::Exit },
        Fault { kind: Kind::Disk, part: Part::Authority },
    ];
}
