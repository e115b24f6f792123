#!/usr/bin/env python3
"""What a wide-area network makes of an overlay: rates once they have settled, fairness, and delay beside a download.

Started by `wan.py --rows` in the client's namespace; `--serve` is the other end. Each run uses circuits of its own. Rates
count payload that arrived, from `--settle` seconds after the transfer began to its end, in MB/s of 10^6 bytes.

    down, up                     one stream
    share, share up              8 on isolated circuits: their sum, and the least and most that one got of the mean
    round trip: idle             an interactive stream on a circuit that nobody else uses, milliseconds
    round trip: other circuit    beside a download on another circuit
    round trip: same circuit     beside a download on the same circuit
    ... circuit, up              beside an upload

An interactive stream says a byte every 20 ms, whether or not the one before was answered: a wait that is long counts for all
that wait, and a few seconds have some hundred round trips on any path.

Exits with 1 if anything failed.
"""

import argparse
import bisect
import concurrent.futures
import contextlib
import functools
import json
import pathlib
import socket
import statistics
import struct
import sys
import threading
import time
from typing import Callable, Iterator

import workload

REPORTED_UPLOAD = b"T"
REPORT_SECONDS = 0.1
ENDLESS = 1 << 50
COUNT = struct.Struct("!Q")
SHARING_STREAMS = 8
ECHO_EVERY = 0.02

Samples = list[tuple[float, int]]  # seconds, bytes since the beginning


def answer(connection: socket.socket) -> None:
    """As `workload.answer`, and uploads that are told how much has arrived."""
    with contextlib.suppress(OSError), connection:
        if connection.recv(1, socket.MSG_PEEK) != REPORTED_UPLOAD:
            return plain_answer(connection)
        workload.receive_exactly(connection, workload.REQUEST.size)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received, reported = 0, time.monotonic()
        while data := connection.recv(workload.RECEIVE_SIZE):
            received += len(data)
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                connection.sendall(COUNT.pack(received))


plain_answer = workload.answer


