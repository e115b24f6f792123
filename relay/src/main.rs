//! The relay daemon.
#![forbid(unsafe_code)]

fn main() -> tunic_net::daemon::Exit {
    tunic_relay::cli::main()
}
