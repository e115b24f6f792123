#!/usr/bin/env python3
"""Puts results side by side: OUT/table.md, OUT/frontier-LINE.svg and OUT/roc-LINE.svg.

    report.py OUT
"""

import json
import pathlib
import sys

try:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
except ImportError:
    matplotlib = None

CLASSES = ("off", "reduced", "normal", "adaptive", "constant")
HEADINGS = (
    "class", "site, k-FP", "site, stronger", "correlation AUC", "TPR at 1 %", "TPR at 0.1 %", "active/idle AUC",
    "bytes per payload byte, busy / window", "extra, busy / window", "idle, kB/s", "first byte p50 / p95, ms",
    "complete p50 / p95, ms", "controls",
)  # fmt: skip


def read_results(out: pathlib.Path) -> dict[str, list[dict]]:
    """Results by line, classes in their order, machines after them."""
    by_line: dict[str, list[dict]] = {}
    for path in sorted(out.glob("*-*.json")):
        if path.name.endswith(".truth.json"):
            continue
        result = json.loads(path.read_text())
        by_line.setdefault(result["line"], []).append(result)
    for results in by_line.values():
        results.sort(key=lambda r: (CLASSES.index(r["class"]) if r["class"] in CLASSES else len(CLASSES), r["class"]))
    return by_line


def table(results: list[dict]) -> str:
    rows = [HEADINGS, ["---"] * len(HEADINGS), *(row(result, undefended(results)) for result in results)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def undefended(results: list[dict]) -> dict | None:
    return next((result for result in results if result["class"] == "off"), None)


def row(result: dict, off: dict | None) -> list[str]:
    site, correlation, cost = result["site"], result["correlation"], result["cost"]
    broken = [control["name"] for control in result["controls"] if not control["held"]]
    return [
        f"`{result['class']}`",
        share(site["k_fingerprinting"], "accuracy"),
        share(site["stronger"], "accuracy"),
        plain(correlation, "auc"),
        share(correlation["tpr_at_1_percent"], "tpr"),
        share(correlation["tpr_at_0.1_percent"], "tpr"),
        plain(result["active"], "auc"),
        f"{cost['busy_bytes_per_payload_byte']:.2f} / {cost['window_bytes_per_payload_byte']:.2f}",
        extra(cost, off),
        f"{cost['idle_bytes_per_second'] / 1e3:.1f}",
        both(cost["first_byte_ms"]),
        both(cost["completion_ms"]),
        "VOID: " + "; ".join(broken) if broken else "hold" if off else "no run of `off` beside it",
    ]


def extra(cost: dict, off: dict | None) -> str:
    if off is None:
        return "-"
    return f"{overhead(cost, off, 'busy'):+.0f} % / {overhead(cost, off, 'window'):+.0f} %"


def overhead(cost: dict, off: dict, when: str) -> float:
    """Per cent of bytes that are added to those of a run without padding."""
    key = f"{when}_bytes_per_payload_byte"
    return 100 * (cost[key] / off["cost"][key] - 1)


def share(found: dict, key: str) -> str:
    return f"{100 * found[key]:.1f} % [{100 * found['low']:.1f}-{100 * found['high']:.1f}]"


def plain(found: dict, key: str) -> str:
    return f"{found[key]:.3f} [{found['low']:.3f}-{found['high']:.3f}]"


def both(spread: dict) -> str:
    return f"{spread['p50']:.0f} / {spread['p95']:.0f}"


def plot_frontier(results: list[dict], path: pathlib.Path) -> None:
    """Accuracy and correlation against bytes that are added in the whole window."""
    off = undefended(results)
    figure, (sites, flows) = plt.subplots(1, 2, figsize=(10, 4.2))
    for result in results:
        cost = overhead(result["cost"], off, "window")
        found = result["site"]["k_fingerprinting"]
        spread = beside(found, "accuracy")
        sites.errorbar(cost, found["accuracy"], yerr=spread, fmt="o", capsize=3, label=result["class"])
        found = result["correlation"]
        spread = beside(found, "auc")
        flows.errorbar(cost, found["auc"], yerr=spread, fmt="o", capsize=3, label=result["class"])
    sites.axhline(results[0]["chance"], linestyle=":", color="grey")
    flows.axhline(0.5, linestyle=":", color="grey")
    for axes, name in ((sites, "site accuracy (k-fingerprinting)"), (flows, "correlation AUC")):
        axes.set(xlabel="bytes added, % (whole window)", ylabel=name, ylim=(0 if axes is sites else 0.4, 1.03))
        axes.set_xscale("symlog", linthresh=10)
    flows.legend(fontsize=8)
    save(figure, path)


def beside(found: dict, key: str) -> list[list[float]]:
    """How far the interval reaches to either side."""
    return [[max(0.0, found[key] - found["low"])], [max(0.0, found["high"] - found[key])]]


def plot_roc(results: list[dict], path: pathlib.Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    for result in results:
        for one, name in zip(axes, ("correlation", "active")):
            one.step(*zip(*result[name]["roc"]), where="post", label=result["class"])
    for one, name in zip(axes, ("who talks to whom", "active or idle")):
        one.plot([1e-3, 1], [1e-3, 1], linestyle=":", color="grey")
        one.set(title=name, xlabel="false positives", ylabel="true positives", xscale="log", xlim=(1e-3, 1), ylim=(0, 1.03))
    axes[0].legend(fontsize=8)
    save(figure, path)


def save(figure, path: pathlib.Path) -> None:
    figure.tight_layout()
    # Without a date and with fixed names inside, the same results make the same file.
    with matplotlib.rc_context({"svg.hashsalt": "tunic", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    text = []
    for line, results in read_results(out).items():
        text += [f"### {line}", "", table(results), ""]
        if matplotlib is None:
            print("no plots: matplotlib is not installed", file=sys.stderr)
            continue
        if undefended(results):
            plot_frontier(results, out / f"frontier-{line}.svg")
        plot_roc(results, out / f"roc-{line}.svg")
    (out / "table.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
