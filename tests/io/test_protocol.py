"""The verdicts on small networks whose answer is known, the witnesses, and what must never be said."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrobust.io import Case, Specification, counterexample, verify_files
from jrobust.io import _protocol as protocol


class Net:
    """y = (|x_0 - x_1| + offset, x_1): one program, whatever the offset."""

    shape = (2,)

    def __init__(self, offset=0.0):
        self.w = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
        self.offset = jnp.float32(offset)

    def __call__(self, x):
        return jnp.stack([jax.nn.relu(x @ self.w).sum(-1) + self.offset, x[:, 1]], -1)


def above(c, *boxes):
    """Unsafe: y_0 >= c in any of the boxes."""
    boxes = boxes or (((0, 0), (1, 1)),)
    cases = [
        Case(np.array(lo, float), np.array(hi, float), [(np.array([[-1.0, 0.0]]), np.array([-c]))]) for lo, hi in boxes
    ]
    return Specification(cases, 2, 2, f"y_0 >= {c}")


FAR = ((0.0, 0.0), (0.1, 0.1))


def test_sat_with_a_witness_in_the_box():
    out = verify_files(Net(), above(0.9))
    assert (out.verdict, out.decided_by, out.confirmed) == ("sat", "attack", "jax float32, jax float64")
    assert out.x.dtype == np.float64
    assert ((out.x >= 0) & (out.x <= 1)).all()
    assert abs(out.x[0] - out.x[1]) >= 0.9
    assert out.text() == f"sat\n{counterexample(out.x, out.y)}\n"


def test_unsat_needs_every_box():
    assert verify_files(Net(), above(1.5)).verdict == "unsat"
    assert verify_files(Net(), above(0.5, FAR, ((0, 0.5), (0.1, 0.6)))).verdict == "sat"
    out = verify_files(Net(), above(0.9, FAR, ((0, 0.5), (0.1, 0.6))))
    assert (out.verdict, out.x, out.stages[-1]["open"], out.text()) == ("unsat", None, 0, "unsat\n")


def test_nothing_is_unsafe():
    out = verify_files(Net(), Specification([], 2, 2, "none"))
    assert (out.verdict, out.stages) == ("unsat", [])


def test_every_output_is_unsafe():
    case = Case(np.zeros(2), np.ones(2), [(np.zeros((0, 2)), np.zeros(0))])
    assert verify_files(Net(), Specification([case], 2, 2, "all")).verdict == "sat"


def test_conjunctions_are_refuted_by_one_row():
    # y_0 >= 1.5 or y_1 <= 0.2, and y_1 >= 0.3: each disjunct has a row that holds nowhere, or two that exclude each other
    one = np.array([[-1.0, 0.0], [0.0, -1.0]]), np.array([-1.5, -0.3])
    boxes = np.zeros(2), np.ones(2)
    assert verify_files(Net(), Specification([Case(*boxes, [one])], 2, 2, "")).verdict == "unsat"
    both = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([0.2, -0.1])
    out = verify_files(Net(), Specification([Case(*boxes, [one, both])], 2, 2, ""))
    assert out.verdict == "sat"
    assert 0.1 <= out.y[1] <= 0.2


def test_points_between_two_floats():
    # no float32 lies in this box; the reported point does, and reads as the float32 that was run
    lo = 0.1 + 1e-10
    spec = above(0.0, ((lo, 0.5), (lo + 1e-12, 0.5)))
    out = verify_files(Net(), spec)
    assert out.verdict == "sat"
    assert lo <= out.x[0] <= lo + 1e-12
    assert spec.cases[0].unsafe(out.x, out.y)


def test_nan_is_neither_verified_nor_a_counterexample():
    out = verify_files(Net(np.nan), above(0.9), timeout=5.0)
    assert (out.verdict, out.x) == ("timeout", None)


def test_a_witness_must_reexecute(monkeypatch):
    monkeypatch.setattr(protocol, "replayer", lambda *_: lambda x: [("another", np.zeros(2))])
    out = verify_files(Net(), above(0.9), search=lambda *_: ("unsat", None), timeout=5.0)
    assert (out.verdict, out.x) == ("timeout", None)  # and no proof is believed against what was seen


def test_search_is_asked_with_set_and_deadline(monkeypatch):
    monkeypatch.setattr(protocol._Run, "attack", lambda *_: None)
    asked = []
    box = (0.0, 0.1), (1.0, 0.6)  # |x_0 - x_1| = 0.9 at a corner

    def search(f, s, key, deadline):
        asked.append((f, s, deadline))
        return "sat", jnp.array([1.0, 0.1])

    began = time.monotonic()
    out = verify_files(Net(), above(0.89, box), search=search, timeout=50.0)
    ((f, s, deadline),) = asked
    assert (out.verdict, out.decided_by) == ("sat", "search")
    assert bool(s.contains(jnp.array([1.0, 0.1]), 0.0))
    assert float(f(jnp.array([1.0, 0.1]))[0]) >= 0
    assert began + 49 < deadline < time.monotonic() + 50


def test_the_time_is_kept(monkeypatch):
    monkeypatch.setattr(protocol._Run, "bound", lambda *_: None)  # nothing is proven, and there is no counterexample
    unknown = {"search": lambda *_: ("unknown", None)}
    verify_files(Net(), above(1.5), timeout=3.0, **unknown)  # compile
    out = verify_files(Net(), above(1.5), timeout=1.0, **unknown)
    assert out.verdict == "timeout"
    assert {r["stage"] for r in out.stages} > {"strong attack"}
    assert 0.9 < out.seconds < 3.0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (Specification([], 3, 2, "s.vnnlib"), "s.vnnlib speaks of 3 inputs and 2 outputs; the network has 2"),
        (Specification([], 2, 5, "s.vnnlib"), "5 outputs"),
    ],
)
def test_sizes_must_fit(spec, said):
    with pytest.raises(ValueError, match=said):
        verify_files(Net(), spec)
    with pytest.raises(ValueError, match="timeout is > 0"):
        verify_files(Net(), above(1.0), timeout=0.0)