class Transfer:
    """One bulk transfer in a thread, sampled as it goes, until it is stopped."""

    def __init__(self, connection: socket.socket, upload: bool):
        self._connection = connection
        self.samples: Samples = []
        self._error: OSError | None = None
        self._is_stopped = False
        self._started = time.monotonic()
        connection.sendall(workload.REQUEST.pack(REPORTED_UPLOAD if upload else workload.DOWNLOAD, ENDLESS))
        work = [self._read_reports, self._send] if upload else [self._receive]
        self._threads = [threading.Thread(target=self._until_closed, args=(step,), daemon=True) for step in work]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Raises what ended the transfer before."""
        self._is_stopped = True
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._connection.close()
        if self._error:
            raise self._error

    def rate(self, begin: float, end: float) -> float:
        """MB/s between two times after the start."""
        return (self._count_at(end) - self._count_at(begin)) / (end - begin) / 1e6

    def _count_at(self, when: float) -> float:
        """Bytes at a time, between the samples before and after it: reports of an upload are a tenth of a second apart."""
        after = bisect.bisect_left(self.samples, when, key=lambda sample: sample[0])
        if after == len(self.samples):
            return self.samples[-1][1] if self.samples else 0
        (since, before), (until, then) = self.samples[after - 1] if after else (0, 0), self.samples[after]
        return before + (then - before) * (when - since) / (until - since)

    def _until_closed(self, step: Callable[[], None]) -> None:
        try:
            step()
            ended: OSError = ConnectionError("the transfer ended by itself")
        except OSError as error:
            ended = error
        if not self._is_stopped:
            self._error = self._error or ended

    def _note(self, count: int) -> None:
        self.samples.append((time.monotonic() - self._started, count))

    def _receive(self) -> None:
        received, buffer = 0, bytearray(1 << 18)
        while count := self._connection.recv_into(buffer):
            received += count
            self._note(received)

    def _send(self) -> None:
        workload.send_pattern(self._connection, ENDLESS)

    def _read_reports(self) -> None:
        while True:
            self._note(COUNT.unpack(workload.receive_exactly(self._connection, COUNT.size))[0])


@contextlib.contextmanager
def transfers(route: workload.Route, names: list[str], upload: bool) -> Iterator[list[Transfer]]:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(route.open(name)) for name in names]
        running = [Transfer(connection, upload) for connection in opened]
        for transfer in running:
            stack.callback(transfer.stop)
        yield running


def bulk(route: workload.Route, settle: float, seconds: float, upload: bool) -> dict:
    with transfers(route, [workload.new_isolation_name()], upload) as [transfer]:
        time.sleep(settle + seconds)
    curve = [round(transfer.rate(second, second + 1), 2) for second in range(int(settle + seconds))]
    return {"mb_per_s": settled(transfer, settle, seconds), "by_second": curve}


def settled(transfer: Transfer, settle: float, seconds: float) -> float:
    rate = transfer.rate(settle, settle + seconds)
    if not rate:
        raise ConnectionError("nothing was transferred")
    return round(rate, 2)


def share(route: workload.Route, settle: float, seconds: float, upload: bool) -> dict:
    names = [workload.new_isolation_name() for _ in range(SHARING_STREAMS)]
    with transfers(route, names, upload) as running:
        time.sleep(settle + seconds)
    rates = [transfer.rate(settle, settle + seconds) for transfer in running]
    mean = statistics.mean(rates)
    if not min(rates):
        raise ConnectionError("nothing was transferred in one of them")
    return {
        "mb_per_s": round(sum(rates), 2),
        "least_of_mean": round(min(rates) / mean, 3),
        "most_of_mean": round(max(rates) / mean, 3),
    }


def round_trips(route: workload.Route, name: str, seconds: float) -> dict:
    sent, times = [], []

    def read_answers() -> None:
        for _ in range(count):
            workload.receive_exactly(connection, 1)
            times.append(time.perf_counter() - sent[len(times)])

    with route.open(name) as connection:
        connection.sendall(workload.REQUEST.pack(workload.ECHO, 0))
        count = int(seconds / ECHO_EVERY)
        with concurrent.futures.ThreadPoolExecutor(1) as reader:
            answers = reader.submit(read_answers)
            begun = time.monotonic()
            for turn in range(count):
                time.sleep(max(0.0, begun + turn * ECHO_EVERY - time.monotonic()))
                sent.append(time.perf_counter())
                connection.sendall(b"x")
            answers.result()
    return {**workload.percentiles(times, (50, 95)), "round_trips": len(times)}


def beside(route: workload.Route, settle: float, seconds: float, upload: bool, same_circuit: bool) -> dict:
    """Idle and busy times on the same circuit, so that their ratio is of one path."""
    name = workload.new_isolation_name()
    idle = round_trips(route, name, seconds)
    busy = name if same_circuit else workload.new_isolation_name()
    with transfers(route, [busy], upload) as [transfer]:
        time.sleep(settle)
        loaded = round_trips(route, name, seconds)
    return {
        **loaded,
        "idle_p95_ms": idle["p95_ms"],
        "p95_of_idle": round(loaded["p95_ms"] / idle["p95_ms"], 3),
        "mb_per_s": settled(transfer, settle, seconds),
    }


def rows(route: workload.Route, settle: float, seconds: float) -> dict[str, Callable[[], dict]]:
    found: dict[str, Callable[[], dict]] = {
        "down": lambda: bulk(route, settle, seconds, upload=False),
        "up": lambda: bulk(route, settle, seconds, upload=True),
        "share": lambda: share(route, settle, seconds, upload=False),
        "share up": lambda: share(route, settle, seconds, upload=True),
        "round trip: idle": lambda: round_trips(route, workload.new_isolation_name(), seconds),
    }
    for upload, also in ((False, ""), (True, ", up")):
        for same, which in ((False, "other"), (True, "same")):
            found[f"round trip: {which} circuit{also}"] = functools.partial(beside, route, settle, seconds, upload, same)
    return found


def attempt(row: Callable[[], dict]) -> dict:
    """A run that fails is counted, and has no figures."""
    try:
        return {"attempted": 1, "failed": 0, **row()}
    except (OSError, ValueError, struct.error) as error:
        return {"attempted": 1, "failed": 1, "error": workload.describe(error)}


def measure(arguments: argparse.Namespace) -> dict[str, list[dict]]:
    target = workload.parse_address(arguments.target)
    socks = None if arguments.socks == "none" else workload.parse_address(arguments.socks)
    route = workload.Route(socks, target, arguments.timeout)
    results: dict[str, list[dict]] = {}
    for name, row in rows(route, arguments.settle, arguments.seconds).items():
        if arguments.only and not any(name.startswith(prefix) for prefix in arguments.only):
            continue
        for _ in range(arguments.runs):
            results.setdefault(name, []).append(attempt(row))
            time.sleep(0.5)
        print(line(name, results[name]), file=sys.stderr, flush=True)
    if not results:
        sys.exit("no such row")
    return results


def line(name: str, runs: list[dict]) -> str:
    keys = ["mb_per_s", "least_of_mean", "most_of_mean", "p50_ms", "p95_ms", "idle_p95_ms", "p95_of_idle"]
    figures = [f"{key} {text}" for key in keys if (text := workload.median_and_range(runs, key))]
    return f"{name:<26} failed {sum(run['failed'] for run in runs)}/{len(runs)}  {'  '.join(figures)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", metavar="HOST:PORT")
    parser.add_argument("--socks")
    parser.add_argument("--target")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--settle", type=float, default=3)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--timeout", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--label", default="")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.serve:
        workload.answer = answer
        workload.serve(workload.parse_address(arguments.serve), lambda address: None)
        return
    results = measure(arguments)
    document = {"label": arguments.label, "machine": workload.machine(), "results": results}
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(any(run["failed"] for runs in results.values() for run in runs))


if __name__ == "__main__":
    main()
