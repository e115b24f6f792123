#!/usr/bin/env python3
"""Says what a trace gives away.

    analyse.py TRACE TRUTH OUT

Writes OUT/CLASS-LINE.json for each kind of line, and OUT/CLASS-LINE-5s.json and the like for windows beyond the first. Ends with 3 if a control did not hold.
"""

import json
import pathlib
import sys

import numpy as np

import attacks
import correlate
import costs
import features
import figures
import traces

VOID = 3
FAILED_VISITS = 0.02  # the largest share that a run may have
Z_99_9 = 3.290527  # shuffled labels leave this interval once in a thousand runs
SHUFFLED_AUC = {False: 0.06, True: 0.2}  # how far from a half, for full runs and small ones
UNDEFENDED = {False: (0.95, 0.99), True: (0.6, 0.9)}  # accuracy and AUC that a run without padding must reach


def analyse(trace: traces.Trace, truth: dict, number: int, window_ms: int) -> dict:
    """All figures of one set of clients, with so much shown of each visit."""
    truth = truth | {"window_ms": window_ms}
    all_visits = [visit for visit in truth["visits"] if visit["set"] == number]
    visits = [visit for visit in all_visits if visit["error"] is None]
    visits.sort(key=lambda visit: (visit["round"], visit["client"]))
    sites = np.array([visit["site"] for visit in visits])
    result = {key: truth[key] for key in ("class", "seed", "smoke", "load_average", "missed_packets")}
    result |= {
        "line": line_name(truth, number, window_ms),
        "window_ms": window_ms,
        "visits": len(visits),
        "failed_visits": len(all_visits) - len(visits),
        "chance": 1 / truth["sites"],
        "site": attacks.which_site([visit_window(trace, truth, visit) for visit in visits], sites),
        "correlation": correlate.who_with_whom(pairs_by_round(trace, truth, visits)),
        "active": active_or_idle(trace, truth, visits),
        "cost": costs.costs(trace, truth, visits),
    }
    result["controls"] = controls(result)
    return result


def line_name(truth: dict, number: int, window_ms: int) -> str:
    line = truth["lines"][number]
    return line if window_ms == truth["windows_ms"][0] else f"{line}-{window_ms / 1e3:g}s"


def visit_window(trace: traces.Trace, truth: dict, visit: dict) -> features.Window:
    return window(trace, traces.client_link(truth, visit), visit["start_us"], truth["window_ms"])


def window(trace: traces.Trace, link: int, begin_us: int, length_ms: int) -> features.Window:
    packets = trace.between(link, begin_us, begin_us + length_ms * 1_000)
    return features.Window(packets, begin_us, length_ms / 1e3)


def pairs_by_round(trace: traces.Trace, truth: dict, visits: list[dict]) -> list:
    exit_steps = truth["window_ms"] * 1_000 // correlate.BIN_US * correlate.STEPS_PER_BIN
    entry_steps = exit_steps + correlate.LAG_STEPS + correlate.STEPS_PER_BIN
    rounds: dict[int, list] = {}
    for visit in visits:
        begin_us = truth["rounds"][visit["round"]]["start_us"]
        counted = [
            correlate.steps(trace.between(link, begin_us, begin_us + count * correlate.STEP_US), begin_us, count)
            for link, count in (
                (traces.client_link(truth, visit), entry_steps),
                (traces.site_link(truth, visit), exit_steps),
            )
        ]
        rounds.setdefault(visit["round"], []).append(tuple(counted))
    return list(rounds.values())


def active_or_idle(trace: traces.Trace, truth: dict, visits: list[dict]) -> dict:
    def windows(moment: str) -> list[features.Window]:
        begins = (truth["rounds"][visit["round"]][moment] for visit in visits)
        return [
            window(trace, traces.client_link(truth, visit), begin, truth["idle_ms"])
            for visit, begin in zip(visits, begins)
        ]

    rounds = np.array([visit["round"] for visit in visits])
    return attacks.active_or_idle(windows("start_us"), windows("idle_us"), rounds)


def controls(result: dict) -> list[dict]:
    """What must hold, or the figures mean nothing."""
    shuffled = result["site"]["shuffled"]
    low, high = figures.wilson(shuffled["accuracy"] * shuffled["visits"], shuffled["visits"], Z_99_9)
    visits = result["visits"] + result["failed_visits"]
    near = SHUFFLED_AUC[result["smoke"]]
    found = [
        control("sites, labels shuffled: chance is in the interval", shuffled["accuracy"], low <= result["chance"] <= high),
        control("visits that failed", result["failed_visits"] / visits, result["failed_visits"] <= FAILED_VISITS * visits),
        control("packets that the observer missed", result["missed_packets"], result["missed_packets"] == 0),
    ]
    for name in ("correlation", "active"):
        value = result[name]["shuffled_auc"]
        found.append(control(f"{name}, labels shuffled: AUC is a half", value, abs(value - 0.5) <= near))
    if result["class"] == "off":
        accuracy, auc = UNDEFENDED[result["smoke"]]
        value = result["site"]["k_fingerprinting"]["accuracy"]
        found.append(control(f"sites, undefended: at least {accuracy}", value, value >= accuracy))
        for name in ("correlation", "active"):
            value = result[name]["auc"]
            found.append(control(f"{name}, undefended: AUC at least {auc}", value, value >= auc))
    return found


def control(name: str, value: float, held: bool) -> dict:
    return {"name": name, "value": value, "held": bool(held)}


def main() -> None:
    trace_path, truth_path, out = map(pathlib.Path, sys.argv[1:])
    trace, truth = traces.Trace.read(trace_path), traces.read_truth(truth_path)
    held = True
    wanted = [(number, window) for window in truth["windows_ms"] for number in range(len(truth["lines"]))]
    for number, window_ms in wanted:
        result = analyse(trace, truth, number, window_ms)
        path = out / f"{result['class']}-{result['line']}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        for broken in (c for c in result["controls"] if not c["held"]):
            print(f"{path.name}: control does not hold: {broken['name']} ({broken['value']:.3f})", file=sys.stderr)
            held = False
    sys.exit(0 if held else VOID)


if __name__ == "__main__":
    main()
