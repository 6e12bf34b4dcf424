"""What was asked of a model, as plain data: what must be equal before two models may be ranked.

Here it is the record of an evaluation that was made; a benchmark's `jrobust.evaluation.Protocol` is a question that was fixed before.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jrobust._digest import digest
from jrobust.sets import Threat


def protocol_of(
    x: Any, y: Any, *, threat: Threat, eps: Sequence[Any], oracles: Mapping[str, Any], seed: int, **more: Any
) -> dict[str, Any]:
    """What `evaluate` or `curve` was asked, for a `Section`; two models are ranked together only where this agrees.

    Args:
      x, y: examples [N, ...] and labels [N]; of both a hash is kept, of the numbers themselves nothing.
      threat: its family is meant, not its eps.
      eps: the radii.
      oracles: as given to the driver.
      seed: of the key.
      **more: what else there is to say, such as ``dataset``, ``split``, ``batch_size``, ``box``, ``nested``; JSON values.

    >>> import numpy as np, jrobust as jr
    >>> p = protocol_of(np.zeros((2, 3)), [0, 1], threat=jr.sets.linf(0.1), eps=[0.1], oracles={}, seed=0, split="test")
    >>> p["n"], p["threat"], p["split"]
    (2, 'linf', 'test')
    """
    asked = {
        name: {"oracle": o.name, "side": getattr(o, "sup_side", o.side), "confidence": o.confidence, "digest": digest(o)}
        for name, o in oracles.items()
    }  # fmt: skip
    family = digest(threat.family(0.0))
    attacks = sorted(str(o["digest"]) for o in asked.values() if o["side"] in ("lower", "exact"))
    return {
        **_examples(x, y), "threat": threat.name, "set": family, "eps": [float(e) for e in eps], "oracles": asked, "attacks": attacks,
        "seed": seed, **more,
    }  # fmt: skip


def smoothing_protocol(
    x: Any, y: Any, certificate: Any, *, seed: int, runner_up: bool = False, target: float | None = None, **more: Any
) -> dict[str, Any]:
    """What `jrobust.smoothing.certify` was asked, for a `Section`.

    Args:
      x, y: examples and labels.
      certificate: the result.
      seed: of the key.
      runner_up, target: as given to `certify`.
      **more: such as ``dataset``, ``split``, ``batch_size``.
    """
    return {
        **_examples(x, y), "threat": certificate.norm, "noise": certificate.noise, "noise_digest": certificate.noise_digest,
        "n0": certificate.n0, "draws": certificate.n, "alpha": round(1 - certificate.confidence, 12), "runner_up": runner_up,
        "target": target, "seed": seed, **more,
    }  # fmt: skip


def _examples(x: Any, y: Any) -> dict[str, Any]:
    y = np.asarray(y)
    return {"n": len(y), "examples": digest((jax.tree.map(np.asarray, x), y.astype(np.int32)))}
