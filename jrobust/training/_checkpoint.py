"""Checkpoints: a pytree of arrays on disk through Orbax, complete or not there at all, and nothing is ever unpickled."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jrobust.typing import PyTree

# The layout: <directory>/<step>/{arrays/ (Orbax), meta.json}. A checkpoint is written under another name and renamed when it is
# whole, so that a directory named by digits is complete whatever killed the writer.


def names(tree: PyTree) -> dict[str, Any]:
    """The leaves of a pytree by their path, such as ``params.head.kernel``; typed keys as their raw words."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    found = {jax.tree_util.keystr(path, simple=True, separator="."): _raw(leaf) for path, leaf in leaves}
    if len(found) < len(leaves):
        raise ValueError(
            "two arrays of the state have one name: keys with dots, such as 'a.w' beside {'a': {'w': ...}}; rename one"
        )
    return found


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _raw(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _describe(leaf: Any) -> list[Any]:
    return [list(np.shape(leaf)), str(leaf.dtype)]


def _digest(folder: Path) -> str:
    """Of all files below ``folder``: Orbax reports damaged files from threads of its own, so it is not shown any."""
    h = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        h.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            h.update(hashlib.file_digest(file, "sha256").digest())
    return h.hexdigest()


def latest(directory: Path) -> int | None:
    """The step of the newest complete checkpoint, or None."""
    if not directory.is_dir():
        return None
    return max((int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()), default=None)


class Writer:
    """Writes checkpoints in a thread, one after another: `save` returns when the arrays are on the host."""

    def __init__(self) -> None:
        self.pool, self.writing = ThreadPoolExecutor(1, "checkpoint"), None

    def save(self, directory: Path, tree: PyTree, *, step: int, meta: Mapping[str, Any]) -> None:
        """Write ``tree`` and ``meta`` (JSON) as the checkpoint of ``step``; then older ones are deleted.

        What went wrong with the one before is raised here, or by `close`.
        """
        arrays = {name: _on_host(leaf) for name, leaf in names(tree).items()}
        self.wait()
        self.writing = self.pool.submit(_write, directory, arrays, step, dict(meta))

    def wait(self) -> None:
        """Until all is written."""
        if self.writing is not None:
            self.writing.result()

    def close(self) -> None:
        """The same, and no more after that."""
        self.pool.shutdown()
        self.wait()


def _orbax() -> Any:
    """Orbax for this process by itself: by default it waits for all processes of a mesh, of which one alone writes here."""
    import orbax.checkpoint as ocp

    here = jax.process_index()
    how = ocp.options.MultiprocessingOptions()
    if jax.process_count() > 1:
        how = ocp.options.MultiprocessingOptions(here, {here}, f"jrobust{here}")
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(multiprocessing_options=how), multiprocessing_options=how)


def _on_host(leaf: Any) -> np.ndarray:
    """A copy that donation of the array cannot touch; of an array over several processes, which each holds whole, this one's."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = leaf.addressable_data(0)
    return np.array(leaf)


def _write(directory: Path, arrays: dict[str, np.ndarray], step: int, meta: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():  # what a killed writer left
        if not entry.name.isdigit():
            shutil.rmtree(entry)
    unfinished = directory / f"{step}.unfinished"
    with _orbax() as checkpointer:
        checkpointer.save((unfinished / "arrays").resolve(), args=ocp.args.PyTreeSave(arrays))
    described = {name: _describe(array) for name, array in arrays.items()}
    text = json.dumps({"step": step, "digest": _digest(unfinished / "arrays"), "arrays": described, **meta}, indent=1)
    (unfinished / "meta.json").write_text(text)
    final = directory / str(step)
    if final.exists():
        shutil.rmtree(final)
    os.rename(unfinished, final)
    for entry in directory.iterdir():
        if entry.name.isdigit() and entry != final:
            shutil.rmtree(entry)


def read_meta(directory: Path) -> dict[str, Any]:
    """The JSON beside the newest checkpoint."""
    step = latest(directory)
    if step is None:
        raise ValueError(f"{directory} holds no complete checkpoint")
    try:
        meta = json.loads((directory / str(step) / "meta.json").read_text())
        if not {"step", "digest", "arrays"} <= set(meta) or not isinstance(meta["arrays"], dict):
            raise KeyError("step, digest or arrays")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _corrupt(directory / str(step), error) from error
    return meta


def _corrupt(path: Path, why: Any) -> ValueError:
    first = (str(why).strip().splitlines() or [""])[0][:160]
    return ValueError(f"the checkpoint {path} is corrupt ({type(why).__name__}: {first}); delete it to start over")


def restore(directory: Path, template: PyTree, *, prefix: str | tuple[str, ...] = "") -> tuple[PyTree, dict[str, Any]]:
    """The newest checkpoint in the structure of ``template``, and its meta.

    Args:
      directory: of the checkpoints.
      template: a pytree of arrays of the right shapes and dtypes.
      prefix: only names that begin with it (or one of them) are compared (``template`` is then a part of what was saved).

    Raises:
      ValueError: no complete checkpoint, a corrupt one, or one of another architecture (naming what differs).
    """
    import orbax.checkpoint as ocp

    meta = read_meta(directory)
    path = directory / str(meta["step"])
    wanted = names(template)
    saved = {name: what for name, what in meta["arrays"].items() if name.startswith(prefix)}
    here = {name: _describe(leaf) for name, leaf in wanted.items()}
    differ = [name for name in {**here, **saved} if here.get(name) != saved.get(name)]
    if differ:
        shown = "; ".join(f"{n} is {_shape(saved.get(n))} there and {_shape(here.get(n))} here" for n in differ[:3])
        more = f" (and {len(differ) - 3} more)" if len(differ) > 3 else ""
        raise ValueError(f"the checkpoint {path} is of another model or optimiser: {shown}{more}")

    try:
        if _digest(path / "arrays") != meta["digest"]:
            raise ValueError("its files have changed since they were written")
        item = {name: jax.ShapeDtypeStruct(tuple(s), jnp.dtype(d)) for name, (s, d) in meta["arrays"].items()}
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in item}
        with _orbax() as checkpointer:
            args = ocp.args.PyTreeRestore(item=item, restore_args=as_numpy)
            arrays = checkpointer.restore((path / "arrays").resolve(), args=args)
    except Exception as error:
        raise _corrupt(path, error) from error

    leaves, structure = jax.tree_util.tree_flatten(template)
    read = [
        jax.random.wrap_key_data(arrays[name], impl=jax.random.key_impl(leaf))
        if _is_key(leaf)
        else jnp.asarray(arrays[name])
        for name, leaf in zip(wanted, leaves, strict=True)
    ]
    return structure.unflatten(read), meta


def _shape(described: list[Any] | None) -> str:
    return "missing" if described is None else f"{described[1]}{tuple(described[0])}"
