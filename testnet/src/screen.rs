//! What `up` says when the network works.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::launch::Network;
use crate::launch::plan::{Options, logs_dir};

/// The screen for a person.
pub fn screen(network: &Network, options: &Options, socks: SocketAddr, startup: Duration) -> String {
    let (authorities, relays, exits) = (options.authorities, options.relays, options.exits);
    let mut text = format!(
        "A private Tunic network is up after {:.1} s: {}, {} ({} of them exits) and a client.\n\n",
        startup.as_secs_f32(),
        counted(authorities, "authority", "authorities"),
        counted(relays, "relay", "relays"),
        exits,
    );
    text.push_str(&how_to(socks));
    text.push_str(&whereabouts(network.dir(), options));
    text
}

fn how_to(socks: SocketAddr) -> String {
    let (host, port) = (socks.ip(), socks.port());
    format!(
        "Try it:
  curl --socks5-hostname {socks} https://example.com/

Firefox:   Settings, Network Settings, Manual proxy configuration: SOCKS Host {host}, Port {port},
           SOCKS v5, and tick \"Proxy DNS when using SOCKS v5\"
Chromium:  chromium --proxy-server=socks5://{socks} --user-data-dir=\"$(mktemp -d)\"

What you send goes through three of the relays, and your computer resolves no name. But all relays run
on this machine: this network shows how Tunic works; it hides nothing from anybody.

"
    )
}

fn whereabouts(dir: &Path, options: &Options) -> String {
    let fate = if options.dir.is_some() { "kept" } else { "removed at the end" };
    let seed = match options.seed {
        Some(_) => "Keys:      made from --seed, so anybody can make them too: for experiments only\n",
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

/// The line for a program.
pub fn json_line(network: &Network, socks: SocketAddr, startup: Duration) -> String {
    json!({
        "socks": socks.to_string(),
        "dir": network.dir().display().to_string(),
        "startup_ms": startup.as_millis() as u64,
        "pids": network.pids(),
    })
    .to_string()
}
