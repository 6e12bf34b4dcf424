"""A training over a mesh, as one of several processes: ``python -m tests.training.processes ID COUNT ADDRESS RUN [--streamed]``."""

import sys

import jax


def main() -> None:
    number, count, address, run = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    if count > 1:
        jax.distributed.initialize(address, count, number)
    from tests.training.nets import meshed

    meshed(jax.make_mesh((4,), ("batch",)), run=run, streamed="--streamed" in sys.argv, epochs=1)


if __name__ == "__main__":
    main()
