//! Why streams and circuits end.

/// Why a stream ended (docs/protocol.md §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum EndReason {
    /// Both sides have said all they had to say.
    #[error("done")]
    Done = 1,
    /// The exit does not connect there.
    #[error("refused by the exit's policy")]
    Policy = 2,
    /// The exit found no address for the name.
    #[error("name not found")]
    NameNotFound = 3,
    /// The target refused the connection.
    #[error("connection refused")]
    ConnectionRefused = 4,
    /// The exit has no route to the host.
    #[error("host unreachable")]
    HostUnreachable = 5,
    /// The exit has no route to the network.
    #[error("network unreachable")]
    NetworkUnreachable = 6,
    /// The target did not answer in time.
    #[error("timed out")]
    Timeout = 7,
    /// The connection broke.
    #[error("connection reset")]
    Reset = 8,
    /// The relay has no room for the stream.
    #[error("out of resources")]
    Resources = 9,
    /// The relay serves no directory.
    #[error("not a directory")]
    NotDirectory = 10,
    /// Something failed inside the relay.
    #[error("internal error")]
    Internal = 11,
}

impl EndReason {
    const ALL: [EndReason; 11] = [
        EndReason::Done,
        EndReason::Policy,
        EndReason::NameNotFound,
        EndReason::ConnectionRefused,
        EndReason::HostUnreachable,
        EndReason::NetworkUnreachable,
        EndReason::Timeout,
        EndReason::Reset,
        EndReason::Resources,
        EndReason::NotDirectory,
        EndReason::Internal,
    ];

    pub(super) fn from_byte(byte: u8) -> Option<EndReason> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }
}

/// Why a circuit ended or could not be extended (docs/protocol.md §4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum DestroyReason {
    /// Not told.
    #[error("ended by a relay")]
    None = 0,
    /// The peer broke the protocol.
    #[error("protocol violation")]
    Protocol = 1,
    /// Something failed inside the relay.
    #[error("internal error")]
    Internal = 2,
    /// The relay has no room for the circuit.
    #[error("out of resources")]
    Resources = 3,
    /// The circuit is no longer needed.
    #[error("finished")]
    Finished = 4,
    /// The channel under the circuit closed.
    #[error("channel lost")]
    ChannelLost = 5,
    /// The circuit handshake failed or was a replay.
    #[error("handshake refused")]
    Handshake = 6,
    /// The consensus of the extending relay does not list the next one.
    #[error("unknown relay")]
    UnknownRelay = 7,
    /// The extending relay could not reach the next one.
    #[error("connection to the next relay failed")]
    ConnectFailed = 8,
    /// The next relay did not answer in time.
    #[error("timed out")]
    Timeout = 9,
}

impl DestroyReason {
    const ALL: [DestroyReason; 10] = [
        DestroyReason::None,
        DestroyReason::Protocol,
        DestroyReason::Internal,
        DestroyReason::Resources,
        DestroyReason::Finished,
        DestroyReason::ChannelLost,
        DestroyReason::Handshake,
        DestroyReason::UnknownRelay,
        DestroyReason::ConnectFailed,
        DestroyReason::Timeout,
    ];

    pub(crate) fn from_byte(byte: u8) -> Option<DestroyReason> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == byte)
    }
}
