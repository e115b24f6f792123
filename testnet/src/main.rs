//! The `tunic-testnet` command. Called by the name of one of the daemons, it is that daemon: the container image holds one
//! program.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::path::Path;

fn main() -> tunic_net::daemon::Exit {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(OsStr::to_str) {
        Some("tunic-relay") => tunic_relay::cli::main(),
        Some("tunic-directory") => tunic_directory::cli::main(),
        Some("tunic-client") => tunic_client::cli::main(),
        _ => tunic_testnet::cli::main(),
    }
}
