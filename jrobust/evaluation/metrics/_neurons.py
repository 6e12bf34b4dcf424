"""Which neurons a set of inputs reaches, and how much they move: coverage, sensitivity, uncertainty.

A neuron is a unit, or a channel averaged over its places. Shares of neurons are no means over examples, so they have no interval.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from jrobust._checks import check_count


def _layers(activations: Any, by: str) -> dict[str, np.ndarray]:
    """Activations [N, ..., C] by layer, in float64, of one N."""
    if not isinstance(activations, Mapping) or not activations:
        raise TypeError(
            f"{by} takes activations by layer, {{name: [N, ..., C]}}, such as jr.nnx.activations(module, x)"
        )
    out = {str(name): np.asarray(a, np.float64) for name, a in activations.items()}
    n = len(next(iter(out.values())))
    for name, a in out.items():
        if a.ndim < 2 or a.size == 0 or len(a) != n or not np.isfinite(a).all():
            raise ValueError(f"{by}: {name} must be finite [{n}, ..., C], one row an example, got shape {a.shape}")
    return out


def _channels(a: np.ndarray) -> np.ndarray:
    """[N, ..., C] -> [N, C]."""
    return a.reshape(len(a), -1, a.shape[-1]).mean(1)


def neuron_coverage(
    activations: Any, *, threshold: float | int = 0.25, per: Literal["set", "example"] = "set"
) -> float:
    """Neuron coverage (NC): the share of neurons whose scaled activation exceeds a threshold.

    Args:
      activations: layer -> [N, ..., C], such as ``jr.nnx.activations(module, x)``.
      threshold: on activations scaled to [0, 1] by the least and largest one of their layer, example by example.
      per: "set": neurons that some example activates; "example": pairs of an example and a neuron.

    Returns:
      A share of all neurons; it describes the inputs, and bounds nothing.

    Raises:
      TypeError, ValueError: no layers, shapes that differ.

    >>> neuron_coverage({"a": [[0.0, 1.0, 0.1], [1.0, 0.2, 0.0]]}, threshold=0.5)
    0.6666666666666666

    References:
      Pei et al., DeepXplore: automated whitebox testing of deep learning systems, SOSP 2017.
    Deviations:
      A layer whose activations are all equal activates nothing. The code of Guo et al. counts pairs, scales each channel's map by
      itself, and has 0.2 as threshold.
    """
    if per not in ("set", "example"):
        raise ValueError(f'neuron_coverage: per is "set" or "example", got {per!r}')
    active = []
    for a in _layers(activations, "neuron_coverage").values():
        axes = tuple(range(1, a.ndim))
        low, high = a.min(axes, keepdims=True), a.max(axes, keepdims=True)
        scaled = np.where(high > low, (a - low) / np.where(high > low, high - low, 1.0), 0.0)
        active.append(_channels(scaled) > threshold)
    everywhere = np.concatenate(active, axis=1)
    return float(everywhere.any(0).mean() if per == "set" else everywhere.mean())


class Profile(NamedTuple):
    """What neurons did on a reference set, usually the training data.

    Attributes:
      low, high: layer -> [C], the least and the largest activation.
    """

    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]


def neuron_profile(activations: Any) -> Profile:
    """The range of every neuron on a reference set, which `kmnc`, `nbc` and `snac` compare with.

    Args:
      activations: layer -> [N, ..., C] on clean, usually training, data.

    Raises:
      TypeError, ValueError: no layers, shapes that differ.
    """
    each = {name: _channels(a) for name, a in _layers(activations, "neuron_profile").items()}
    return Profile({k: v.min(0) for k, v in each.items()}, {k: v.max(0) for k, v in each.items()})


def _against(activations: Any, profile: Profile, by: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All neurons' activations [N, C] and their ranges [C]."""
    layers = _layers(activations, by)
    if set(layers) != set(profile.low):
        raise ValueError(f"{by}: layers {sorted(layers)} are not those of the profile, {sorted(profile.low)}")
    for name, a in layers.items():
        if a.shape[-1] != len(profile.low[name]):
            raise ValueError(f"{by}: {name} has {a.shape[-1]} neurons, in the profile {len(profile.low[name])}")
    values = np.concatenate([_channels(a) for a in layers.values()], axis=1)
    low, high = (np.concatenate([end[name] for name in layers]) for end in (profile.low, profile.high))
    return values, low, high


