//! How a network starts and ends.

use std::time::Duration;

use rustix::process::Signal;

use crate::network::{Started, TestNetwork, shared};
use crate::processes::{self, assert_all_end, wait_until};
use crate::server::serve_echo;
use crate::socks;

const LIMIT: Duration = Duration::from_secs(30);
const SMALL: [&str; 6] = ["--authorities", "1", "--relays", "3", "--exits", "1"];

#[test]
fn two_networks_run_side_by_side() {
    let second = TestNetwork::start(&SMALL);
    let target = serve_echo();
    for network in [shared(), &second] {
        socks::ping(&mut socks::connect(network.up.socks, target)).unwrap();
    }
    assert_eq!(second.up.pids.directory.len(), 1);
    assert_eq!(second.up.pids.relay.len(), 3);
    assert_eq!(second.up.pids.client.len(), 1);
    assert!(second.up.startup_ms > 0);
}

#[test]
fn a_killed_parent_leaves_no_child() {
    let mut network = TestNetwork::start(&SMALL);
    network.assert_all_alive();
    processes::send(network.parent_pid(), Signal::KILL);
    assert_all_end(&network.up.pids.all(), LIMIT);
    // The children may go before the last thread of the parent, which gives back the lock on the folder.
    network.ended();
    assert!(network.up.dir.exists(), "who is killed cannot clean up");
    let next = TestNetwork::start(&SMALL);
    assert!(!network.up.dir.exists(), "the next network does it");
    assert!(next.up.dir.exists());
}

#[test]
fn sigterm_ends_every_node_and_leaves_nothing_behind() {
    ends_cleanly(|network| processes::send(network.parent_pid(), Signal::TERM));
}

#[test]
fn ctrl_c_ends_every_node_and_leaves_nothing_behind() {
    ends_cleanly(|network| processes::send(network.parent_pid(), Signal::INT));
}

#[test]
fn a_closed_stdin_ends_every_node_and_leaves_nothing_behind() {
    ends_cleanly(TestNetwork::close_stdin);
}

#[track_caller]
fn ends_cleanly(end: impl FnOnce(&mut TestNetwork)) {
    let mut network = TestNetwork::start(&SMALL);
    network.assert_all_alive();
    assert!(network.up.dir.exists());
    end(&mut network);
    let status = network.ended();
    assert!(status.success(), "{status}: {}", network.said());
    assert_all_end(&network.up.pids.all(), Duration::ZERO);
    assert!(!network.up.dir.exists(), "the temporary folder is still there");
    assert_eq!(network.rest_of_stdout(), "", "--json prints one line");
}

#[test]
fn a_lost_relay_is_reported_and_the_rest_goes_on() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "4", "--exits", "2"]);
    processes::send(network.up.pids.relay[3], Signal::KILL);
    wait_until(LIMIT, "the loss is reported", || network.said().contains("relay4 ended unexpectedly"));
    assert!(network.said().contains("relay4.log"), "{}", network.said());
    let target = serve_echo();
    socks::ping(&mut socks::connect(network.up.socks, target)).unwrap();
}

#[test]
fn without_its_client_a_network_ends_with_an_error() {
    let mut network = TestNetwork::start(&SMALL);
    processes::send(network.up.pids.client[0], Signal::KILL);
    let status = network.ended();
    assert_eq!(status.code(), Some(1), "{}", network.said());
    assert!(network.said().contains("error: the client is gone"), "{}", network.said());
    assert_all_end(&network.up.pids.all(), Duration::ZERO);
    assert!(!network.up.dir.exists(), "the temporary folder is still there");
}

#[test]
fn ctrl_c_ends_a_network_that_is_still_coming_up() {
    // The first consensus waits for every relay, so with so many there is time.
    let args = ["up", "--socks", "127.0.0.1:0", "--relays", "20"];
    interrupted_when(&args, "directory ready: 3 of 3", Some(0));
}

#[test]
fn ctrl_c_ends_a_demonstration() {
    interrupted_when(&["demo", "--relays", "20"], "directory ready: 3 of 3", Some(1));
}

/// Starts the program, and sends it Ctrl-C when it says this.
#[track_caller]
fn interrupted_when(args: &[&str], says: &str, code: Option<i32>) {
    let place = tempfile::tempdir().unwrap();
    let mut started = Started::new(args, place.path());
    wait_until(LIMIT, says, || started.said().contains(says));
    let children = processes::children(started.pid());
    assert!(!children.is_empty(), "{}", started.said());
    processes::send(started.pid(), Signal::INT);
    assert_eq!(started.ended().code(), code, "{}", started.said());
    assert_all_end(&children, Duration::ZERO);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "the temporary folder is still there");
}
