"""Who talks to whom: what enters at a client's line, compared to what leaves towards the sites at the same time."""

import numpy as np

import figures

STEP_US = 20_000  # lags differ by this much, so that bins need not fall together at both ends
STEPS_PER_BIN = 5
BIN_US = STEPS_PER_BIN * STEP_US
LAG_STEPS = 2_000_000 // STEP_US


def steps(packets: np.ndarray, begin_us: int, count: int) -> np.ndarray:
    """Bytes towards the person in each 20 ms from `begin_us` on."""
    towards = packets[packets["forward"] == 0]
    which = (towards["time_us"].astype(np.int64) - begin_us) // STEP_US
    inside = (which >= 0) & (which < count)
    return np.bincount(which[inside], weights=towards["payload"][inside].astype(float), minlength=count)


def lagged(entry: np.ndarray, bins: int) -> np.ndarray:
    """The entry in `bins` bins of 100 ms, once for each lag from 0 to 2 s: lags are rows."""
    sums = np.concatenate([[0.0], np.cumsum(entry)])
    sliding = sums[STEPS_PER_BIN:] - sums[:-STEPS_PER_BIN]
    return np.array([sliding[lag : lag + bins * STEPS_PER_BIN : STEPS_PER_BIN] for lag in range(LAG_STEPS + 1)])


def normalised(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1; steady ones become zeros."""
    rows = rows - rows.mean(axis=-1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-9)


def similarity(entry: np.ndarray, exits: np.ndarray) -> np.ndarray:
    """For each exit (a row of bins), the largest normalised cross-correlation with the entry 0 to 2 s later."""
    return (normalised(lagged(entry, exits.shape[1])) @ normalised(exits).T).max(axis=0)


def who_with_whom(rounds: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict:
    """`rounds` holds pairs of entry and exit that belong together, in steps, the entry with two seconds and a bin more. Every
    other pair of the same round is a negative.
    """
    scored = [score_round(pairs) for pairs in rounds if len(pairs) > 2]
    positive = np.concatenate([np.diag(scores) for scores in scored])
    negative = [row for scores in scored for row in without_diagonal(scores)]
    rng = np.random.default_rng(0)
    wrong = [shuffled(row, rng) for row in negative]
    low, high = figures.bootstrap(len(positive), lambda drawn: auc_of(positive, negative, drawn), 1)
    tpr_low, tpr_high = figures.bootstrap(len(positive), lambda drawn: tpr_of(positive, negative, drawn, 0.01), 2)
    tiny_low, tiny_high = figures.bootstrap(len(positive), lambda drawn: tpr_of(positive, negative, drawn, 0.001), 3)
    flat = np.concatenate(negative)
    return {
        "auc": figures.auc(positive, flat),
        "low": low,
        "high": high,
        "tpr_at_1_percent": {"tpr": figures.tpr_at(positive, flat, 0.01), "low": tpr_low, "high": tpr_high},
        "tpr_at_0.1_percent": {"tpr": figures.tpr_at(positive, flat, 0.001), "low": tiny_low, "high": tiny_high},
        "best_of_round": float(np.mean([p > row.max() for p, row in zip(positive, negative)])),
        "flows": len(positive),
        "negatives": len(flat),
        "shuffled_auc": figures.auc(np.array([w[0] for w in wrong]), np.concatenate([w[1:] for w in wrong])),
        "roc": figures.roc(positive, flat),
    }


def score_round(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The similarity of each entry (row) to each exit (column)."""
    exits = np.array([exit.reshape(-1, STEPS_PER_BIN).sum(axis=1) for _, exit in pairs])
    return np.array([similarity(entry, exits) for entry, _ in pairs])


def without_diagonal(scores: np.ndarray) -> list[np.ndarray]:
    return [np.delete(row, number) for number, row in enumerate(scores)]


def shuffled(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(row)


def auc_of(positive: np.ndarray, negative: list[np.ndarray], drawn: np.ndarray) -> float:
    return figures.auc(positive[drawn], np.concatenate([negative[n] for n in drawn]))


def tpr_of(positive: np.ndarray, negative: list[np.ndarray], drawn: np.ndarray, fpr: float) -> float:
    return figures.tpr_at(positive[drawn], np.concatenate([negative[n] for n in drawn]), fpr)
