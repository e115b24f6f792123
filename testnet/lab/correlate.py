"""Who talks to whom: what enters at a client's line, compared to what leaves towards the sites at the same time."""

import numpy as np

import figures

BIN_US = 100_000
LAGS = 21  # 0 to 2 s


def bins(packets: np.ndarray, begin_us: int, count: int) -> np.ndarray:
    """Bytes towards the person in each 100 ms from `begin_us` on."""
    towards = packets[packets["forward"] == 0]
    which = (towards["time_us"].astype(np.int64) - begin_us) // BIN_US
    inside = (which >= 0) & (which < count)
    return np.bincount(which[inside], weights=towards["payload"][inside].astype(float), minlength=count)


def similarity(entry: np.ndarray, exit: np.ndarray) -> float:
    """The largest normalised cross-correlation with the entry 0 to 2 s after the exit. `entry` has `LAGS - 1` bins more."""
    exit = exit - exit.mean()
    best = -1.0
    for lag in range(LAGS):
        part = entry[lag : lag + len(exit)]
        part = part - part.mean()
        norm = np.sqrt((part @ part) * (exit @ exit))
        best = max(best, float(part @ exit / norm) if norm > 0 else 0.0)
    return best


def who_with_whom(rounds: list[list[tuple[np.ndarray, np.ndarray]]]) -> dict:
    """`rounds` holds pairs of entry and exit that belong together. Every other pair of the same round is a negative."""
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
    return np.array([[similarity(entry, exit) for _, exit in pairs] for entry, _ in pairs])


def without_diagonal(scores: np.ndarray) -> list[np.ndarray]:
    return [np.delete(row, number) for number, row in enumerate(scores)]


def shuffled(row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(row)


def auc_of(positive: np.ndarray, negative: list[np.ndarray], drawn: np.ndarray) -> float:
    return figures.auc(positive[drawn], np.concatenate([negative[n] for n in drawn]))


def tpr_of(positive: np.ndarray, negative: list[np.ndarray], drawn: np.ndarray, fpr: float) -> float:
    return figures.tpr_at(positive[drawn], np.concatenate([negative[n] for n in drawn]), fpr)
