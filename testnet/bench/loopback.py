"""Tunic on loopback beside C Tor.

Each network is started as often as asked for and runs the workload once each time, by turns, so that what else the machine
does strikes all alike. The ratio compares Tunic's median with that of the C Tor setting that is best in the row.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Iterator

import peer_tor
import summarise
from report import TUNIC, Report, Results, Row, at_least, at_most, compare, failures, field

HERE = pathlib.Path(__file__).resolve().parent
TUNIC_TESTNET = HERE.parent.parent / "target" / "release" / "tunic-testnet"
RELAYS, EXITS = 4, 2
TOR_SETTINGS = {
    "tor": {"consensus_params": ["cc_alg=2"]},
    "tor vanilla": {"consensus_params": ["cc_alg=2"], "vanilla": True},
    "tor vanilla, no vegas": {"consensus_params": ["cc_alg=0"], "vanilla": True},
}
# Now and then a C Tor network finds no path while it starts, and never recovers: another one is started then, and only that
# one counts. How many were given up before it is `started_again` of its `start` in the JSON.
TOR_STARTS = 3
STOP_TIMEOUT = 10
SMOKE_OPTIONS = (
    "--runs 1 --pause 0 --timeout 20 --bulk-mib 8 --down-streams 1 8 --up-streams 1 --isolated-streams 8"
    " --requests 10 --rounds 20 --circuits 5 --concurrency 50"
)
# A smoke run is too short for these.
SMOKE_HAS_NOT = {"down x32", "up x8"}

ROWS = [
    Row("down x1", "MB/s", field("mb_per_s"), ratio_goal=at_least(4), more_is_better=True),
    Row("down x8 isolated", "MB/s", field("mb_per_s"), ratio_goal=at_least(2.5), more_is_better=True),
    Row("down x8", "MB/s", field("mb_per_s"), more_is_better=True),
    Row("down x32", "MB/s", field("mb_per_s"), ratio_goal=at_least(4), more_is_better=True),
    Row("up x1", "MB/s", field("mb_per_s"), ratio_goal=at_least(4), more_is_better=True),
    Row("up x8 isolated", "MB/s", field("mb_per_s"), ratio_goal=at_least(2.5), more_is_better=True),
    Row("up x8", "MB/s", field("mb_per_s"), more_is_better=True),
    Row("down x1", "CPU s/GiB", summarise.network_cpu_per_gib, ratio_goal=at_most(1 / 3)),
    Row("down x8 isolated", "CPU s/GiB", summarise.network_cpu_per_gib, ratio_goal=at_most(1 / 3)),
    Row("up x8 isolated", "CPU s/GiB", summarise.network_cpu_per_gib, ratio_goal=at_most(1 / 3)),
    Row("first byte", "p50 ms", field("p50_ms"), ratio_goal=at_most(1 / 40)),
    Row("first byte", "p99 ms", field("p99_ms"), ratio_goal=at_most(1 / 40)),
    Row("round trip", "p50 ms", field("p50_ms"), ratio_goal=at_most(1)),
    Row("round trip", "p95 ms", field("p95_ms"), ratio_goal=at_most(1 / 40)),
    Row("new circuit", "p50 ms", field("p50_ms"), ratio_goal=at_most(1 / 10)),
    Row("new circuit", "p95 ms", field("p95_ms"), ratio_goal=at_most(1 / 10)),
    Row("new circuits at once", "p50 ms", field("p50_ms"), ratio_goal=at_most(1 / 10)),
    Row("new circuits at once", "p95 ms", field("p95_ms"), ratio_goal=at_most(1 / 10)),
    Row("echo", "wall s", field("wall_seconds"), ratio_goal=at_most(1 / 3)),
    Row("start", "s", field("seconds"), ratio_goal=at_most(1 / 5)),
]

# A running network: SOCKS address, `--pids` words, and the figures of its start: `seconds` to the first byte.
Network = tuple[str, list[str], dict]


@contextlib.contextmanager
def up(program: pathlib.Path) -> Iterator[dict]:
    """A running network: what it says of itself."""
    command = [str(program), "up", "--json", "--until-stdin-closes", "--socks", "127.0.0.1:0"]
    command += ["--relays", str(RELAYS + EXITS), "--exits", str(EXITS)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            ready = json.loads(process.stdout.readline() or "null")
            if not ready:
                raise RuntimeError("the Tunic network did not come up")
            yield ready
        finally:
            process.stdin.close()
            process.wait(STOP_TIMEOUT)


@contextlib.contextmanager
def tunic(program: pathlib.Path) -> Iterator[Network]:
    with up(program) as ready:
        pids = [f"{role}={','.join(map(str, of_role))}" for role, of_role in ready["pids"].items()]
        yield ready["socks"], pids, {"seconds": ready["startup_ms"] / 1000}


def tor_torrc(vanilla: bool) -> dict[str, list[str]]:
    """Lines for the torrc of each role."""
    if not vanilla:
        return {}
    lines = {role: ["Schedulers Vanilla"] for role in ("relay", "exit", "client")}
    lines["client"].append("ConfluxEnabled 0")
    return lines


@contextlib.contextmanager
def tor(consensus_params: list[str], vanilla: bool = False) -> Iterator[Network]:
    for given_up in range(TOR_STARTS):
        started = time.monotonic()
        network = peer_tor.TorNetwork(
            relays=RELAYS, exits=EXITS, consensus_params=consensus_params, torrc_by_role=tor_torrc(vanilla)
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(network)
            except (TimeoutError, RuntimeError) as error:
                if given_up + 1 == TOR_STARTS:
                    raise
                print(f"# did not start, once more: {error}", file=sys.stderr, flush=True)
                continue
            start = {"seconds": round(time.monotonic() - started, 2), "started_again": given_up}
            yield network.socks_address, network.description()["pids_argument"], start
            return


def measure(network: contextlib.AbstractContextManager, label: str, options: list[str]) -> Results:
    with network as (socks, pids, start), tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        command = [sys.executable, str(HERE / "workload.py"), "--socks", socks, "--pids", *pids]
        print(f"# {label}", file=sys.stderr, flush=True)
        subprocess.run([*command, "--label", label, "--json", str(out), *options], check=True)
        document = json.loads(out.read_text())
    if document["processes_ended"]:
        raise RuntimeError(f"{label}: processes ended: {document['processes_ended']}")
    results = {name.split(" x")[0] if name.startswith("echo") else name: runs for name, runs in document["results"].items()}
    return {"start": [{"attempted": 1, "failed": 0, **start}], **results}


def measure_all(arguments: argparse.Namespace, networks: int) -> Report:
    """Every row, for Tunic and for C Tor where it is there; Tunic alone, small, for a smoke run."""
    options = ["--runs", "1", *arguments.workload_options.split()]
    if arguments.smoke:
        options = SMOKE_OPTIONS.split()
    kinds = {TUNIC: lambda: tunic(arguments.tunic_testnet)}
    if not arguments.without_tor:
        kinds |= {name: (lambda s=settings: tor(**s)) for name, settings in TOR_SETTINGS.items()}
    columns: dict[str, Results] = {name: {} for name in kinds}
    for _ in range(networks):
        for name, make in kinds.items():
            for scenario, runs in measure(make(), name, options).items():
                columns[name].setdefault(scenario, []).extend(runs)
    rows = [row for row in ROWS if not (arguments.smoke and row.scenario in SMOKE_HAS_NOT)]
    table = compare("On loopback: median [lowest-highest]", columns, rows)
    return Report(table, columns, list(failures(columns, rows)))
