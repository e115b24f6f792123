"""Tunic on wide-area links beside C Tor: `wan.py --rows`, each network as often as asked for, by turns, on each of the links."""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import loopback
from report import TUNIC, Report, Results, Row, at_least, at_most, compare, failures, field

HERE = pathlib.Path(__file__).resolve().parent
RATE_MBIT = 100
# What the cell format leaves of the rate (450 of 512 bytes), in MB/s, and how much of that is to arrive.
GOODPUT = 0.9 * 0.88 * RATE_MBIT / 8
# Beginning, preparing the path, and ending all take long now and then; rows themselves take two minutes.
TIMEOUT = 900
NETWORK_STARTS = 3
SMOKE_ROWS = "--settle 1 --seconds 2"


@dataclasses.dataclass(frozen=True)
class Link:
    delay_ms: int
    settle_seconds: int = 3
    loss_per_million: int = 0

    def __str__(self) -> str:
        return f"{self.delay_ms} ms one way" + (f", {self.loss_per_million / 1e4:g} % lost" if self.loss_per_million else "")

    def rows(self) -> list[Row]:
        """With loss the goals are ratios to C Tor; elsewhere figures, and never to be worse than C Tor."""
        alone, even = not self.loss_per_million, None if self.loss_per_million else at_least(0.9)
        rate = {"goal": at_least(GOODPUT) if alone else None, "ratio_goal": at_least(1 if alone else 1.5), "more_is_better": True}
        rows = []
        for bulk, share in (("down", "share"), ("up", "share up")):
            rows += [
                Row(bulk, "MB/s", field("mb_per_s"), **rate),
                Row(share, "MB/s", field("mb_per_s"), ratio_goal=at_least(1), more_is_better=True),
                Row(share, "least of the mean", field("least_of_mean"), even, at_least(1), more_is_better=True),
                Row(share, "most of the mean", field("most_of_mean"), at_most(1.1) if alone else None, at_most(1)),
            ]
        rows.append(Row("round trip: idle", "p95 ms", field("p95_ms"), ratio_goal=at_most(1)))
        for also in ("", ", up"):
            for which in ("other", "same"):
                name = f"round trip: {which} circuit{also}"
                rows.append(Row(name, "p95 ms", field("p95_ms"), ratio_goal=at_most(1)))
                rows.append(Row(name, "p95 of idle", field("p95_of_idle"), at_most(1.5) if alone else None))
        return rows


LINKS = {
    "wide-25": Link(25),
    "wide-5": Link(5),
    "wide-80": Link(80, settle_seconds=8),
    "wide-loss": Link(25, loss_per_million=1000),
}


def why_not() -> str:
    """Why there can be no such networks here, if so."""
    if os.geteuid() != 0:
        return "it needs root"
    if not pathlib.Path("/dev/net/tun").is_char_device():
        return "it needs /dev/net/tun"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "it needs the commands ip and unshare"
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        return "it needs network namespaces"
    return ""


def tor_words(consensus_params: list[str], vanilla: bool = False) -> list[str]:
    words = [word for parameter in consensus_params for word in ("--consensus-param", parameter)]
    lines = [f"{role}:{line}" for role, of_role in loopback.tor_torrc(vanilla).items() for line in of_role]
    return ["tor", *words, *(word for line in lines for word in ("--torrc", line))]


def measure(words: list[str], link: Link, rows: str) -> Results:
    """One network on one link. One that does not start is started again."""
    command = [sys.executable, str(HERE / "wan.py"), *words, "--delay-ms", str(link.delay_ms), "--rate-mbit", str(RATE_MBIT)]
    command += ["--loss-per-million", str(link.loss_per_million), "--runs", "1", "--rows", rows]
    for _ in range(NETWORK_STARTS):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / "out.json"
            # Rows that failed are in its results; without any, it did not come to them.
            with subprocess.Popen([*command, "--json", str(out)]) as running:
                try:
                    running.wait(TIMEOUT)
                except subprocess.TimeoutExpired:
                    running.terminate()
            if out.exists():
                return json.loads(out.read_text())["results"]
    raise RuntimeError(f"no network started: {' '.join(words)}, {link}")


def measure_all(arguments: argparse.Namespace, networks: int, link: Link) -> Report:
    if reason := why_not():
        return Report(skipped=reason)
    kinds = {TUNIC: ["tunic", "--tunic-testnet", str(arguments.tunic_testnet)]}
    if not arguments.without_tor:
        kinds |= {name: tor_words(**settings) for name, settings in loopback.TOR_SETTINGS.items()}
    rows = SMOKE_ROWS if arguments.smoke else f"--settle {link.settle_seconds}"
    columns: dict[str, Results] = {name: {} for name in kinds}
    failed = []
    for _ in range(networks):
        for name, words in kinds.items():
            print(f"# {name}, {link}", file=sys.stderr, flush=True)
            try:
                found = measure(words, link, rows)
            except RuntimeError as error:
                failed.append(str(error))
                continue
            for scenario, runs in found.items():
                columns[name].setdefault(scenario, []).extend(runs)
    # What fails with C Tor is its figure: an upload beside which nothing answers in time.
    failed += failures({TUNIC: columns[TUNIC]}, link.rows())
    return Report(compare(f"{link}: median [lowest-highest]", columns, link.rows()), columns, failed)
