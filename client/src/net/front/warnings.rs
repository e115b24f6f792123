//! What a person is told about the programs that use the port: each thing once, since a program can say it again and again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::front::FrontError;
use crate::core::front::leaks::{Leak, Reaction};

/// Kinds of things to say; as many as there are leaky ports, and a few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Warning {
    Leak(Leak),
    Refused(FrontError),
}

/// What was said already. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Warnings(Arc<Mutex<HashSet<Warning>>>);

impl Warnings {
    /// An application does what gives the person away.
    pub(super) fn leak(&self, leak: Leak, reaction: Reaction) {
        if !self.is_new(Warning::Leak(leak)) {
            return;
        }
        let what = if reaction == Reaction::Refuse { "refused" } else { "let through" };
        match leak {
            Leak::BareAddress => tracing::warn!(
                "{what}: an application asks for an address instead of a name. If it looks names up itself, whoever \
                 runs the resolver sees where you go: set it up to resolve names through the proxy (socks5h, SOCKS4a, \
                 remote DNS). See the setting safe_socks"
            ),
            Leak::Port(port) => tracing::warn!(
                port,
                "{what}: what usually runs on this port tells the exit who you are, or all that you say. See the \
                 settings leaky_ports and on_leaky_port"
            ),
        }
    }

    /// An application was turned away. A wrongly set up one is something that a person wants to know about.
    pub(super) fn refused(&self, error: FrontError) {
        tracing::debug!(%error, "application refused");
        match error {
            FrontError::Password | FrontError::Command if self.is_new(Warning::Refused(error)) => {
                tracing::warn!("an application was refused: {error} (said once)");
            }
            FrontError::Foreign if self.is_new(Warning::Refused(error)) => {
                tracing::warn!("a request to this port {error}: refused (said once)");
            }
            _ => {}
        }
    }

    fn is_new(&self, warning: Warning) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    /// Counts warnings.
    struct Count(Arc<AtomicUsize>);

    impl Subscriber for Count {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }
        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn each_thing_is_said_once() {
        let count = Arc::<AtomicUsize>::default();
        tracing::subscriber::with_default(Count(Arc::clone(&count)), || {
            let warnings = Warnings::default();
            for _ in 0..100 {
                let shared = warnings.clone();
                for error in [FrontError::Password, FrontError::Command, FrontError::Foreign] {
                    shared.refused(error);
                }
                shared.refused(FrontError::Malformed);
                for leak in [Leak::BareAddress, Leak::Port(25), Leak::Port(445)] {
                    shared.leak(leak, Reaction::Warn);
                }
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 6);
    }
}
