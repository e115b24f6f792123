"""Reads what the observer wrote and what really happened, and cuts windows out of it.

A trace is written by testnet/src/lab/trace.rs, which says what its bytes mean.
"""

import json
import pathlib

import numpy as np

MAGIC = b"TUNLAB1\n"
RECORD = np.dtype(
    [("time_us", "<u8"), ("link", "<u2"), ("bytes", "<u2"), ("payload", "<u2"), ("forward", "u1"), ("zero", "u1")]
)
SITE_LINKS = 1_000  # links of the sites' servers begin here


def parse(data: bytes) -> np.ndarray:
    """All packets of a trace."""
    if not data.startswith(MAGIC):
        raise ValueError("this is no trace")
    if (len(data) - len(MAGIC)) % RECORD.itemsize:
        raise ValueError("the trace ends within a record")
    packets = np.frombuffer(data, dtype=RECORD, offset=len(MAGIC))
    if (packets["forward"] > 1).any() or packets["zero"].any():
        raise ValueError("a record is damaged")
    return packets


class Trace:
    """Packets by link, in the order of their times."""

    def __init__(self, packets: np.ndarray):
        ordered = packets[np.lexsort((packets["time_us"], packets["link"]))]
        links, begins = np.unique(ordered["link"], return_index=True)
        self._by_link = dict(zip(links.tolist(), np.split(ordered, begins[1:])))

    @classmethod
    def read(cls, path: pathlib.Path) -> "Trace":
        return cls(parse(path.read_bytes()))

    def between(self, link: int, begin_us: int, end_us: int) -> np.ndarray:
        """The packets of a link from `begin_us` on and before `end_us`."""
        packets = self._by_link.get(link)
        if packets is None:
            return np.empty(0, dtype=RECORD)
        begin, end = np.searchsorted(packets["time_us"], [begin_us, end_us])
        return packets[begin:end]


def read_truth(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def client_link(truth: dict, visit: dict) -> int:
    return visit["set"] * truth["clients"] + visit["client"]


def site_link(truth: dict, visit: dict) -> int:
    return SITE_LINKS + client_link(truth, visit)
