"""Which site, and active or idle: classifiers that learn from defended windows and are asked about others."""

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

import features
import figures

TREES = 300
FOLDS = 5
SEEDS = (1, 2)  # of the two times that the folds are drawn
TOP_FEATURES = 8


def which_site(windows: list[features.Window], sites: np.ndarray) -> dict:
    """The accuracy of k-fingerprinting, that of a stronger attack, and that with shuffled labels."""
    fingerprints = np.array([features.k_fingerprint(window) for window in windows])
    cumulated = np.array([features.cumul(window) for window in windows])
    rates = np.array([features.rates(window) for window in windows])
    everything = np.hstack([fingerprints, cumulated, rates])
    curves = np.hstack([cumulated, rates])
    shuffled = np.random.default_rng(0).permutation(sites)
    importance = forest(0).fit(fingerprints, sites).feature_importances_
    return {
        "k_fingerprinting": accuracy(sites, SEEDS, lambda train, test: predict_forest(fingerprints, sites, train, test)),
        "stronger": accuracy(sites, SEEDS[:1], lambda train, test: predict_vote(everything, curves, sites, train, test)),
        "shuffled": accuracy(
            shuffled, SEEDS[:1], lambda train, test: predict_forest(fingerprints, shuffled, train, test)
        ),
        "telling": most_telling(importance),
    }


def most_telling(importance: np.ndarray) -> list[str]:
    return [features.K_FINGERPRINT_NAMES[n] for n in np.argsort(importance)[::-1][:TOP_FEATURES]]


def accuracy(labels: np.ndarray, seeds, predict) -> dict:
    """The share of right answers over all folds. Repeating the folds does not make the interval narrower."""
    right = 0
    folds = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    for seed in seeds:
        for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels):
            right += int((predict(train, test) == labels[test]).sum())
    share = right / (len(seeds) * len(labels))
    low, high = figures.wilson(share * len(labels), len(labels))
    return {"accuracy": share, "low": low, "high": high, "visits": len(labels)}


def forest(seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(TREES, random_state=seed, n_jobs=-1)


def predict_forest(table: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    return forest(1).fit(table[train], labels[train]).predict(table[test])


def predict_vote(everything, curves, labels, train, test) -> np.ndarray:
    """More trees over more features, and a support vector machine over the cumulated curves, whose votes are added."""
    trees = ExtraTreesClassifier(2 * TREES, random_state=1, n_jobs=-1).fit(everything[train], labels[train])
    machine = make_pipeline(StandardScaler(), SVC(C=30, gamma="scale", decision_function_shape="ovr"))
    machine.fit(curves[train], labels[train])
    margins = machine.decision_function(curves[test])
    margins = margins if margins.ndim == 2 else np.column_stack([-margins, margins])
    votes = np.exp(margins - margins.max(axis=1, keepdims=True))
    return trees.classes_[np.argmax(trees.predict_proba(everything[test]) + votes / votes.sum(axis=1, keepdims=True), axis=1)]


def active_or_idle(active: list[features.Window], idle: list[features.Window], rounds: np.ndarray) -> dict:
    """How well windows with a visit are told from windows of silence. Windows of one round are never on both sides."""
    table = np.array([features.k_fingerprint(window) for window in (*active, *idle)])
    is_active = np.repeat([1, 0], [len(active), len(idle)])
    groups = np.concatenate([rounds, rounds])
    shuffled = np.random.default_rng(0).permutation(is_active)
    scores = out_of_fold(table, is_active, groups)
    importance = forest(0).fit(table, is_active).feature_importances_
    low, high = figures.bootstrap(len(active), lambda drawn: figures.auc(scores[: len(active)][drawn], scores[len(active) :][drawn]), 1)
    return {
        "auc": figures.auc(scores[is_active == 1], scores[is_active == 0]),
        "low": low,
        "high": high,
        "shuffled_auc": auc_by(out_of_fold(table, shuffled, groups), shuffled),
        "telling": most_telling(importance),
        "roc": figures.roc(scores[is_active == 1], scores[is_active == 0]),
    }


def auc_by(scores: np.ndarray, labels: np.ndarray) -> float:
    return figures.auc(scores[labels == 1], scores[labels == 0])


def out_of_fold(table: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """For each window, how active it looks to a forest that has seen no window of its round."""
    scores = np.zeros(len(labels))
    drawn = np.random.default_rng(1).permutation(np.unique(groups))
    for held_out in np.array_split(drawn, min(FOLDS, len(drawn))):
        test = np.isin(groups, held_out)
        scores[test] = forest(1).fit(table[~test], labels[~test]).predict_proba(table[test])[:, 1]
    return scores
