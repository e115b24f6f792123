#!/usr/bin/env python3
"""Measure each front of the client: what it says before data flow, how long that takes, how fast data go.

    cargo build --release -p tunic-testnet
    python3 testnet/bench/fronts.py --json fronts.json      every front, about a minute
    python3 testnet/bench/fronts.py --smoke                 seconds: does every front still work?

One network on loopback, one client with all its listeners, one server behind it. Times are of the program: from connecting to the
port to the first byte of an answer (streams), from asking to the answer (datagrams, lookups), on a circuit that is ready. Sizes are bytes
that the program says and hears before its own data flow. A front that fails anything makes the exit status 1.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Callable

import loopback
import summarise
import workload
from front_streams import HOST, server, streams  # leads to the modules of testnet/clients
from front_datagrams import datagrams, lookups  # noqa: I001
import inside


def cells(row: dict) -> list[str]:
    def show(key: str, text: Callable = summarise.significant) -> str:
        return text(row[key]) if key in row else "-"

    sizes = f"{row['bytes_said']} / {row['bytes_heard']}, {row['round_trips']}" if "round_trips" in row else "-"
    rates = row.get("mb_per_s") or []
    speed = f"{summarise.significant(rates[len(rates) // 2])} [{summarise.significant(rates[0])}-{summarise.significant(rates[-1])}]" if rates else "-"
    per_second = show("datagrams_per_s", str) if "datagrams_per_s" in row else show("lookups_per_s", str)
    loss = f"{row['lost_percent']} %" if "lost_percent" in row else "-"
    return [sizes, show("p50_ms"), show("p95_ms"), speed, per_second, loss]


HEADINGS = ["bytes said / heard, round trips", "p50 ms", "p95 ms", "MB/s", "per second", "lost"]


def measure(arguments: argparse.Namespace) -> dict[str, dict]:
    rows: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        tcp, udp = stack.enter_context(server())
        ready = stack.enter_context(loopback.up(arguments.tunic_testnet))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="tunic-fronts-"))
        settings = {"dns": f"{HOST}:{inside.free_port()}", "unix_socket": f"{scratch}/tunic.sock"}
        state = {"ready": ready, "program": str(arguments.tunic_testnet)}
        client = stack.enter_context(inside.client(state, "fronts", settings))
        for kind in (streams(client, tcp, arguments), datagrams(client, udp, arguments), lookups(client, arguments)):
            for name, row in kind:
                rows[name] = row
                print(f"{name}: {row['failed']} of {row['attempted']} failed", file=sys.stderr, flush=True)
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small and once")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--tunic-testnet", type=pathlib.Path, default=loopback.TUNIC_TESTNET)
    parser.add_argument("--requests", type=int, default=300, help="streams and lookups of each front")
    parser.add_argument("--runs", type=int, default=5, help="bulk downloads of each front")
    parser.add_argument("--bulk-mib", type=int, default=128)
    parser.add_argument("--associations", type=int, default=100)
    parser.add_argument("--datagrams", type=int, default=1_000, help="round trips of datagrams")
    parser.add_argument("--flood", type=int, default=50_000, help="datagrams of the throughput row")
    parser.add_argument("--max-loss", type=float, default=1.0, help="percent of them that may be lost")
    arguments = parser.parse_args()
    if arguments.smoke:
        small = {"requests": 10, "runs": 1, "bulk_mib": 4, "associations": 5, "datagrams": 40, "flood": 500, "max_loss": 50.0}
        vars(arguments).update(small)
    return arguments


def main() -> None:
    arguments = parse_arguments()
    rows = measure(arguments)
    machine = {**workload.machine(), "load_average": os.getloadavg()[0]}
    print(f"\n{time.strftime('%Y-%m-%d', time.gmtime())}, {machine['cpu']}, {machine['cores']} cores, load {machine['load_average']:.1f}")
    summarise.print_table("Fronts of the client", HEADINGS, ((name, cells(row)) for name, row in rows.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    failed = [f"{name}: {row.get('errors') or row}" for name, row in rows.items() if row["failed"]]
    for text in failed:
        print(f"FAILED: {text}", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
