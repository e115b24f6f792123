#!/usr/bin/env python3
"""Real programs against the client's port: does what people use get through, and nothing past it?

    cargo build --release -p tunic-testnet
    testnet/clients/install.sh                         Debian's packages, those that are missing
    testnet/clients/run.py                             all cases, as root
    testnet/clients/run.py --only curl git     those whose names begin so

One network runs in two network namespaces (place.py): the client and all programs in one, relays and servers in the other.
Each case has a deadline. A case whose program or package is missing is skipped, with its name on a line that begins with
`skipped: `; with `CI=true` or TUNIC_REQUIRE_CLIENTS=1 it fails. Namespaces cannot be installed: where they cannot be had, all
is skipped, but fails with `CI=true`. Screenshots (of the status page too) and figures are kept in target/artefacts/clients/. No process outlives this one.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Iterator

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import place  # noqa: E402
from environment import python_environment  # noqa: E402

REPOSITORY = HERE.parent.parent
TUNIC_TESTNET = REPOSITORY / "target" / "release" / "tunic-testnet"
ARTEFACTS = REPOSITORY / "target" / "artefacts" / "clients"
AUTHORITIES, RELAYS, EXITS = 1, 5, 2
STOP_TIMEOUT = 15
WHOLE_TIMEOUT = 600


IN_CI = os.environ.get("CI") == "true"


def required() -> bool:
    """Whether a missing program is a failure."""
    return IN_CI or os.environ.get("TUNIC_REQUIRE_CLIENTS") == "1"


@contextlib.contextmanager
def until_stdin_closes(command: list[str], **options) -> Iterator[str]:
    """Runs a program that says one line when it is ready, and ends when its standard input closes."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"did not become ready: {' '.join(command)}")
        yield line
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def network_command(program: pathlib.Path, folder: pathlib.Path) -> list[str]:
    world = [place.WORLD] * (AUTHORITIES + RELAYS)
    return [
        *place.enter(place.WORLD), str(program), "up", "--json", "--until-stdin-closes", "--socks", "127.0.0.1:0",
        "--authorities", str(AUTHORITIES), "--relays", str(RELAYS), "--exits", str(EXITS),
        "--place", "netns:" + ",".join([*world, place.HOME]), "--dir", str(folder),
    ]  # fmt: skip


def run_cases(arguments: argparse.Namespace, scratch: pathlib.Path, ready: dict) -> int:
    """In `home`: the client's network is up, the servers are too."""
    state = {
        "ready": ready,
        "program": str(arguments.tunic_testnet),
        "scratch": str(scratch),
        "artefacts": str(ARTEFACTS),
        "only": arguments.only,
        "required": required(),
        "world": place.WORLD,
    }
    file = scratch / "state.json"
    file.write_text(json.dumps(state))
    inside = [*place.enter(place.HOME), sys.executable, str(HERE / "inside.py"), str(file)]
    process = subprocess.Popen(inside)
    try:
        return process.wait(WHOLE_TIMEOUT)
    finally:
        # Told to end, it ends what it started.
        process.terminate()
        process.wait(STOP_TIMEOUT)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tunic-testnet", type=pathlib.Path, default=TUNIC_TESTNET)
    parser.add_argument("--only", nargs="*", default=[], metavar="PREFIX", help="cases to run")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    arguments.tunic_testnet = arguments.tunic_testnet.resolve(strict=True)
    # So that `finally` is reached when this is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tunic-clients-") as folder, contextlib.ExitStack() as stack:
        scratch = pathlib.Path(folder)
        try:
            stack.enter_context(place.two_machines())
        except place.NoNamespaces as reason:
            print(f"{'failed' if IN_CI else 'skipped'}: real clients ({reason})")
            return int(IN_CI)
        python_environment(REPOSITORY)
        git_root = scratch / "git"
        git_root.mkdir()
        servers = [*place.enter(place.WORLD), sys.executable, str(HERE / "servers.py")]
        stack.enter_context(
            until_stdin_closes(servers, env={**os.environ, "TUNIC_GIT_ROOT": str(git_root)})
        )
        log = stack.enter_context(open(scratch / "network.log", "w"))
        network = network_command(arguments.tunic_testnet, scratch / "network")
        line = stack.enter_context(until_stdin_closes(network, stderr=log))
        return run_cases(arguments, scratch, json.loads(line))


if __name__ == "__main__":
    sys.exit(main())
