//! The streams that others begin here, answered beside the cell path.
//!
//! 1. One for which there is a place waits for its neighbour's turn and the worker.
//! 2. The worker starts a few and lets everything else go on before the next ones. To connect takes a core for about a tenth of a
//!    millisecond, and the task of a channel waits behind all tasks that can go on: behind ten thousand streams, begun at once, it would
//!    wait for a second.
//! 3. One that has ended meanwhile is forgotten, and one that has waited too long refused, so that its client goes
//!    to another exit.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;
use tunic_proto::counters::Incident;
use tunic_proto::message::{Begin, EndReason, Target};
use tunic_proto::stream::StreamIo;

use super::IncomingStream;
use super::limits::Guest;
use super::node::NodeInner;
use super::waiting::{Waiting, Worker};

/// Streams that the worker starts at a time, and those that it looks at.
const AT_A_TIME: usize = 8;
const LOOKS: usize = 256;
/// However many cores there are: what is started connects on all of them, and may all stand before one channel.
pub(super) const WORKERS: usize = 1;
/// How long one waits at the most.
const MAX_WAIT: Duration = Duration::from_secs(10);

pub(super) type Begins = Waiting<(Begin, IncomingStream)>;

impl NodeInner {
    pub(super) fn begin(self: &Arc<Self>, begin: Begin, io: StreamIo, guest: &mut Guest) {
        let admitted = guest.admit_stream(io.circuit(), &self.limits.params());
        let mut stream = IncomingStream::new(io, guest.caller, self.traffic.clone());
        match admitted {
            Ok(place) => stream.hold(place),
            Err(refusal) => {
                self.counters.count(refusal);
                return stream.reject(EndReason::Resources);
            }
        }
        if self.begins.push(guest.source(), (begin, stream)) {
            tokio::spawn(self.clone().start_streams());
        }
    }

    async fn start_streams(self: Arc<Self>) {
        let mut worker = Worker::new(&self.begins);
        loop {
            let mut started = 0;
            for _ in 0..LOOKS {
                let Some(((begin, stream), waited)) = worker.next() else { return };
                if stream.has_ended() {
                    continue;
                }
                if waited > MAX_WAIT {
                    self.counters.count(Incident::StreamLoad);
                    stream.reject(EndReason::Resources);
                    continue;
                }
                self.start_stream(begin, stream);
                started += 1;
                if started == AT_A_TIME {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn start_stream(&self, begin: Begin, stream: IncomingStream) {
        let Some(responder) = &self.responder else { return };
        match begin {
            Begin::Connect(target) => {
                debug!(target: "tunic::path", before = %stream.caller(), after = written(&target), "stream leaves");
                responder.begin(target, stream);
            }
            Begin::Directory => responder.begin_dir(stream),
            Begin::Resolve(query) => responder.resolve(query, stream),
            Begin::Datagrams => responder.begin_udp(stream),
        }
    }
}

/// With the name, which [`Target`] itself does not show.
fn written(target: &Target) -> String {
    match target {
        Target::Addr(address) => address.to_string(),
        Target::Name(name, port) => format!("{name}:{port}"),
    }
}
