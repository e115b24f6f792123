"""Intervals and curves, with their usual names."""

import math

import numpy as np

Z_95 = 1.959964
BOOTSTRAPS = 400


def wilson(successes: float, count: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a share."""
    if count == 0:
        return 0.0, 1.0
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive scores higher than a negative; ties count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left")
    not_above = np.searchsorted(ordered, positive, "right")
    return float((below + not_above).mean() / (2 * len(ordered)))


def tpr_at(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float:
    """The largest share of positives above a threshold that at most the share `fpr` of negatives exceeds."""
    allowed = math.floor(fpr * len(negative) + 1e-9)
    threshold = np.sort(negative)[::-1][allowed] if allowed < len(negative) else -np.inf
    return float((positive > threshold).mean())


def roc(positive: np.ndarray, negative: np.ndarray) -> list[list[float]]:
    """Points (FPR, TPR) of the curve, from the strictest threshold on."""
    steps = np.unique(np.concatenate([[0.0], np.geomspace(1 / len(negative), 1.0, 60)]))
    return [[float(fpr), tpr_at(positive, negative, fpr)] for fpr in steps]


def bootstrap(count: int, figure, seed: int) -> tuple[float, float]:
    """The 95 % interval of `figure(indices)` over samples of `range(count)` with replacement."""
    rng = np.random.default_rng(seed)
    drawn = [figure(rng.integers(0, count, count)) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)
