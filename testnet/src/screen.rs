//! What `up` says when the network works.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::launch::place::Namespace;
use crate::launch::plan::{Options, logs_dir};
use crate::launch::{Network, Pids};

/// Columns that lines keep to, unless a path takes more: terminals have 80.
#[cfg(test)]
pub(crate) const WIDTH: usize = 78;

/// The screen for a person.
pub(crate) fn screen(network: &Network, options: &Options, socks: SocketAddr, startup: Duration) -> String {
    let namespace = network.client().and_then(|client| client.namespace.as_ref());
    let how_to = namespace.map_or_else(|| how_to(socks), |namespace| how_to_there(socks, namespace));
    let status = network.status().map_or_else(String::new, status_page);
    format!("{}{how_to}{status}{}", what_is_up(options, startup), whereabouts(network.dir(), options))
}

fn what_is_up(options: &Options, startup: Duration) -> String {
    format!(
        "A private Tunic network is up after {:.1} s:\n{}, {} ({} of them exits) and a client.\n\n",
        startup.as_secs_f32(),
        counted(options.authorities, "authority", "authorities"),
        counted(options.relays, "relay", "relays"),
        options.exits,
    )
}

fn how_to(socks: SocketAddr) -> String {
    let (host, port) = (socks.ip(), socks.port());
    format!(
        "Try it:
  curl --socks5-hostname {socks} https://example.com/

Firefox:   Settings, Network Settings, Manual proxy configuration:
           SOCKS Host {host}, Port {port}, SOCKS v5,
           and tick \"Proxy DNS when using SOCKS v5\"
Chromium:  chromium --proxy-server=socks5://{socks} \\
             --user-data-dir=\"$(mktemp -d)\"

What you send goes through three of the relays, and your computer resolves no
name. But all relays run on this machine: this network shows how Tunic works;
it hides nothing from anybody.

"
    )
}

fn how_to_there(socks: SocketAddr, namespace: &Namespace) -> String {
    format!(
        "The client is in the network namespace {namespace}. Try it:
  ip netns exec {namespace} \\
    curl --socks5-hostname {socks} http://ADDRESS/

"
    )
}

fn status_page(address: SocketAddr) -> String {
    format!(
        "Its circuits, hop by hop, what goes through them, and a new identity:
  http://{address}/

"
    )
}

fn whereabouts(dir: &Path, options: &Options) -> String {
    let fate = if options.dir.is_some() { "kept" } else { "removed at the end" };
    let seed = match options.seed {
        Some(_) => "Keys:      made from --seed, so anybody can make them: for experiments only\n",
        None => "",
    };
    format!(
        "Logs:      {}\nFolder:    {} ({fate})\n{seed}\nCtrl-C stops everything.",
        logs_dir(dir).display(),
        dir.display(),
    )
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What `up --json` tells a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Where the client's SOCKS5 port is.
    pub socks: SocketAddr,
    /// Where its status page and local API are; `null` if they are off, or the port was taken.
    pub status: Option<SocketAddr>,
    /// Where the network lies.
    pub dir: PathBuf,
    /// From the start of the process to the first byte through three hops.
    pub startup_ms: u64,
    /// The processes.
    pub pids: Pids,
}

/// The line for a program.
///
/// # Errors
/// If the folder's name is no text.
pub(crate) fn json_line(
    network: &Network,
    socks: SocketAddr,
    startup: Duration,
) -> serde_json::Result<String> {
    let startup_ms = u64::try_from(startup.as_millis()).unwrap_or(u64::MAX);
    let dir = network.dir().to_path_buf();
    serde_json::to_string(&Announcement {
        socks,
        status: network.status(),
        dir,
        startup_ms,
        pids: network.pids(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_screen_fits_a_terminal_of_80_columns() {
        let options =
            Options { authorities: 15, relays: 200, exits: 200, seed: Some(1), ..Options::default() };
        let up = what_is_up(&options, Duration::from_millis(59_900));
        let where_it_lies = whereabouts(Path::new("/tmp/tunic-testnet-AbCdEf"), &options);
        let socks = SocketAddr::from(([127, 255, 255, 255], 65_535));
        let there = how_to_there(socks, &"a-namespace".parse().unwrap());
        let text = [up, how_to(socks), there, status_page(socks), where_it_lies].concat();
        let longest = text.lines().map(str::len).max();
        assert!(longest <= Some(WIDTH), "{longest:?}: {text}");
    }
}
