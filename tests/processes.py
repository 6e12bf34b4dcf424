"""Programs that run as several processes of `jax.distributed`, on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jrobust as jr

ROOT = Path(jr.__file__).parent.parent


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def in_processes(program: str, count: int, run: Path, *flags: str) -> None:
    """``python -m program ID COUNT ADDRESS RUN FLAGS``: four devices, shared among so many processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    env = environment(4 // count)
    command = [sys.executable, "-m", program]
    children = [
        subprocess.Popen(
            [*command, str(i), str(count), address, str(run), *flags],
            cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(count)
    ]  # fmt: skip
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0] * count, "\n".join(said)
