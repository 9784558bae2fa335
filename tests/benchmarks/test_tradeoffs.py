"""The decisions that benchmarks/tradeoffs.py compares: by hand-made probabilities whose best label maps are known."""

import sys

import numpy as np
import pytest
from support import ROOT


@pytest.fixture(scope="module")
def tradeoffs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
        import tradeoffs
    return tradeoffs


def test_by_rank_a_rare_class_is_found_that_is_nowhere_the_most_probable(tradeoffs):
    of_class_1 = np.zeros(100)
    of_class_1[:5], of_class_1[5:10] = 0.48, 0.42
    shares = np.stack([1 - of_class_1, of_class_1], axis=-1).reshape(1, 10, 10, 2)
    # Class 1: 10 pixels give 4.5 / 10, 5 give 2.4 / 7.1. Class 0: all 100 give 95.5 / 100. So 0.48 / 0.42 > 0.52 / 0.52.
    assert np.flatnonzero(tradeoffs.by_rank(shares)[0]).tolist() == [0, 1, 2, 3, 4]
    assert not shares.argmax(-1).any()


def test_weights_make_good_for_a_class_that_is_always_too_probable(tradeoffs):
    truth = np.random.default_rng(0).integers(0, 3, (2, 8, 9))
    shares = np.eye(3)[truth] * 0.4 + [0.5, 0.05, 0.05]
    assert tradeoffs.miou(shares.argmax(-1), truth, 3) < 50
    weights = tradeoffs.fitted_weights(shares, truth)
    assert weights[0] < weights[1:].min() and tradeoffs.miou(tradeoffs.best_labels(shares, weights), truth, 3) == 100


def test_the_score_is_that_of_evaluate(tradeoffs):
    truth, found = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]])
    assert tradeoffs.miou(found, truth, 3) == pytest.approx(100 * np.mean([1 / 2, 1 / 3, 0]))
