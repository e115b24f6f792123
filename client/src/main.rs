//! The `tunic-client` daemon.
#![forbid(unsafe_code)]

fn main() -> tunic_net::daemon::Exit {
    tunic_client::cli::main()
}
