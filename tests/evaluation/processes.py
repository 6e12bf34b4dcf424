"""One share of an evaluation and of a certification: ``python -m tests.evaluation.processes OUT INDEX COUNT STOP [ADDRESS]``.

After its batch number STOP it kills itself without warning (SIGKILL); -1: never. With ADDRESS it is a process of `jax.distributed`.
"""

import os
import signal
import sys

import jax
import numpy as np

COUNT = 61


def evaluated(out, shard=None):
    """The same evaluation wherever it is called."""
    import jrobust as jr
    from tests.evaluation.common import data, linear, linear_bound, linear_radius

    x, y = data(COUNT)
    oracles = {"pgd": jr.attacks.pgd(steps=4), "bound": linear_bound(), "radius": linear_radius("lower")}
    threat, key = jr.sets.linf(0.1), jax.random.key(0)
    return jr.evaluate(linear(0), x, y, threat=threat, oracles=oracles, key=key, batch_size=8, shard=shard, out=out)


def certified(out, shard=None):
    """The same certification wherever it is called."""
    import jrobust as jr
    from tests.evaluation.common import data, linear

    options = {"noise": jr.smoothing.gaussian(0.2), "n0": 10, "n": 100, "batch_size": 100, "key": jax.random.key(0)}
    return jr.smoothing.certify(linear(0), data(COUNT)[0], **options, shard=shard, out=out)


def main() -> None:
    """Both, with a death in the middle."""
    out, index, count, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if len(sys.argv) > 5:
        jax.distributed.initialize(sys.argv[5], count, index, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=1)
        assert (jax.process_index(), jax.process_count()) == (index, count)
    from jrobust import _records

    append, done = _records.Records.append, []

    def fatal(self, rows):
        append(self, rows)
        done.append(len(list(rows)))
        if len(done) == stop:
            os.kill(os.getpid(), signal.SIGKILL)

    _records.Records.append = fatal
    ev = evaluated(out, (index, count))
    assert ev.n == len(range(index, COUNT, count))
    certificate = certified(out, (index, count))
    np.testing.assert_equal(len(certificate.radius), ev.n)
    print(f"{sum(done)} examples", flush=True)
    os._exit(0)  # under jax.distributed an orderly end waits for all others, the dead ones too


if __name__ == "__main__":
    main()
