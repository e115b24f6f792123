"""Cases, each with a name, the programs that it needs and a deadline, and what runs them."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from typing import Callable

import names
import place
import ports
from watch import Watcher

DEADLINE = 60
GRACE = 5


class Skip(Exception):
    """A case cannot be tried here; says why."""


@dataclasses.dataclass
class Client:
    """A client that runs in `home`: its ports, and its process."""

    socks: str
    pid: int
    log: pathlib.Path = pathlib.Path(os.devnull)
    dns_port: int | None = None
    unix_socket: pathlib.Path | None = None
    page: str | None = None

    @property
    def port(self) -> int:
        return int(self.socks.rpartition(":")[2])


@dataclasses.dataclass
class Site:
    """Where a case runs, and with what."""

    clients: dict[str, Client]
    scratch: pathlib.Path
    artefacts: pathlib.Path
    world: str
    watcher: Watcher
    deadline: float = 0

    @property
    def client(self) -> Client:
        return self.clients["plain"]

    @property
    def socks(self) -> str:
        return self.client.socks

    @property
    def seconds_left(self) -> float:
        return max(1.0, self.deadline - time.monotonic())

    def start(self, *command, **options) -> subprocess.Popen:
        """A program in a process group of its own, so that all of it can be ended."""
        environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
        environment |= {"HOME": str(self.scratch), "LC_ALL": "C.UTF-8", **options.pop("env", {})}
        words = [str(word) for word in command]
        return subprocess.Popen(words, env=environment, start_new_session=True, **options)

    def run(self, *command, input: bytes = b"", expect: int | None = 0, **options) -> subprocess.CompletedProcess:
        """Runs a program to its end, within the case's deadline."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = self.start(*command, **{**pipes, **options})
        try:
            out, err = process.communicate(input, timeout=self.seconds_left)
        except subprocess.TimeoutExpired:
            end(process)
            raise AssertionError(f"{command[0]} did not end in time") from None
        done = subprocess.CompletedProcess(command, process.returncode, out or b"", err or b"")
        if expect is not None and done.returncode != expect:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-600:]
            raise AssertionError(f"{command[0]} ended with {done.returncode}: {said}")
        return done

    def report(self) -> dict:
        """What the servers saw; asked for straight, as only the driver may."""
        with socket.create_connection((place.WORLD_ADDRESS, ports.REPORT), 10) as connection:
            with connection.makefile("rb") as stream:
                return json.loads(stream.read())


def end(process: subprocess.Popen) -> None:
    """Ends a program and whatever it started in its process group."""
    for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGKILL:
            return


@dataclasses.dataclass
class Case:
    name: str
    needs: list[str]
    seconds: float
    leaks: bool
    run: Callable[[Site], str | None]


CASES: list[Case] = []


def case(name: str, *needs: str, seconds: float = DEADLINE, leaks: bool = False) -> Callable:
    """Registers a case. What the function returns stands beside the name in the table. With `leaks`, it shows that the
    watcher sees leaks, and leaves it to itself to look for them."""

    def register(function: Callable[[Site], str | None]) -> Callable:
        CASES.append(Case(name, list(needs), seconds, leaks, function))
        return function

    return register


def too_late(*_) -> None:
    raise TimeoutError("did not come to an end")


def try_case(one: Case, site: Site, required: bool) -> tuple[str, str]:
    """Outcome, and what there is to say."""
    if missing := [program for program in one.needs if not shutil.which(program)]:
        return ("failed" if required else "skipped"), f"not installed: {', '.join(missing)}"
    site.deadline = time.monotonic() + one.seconds
    seen, before = site.watcher.leaks(), site.report()
    # Behind the programs' own deadline, for whatever else may wait for ever.
    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, one.seconds + GRACE)
    try:
        note = one.run(site) or ""
    except Skip as reason:
        return ("failed" if required else "skipped"), str(reason)
    except Exception as error:  # whatever it is, the other cases go on
        return "failed", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if one.leaks:
        return "passed", note
    after = site.report()
    if past := after["straight"][len(before["straight"]) :]:
        return "failed", f"went past the client: {', '.join(past)}"
    if asked := after["dns_from_home"] - before["dns_from_home"]:
        return "failed", f"{asked} names were looked up past the client"
    if leaks := site.watcher.leaks()[len(seen) :]:
        return "failed", f"leaked: {', '.join(leaks[:3])}"
    return "passed", note


def try_all(site: Site, only: list[str], required: bool) -> bool:
    """Runs the cases, says what came of them, and whether none failed."""
    chosen = [one for one in CASES if not only or any(one.name.startswith(prefix) for prefix in only)]
    counts, skipped = {"passed": 0, "failed": 0, "skipped": 0}, []
    for one in chosen:
        started = time.monotonic()
        outcome, note = try_case(one, site, required)
        counts[outcome] += 1
        skipped += [f"skipped: {one.name} ({note})"] if outcome == "skipped" else []
        seconds = time.monotonic() - started
        print(f"{outcome:<8}{seconds:6.1f} s  {one.name}{': ' if note else ''}{note}", flush=True)
    print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()), *skipped, sep="\n", flush=True)
    return not counts["failed"] and bool(counts["passed"])


__all__ = ["Client", "Site", "Skip", "case", "end", "names", "place", "ports", "try_all"]
