"""Labels that are distributions: smoothed, and mixed between examples."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jrobust._checks import check_classes, check_count
from jrobust.typing import Array, Float, Int


def spread_cross_entropy(out: Float[Array, "B K"], y: Int[Array, " B"], smoothing: Any) -> Float[Array, " B"]:
    """The cross-entropy of labels ``1 - smoothing`` for y and ``smoothing / (K - 1)`` for each of the others.

    >>> out = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    >>> print(f"{spread_cross_entropy(out, jnp.array([0]), 0.5)[0]:.3f}")  # (1 + 2) / 2 of log 2
    1.040
    """
    k = out.shape[-1]
    soft = (1.0 - smoothing - smoothing / (k - 1)) * jax.nn.one_hot(y, k) + smoothing / (k - 1)
    return -jnp.sum(soft * jax.nn.log_softmax(out), -1)


def softened(
    robust: Callable[..., Any],
    *,
    classes: int,
    smoothing: Any = 0.0,
    mix: Callable[[Any, Any, Any], tuple[Any, Any]] | None = None,
) -> Callable[..., Any]:
    """A loss of integer labels from one of soft labels: they are smoothed, then examples and labels mixed, before anything else.

    So an attack inside sees the mixed batch and its mixed labels: adversarial CutMix is
    ``softened(trades(jr.objectives.soft_cross_entropy(apply), threat), classes=10, mix=jr.data.cutmix)``.

    Args:
      robust: a loss that takes labels [B, K]: `jr.objectives.soft_cross_entropy`, and `jr.worst_case` (by an attack), `trades`, `alp`,
        `dkl` or `awp` of it.
      classes: K.
      smoothing: share of a label that is spread over all classes, in [0, 1].
      mix: ``mix(key, x[B, ...], y[B, K]) -> (x, y)``, such as `jr.data.mixup` or `jr.data.cutmix`; only while training.

    References:
      Szegedy et al., Rethinking the inception architecture for computer vision, CVPR 2016 (label smoothing).
      Rebuffi et al., Data augmentation can improve robustness, NeurIPS 2021 (CutMix in adversarial training).

    >>> import jax.numpy as jnp, jrobust as jr
    >>> soft = jr.objectives.soft_cross_entropy(lambda p, rest, x, *, train: (x @ p, rest))
    >>> loss = softened(soft, classes=2, smoothing=0.2)
    >>> args = jnp.eye(2), None, jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> print(f"{loss(*args, key=jax.random.key(0), train=True)[0][0]:.4f}")  # 0.9 log(1 + 1/e) + 0.1 log(1 + e)
    0.4133
    """
    check_count(classes, "classes", "softened", least=2)
    if isinstance(smoothing, int | float) and not 0 <= smoothing <= 1:
        raise ValueError(f"softened: smoothing lies in [0, 1], got {smoothing}")

    def loss(params: Any, rest: Any, x: Any, y: Any, *, key: Any, train: bool) -> Any:
        check_classes(y, classes, "label", index=False)
        for_mix, key = jax.random.split(key)
        soft = (1.0 - smoothing) * jax.nn.one_hot(y, classes) + smoothing / classes
        if mix is not None and train:
            x, soft = mix(for_mix, x, soft)
        return robust(params, rest, x, soft, key=key, train=train)

    return loss
