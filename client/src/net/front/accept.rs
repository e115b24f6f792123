//! Accepting applications, so many at a time.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::application::Application;

/// Connections at a time; those beyond wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections that have not said what they want; with one more, the oldest of them is closed.
const MAX_HANDSHAKES: usize = 1_024;
/// The pause after a connection could not be accepted, most likely for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Held while a connection has not said what it wants.
pub(in crate::net) type InHandshake = Arc<()>;

/// Where applications connect.
pub(in crate::net) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Application> {
        match self {
            Listener::Tcp(tcp) => tcp.accept().await.map(|(tcp, _)| Application::Tcp(tcp)),
            Listener::Unix(unix) => unix.accept().await.map(|(unix, _)| Application::Unix(unix)),
        }
    }
}

/// Accepts connections for ever and has `handle` care for each.
pub(in crate::net) async fn accept_all<F>(listener: Listener, handle: impl Fn(Application, InHandshake) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    accept_at_most(MAX_CONNECTIONS, listener, handle).await;
}

async fn accept_at_most<F>(most: usize, listener: Listener, handle: impl Fn(Application, InHandshake) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut handshakes = Handshakes::default();
    loop {
        let accepted = tokio::select! {
            // A task that has ended keeps its memory until this: 3 KiB.
            Some(_) = connections.join_next() => {
                handshakes.ended();
                continue;
            }
            accepted = listener.accept(), if connections.len() < most => accepted,
        };
        match accepted {
            Ok(application) => {
                let in_handshake = InHandshake::default();
                let alive = Arc::downgrade(&in_handshake);
                // As it is: a block that awaits what it was given has room for it twice.
                let task = connections.spawn(handle(application, in_handshake));
                handshakes.began(alive, task);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept applications; is the limit of open files reached?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections that have not said what they want, oldest first (and some that have).
#[derive(Default)]
struct Handshakes(VecDeque<(Weak<()>, AbortHandle)>);

impl Handshakes {
    fn began(&mut self, alive: Weak<()>, task: AbortHandle) {
        self.0.push_back((alive, task));
        if self.0.len() <= MAX_HANDSHAKES {
            return;
        }
        self.0.retain(|(alive, _)| alive.strong_count() > 0);
        if self.0.len() > MAX_HANDSHAKES
            && let Some((_, oldest)) = self.0.pop_front()
        {
            oldest.abort();
        }
    }

    /// A connection has ended: lets go of those that need not be remembered, whose tasks could not be freed otherwise.
    fn ended(&mut self) {
        while self.0.pop_front_if(|(alive, _)| alive.strong_count() == 0).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpStream;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn those_beyond_the_limit_are_let_in_as_others_leave() {
        const MOST: usize = 2;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut programs = VecDeque::new();
        for _ in 0..5 * MOST {
            programs.push_back(TcpStream::connect(address).await.unwrap());
        }
        let (begun, mut begins) = mpsc::unbounded_channel();
        let (inside, most_inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = most_inside.clone();
        let handle = move |mut application: Application, _| {
            let (begun, inside, seen) = (begun.clone(), inside.clone(), seen.clone());
            async move {
                seen.fetch_max(inside.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                begun.send(()).unwrap();
                let _ = application.read_to(|_| {}).await;
                inside.fetch_sub(1, Ordering::Relaxed);
                panic!("who panics leaves its place too");
            }
        };
        let accepting = tokio::spawn(accept_at_most(MOST, Listener::Tcp(listener), handle));
        // In the order in which they came.
        while let Some(program) = programs.pop_front() {
            begins.recv().await.unwrap();
            drop(program);
        }
        assert_eq!(most_inside.load(Ordering::Relaxed), MOST);
        accepting.abort();
    }

    #[tokio::test]
    async fn nothing_of_a_connection_that_has_ended_waits_for_the_next_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (kept, gone) = oneshot::channel::<()>();
        let kept = Mutex::new(Some(kept));
        // A task keeps what it ended with, and all its memory, until somebody looks.
        let handle = move |_, _| {
            let kept = kept.lock().unwrap().take();
            async move { resume_unwind(Box::new(kept)) }
        };
        let accepting = tokio::spawn(accept_at_most(2, Listener::Tcp(listener), handle));
        let _program = TcpStream::connect(address).await.unwrap();
        assert!(timeout(Duration::from_secs(10), gone).await.expect("it is kept").is_err());
        accepting.abort();
    }

    #[tokio::test]
    async fn too_many_handshakes_cost_the_oldest_one_only() {
        let mut handshakes = Handshakes::default();
        let mut tasks = Vec::new();
        let said = InHandshake::default();
        let finished = tokio::spawn(std::future::pending::<()>());
        handshakes.began(Arc::downgrade(&said), finished.abort_handle());
        drop(said);
        for _ in 0..=MAX_HANDSHAKES {
            let in_handshake = InHandshake::default();
            let alive = Arc::downgrade(&in_handshake);
            let task = tokio::spawn(async move {
                let _held = in_handshake;
                std::future::pending::<()>().await;
            });
            handshakes.began(alive, task.abort_handle());
            tasks.push(task);
        }
        assert!(tasks.remove(0).await.unwrap_err().is_cancelled());
        assert!(!finished.is_finished(), "who has said what it wants is left alone");
        assert!(tasks.iter().all(|task| !task.is_finished()));
        assert!(handshakes.0.len() <= MAX_HANDSHAKES);
        for task in tasks {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        handshakes.ended();
        assert!(handshakes.0.is_empty());
    }
}
