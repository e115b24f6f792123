//! The settings that say how the process behaves, the same for all daemons.

use serde::{Deserialize, Serialize};

/// The table `[service]` of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceConfig {
    /// Who to become when started as root.
    pub user: Option<String>,
    /// Whether the process is kept to the files and system calls that it needs.
    pub sandbox: Switch,
}

/// Something that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig { user: None, sandbox: Switch::On }
    }
}
