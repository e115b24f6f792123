#!/usr/bin/env python3
"""Measure an overlay network across an emulated wide-area network.

Every node, the client and the test server get a network namespace of their own.
The sibling program `wanhub` joins them with a one-way delay and with a rate up
and down at every host (a kernel with netem could do the same; `wanhub` also
works where netem is missing). `workload.py` then runs in the client's
namespace, with the test server in another; with `--rows`, `wan_rows.py` does
instead. Needs root.

Tunic, through `tunic-testnet up --place` (build it first, with --release):

    python3 wan.py tunic --rows

C Tor, through `peer_tor.py`:

    python3 wan.py tor --consensus-param cc_alg=2

Any other implementation, from a plan that says how to launch each node:

    python3 wan.py plan.json --runs 3

A plan looks like this; `{address}` is the node's own address and `{NAME}` that
of another. Nodes start in the order given, after `prepare` (commands that run
outside the namespaces, for keys and configuration), and the measurement begins
once an echo through the SOCKS port of the node called `client` succeeds:

    {"prepare": [["keytool", "--authority", "{authority0}:7000"]],
     "nodes": [{"name": "authority0", "role": "authority",
                "command": ["authority", "--listen", "{address}:7000"]},
               {"name": "client", "role": "client",
                "command": ["client", "--socks", "127.0.0.1:9050"]}],
     "socks": "127.0.0.1:9050"}
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import peer_tor  # noqa: E402

WORKLOAD = HERE / "workload.py"
ROWS = HERE / "wan_rows.py"
TUNIC_TESTNET = HERE.parent.parent / "target" / "release" / "tunic-testnet"
SERVER_PORT = 7999
SERVER_NAME = "test-server"
READY_TIMEOUT = 120  # seconds until an echo through the overlay must succeed
STOP_TIMEOUT = 10


@dataclasses.dataclass(frozen=True)
class Link:
    """What every host's connection to the wide-area network is like."""

    delay_ms: float
    rate_mbit: float
    queue_ms: float
    loss_per_million: float
    congestion_control: str | None


class WideAreaNetwork:
    """Named hosts, each in its own namespace, joined by `wanhub`."""

    def __init__(self, names: list[str], link: Link, wanhub: pathlib.Path):
        self._numbers = {name: number for number, name in enumerate(names, start=1)}
        self._link = link
        self._wanhub = wanhub

    def __enter__(self) -> "WideAreaNetwork":
        in_use = [line.split()[0] for line in output_of("ip", "netns", "list").splitlines() if line.strip()]
        if clash := [name for name in map(self.namespace, self._numbers) if name in in_use]:
            raise RuntimeError(f"namespaces are in use already: {' '.join(clash)}")
        link = self._link
        command = [self._wanhub, len(self._numbers), link.delay_ms, link.rate_mbit, link.queue_ms]
        command.append(link.loss_per_million)
        self._hub = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # or what ends this whole group would leave the namespaces
        )
        if self._hub.stdout.readline().strip() != "ready":
            raise RuntimeError("wanhub did not start")
        if link.congestion_control:
            for name in self._numbers:
                setting = f"net.ipv4.tcp_congestion_control={link.congestion_control}"
                subprocess.run([*self.enter(name), "sysctl", "-qw", setting], check=True)
        return self

    def __exit__(self, *exception_details) -> None:
        self._hub.stdin.close()
        self._hub.wait(STOP_TIMEOUT)

    @property
    def hub_pid(self) -> int:
        return self._hub.pid

    def namespace(self, name: str) -> str:
        return f"wan{self._numbers[name]}"

    def address(self, name: str) -> str:
        return f"10.77.0.{self._numbers[name]}"

    def addresses(self) -> dict[str, str]:
        return {name: self.address(name) for name in self._numbers}

    def enter(self, name: str) -> tuple[str, ...]:
        """The words before a command that is to run on a host."""
        return ("ip", "netns", "exec", self.namespace(name))


@dataclasses.dataclass
class Overlay:
    """A running overlay network: where its SOCKS port is, and its processes."""

    client_name: str
    socks: str
    pids_argument: list[str]


