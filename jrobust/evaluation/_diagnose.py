"""Can an attack's number on this model be believed? The checks of the official AutoAttack code, and signs of masked gradients."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jrobust._checks import check_classes, check_count, check_key
from jrobust._model import functional
from jrobust._objective import Stochastic
from jrobust._statistics import Accuracy, proportion
from jrobust.attacks import pgd, sampling, square
from jrobust.evaluation._checks import are_probabilities, check_data
from jrobust.evaluation._execute import objective
from jrobust.evaluation._results import Result
from jrobust.objectives import ce, dlr, largest
from jrobust.sets import Threat

_DRIFT, _GAIN = 1e-4, 0.002
_FEW, _MANY = 4, 20
_PASSES = 2 * (2 * _MANY + 1)  # of two ascents of _MANY steps: forward and backward


class Diagnosis(NamedTuple):
    """What `diagnose` saw; numbers and flags, nothing printed.

    Attributes:
      random: repeated answers differ: logits (normalised to length one) by more than 1e-4, or the number classified right.
      drift: the largest such difference of logits.
      softmax: outputs are probabilities (in [0, 1], sum 1): gradients through them saturate; return logits.
      nan: examples with a NaN or infinite logit.
      zero_gradient: surrogate -> of the examples that are right at a random point of the set, the share whose gradient there is
        exactly 0, or not finite.
      black_box_gain: share of all examples that queries broke and gradients did not (0 is healthy): Square against PGD here, or of
        ``result`` its later stages against the gradient stages; NaN if not asked.
      monotone: share of examples on which 20 steps broke, or raised the margin by at least 0.9 of what 4 steps from another start did
        (1 is healthy).
      unbounded: share of examples still unbroken when every value of the box is allowed (0 is healthy); NaN without a clip.
      random_gain: share of all examples that uniform samples broke, at as many passes, and gradients did not (0 is healthy).
      clean: accuracy without any change. Where its whole interval is at or below chance, labels or preprocessing are another model's.
      chance: the accuracy of a guess, 1 / classes.
    """

    random: bool
    drift: float
    softmax: bool
    nan: int
    zero_gradient: dict[str, float]
    black_box_gain: float
    monotone: float
    unbounded: float
    random_gain: float
    clean: Accuracy
    chance: float

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for everything that looks wrong."""
        signs = {
            "the model gives several answers to one input: wrap it with jr.objectives.stochastic, use version='rand'": self.random,
            "the model returns probabilities: attack the logits": self.softmax,
            f"clean accuracy {self.clean.value:.4f} [{self.clean.low:.4f}, {self.clean.high:.4f}] is no better than chance "
            f"({self.chance:.4g}): labels (off by one? in another order?) or preprocessing are not the model's": self.clean.high
            <= self.chance,
            f"{self.nan} examples have NaN or infinite logits": self.nan > 0,
            "black-box queries break examples that gradients did not: masked gradients": self.black_box_gain > _GAIN,
            "more steps do worse: the surrogate misleads": self.monotone < 0.9,
            "an attack that may do anything fails: masked gradients": self.unbounded > _GAIN,
            "random points break examples that gradients did not: masked gradients": self.random_gain > _GAIN,
        }
        zero = [
            f"the gradient of {name} is zero on {share:.0%} of the examples, or not finite"
            for name, share in self.zero_gradient.items()
            if share > 0
        ]
        return tuple(line for line, wrong in signs.items() if wrong) + tuple(zero)

    @property
    def masked(self) -> bool:
        """Whether any sign of masked gradients was seen: robust accuracy is then too high."""
        zero = max(self.zero_gradient.values(), default=0.0)
        gains = (self.black_box_gain, self.unbounded, self.random_gain, zero)
        return self.monotone < 0.9 or any(gain > _GAIN for gain in gains)


@partial(jax.jit, static_argnames=("apply", "queries"))
def _probe(threat: Threat, leaves: Any, key: Any, x: Any, y: Any, *, apply: Any, queries: int) -> dict[str, Any]:
    """Facts about every example."""

    def one(k: Any, z: Any, label: Any) -> dict[str, Any]:
        f, s = objective(apply, leaves, label), threat(z)
        logits = f.outputs(z)
        k_at, k_few, k_many, k_all, k_margin, k_samples, k_queries = jax.random.split(k, 7)
        at = s.sample(k_at)
        surrogates = {"ce": ce} | ({"dlr": dlr} if logits.shape[0] >= 4 else {"margin": largest})

        def steepness(surrogate: Any) -> Any:
            gradient = jax.grad(lambda z: f.climb(surrogate, z)[0])(at)
            total = jnp.asarray(sum(jnp.sum(jnp.abs(g)) for g in jax.tree.leaves(gradient)))
            return jnp.where(jnp.isfinite(total), total, 0.0)

        facts = {
            "logits": logits,
            "clean": f.value(logits),
            # where it is wrong already there is nothing to climb (and DLR may be constant)
            "open": f.value(f.outputs(at)) < 0,
            "zero": {name: steepness(surrogate) == 0 for name, surrogate in surrogates.items()},
            "few": pgd(steps=_FEW).solve(k_few, f, s).value,
            "many": pgd(steps=_MANY).solve(k_many, f, s).value,
            "margin": pgd(steps=_MANY, surrogate=largest).solve(k_margin, f, s).value,
            "samples": sampling(samples=_PASSES).solve(k_samples, f, s).value,
        }
        if queries and not isinstance(s.center, tuple):
            facts["queries"] = square(queries=queries).solve(k_queries, f, s).value
        lo, hi = s.params[1:] if s.geometry.name in ("l1", "l2", "linf") else (None, None)
        if lo is not None and hi is not None:
            anything = s.resize(s.distance(jnp.where(z - lo > hi - z, lo, hi).astype(z.dtype)))
            facts["unbounded"] = pgd(steps=_MANY).solve(k_all, f, anything).value
        return facts

    return jax.vmap(one)(jax.random.split(key, len(y)), x, y)