def kmnc(activations: Any, profile: Profile, *, sections: int = 1000) -> float:
    """k-multisection neuron coverage: the share of equal sections of the neurons' profiled ranges into which some example falls.

    Args:
      activations: layer -> [N, ..., C].
      profile: from `neuron_profile`, of the same layers.
      sections: k, >= 1.

    Returns:
      A share; of n examples at most n / k. NaN where no neuron has a range.

    Raises:
      TypeError, ValueError: layers that do not fit the profile, no sections.

    References:
      Ma et al., DeepGauge: multi-granularity testing criteria for deep learning systems, ASE 2018.
    Deviations:
      Neurons that are constant on the reference set have no sections and do not count.
    """
    check_count(sections, "sections", "kmnc")
    values, low, high = _against(activations, profile, "kmnc")
    wide = high > low
    if not wide.any():
        return float("nan")
    values, low, high = values[:, wide], low[wide], high[wide]
    inside = (values >= low) & (values <= high)
    at = np.minimum(((values - low) / (high - low) * sections), sections - 1)
    pairs = np.floor(np.where(inside, at, 0)).astype(np.int64) + sections * np.arange(values.shape[1])
    return len(np.unique(pairs[inside])) / (sections * values.shape[1])


def nbc(activations: Any, profile: Profile) -> float:
    """Neuron boundary coverage: the share of the neurons' two corners, below and above their profiled range, that some example reaches.

    Args:
      activations, profile: as `kmnc` takes them.

    Raises:
      TypeError, ValueError: layers that do not fit the profile.

    References:
      Ma et al., DeepGauge, ASE 2018.
    """
    values, low, high = _against(activations, profile, "nbc")
    return float(((values < low).any(0).sum() + (values > high).any(0).sum()) / (2 * values.shape[1]))


def snac(activations: Any, profile: Profile) -> float:
    """Strong neuron activation coverage: the share of neurons that some example drives above their profiled range.

    Args:
      activations, profile: as `kmnc` takes them.

    Raises:
      TypeError, ValueError: layers that do not fit the profile.

    References:
      Ma et al., DeepGauge, ASE 2018 (the code of Guo et al. divides by twice the number of neurons).
    """
    values, _, high = _against(activations, profile, "snac")
    return float((values > high).any(0).mean())


def tknc(activations: Any, *, k: int = 3) -> float:
    """Top-k neuron coverage: the share of neurons that are among the k most active of their layer for some example.

    Args:
      activations: layer -> [N, ..., C].
      k: >= 1; a layer of at most k neurons is covered whole.

    Raises:
      TypeError, ValueError: no layers, shapes that differ, k below 1.

    References:
      Ma et al., DeepGauge, ASE 2018.
    """
    check_count(k, "k", "tknc")
    covered, total = 0, 0
    for a in _layers(activations, "tknc").values():
        values = _channels(a)
        covered += len(np.unique(np.argsort(-values, axis=1, kind="stable")[:, :k]))
        total += values.shape[1]
    return covered / total


def neuron_sensitivity(clean: Any, changed: Any) -> dict[str, np.ndarray]:
    """How much each neuron moves between pairs of inputs: the mean over examples and places of ``|a(x) - a(x')|``.

    Args:
      clean: layer -> [N, ..., C].
      changed: the same at the witnesses.

    Returns:
      layer -> [C]; papers report the mean of the most sensitive ones. An estimate of what these changes do.

    Raises:
      TypeError, ValueError: no layers, or not the same on both sides.

    References:
      Zhang et al., Interpreting and improving adversarial robustness of deep neural networks with neuron sensitivity, IEEE TIP 2021.
    """
    a, b = _layers(clean, "neuron_sensitivity"), _layers(changed, "neuron_sensitivity")
    if {k: v.shape for k, v in a.items()} != {k: v.shape for k, v in b.items()}:
        raise ValueError("neuron_sensitivity: clean and changed must have the same layers and shapes")
    return {name: _channels(np.abs(a[name] - b[name])).mean(0) for name in a}


def neuron_uncertainty(activations: Any) -> dict[str, np.ndarray]:
    """The variance of each neuron over a set of inputs.

    Args:
      activations: layer -> [N, ..., C].

    Returns:
      layer -> [C], population variances of the means over places.

    Raises:
      TypeError, ValueError: no layers, shapes that differ.

    References:
      Guo et al., A comprehensive evaluation framework for deep model robustness, Pattern Recognition 2023.
    """
    return {name: _channels(a).var(0) for name, a in _layers(activations, "neuron_uncertainty").items()}
