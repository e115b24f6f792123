"""What the parts of the benchmark share: figures, goals, and the table that compares them."""

import dataclasses
import statistics
from typing import Callable, Iterable, Iterator

import summarise

Runs = list[dict]
Results = dict[str, Runs]
TUNIC = "tunic"


@dataclasses.dataclass(frozen=True)
class Goal:
    """A bound, and on which side of it a figure has to be."""

    value: float
    at_least: bool

    def judge(self, figure: float) -> str:
        reached = figure >= self.value if self.at_least else figure <= self.value
        return f"{'>=' if self.at_least else '<='} {summarise.significant(self.value)}: {'reached' if reached else 'MISSED'}"


def at_least(value: float) -> Goal:
    return Goal(value, at_least=True)


def at_most(value: float) -> Goal:
    return Goal(value, at_least=False)


def field(key: str) -> Callable[[dict], float | None]:
    return lambda run: run.get(key)


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one scenario. `goal` is for the figure, `ratio_goal` for its ratio to C Tor's."""

    scenario: str
    unit: str
    figure: Callable[[dict], float | None]
    goal: Goal | None = None
    ratio_goal: Goal | None = None
    more_is_better: bool = False

    def __str__(self) -> str:
        return f"{self.scenario}, {self.unit}"

    def values(self, results: Results) -> list[float]:
        """The figures of runs in which nothing failed."""
        sound = [run for run in results.get(self.scenario, []) if not run["failed"]]
        return [value for run in sound if (value := self.figure(run)) is not None]


@dataclasses.dataclass
class Table:
    title: str
    headings: list[str]
    rows: list[tuple[str, list[str]]]

    def show(self) -> None:
        summarise.print_table(self.title, self.headings, self.rows)


@dataclasses.dataclass
class Report:
    """What a part of the benchmark found: a table to show, every run's figures, what failed, or why it was left out."""

    table: Table | None = None
    columns: dict[str, Results] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)
    skipped: str = ""


def compare(title: str, columns: dict[str, Results], rows: Iterable[Row]) -> Table:
    """Tunic beside its peers: medians with minimum and maximum, and the ratio to the peer that is best in each row."""
    rows = [row for row in rows if any(row.scenario in results for results in columns.values())]
    headings, with_goals, peers = list(columns), any(row.goal for row in rows), len(columns) > 1
    headings += (["goal"] if with_goals else []) + (["ratio", "goal of the ratio"] if peers else [])
    table = []
    for row in rows:
        values = {name: row.values(results) for name, results in columns.items()}
        medians = {name: statistics.median(of) for name, of in values.items() if of}
        cells = [cell(of) for of in values.values()]
        own, of_peers = medians.pop(TUNIC, None), list(medians.values())
        if with_goals:
            cells.append(row.goal.judge(own) if row.goal and own is not None else "")
        if own is not None and of_peers:
            ratio = own / (max(of_peers) if row.more_is_better else min(of_peers))
            cells += [f"{ratio:.3g}", row.ratio_goal.judge(ratio) if row.ratio_goal else ""]
        elif peers:
            cells += ["-", ""]
        table.append((str(row), cells))
    return Table(title, headings, table)


def cell(values: list[float]) -> str:
    if not values:
        return "-"
    median, least, most = map(summarise.significant, (statistics.median(values), min(values), max(values)))
    return f"{median} [{least}-{most}]" if len(values) > 1 else median


def failures(columns: dict[str, Results], rows: Iterable[Row]) -> Iterator[str]:
    """What failed, and the rows without a figure: neither counts as a speed."""
    for name, results in columns.items():
        for scenario, runs in results.items():
            if failed := summarise.total(runs, "failed"):
                yield f"{name}, {scenario}: {failed} of {summarise.total(runs, 'attempted')} failed"
        yield from (f"{name}, {row}: no figure" for row in rows if not row.values(results))
