#!/usr/bin/env python3
"""Tests of the classifiers' parts with known answers: python3 -m unittest discover -s testnet/lab"""

import unittest

import numpy as np

import analyse
import attacks
import correlate
import features
import figures
import traces

BEGIN_US = 1_000_000


def packets(*rows) -> np.ndarray:
    """Rows of (seconds after the beginning, forward, payload)."""
    made = np.zeros(len(rows), dtype=traces.RECORD)
    for record, (after, forward, payload) in zip(made, rows):
        record["time_us"] = BEGIN_US + round(after * 1e6)
        record["forward"], record["payload"], record["bytes"] = forward, payload, payload + 54
    return made


def window(*rows) -> features.Window:
    return features.Window(packets(*rows), BEGIN_US, 3.0)


def named(values: np.ndarray) -> dict:
    return dict(zip(features.K_FINGERPRINT_NAMES, values))


class Traces(unittest.TestCase):
    # The record of testnet/src/lab/trace.rs, `a_record_has_these_bytes`.
    BYTES = bytes.fromhex("54554e4c4142310a" "0403020100000000" "0500" "ea05" "a805" "01" "00")

    def test_a_trace_from_the_observer_is_read(self):
        (record,) = traces.parse(self.BYTES)
        self.assertEqual(record.tolist(), (0x01020304, 5, 1_514, 1_448, 1, 0))

    def test_what_is_no_trace_is_refused(self):
        for wrong in (b"", self.BYTES[1:], self.BYTES[:-1], self.BYTES[:-2] + b"\x02\x00"):
            with self.assertRaises(ValueError):
                traces.parse(wrong)

    def test_a_window_has_its_links_packets_and_no_others(self):
        both = packets((0.0, 0, 1), (1.0, 0, 2), (2.0, 0, 3), (1.0, 1, 4))
        both["link"] = [7, 7, 7, 8]
        trace = traces.Trace(both)
        self.assertEqual(trace.between(7, BEGIN_US, BEGIN_US + 2_000_000)["payload"].tolist(), [1, 2])
        self.assertEqual(len(trace.between(9, 0, 10**9)), 0)


class Features(unittest.TestCase):
    def test_there_are_125_and_each_has_a_name(self):
        self.assertEqual(len(features.K_FINGERPRINT_NAMES), 125)
        self.assertEqual(len(set(features.K_FINGERPRINT_NAMES)), 125)
        for rows in ([], [(0.1, 1, 9)], [(0.1, 1, 9), (0.2, 0, 9)] * 40):
            found = features.k_fingerprint(window(*rows))
            self.assertEqual(found.shape, (125,))
            self.assertTrue(np.isfinite(found).all())

    def test_known_packets_have_known_features(self):
        found = named(features.k_fingerprint(window((0.0, 1, 100), (0.5, 0, 1_000), (0.75, 0, 500), (2.0, 1, 50))))
        expect = {
            "packets": 4, "packets in": 2, "share out": 0.5, "position in mean": 1.5, "position out std": 1.5,
            "out per 20 max": 2, "packets in bin 0": 1, "packets in bin 2": 1, "gap all max": 1.25, "gap in mean": 0.25,
            "time out p100": 2.0, "bursts in count": 1, "bursts in max": 2, "bursts out count": 2, "bytes": 1_650,
            "share of bytes in": 1_500 / 1_650, "bytes in until point 2": 1_000, "bytes in until point 14": 1_500,
            "first in": 0.5, "largest burst in": 1_500, "second burst in": 0,
        }  # fmt: skip
        for name, value in expect.items():
            self.assertAlmostEqual(found[name], value, msg=name)

    def test_acknowledgements_are_left_out(self):
        self.assertEqual(named(features.k_fingerprint(window((0.1, 1, 0), (0.2, 0, 7))))["packets"], 1)

    def test_cumul_ends_at_the_sum_of_sizes(self):
        found = features.cumul(window((0.0, 1, 100), (0.5, 0, 1_000)))
        self.assertEqual(found[:4].tolist(), [1, 1, 1_000, 100])
        self.assertEqual((found[4], found[-1]), (0, -900))
        self.assertEqual(len(found), 104)

    def test_rates_keep_every_byte(self):
        found = features.rates(window((0.0, 1, 100), (0.06, 0, 1_000), (2.99, 0, 1)))
        self.assertEqual((found[1], found[59], found[60], found.sum()), (1_000, 1, 100, 1_101))


class Figures(unittest.TestCase):
    def test_wilson_is_that_of_the_textbook(self):
        low, high = figures.wilson(5, 10)
        self.assertAlmostEqual(low, 0.2366, places=4)
        self.assertAlmostEqual(high, 0.7634, places=4)
        self.assertEqual(figures.wilson(0, 50)[0], 0.0)

    def test_auc_counts_ties_half(self):
        self.assertEqual(figures.auc(np.array([2.0, 3.0]), np.array([0.0, 1.0])), 1.0)
        self.assertEqual(figures.auc(np.array([1.0]), np.array([1.0, 1.0])), 0.5)
        self.assertEqual(figures.auc(np.array([1.0, 3.0]), np.array([2.0])), 0.5)

    def test_tpr_lets_no_more_negatives_pass_than_allowed(self):
        negative = np.arange(100.0)
        positive = np.array([97.5, 98.5, 99.5])
        self.assertAlmostEqual(figures.tpr_at(positive, negative, 0.0), 1 / 3)
        self.assertAlmostEqual(figures.tpr_at(positive, negative, 0.01), 2 / 3)
        self.assertEqual(figures.tpr_at(positive, negative, 1.0), 1.0)
        self.assertEqual(figures.roc(positive, negative)[-1], [1.0, 1.0])


