//! Breaks nodes and mends them.

use std::fs;

use super::disk::FullDisk;
use super::faults::Kind;
use super::wires::Wires;
use crate::launch::Network;
use crate::launch::process::Order;

/// How wrong a clock is that is wrong.
const SKEW_S: i64 = 3_600;
/// Lines of a node's log that tell why it ended.
const LAST_WORDS: usize = 1;

/// What can be broken.
pub struct Stage<'a> {
    /// The nodes.
    pub network: &'a mut Network,
    /// Their cables.
    pub wires: &'a Wires,
    /// Those that are or were full.
    pub disks: Vec<FullDisk>,
}

impl Stage<'_> {
    /// Breaks a node. To be called on the main thread.
    ///
    /// # Errors
    /// If the system does not let it.
    pub async fn strike(&mut self, kind: Kind, node: usize) -> anyhow::Result<()> {
        match kind {
            Kind::Kill => self.network.kill(node).await,
            Kind::Pause => self.network.order(node, Order::Pause),
            Kind::Partition => self.wires.plug(node, false)?,
            Kind::Slow => self.wires.slow(node, true)?,
            Kind::Skew => {
                self.network.kill(node).await;
                self.network.restart(node, SKEW_S)?;
            }
            Kind::Disk => {
                self.network.kill(node).await;
                let state = self.network.nodes()[node].state_dir(self.network.dir());
                self.disks.push(FullDisk::under(&state)?);
                self.network.restart(node, 0)?;
            }
        }
        Ok(())
    }

    /// Mends it. A sentence if there is something to say. To be called on the main thread.
    ///
    /// # Errors
    /// If the system does not let it.
    pub async fn mend(&mut self, kind: Kind, node: usize) -> anyhow::Result<Option<String>> {
        match kind {
            Kind::Kill => self.network.restart(node, 0)?,
            Kind::Pause => self.network.order(node, Order::Resume),
            Kind::Partition => self.wires.plug(node, true)?,
            Kind::Slow => self.wires.slow(node, false)?,
            Kind::Skew => {
                self.network.kill(node).await;
                self.network.restart(node, 0)?;
            }
            Kind::Disk => {
                self.disks.last().map_or(Ok(()), FullDisk::free)?;
                if !self.network.runs(node) {
                    let why = self.last_words(node);
                    self.network.restart(node, 0)?;
                    return Ok(Some(format!("it does not start with a full disk: {why}")));
                }
            }
        }
        Ok(None)
    }

    fn last_words(&self, node: usize) -> String {
        let log = self.network.nodes()[node].log_path(self.network.dir());
        let log = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join(" ")
    }
}
