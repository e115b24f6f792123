#!/usr/bin/env python3
"""Measure Tunic on loopback beside C Tor, in one run: prints a table with ratios and writes JSON.

    cargo build --release -p tunic-testnet
    python3 testnet/bench/run.py --json result.json      every row, about 25 minutes with `tor`, 6 without
    python3 testnet/bench/run.py --smoke                 Tunic alone, seconds: does every row still work?

Each network is started `--networks` times and runs the workload `--runs` times, by turns, so that what else the machine
does strikes all alike. A cell is `median [lowest-highest]` over all runs. The ratio compares Tunic's median with that of the C
Tor setting that is best in the row. A failed transfer is shown and makes the exit status 1; it never counts as a speed.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable, Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import peer_tor  # noqa: E402
import summarise  # noqa: E402
import workload  # noqa: E402

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


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one scenario, and the goal as a ratio to C Tor."""

    scenario: str
    unit: str
    figure: Callable[[dict], float | None]
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, ratio: float) -> str:
        if self.at_least is None and self.at_most is None:
            return ""
        reached = ratio >= self.at_least if self.at_least is not None else ratio <= self.at_most
        goal = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:.3g}"
        return f"{goal}: {'reached' if reached else 'MISSED'}"


def field(key: str) -> Callable[[dict], float | None]:
    return lambda run: run.get(key)


ROWS = [
    Row("down x1", "MB/s", field("mb_per_s"), at_least=4),
    Row("down x8 isolated", "MB/s", field("mb_per_s"), at_least=2.5),
    Row("down x8", "MB/s", field("mb_per_s")),
    Row("down x32", "MB/s", field("mb_per_s"), at_least=4),
    Row("up x1", "MB/s", field("mb_per_s"), at_least=4),
    Row("up x8 isolated", "MB/s", field("mb_per_s"), at_least=2.5),
    Row("up x8", "MB/s", field("mb_per_s")),
    Row("down x1", "CPU s/GiB", summarise.network_cpu_per_gib, at_most=1 / 3),
    Row("down x8 isolated", "CPU s/GiB", summarise.network_cpu_per_gib, at_most=1 / 3),
    Row("up x8 isolated", "CPU s/GiB", summarise.network_cpu_per_gib, at_most=1 / 3),
    Row("first byte", "p50 ms", field("p50_ms"), at_most=1 / 40),
    Row("first byte", "p99 ms", field("p99_ms"), at_most=1 / 40),
    Row("round trip", "p50 ms", field("p50_ms"), at_most=1),
    Row("round trip", "p95 ms", field("p95_ms"), at_most=1 / 40),
    Row("new circuit", "p50 ms", field("p50_ms"), at_most=1 / 10),
    Row("new circuit", "p95 ms", field("p95_ms"), at_most=1 / 10),
    Row("new circuits at once", "p50 ms", field("p50_ms"), at_most=1 / 10),
    Row("new circuits at once", "p95 ms", field("p95_ms"), at_most=1 / 10),
    Row("echo", "wall s", field("wall_seconds"), at_most=1 / 3),
    Row("start", "s", field("seconds"), at_most=1 / 5),
]

Results = dict[str, list[dict]]
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


@contextlib.contextmanager
def tor(consensus_params: list[str], vanilla: bool = False) -> Iterator[Network]:
    torrc = {role: ["Schedulers Vanilla"] for role in ("relay", "exit", "client")} if vanilla else {}
    if vanilla:
        torrc["client"].append("ConfluxEnabled 0")
    for given_up in range(TOR_STARTS):
        started = time.monotonic()
        network = peer_tor.TorNetwork(
            relays=RELAYS, exits=EXITS, consensus_params=consensus_params, torrc_by_role=torrc
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


def values_of(results: Results, row: Row) -> list[float]:
    """The figures of runs in which nothing failed."""
    sound = [run for run in results.get(row.scenario, []) if not run["failed"]]
    return [value for run in sound if (value := row.figure(run)) is not None]


def failures(columns: dict[str, Results]) -> Iterator[str]:
    for name, results in columns.items():
        for scenario, runs in results.items():
            if failed := sum(run["failed"] for run in runs):
                yield f"{name}, {scenario}: {failed} of {sum(run['attempted'] for run in runs)} failed"


def compare(columns: dict[str, Results]) -> Iterator[tuple[str, list[str]]]:
    peers = [name for name in columns if name != "tunic"]
    for row in ROWS:
        if not any(row.scenario in results for results in columns.values()):
            continue  # not asked for
        values = {name: values_of(results, row) for name, results in columns.items()}
        medians = {name: statistics.median(of) for name, of in values.items() if of}
        cells = [
            f"{summarise.significant(medians[name])} [{summarise.significant(min(of))}-{summarise.significant(max(of))}]"
            if of
            else "-"
            for name, of in values.items()
        ]
        of_peers = [medians[name] for name in peers if name in medians]
        if of_peers and medians.get("tunic"):
            best = max(of_peers) if row.unit == "MB/s" else min(of_peers)
            ratio = medians["tunic"] / best
            cells += [f"{ratio:.3g}", row.judge(ratio)]
        elif peers:
            cells += ["-", ""]
        yield f"{row.scenario}, {row.unit}", cells


def version_of(program: str | pathlib.Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Tunic alone, small and once")
    parser.add_argument("--networks", type=int, default=5, help="how often each network is started")
    parser.add_argument("--runs", type=int, default=1, help="runs of each row on each network")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--tunic-testnet", type=pathlib.Path, default=TUNIC_TESTNET)
    parser.add_argument("--without-tor", action="store_true")
    parser.add_argument("--workload-options", default="", help="passed on to workload.py")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = ["--runs", str(arguments.runs), *arguments.workload_options.split()]
    networks = {"tunic": lambda: tunic(arguments.tunic_testnet)}
    if arguments.smoke:
        options = SMOKE_OPTIONS.split()
    elif shutil.which("tor") and not arguments.without_tor:
        networks |= {name: (lambda s=settings: tor(**s)) for name, settings in TOR_SETTINGS.items()}
    else:
        print("C Tor is not measured: Debian's package `tor` has it", file=sys.stderr)
    about = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arguments": sys.argv[1:],
        "versions": [version_of(program) for program in [arguments.tunic_testnet, *(["tor"] if len(networks) > 1 else [])]],
        "machine": {**workload.machine(), "load_average": os.getloadavg()[0]},
    }
    columns: dict[str, Results] = {name: {} for name in networks}
    for _ in range(1 if arguments.smoke else arguments.networks):
        for name, make in networks.items():
            for scenario, runs in measure(make(), name, options).items():
                columns[name].setdefault(scenario, []).extend(runs)
    machine = about["machine"]
    print(f"\n{about['started'][:10]}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}")
    headings = [*columns, "ratio", "goal"] if len(columns) > 1 else list(columns)
    table = list(compare(columns))
    summarise.print_table("median [lowest-highest]", headings, table)
    if arguments.json:
        arguments.json.write_text(json.dumps({**about, "table": table, "results": columns}, indent=1) + "\n")
    failed = list(failures(columns))
    asked_for = {row.scenario for row in ROWS} if not arguments.workload_options else set(columns["tunic"])
    if arguments.smoke:
        asked_for = {row.scenario for row in ROWS} - SMOKE_HAS_NOT
    for name, results in columns.items():
        missing = (row for row in ROWS if row.scenario in asked_for and not values_of(results, row))
        failed += [f"{name}, {row.scenario}, {row.unit}: no figure" for row in missing]
    for text in failed:
        print(f"FAILED: {text}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
