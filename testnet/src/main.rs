//! The `tunic-testnet` command.
#![forbid(unsafe_code)]

fn main() -> tunic_net::daemon::Exit {
    tunic_testnet::cli::main()
}