class Correlation(unittest.TestCase):
    def test_bytes_towards_the_person_fall_into_their_steps(self):
        found = correlate.steps(
            packets((0.0, 0, 5), (0.019, 0, 6), (0.02, 0, 7), (0.02, 1, 9), (0.06, 0, 8)), BEGIN_US, 3
        )
        self.assertEqual(found.tolist(), [11, 7, 0])

    def test_a_lag_moves_the_bins(self):
        entry = np.arange(10 + correlate.LAG_STEPS + 5, dtype=float)
        found = correlate.lagged(entry, 2)
        self.assertEqual(found.shape, (correlate.LAG_STEPS + 1, 2))
        self.assertEqual(found[0].tolist(), [0 + 1 + 2 + 3 + 4, 5 + 6 + 7 + 8 + 9])
        self.assertEqual(found[3].tolist(), [3 + 4 + 5 + 6 + 7, 8 + 9 + 10 + 11 + 12])

    def test_what_comes_later_by_up_to_two_seconds_is_the_same(self):
        exit = np.random.default_rng(1).random(150)
        bins = exit.reshape(1, -1, 5).sum(axis=2)
        for lag in (0, 1, 7, correlate.LAG_STEPS):
            entry = np.zeros(150 + correlate.LAG_STEPS + 5)
            entry[lag : lag + 150] = exit
            self.assertAlmostEqual(correlate.similarity(3 * entry, bins)[0], 1.0, msg=str(lag))

    def test_opposites_are_never_alike(self):
        up, down = np.array([[0.0, 1.0, 2.0]]), np.array([[2.0, 1.0, 0.0]])
        self.assertAlmostEqual(float((correlate.normalised(up) @ correlate.normalised(down).T)[0, 0]), -1.0)

    def test_a_steady_line_is_like_nothing(self):
        entry = np.ones(150 + correlate.LAG_STEPS + 5)
        self.assertEqual(correlate.similarity(entry, np.random.default_rng(1).random((1, 30)))[0], 0.0)

    def test_flows_are_found_when_they_show_and_not_when_they_do_not(self):
        rng = np.random.default_rng(2)

        def pair(shows: bool):
            exit = rng.exponential(size=150) * (rng.random(150) < 0.1)
            rest = np.zeros(correlate.LAG_STEPS + 4)
            entry = np.concatenate([[0.0], exit, rest]) if shows else rng.random(150 + correlate.LAG_STEPS + 5)
            return entry, exit

        shown = correlate.who_with_whom([[pair(True) for _ in range(12)] for _ in range(10)])
        hidden = correlate.who_with_whom([[pair(False) for _ in range(12)] for _ in range(10)])
        self.assertGreater(shown["auc"], 0.99)
        self.assertGreater(shown["tpr_at_1_percent"]["tpr"], 0.9)
        self.assertLess(abs(hidden["auc"] - 0.5), 0.1)
        self.assertLess(abs(shown["shuffled_auc"] - 0.5), 0.1)
        self.assertEqual((shown["flows"], shown["negatives"]), (120, 120 * 11))


class Attacks(unittest.TestCase):
    def windows(self, sites, tell: bool, seed: int = 3):
        rng = np.random.default_rng(seed)
        for site in sites:
            steps = np.cumsum(rng.random(30) / 20)
            size = 100 * site + 100 if tell else 500
            yield window(*[(t, n % 5 == 0, size + rng.integers(0, 20)) for n, t in enumerate(steps)])

    def test_sites_are_found_when_they_show_and_not_when_they_do_not(self):
        sites = np.repeat(np.arange(4), 15)
        shown = attacks.which_site(list(self.windows(sites, True)), sites)
        hidden = attacks.which_site(list(self.windows(sites, False)), sites)
        for attack in ("k_fingerprinting", "stronger"):
            self.assertGreater(shown[attack]["accuracy"], 0.95, attack)
            self.assertLess(hidden[attack]["low"], 0.3, attack)
        self.assertLess(shown["shuffled"]["low"], 0.3)

    def test_activity_is_found_when_it_shows_and_not_when_it_does_not(self):
        rounds = np.arange(40) // 4
        busy, silent = list(self.windows([3] * 40, True)), list(self.windows([1] * 40, True))
        self.assertGreater(attacks.active_or_idle(busy, silent, rounds)["auc"], 0.99)
        same = attacks.active_or_idle(
            list(self.windows([1] * 40, False, 4)), list(self.windows([1] * 40, False, 5)), rounds
        )
        self.assertLess(abs(same["auc"] - 0.5), 0.25)
        self.assertLess(abs(same["shuffled_auc"] - 0.5), 0.25)


class Analysis(unittest.TestCase):
    def test_windows_beyond_the_first_have_results_of_their_own(self):
        truth = {"lines": ["unlimited", "10mbit"], "windows_ms": [3_000, 5_000, 2_500]}
        names = [analyse.line_name(truth, 1, window) for window in truth["windows_ms"]]
        self.assertEqual(names, ["10mbit", "10mbit-5s", "10mbit-2.5s"])


if __name__ == "__main__":
    unittest.main()
