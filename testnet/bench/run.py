#!/usr/bin/env python3
"""Measure every figure that Tunic has a goal for: tables with goals and, where `tor` is installed, ratios to C Tor; and JSON.

    cargo build --release -p tunic-testnet
    python3 testnet/bench/run.py --json result.json                  everything, some four hours; one without `tor`
    python3 testnet/bench/run.py --only loopback --json result.json  one part: 35 minutes, 6 without `tor`
    python3 testnet/bench/run.py --smoke                             Tunic alone, two minutes: does every row still work?

The parts are `loopback`, `processes` (`cargo bench`), and `wide-25`, `wide-5`, `wide-80` and `wide-loss` (as root, in network
namespaces). Each network, and each benchmark, is started `--networks` times, by turns. A failed transfer is shown and makes
the exit status 1; it never counts as a speed, and nor does a row without a figure. The JSON is written after each part.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import loopback
import processes
import wide_area
import workload

PARTS = {
    "loopback": loopback.measure_all,
    "processes": processes.measure_all,
    **{name: functools.partial(wide_area.measure_all, link=link) for name, link in wide_area.LINKS.items()},
}
SMOKE_PARTS = ["loopback", "processes", "wide-5"]


def version_of(program: str | pathlib.Path) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="Tunic alone, small and once")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--networks", type=int, default=5, help="how often each network and benchmark is started")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--tunic-testnet", type=pathlib.Path, default=loopback.TUNIC_TESTNET)
    parser.add_argument("--without-tor", action="store_true")
    parser.add_argument("--workload-options", default="--bulk-mib 128", help="of the part `loopback`: for workload.py")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.without_tor |= arguments.smoke
    if not arguments.without_tor and not shutil.which("tor"):
        arguments.without_tor = True
        print("C Tor is not measured: Debian's package `tor` has it", file=sys.stderr)
    document = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arguments": sys.argv[1:],
        "versions": [version_of(program) for program in [arguments.tunic_testnet, *(["tor"] if not arguments.without_tor else [])]],
        "machine": {**workload.machine(), "load_average": os.getloadavg()[0]},
        "parts": {},
    }
    machine = document["machine"]
    print(f"{document['started'][:10]}, {machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}", flush=True)
    failed = []
    for name in arguments.only or (SMOKE_PARTS if arguments.smoke else PARTS):
        report = PARTS[name](arguments, 1 if arguments.smoke else arguments.networks)
        if report.skipped:
            print(f"skipped: benchmark, {name} ({report.skipped})", flush=True)
        # A smoke run's figures mean nothing.
        if report.table and not arguments.smoke:
            report.table.show()
        document["parts"][name] = dataclasses.asdict(report)
        failed += [f"{name}: {text}" for text in report.failures]
        if arguments.json:
            arguments.json.write_text(json.dumps({**document, "failed": failed}, indent=1) + "\n")
    for text in failed:
        print(f"FAILED: {text}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
