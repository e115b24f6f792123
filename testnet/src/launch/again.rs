//! Single nodes of a running network: ended, paused, and started again at the address where they were.

use super::process::Order;
use super::{Network, bind};

impl Network {
    /// Ends a node now, which then is no loss (SIGKILL). Completes when it has ended. Takes room in the queue of reports, so
    /// [`Network::next_loss`] is to be called in between.
    pub async fn kill(&mut self, node: usize) {
        let process = &mut self.processes[node];
        if process.has_ended() {
            return;
        }
        self.killed.insert(node);
        process.order(Order::Kill);
        process.ended().await;
    }

    /// Starts a node again that has ended, with a clock that is wrong by so much. To be called on the main thread.
    ///
    /// # Errors
    /// If its address is taken or the process cannot be started.
    pub fn restart(&mut self, node: usize, clock_offset_s: i64) -> anyhow::Result<()> {
        self.nodes[node].clock_offset_s = clock_offset_s;
        let listener = bind(&mut self.nodes[node])?;
        self.processes[node] = self.spawn(node, listener)?;
        self.lost.remove(&node);
        Ok(())
    }

    /// Lets a node stand still ([`Order::Pause`]) or go on.
    pub fn order(&self, node: usize, order: Order) {
        self.processes[node].order(order);
    }

    /// Whether a node runs, standing still included.
    pub fn runs(&self, node: usize) -> bool {
        !self.processes[node].has_ended()
    }

    /// A node's process id. It may have ended meanwhile.
    pub fn pid(&self, node: usize) -> u32 {
        self.processes[node].pid()
    }
}
