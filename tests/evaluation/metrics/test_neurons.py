"""Coverage, sensitivity and uncertainty on activations small enough to count by hand."""

import numpy as np
import pytest

from jrobust import metrics

RNG = np.random.default_rng(0)
REFERENCE = {"a": np.array([[0.0, -1.0, 5.0], [2.0, 1.0, 5.0]]), "b": np.array([[0.0, 1.0], [1.0, 3.0]])}
PROFILE = metrics.neuron_profile(REFERENCE)


def test_coverage_by_hand():
    # scaled in the layer: (0, 1, .1) and (1, .25, 0); b is flat in its second example
    found = {"a": [[0.0, 10.0, 1.0], [4.0, 1.0, 0.0]], "b": [[1.0, 0.0], [2.0, 2.0]]}
    assert metrics.neuron_coverage(found, threshold=0.2) == 3 / 5
    assert metrics.neuron_coverage(found, threshold=0.25) == 3 / 5
    assert metrics.neuron_coverage(found, threshold=0.05) == 4 / 5
    assert metrics.neuron_coverage(found, threshold=0.2, per="example") == 4 / 10
    # a channel is scaled with its layer, then averaged over places
    places = np.zeros((1, 2, 2, 2))
    places[0, 0, 0] = [8.0, 2.0]
    assert metrics.neuron_coverage({"a": places}, threshold=0.2) == 1 / 2


def test_the_ranges_of_a_profile():
    assert PROFILE.low["a"].tolist() == [0.0, -1.0, 5.0]
    assert PROFILE.high["b"].tolist() == [1.0, 3.0]
    new = {"a": np.array([[2.5, 0.0, 4.0], [0.1, -0.9, 6.0]]), "b": np.array([[-1.0, 3.0], [0.5, 2.9]])}
    # a: above; inside; below and above. b: below; inside
    assert metrics.nbc(new, PROFILE) == (2 + 2) / 10
    assert metrics.snac(new, PROFILE) == 2 / 5
    # four neurons have a range; with two sections: a0 first, a1 second and first, b0 second (0.5), b1 second twice
    assert metrics.kmnc(new, PROFILE, sections=2) == 5 / 8
    assert metrics.nbc(REFERENCE, PROFILE) == metrics.snac(REFERENCE, PROFILE) == 0
    assert metrics.kmnc(REFERENCE, PROFILE, sections=2) == 1.0
    flat = metrics.neuron_profile({"a": np.ones((2, 2))})
    assert np.isnan(metrics.kmnc({"a": np.ones((2, 2))}, flat))
    with pytest.raises(ValueError, match="not those of the profile"):
        metrics.snac({"a": new["a"]}, PROFILE)
    with pytest.raises(ValueError, match="a has 2 neurons, in the profile 3"):
        metrics.snac(new | {"a": new["a"][:, :2]}, PROFILE)


def test_sections_by_a_literal_walk():
    reference, new = {"a": RNG.normal(size=(30, 6))}, {"a": RNG.normal(size=(50, 6))}
    profile = metrics.neuron_profile(reference)
    covered = 0
    for c in range(6):
        edges = np.linspace(profile.low["a"][c], profile.high["a"][c], 8)
        counts, _ = np.histogram(new["a"][:, c], edges)
        covered += (counts > 0).sum()
    assert metrics.kmnc(new, profile, sections=7) == covered / 42


def test_the_most_active():
    found = {"a": [[3.0, 1.0, 2.0, 0.0], [3.0, 2.0, 1.0, 0.0]], "b": [[0.0, 1.0], [0.0, 1.0]]}
    assert metrics.tknc(found, k=1) == 2 / 6
    assert metrics.tknc(found, k=2) == (3 + 2) / 6
    assert metrics.tknc(found, k=9) == 1.0


def test_moves():
    a, b = RNG.normal(size=(2, 5, 3, 2, 4))
    found = metrics.neuron_sensitivity({"a": a}, {"a": b})["a"]
    np.testing.assert_allclose(found, np.abs(a - b).mean((0, 1, 2)))
    np.testing.assert_allclose(metrics.neuron_uncertainty({"a": a})["a"], a.mean((1, 2)).var(0))
    with pytest.raises(ValueError, match="same layers"):
        metrics.neuron_sensitivity({"a": a}, {"b": b})
    with pytest.raises(TypeError, match="activations by layer"):
        metrics.tknc(a)
    with pytest.raises(ValueError, match=r"b must be finite \[5, ..., C\]"):
        metrics.tknc({"a": a, "b": b[:3]})
