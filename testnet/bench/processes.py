"""What `cargo bench` measures: one relay in process, and the memory of client and relay.

Each benchmark ends with its figures, a line for each: `NAME: VALUE UNIT, goal <= BOUND`.
"""

import argparse
import re
import subprocess
import sys

from report import TUNIC, Goal, Report, Results, Row, compare, field

# With the words that make each a smoke run.
BENCHMARKS = {"relay_cell": ["--test"], "relay_cores": ["--test"], "memory": ["200"]}
TIMEOUT = 600
FIGURE = re.compile(r"(?P<name>.+): (?P<value>[\d.]+) (?P<unit>.+), goal (?P<side>[<>])= (?P<bound>[\d.]+)")


def measure_all(arguments: argparse.Namespace, times: int) -> Report:
    results: Results = {}
    rows: dict[str, Row] = {}
    failures = []
    for _ in range(times):
        for name, smoke in BENCHMARKS.items():
            print(f"# {name}", file=sys.stderr, flush=True)
            words = smoke if arguments.smoke else []
            command = ["cargo", "bench", "--quiet", "-p", "tunic-testnet", "--bench", name, "--", *words]
            ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT)
            sys.stderr.write(ran.stdout)
            found = [match for line in ran.stdout.splitlines() if (match := FIGURE.fullmatch(line))]
            if ran.returncode or (not found and not arguments.smoke):
                failures.append(f"{name}: status {ran.returncode}, {len(found)} figures")
            for figure in found:
                goal = Goal(float(figure["bound"]), figure["side"] == ">")
                rows[figure["name"]] = Row(figure["name"], figure["unit"], field("value"), goal)
                results.setdefault(figure["name"], []).append({"attempted": 1, "failed": 0, "value": float(figure["value"])})
    columns = {TUNIC: results}
    return Report(compare("In process: median [lowest-highest]", columns, rows.values()), columns, failures)