@contextlib.contextmanager
def tor_overlay(wan: WideAreaNetwork, arguments: argparse.Namespace) -> Iterator[Overlay]:
    network = peer_tor.TorNetwork(
        **tor_sizes(arguments),
        consensus_params=arguments.consensus_param,
        torrc_by_role=peer_tor.group_torrc_lines(arguments.torrc),
        host_for=lambda name: peer_tor.Host(wan.address(name), wan.enter(name)),
        bootstrap_timeout=READY_TIMEOUT,
        # On long links relays take longer to be known to the authorities.
        first_consensus_delay=peer_tor.FIRST_CONSENSUS_DELAY + int(arguments.delay_ms / 5),
    )
    with network:
        print(json.dumps(network.description()), file=sys.stderr)
        yield Overlay(network.client.name, network.socks_address, network.description()["pids_argument"])


@contextlib.contextmanager
def tunic_overlay(wan: WideAreaNetwork, arguments: argparse.Namespace) -> Iterator[Overlay]:
    place = "netns:" + ",".join(map(wan.namespace, tunic_names(arguments)))
    command = [
        str(arguments.tunic_testnet), "up", "--json", "--until-stdin-closes", "--socks", "127.0.0.1:0",
        "--authorities", str(arguments.authorities), "--relays", str(arguments.relays + arguments.exits),
        "--exits", str(arguments.exits), "--place", place,
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as up:
        try:
            ready = json.loads(up.stdout.readline() or "null")
            if not ready:
                raise RuntimeError("the Tunic network did not come up")
            print(json.dumps(ready), file=sys.stderr)
            pids = [f"{role}={','.join(map(str, of_role))}" for role, of_role in ready["pids"].items()]
            yield Overlay("client", ready["socks"], pids)
        finally:
            up.stdin.close()
            up.wait(STOP_TIMEOUT)


def tunic_names(arguments: argparse.Namespace) -> list[str]:
    """In the order in which `up --place` puts them; relays that are exits come last."""
    relays = arguments.relays + arguments.exits
    counts = {"authority": arguments.authorities, "relay": relays}
    return [f"{role}{index}" for role, count in counts.items() for index in range(count)] + ["client"]


def tor_sizes(arguments: argparse.Namespace) -> dict[str, int]:
    return {"authorities": arguments.authorities, "relays": arguments.relays, "exits": arguments.exits}


def tor_names(arguments: argparse.Namespace) -> list[str]:
    counts = {"authority": arguments.authorities, "relay": arguments.relays, "exit": arguments.exits, "client": 1}
    return [f"{role}{index}" for role, count in counts.items() for index in range(count)]


@contextlib.contextmanager
def planned_overlay(wan: WideAreaNetwork, plan: dict) -> Iterator[Overlay]:
    """The overlay of a plan, started node by node."""
    addresses = wan.addresses()
    for command in plan.get("prepare", []):
        subprocess.run(fill_in(command, addresses), check=True)
    with contextlib.ExitStack() as stack:
        pids: dict[str, list[str]] = {}
        for node in plan["nodes"]:
            name = node["name"]
            command = fill_in(node["command"], {**addresses, "address": addresses[name]})
            process = stack.enter_context(running([*wan.enter(name), *command]))
            pids.setdefault(node["role"], []).append(str(process.pid))
            time.sleep(node.get("pause_seconds", 0))
        yield Overlay("client", plan["socks"], [f"{role}={','.join(of_role)}" for role, of_role in pids.items()])


def fill_in(command: list[str], values: dict[str, str]) -> list[str]:
    filled = []
    for word in command:
        for name, value in values.items():
            word = word.replace("{" + name + "}", value)
        filled.append(word)
    return filled


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen]:
    """A process that is stopped on the way out."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(wan: WideAreaNetwork, overlay: Overlay, arguments: argparse.Namespace) -> int:
    """Run the workload from the client's host against the test server's."""
    target = f"{wan.address(SERVER_NAME)}:{SERVER_PORT}"
    program = str(ROWS if arguments.rows else WORKLOAD)
    serve = [*wan.enter(SERVER_NAME), sys.executable, program, "--serve", target]
    drive = [
        *wan.enter(overlay.client_name), sys.executable, str(WORKLOAD),
        "--socks", overlay.socks, "--target", target,
        "--pids", *overlay.pids_argument, f"wanhub={wan.hub_pid}",
    ]  # fmt: skip
    with running(serve):
        wait_until_ready([*drive, *"--only round --rounds 1 --runs 1 --pause 0 --timeout 10".split()])
        options = ["--runs", str(arguments.runs), "--label", arguments.label]
        if arguments.json:
            options += ["--json", str(arguments.json)]
        if arguments.rows:
            drive = [*wan.enter(overlay.client_name), sys.executable, str(ROWS), "--socks", overlay.socks]
            return subprocess.run([*drive, "--target", target, *options, *arguments.rows.split()]).returncode
        return subprocess.run([*drive, *options, *arguments.workload_options.split()]).returncode


def wait_until_ready(probe: list[str]) -> None:
    """Repeat a one-echo workload until it succeeds."""
    deadline = time.monotonic() + READY_TIMEOUT
    while time.monotonic() < deadline:
        answer = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if answer.returncode == 0 and not json.loads(answer.stdout)["results"]["round trip"][0]["failed"]:
            return
        time.sleep(1)
    raise TimeoutError("no echo came back through the overlay")


def output_of(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def build_wanhub() -> pathlib.Path:
    manifest = HERE / "wanhub" / "Cargo.toml"
    subprocess.run(["cargo", "build", "--release", "--quiet", "--manifest-path", manifest], check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", manifest.parent / "target"))
    return target / "release" / "wanhub"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overlay", help="`tunic`, `tor`, `direct` (no overlay) or the path of a plan")
    parser.add_argument("--delay-ms", type=float, default=25, help="one way, between any two hosts")
    parser.add_argument("--rate-mbit", type=float, default=100, help="up and down, at every host")
    parser.add_argument("--queue-ms", type=float, default=100, help="longest queue at a host's link")
    parser.add_argument("--loss-per-million", type=float, default=0, help="packets lost on the way")
    parser.add_argument("--tcp-congestion-control", help="for every host, if not the kernel's default")
    parser.add_argument("--wanhub", type=pathlib.Path, help="the built program, if cargo is not to build it")
    parser.add_argument("--label", default="")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--workload-options",
        default="--bulk-mib 64 --down-streams 1 8 --up-streams 1 --requests 50 --rounds 50 --circuits 20"
        " --concurrency 200",
        help="passed on to workload.py",
    )
    parser.add_argument(
        "--rows", nargs="?", const=" ", help="run wan_rows.py, with these options, instead of the workload"
    )
    parser.add_argument("--tunic-testnet", type=pathlib.Path, default=TUNIC_TESTNET)
    tor = parser.add_argument_group("only for `tunic` and `tor`")
    tor.add_argument("--authorities", type=int, default=3)
    tor.add_argument("--relays", type=int, default=4)
    tor.add_argument("--exits", type=int, default=2)
    tor = parser.add_argument_group("only for `tor`")
    tor.add_argument("--consensus-param", action="append", default=[], metavar="NAME=VALUE")
    tor.add_argument("--torrc", action="append", default=[], metavar="ROLE:LINE")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    plan = {}
    if arguments.overlay == "tor":
        names = tor_names(arguments)
    elif arguments.overlay == "tunic":
        names = tunic_names(arguments)
    elif arguments.overlay == "direct":
        names = ["client"]
    else:
        plan = json.loads(pathlib.Path(arguments.overlay).read_text())
        names = [node["name"] for node in plan["nodes"]]
    link = Link(arguments.delay_ms, arguments.rate_mbit, arguments.queue_ms, arguments.loss_per_million, arguments.tcp_congestion_control)
    wanhub = arguments.wanhub or build_wanhub()
    with WideAreaNetwork([SERVER_NAME, *names], link, wanhub) as wan:
        if arguments.overlay == "tor":
            overlay = tor_overlay(wan, arguments)
        elif arguments.overlay == "tunic":
            overlay = tunic_overlay(wan, arguments)
        elif arguments.overlay == "direct":
            overlay = contextlib.nullcontext(Overlay("client", "none", []))
        else:
            overlay = planned_overlay(wan, plan)
        with overlay as running_overlay:
            sys.exit(measure(wan, running_overlay, arguments))


if __name__ == "__main__":
    main()
