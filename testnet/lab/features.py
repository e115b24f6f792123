"""What a classifier is shown of a window of packets.

`k_fingerprint` follows Hayes and Danezis (k-fingerprinting, USENIX Security 2016), `cumul` Panchenko et al. (CUMUL,
NDSS 2016). Packets that carry nothing (acknowledgements) are left out. Times count from the window's beginning, which
the classifier is told: a real observer would have to find it.
"""

import numpy as np

CHUNK = 20  # packets of which the outgoing ones are counted together
EVEN_CHUNKS = 10
RATE_BINS = 15
CUMULATIVE_POINTS = 15
CUMUL_POINTS = 100
FINE_BIN_S = 0.05

K_FINGERPRINT_NAMES = (
    "packets,packets in,packets out,share in,share out,"
    "in of first 30,out of first 30,in of last 30,out of last 30,"
    "position in mean,position in std,position out mean,position out std,"
    "out per 20 mean,out per 20 std,out per 20 median,out per 20 min,out per 20 max".split(",")
    + [f"out in tenth {n}" for n in range(EVEN_CHUNKS)]
    + "rate mean,rate std,rate median,rate min,rate max".split(",")
    + [f"packets in bin {n}" for n in range(RATE_BINS)]
    + [f"gap {d} {s}" for d in ("all", "in", "out") for s in ("max", "mean", "std", "p75")]
    + [f"time {d} p{p}" for d in ("all", "in", "out") for p in (25, 50, 75, 100)]
    + [f"bursts {d} {s}" for d in ("in", "out") for s in ("count", "mean", "max", "over 5", "over 10")]
    + "bytes,bytes in,bytes out,share of bytes in,size in mean,size out mean,size in std,size out std".split(",")
    + [f"bytes {d} until point {n}" for d in ("in", "out") for n in range(CUMULATIVE_POINTS)]
    + "first in,last in,largest burst in,second burst in,third burst in".split(",")
)


class Window:
    """Times in seconds, directions (+1 away from the person, -1 towards them) and sizes of a window's packets."""

    def __init__(self, packets: np.ndarray, begin_us: int, length_s: float):
        packets = packets[packets["payload"] > 0]
        self.time = (packets["time_us"].astype(np.int64) - begin_us) / 1e6
        self.direction = np.where(packets["forward"] == 1, 1, -1)
        self.size = packets["payload"].astype(float)
        self.length_s = length_s

    def of(self, direction: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.direction == direction
        return self.time[chosen], self.size[chosen]


def k_fingerprint(window: Window) -> np.ndarray:
    """125 features, in the order of `K_FINGERPRINT_NAMES`."""
    direction = window.direction
    incoming, outgoing = direction == -1, direction == 1
    time_in, size_in = window.of(-1)
    time_out, size_out = window.of(1)
    count = len(direction)
    share_in = incoming.mean() if count else 0.0
    values = [count, incoming.sum(), outgoing.sum(), share_in, 1 - share_in if count else 0.0]
    for part in (direction[:30], direction[-30:]):
        values += [(part == -1).sum(), (part == 1).sum()]
    for chosen in (incoming, outgoing):
        values += _mean_and_std(np.flatnonzero(chosen))
    values += _summary([chunk.sum() for chunk in np.split(outgoing, range(CHUNK, count, CHUNK))] if count else [])
    values += [chunk.sum() for chunk in np.array_split(outgoing, EVEN_CHUNKS)]
    values += _summary(np.histogram(window.time, round(window.length_s * 10), (0, window.length_s))[0])
    values += list(np.histogram(window.time, RATE_BINS, (0, window.length_s))[0])
    for times in (window.time, time_in, time_out):
        gaps = np.diff(times)
        values += [_or_zero(np.max, gaps), _or_zero(np.mean, gaps), _or_zero(np.std, gaps), _percentile(gaps, 75)]
    for times in (window.time, time_in, time_out):
        values += [_percentile(times, p) for p in (25, 50, 75, 100)]
    packets_in, bytes_in = _bursts(window, -1)
    packets_out, _ = _bursts(window, 1)
    for bursts in (packets_in, packets_out):
        values += [len(bursts), _or_zero(np.mean, bursts), _or_zero(np.max, bursts), (bursts > 5).sum(), (bursts > 10).sum()]
    total = window.size.sum()
    values += [total, size_in.sum(), size_out.sum(), size_in.sum() / total if total else 0.0]
    values += [_or_zero(np.mean, size_in), _or_zero(np.mean, size_out), _or_zero(np.std, size_in), _or_zero(np.std, size_out)]
    for times, sizes in ((time_in, size_in), (time_out, size_out)):
        values += list(np.cumsum(np.histogram(times, CUMULATIVE_POINTS, (0, window.length_s), weights=sizes)[0]))
    largest = np.sort(bytes_in)[::-1][:3]
    values += [_or_zero(np.min, time_in), _or_zero(np.max, time_in), *largest, *([0.0] * (3 - len(largest)))]
    return np.array(values, dtype=float)


def cumul(window: Window) -> np.ndarray:
    """104 features: counts and sums, then 100 points of the cumulated sizes, packets in being negative."""
    signed = window.direction * window.size
    points = np.zeros(CUMUL_POINTS)
    if len(signed):
        path = np.concatenate([[0.0], np.cumsum(signed)])
        points = np.interp(np.linspace(0, len(path) - 1, CUMUL_POINTS), np.arange(len(path)), path)
    _, size_in = window.of(-1)
    _, size_out = window.of(1)
    return np.concatenate([[len(size_in), len(size_out), size_in.sum(), size_out.sum()], points])


def rates(window: Window) -> np.ndarray:
    """Bytes in and out in steps of 50 ms."""
    bins = round(window.length_s / FINE_BIN_S)
    both = []
    for direction in (-1, 1):
        times, sizes = window.of(direction)
        both.append(np.histogram(times, bins, (0, window.length_s), weights=sizes)[0])
    return np.concatenate(both)


def _bursts(window: Window, direction: int) -> tuple[np.ndarray, np.ndarray]:
    """Packets and bytes of each run of packets in this direction."""
    if not len(window.direction):
        return np.zeros(0), np.zeros(0)
    begins = np.concatenate([[0], np.flatnonzero(np.diff(window.direction)) + 1])
    chosen = window.direction[begins] == direction
    packets = np.diff(np.concatenate([begins, [len(window.direction)]]))
    return packets[chosen], np.add.reduceat(window.size, begins)[chosen]


def _summary(values) -> list[float]:
    values = np.asarray(values, dtype=float)
    return [_or_zero(f, values) for f in (np.mean, np.std, np.median, np.min, np.max)]


def _mean_and_std(values: np.ndarray) -> list[float]:
    return [_or_zero(np.mean, values), _or_zero(np.std, values)]


def _percentile(values: np.ndarray, percent: float) -> float:
    return float(np.percentile(values, percent)) if len(values) else 0.0


def _or_zero(function, values: np.ndarray) -> float:
    return float(function(values)) if len(values) else 0.0
