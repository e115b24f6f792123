//! `tunic-directory`: a directory authority as a process of its own.
#![forbid(unsafe_code)]

fn main() -> tunic_net::daemon::Exit {
    tunic_directory::cli::main()
}
