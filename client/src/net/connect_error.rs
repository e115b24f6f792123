//! Why a stream could not be opened, in words and as SOCKS has it.

use std::io;

use tunic_proto::message::EndReason;

use crate::core::front::socks5::ReplyCode;
use crate::core::path::PathError;
use crate::core::pool::BuildFailure;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No circuit: the network, or this machine's connection to it, is to blame.
    #[error("no circuit: {0}")]
    Circuit(#[from] BuildFailure),
    /// The exit, or the target, refused.
    #[error("the exit could not connect: {0}")]
    Stream(EndReason),
    /// The circuit broke before the exit had answered, and so did others, or what the application had sent by then may have
    /// arrived and is not sent again.
    #[error("the circuit broke{} before the exit had answered{}", at_hop(*hop), what_if_sent(*sent))]
    Broken {
        /// The position in the path of the relay that it broke at, where that is known; 0 is the guard.
        hop: Option<usize>,
        /// Whether something had been sent.
        sent: bool,
    },
    /// The circuit broke before anything was sent, and no other one could be built.
    #[error("the circuit broke{} before the exit had answered, and there is no other one: {failure}", at_hop(*hop))]
    NotReplaced {
        /// As in [`ConnectError::Broken`].
        hop: Option<usize>,
        /// Why there is no other one.
        failure: BuildFailure,
    },
    /// The exit answered what is no answer.
    #[error("the exit's answer cannot be understood")]
    BadAnswer,
    /// The application went away while it was waiting.
    #[error("the application went away: {0}")]
    Application(io::Error),
    /// A new identity was begun meanwhile; what belongs to the one before is not asked for over its circuits.
    #[error("a new identity was begun before the exit had answered")]
    NewIdentity,
    /// The client was shut down.
    #[error("the client is shutting down")]
    ShutDown,
}

fn at_hop(hop: Option<usize>) -> String {
    hop.map_or_else(String::new, |hop| format!(" at relay {}", hop + 1))
}

fn what_if_sent(sent: bool) -> &'static str {
    if sent { "; what was sent may have arrived" } else { "" }
}

impl ConnectError {
    /// What SOCKS calls it (RFC 1928 §6).
    pub fn reply_code(&self) -> ReplyCode {
        match self {
            ConnectError::Stream(reason) => (*reason).into(),
            ConnectError::Circuit(failure) | ConnectError::NotReplaced { failure, .. } => match failure {
                BuildFailure::Path(PathError::NoExit | PathError::NoExitForPort(_)) => ReplyCode::NotAllowed,
                BuildFailure::Path(PathError::NoConsensus) | BuildFailure::Guard => {
                    ReplyCode::NetworkUnreachable
                }
                BuildFailure::Path(PathError::NoGuard | PathError::NoMiddle) | BuildFailure::Busy => {
                    ReplyCode::GeneralFailure
                }
                BuildFailure::Hop { reason, .. } => (*reason).into(),
                BuildFailure::TooSlow => ReplyCode::TimedOut,
            },
            ConnectError::Broken { .. }
            | ConnectError::Application(_)
            | ConnectError::BadAnswer
            | ConnectError::NewIdentity
            | ConnectError::ShutDown => ReplyCode::GeneralFailure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::message::DestroyReason;

    #[test]
    fn every_error_has_a_reply_code() {
        let check = |error: ConnectError, code: u8| assert_eq!(error.reply_code() as u8, code, "{error}");
        let circuit = ConnectError::Circuit;
        check(circuit(PathError::NoExitForPort(25).into()), 2);
        check(circuit(PathError::NoExit.into()), 2);
        check(circuit(PathError::NoConsensus.into()), 3);
        check(circuit(PathError::NoGuard.into()), 1);
        check(circuit(PathError::NoMiddle.into()), 1);
        check(circuit(BuildFailure::Guard), 3);
        check(circuit(BuildFailure::TooSlow), 6);
        check(circuit(BuildFailure::Busy), 1);
        check(circuit(BuildFailure::Hop { hop: 1, reason: DestroyReason::Timeout }), 6);
        check(ConnectError::Stream(EndReason::ConnectionRefused), 5);
        check(ConnectError::NotReplaced { hop: None, failure: BuildFailure::Guard }, 3);
        check(ConnectError::Broken { hop: Some(0), sent: false }, 1);
        check(ConnectError::ShutDown, 1);
        check(ConnectError::Application(io::ErrorKind::BrokenPipe.into()), 1);
    }

    #[test]
    fn what_broke_is_named_where_it_is_known() {
        let message = |hop, sent| ConnectError::Broken { hop, sent }.to_string();
        let told = "the circuit broke at relay 1 before the exit had answered";
        assert_eq!(message(Some(0), false), told);
        assert_eq!(message(Some(0), true), format!("{told}; what was sent may have arrived"));
        assert!(message(None, false).starts_with("the circuit broke before"));
        let not_built = BuildFailure::Hop { hop: 1, reason: DestroyReason::Timeout };
        let told = ConnectError::Circuit(not_built).to_string();
        assert!(told.starts_with("no circuit: relay 2 of the circuit: ti"), "{told}");
    }
}
