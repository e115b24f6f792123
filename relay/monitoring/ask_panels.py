#!/usr/bin/env python3
"""Runs a Prometheus of its own beside relays that serve figures, with the alert rules, and asks it what every panel of the dashboard
asks. Fails if a relay does not answer, a panel gets no answer, or a rule does not work.

Usage: ask_panels.py HOST:PORT…
A panel that shows only what is not zero is asked without that condition, as little may happen here.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).parent
PATIENCE_S = 60
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs: [{{job_name: tunic-relay, static_configs: [{{targets: {targets}}}]}}]
"""


def queries():
    """What panels ask, with a value for each variable."""
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    for panel in panels:
        for target in panel.get("targets", []):
            text = re.sub(r"\s*> 0(?=\)|\s*$)", "", target["expr"])
            for name, value in (("$__rate_interval", "30s"), ("$job", ".*"), ("$instance", ".*")):
                text = text.replace(name, value)
            yield panel["title"], text


def ask(port, path, **parameters):
    """An answer of Prometheus; `None` while it does not answer."""
    address = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]
    except OSError:
        return None


def unanswered(port):
    """Panels that get no answer."""
    found = ((title, text, ask(port, "query", query=text)) for title, text in queries())
    return [f"{title}: {text}" for title, text, data in found if not (data and data["result"])]


def missing(port, targets):
    """Targets that have not answered."""
    data = ask(port, "query", query="up == 1") or {"result": []}
    there = {series["metric"]["instance"] for series in data["result"]}
    return [target for target in targets if target not in there]


def broken_rules(port):
    """Rules that have not been evaluated, or not without an error."""
    data = ask(port, "rules") or {"groups": []}
    rules = [rule for group in data["groups"] for rule in group["rules"]]
    return [rule["name"] for rule in rules if rule["health"] != "ok"] if rules else ["none is loaded"]


def wait_for_nothing(what, problems):
    """Until there are none."""
    for _ in range(PATIENCE_S * 2):
        left = problems()
        if not left:
            return
        time.sleep(0.5)
    sys.exit(f"{what} after {PATIENCE_S} s:\n" + "\n".join(left))


def main(targets):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "prometheus.yml")
        config.write_text(CONFIG.format(rules=HERE / "alerts.yml", targets=json.dumps(targets)))
        prometheus = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        try:
            wait_for_nothing("relays that do not answer", lambda: missing(port, targets))
            wait_for_nothing("panels without an answer", lambda: unanswered(port))
            wait_for_nothing("rules that do not work", lambda: broken_rules(port))
        finally:
            prometheus.terminate()
            prometheus.wait()
    print(f"dashboard: {len(list(queries()))} queries of its panels get answers from {len(targets)} relays; all rules work")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1:])
