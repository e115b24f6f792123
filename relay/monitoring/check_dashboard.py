#!/usr/bin/env python3
"""Reads the dashboard with the types of Grafana's own SDK, and fails where it would read something else than is written.

Needs the package grafana-foundation-sdk. Grafana itself is not needed (and not in Debian).
"""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(written, read, path="dashboard"):
    """Where `read` lacks what `written` has, or has something else."""
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if value is None or value == [] or value == {}:
                continue
            if key not in read:
                yield f"{path}.{key} is no field that Grafana knows"
            else:
                yield from lost(value, read[key], f"{path}.{key}")
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read)):
            yield from lost(one, other, f"{path}[{index}]")
    elif written != read:
        yield f"{path} is {written!r}, read as {read!r}"


def main(path):
    register_default_plugins()
    with open(path, encoding="utf-8") as file:
        written = json.load(file)
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(written)))
    problems = list(lost(written, read))
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{path}: {len(written['panels'])} panels, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