def diagnose(
    model: Any,
    x: Any,
    y: Any,
    *,
    threat: Threat,
    key: Any,
    queries: int = 200,
    gradient_stages: int | None = None,
    result: Result | None = None,
) -> Diagnosis:
    """Look for what makes attacks on a model meaningless: randomness, saturated outputs, NaN, masked gradients.

    Args:
      model: as in `evaluate`.
      x: a batch of examples [N, ...]; a few dozen are enough, and all run at once.
      y: labels [N].
      threat: one radius for all.
      key: one typed PRNG key.
      queries: of Square, which is compared with two gradient ascents; 0: it is not run. Nor does it run on product sets.
      gradient_stages, result: the `Result` of a cascade and how many of its first stages use gradients; then
        ``black_box_gain`` is what later stages broke (3 for AutoAttack's standard version: Square is the fourth).

    Returns:
      A `Diagnosis`; ``.warnings`` in words, ``.masked`` as one flag. Signs are neither necessary nor sufficient: the gradient side is
      two ascents of 20 steps (cross-entropy, margin), and on few examples one that they miss is a sign.

    Raises:
      ValueError, TypeError: bad input, before any work.

    >>> import jax, jax.numpy as jnp, jrobust as jr
    >>> x, y = jnp.array([[0.2, 0.8], [0.6, 0.4]]), jnp.array([1, 0])
    >>> diagnose(lambda x: jax.nn.softmax(x), x, y, threat=jr.sets.linf(0.1, clip=(0, 1)), key=jax.random.key(0)).warnings
    ('the model returns probabilities: attack the logits',)

    References:
      Croce & Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks, ICML 2020.
      Athalye, Carlini & Wagner, Obfuscated gradients give a false sense of security, ICML 2018.
      Carlini et al., On evaluating adversarial robustness, 2019.
    """
    check_key(key)
    check_count(queries, "queries", "diagnose", least=0)
    if (result is None) != (gradient_stages is None):
        raise ValueError("diagnose: give result and gradient_stages together, or neither")
    data = check_data(x, y)
    rows, labels = data.rows(np.arange(data.n)), jnp.asarray(data.y)
    f = functional(model, rows)
    classes = jax.eval_shape(f.apply, f.leaves, rows).shape[1]
    check_classes(data.y, classes)
    facts = jax.tree.map(
        np.asarray, _probe(threat, f.leaves, key, rows, labels, apply=f.apply, queries=queries if result is None else 0)
    )
    logits = facts["logits"]
    drift, right = 0.0, {int((logits.argmax(1) == data.y).sum())}
    if not isinstance(model, Stochastic):
        answers = [np.asarray(model(rows), np.float64) for _ in range(5)]
        unit = [a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12) for a in answers]
        drift = float(max(np.nan_to_num(np.linalg.norm(a - unit[0], axis=1)).max() for a in unit))
        right = {int((a.argmax(1) == data.y).sum()) for a in answers}
    finite = np.isfinite(logits).all(1)
    missed = ~(facts["many"] >= 0) & ~(facts["margin"] >= 0)
    gain = float((missed & (facts["queries"] >= 0)).mean()) if "queries" in facts else np.nan
    if result is not None and gradient_stages is not None:
        gain = float((result.correct & (result.info["stage"] >= gradient_stages)).mean())
    slack = 0.1 * np.abs(facts["few"] - facts["clean"]) + 1e-4 * (1 + np.abs(facts["few"]))
    settled = facts["many"] >= facts["few"] - slack
    broken = (facts["few"] >= 0) & (facts["many"] >= 0)
    unbounded = float((facts["unbounded"] < 0).mean()) if "unbounded" in facts else np.nan
    seen = facts["open"]
    zero = {name: float(flat[seen].mean()) if seen.any() else 0.0 for name, flat in facts["zero"].items()}
    return Diagnosis(
        drift > _DRIFT or len(right) > 1, drift, are_probabilities(logits), int((~finite).sum()), zero, gain,
        float((settled | broken).mean()), unbounded, float((missed & (facts["samples"] >= 0)).mean()),
        proportion(int((facts["clean"] < 0).sum()), data.n, side="exact"), 1 / classes,
    )  # fmt: skip
