"""VNN-LIB: every trap of the format as a small text, random formulas against an evaluator of their own, and the fixtures."""

import gzip
import time
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jrobust as jr
from jrobust.io import load_vnnlib
from jrobust.io._sexpr import forms, read_text
from jrobust.io._specification import inward, outward
from tests.shared import SHARED

FOLDERS = [folder for folder in [SHARED / "fixtures" / "vnncomp"] if folder.is_dir()]
in_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)


def declared(n, m):
    names = [f"X_{i}" for i in range(n)] + [f"Y_{j}" for j in range(m)]
    return "\n".join(f"(declare-const {name} Real)" for name in names)


def boxed(n, lo="-1", hi="1"):
    return "\n".join(f"(assert (>= X_{i} {lo})) (assert (<= X_{i} {hi}))" for i in range(n))


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "spec.vnnlib"
        path.write_text(text)
        return load_vnnlib(path)

    return load


def rows(disjunct):
    A, b = disjunct
    return [(*a.tolist(), c) for a, c in zip(A, b.tolist(), strict=True)]


def outputs(load, text, m=3):
    """The disjuncts of output assertions over a plain box."""
    (case,) = load(f"{declared(1, m)}\n{boxed(1)}\n{text}").cases
    return [rows(d) for d in case.disjuncts]


# An evaluator of its own: recursion over nested lists


def value(node, point):
    if isinstance(node, str):
        return point[node] if node in point else Fraction(float(node))
    head, *rest = (node[1], *node[2:])
    v = [value(n, point) for n in rest]
    if head == "+":
        return sum(v[1:], v[0])
    if head == "-":
        return -v[0] if len(v) == 1 else v[0] - sum(v[1:])
    return np.prod(np.array(v, object))


def holds(node, point):
    head, *rest = (node[1], *node[2:])
    if head in ("and", "or", "assert"):
        return (any if head == "or" else all)([holds(n, point) for n in rest])
    a, b = (value(n, point) for n in rest)
    return {"<=": a <= b, "<": a <= b, ">=": a >= b, ">": a >= b, "=": a == b}[head]


def asserted(path, x, y):
    point = {f"X_{i}": Fraction(float(v)) for i, v in enumerate(x)}
    point |= {f"Y_{j}": Fraction(float(v)) for j, v in enumerate(y)}
    return all(holds(form, point) for form in forms(read_text(path)) if form[1] == "assert")


def points(spec, rng, count):
    """Random points near and on the boxes' ends and on the rows' boundaries."""
    for _ in range(count):
        case = spec.cases[rng.integers(len(spec.cases))]
        x = case.lo + rng.choice([0.0, 0.5, 1.0], len(case.lo)) * (case.hi - case.lo)
        if rng.random() < 0.2:
            x[rng.integers(len(x))] += rng.choice([-1.0, 1.0]) * 1e-3
        yield x, rng.integers(-3, 4, spec.outputs) * rng.choice([0.5, 1.0, 100.0])


# The traps


def test_conjunction_over_asserts(load):
    assert outputs(load, "(assert (<= Y_1 Y_0)) (assert (<= Y_2 Y_0))") == [[(-1, 1, 0, 0), (-1, 0, 1, 0)]]


def test_disjunction_of_single_rows_in_either_order(load):
    text = "(assert (or (and (>= Y_0 Y_2)) (and (<= Y_2 Y_1))))"
    assert outputs(load, text) == [[(-1, 0, 1, 0)], [(0, -1, 1, 0)]]


def test_disjunction_of_conjunctions_with_constants(load):
    text = "(assert (or (and (<= Y_0 -2.5e-1) (>= 3 Y_1)) (>= Y_2 1e2)))"
    assert outputs(load, text) == [[(1, 0, 0, -0.25), (0, 1, 0, 3)], [(0, 0, -1, -100)]]


def test_global_rows_join_every_disjunct(load):
    text = "(assert (or (<= Y_0 0) (<= Y_1 0))) (assert (<= Y_2 0))"
    assert outputs(load, text) == [[(0, 0, 1, 0), (1, 0, 0, 0)], [(0, 0, 1, 0), (0, 1, 0, 0)]]


def test_product_of_disjunctions(load):
    text = "(assert (or (<= Y_0 0) (<= Y_1 0))) (assert (or (<= Y_2 0) (>= Y_2 1)))"
    assert len(outputs(load, text)) == 4


def test_equality_strictness_and_chains(load):
    assert outputs(load, "(assert (= Y_0 2))") == [[(1, 0, 0, 2), (-1, 0, 0, -2)]]
    assert outputs(load, "(assert (< Y_0 2))") == outputs(load, "(assert (<= Y_0 2))")
    assert outputs(load, "(assert (<= 0 Y_0 2))") == [[(-1, 0, 0, 0), (1, 0, 0, 2)]]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("(<= (+ Y_0 (* 2 Y_1) -3) (- Y_2))", (1, 2, 1, 3)),
        ("(>= (- Y_0 Y_1 1) (* Y_2 -0.5))", (-1, 1, -0.5, -1)),
        ("(<= (* 2 3 Y_0) 1)", (6, 0, 0, 1)),
        ("(<= (- (- Y_0)) (/ 1 4))", (1, 0, 0, 0.25)),
        ("(<= (/ Y_0 4) 1/2)", (0.25, 0, 0, 0.5)),
        ("(<= (+ Y_0 Y_1) (+ Y_1 Y_0 Y_2))", (0, 0, -1, 0)),
        ("(<= Y_0 +.5)", (1, 0, 0, 0.5)),
    ],
)
def test_linear_expressions(load, text, row):
    assert outputs(load, f"(assert {text})") == [[row]]


def test_boxes_from_disjunctions_over_inputs(load):
    text = f"""{declared(2, 1)}
    (assert (or (and (>= X_0 0.7) (<= X_0 1)) (and (>= X_0 -1) (<= X_0 -0.7))))
    (assert (and (<= 0 X_1) (>= 0.5 X_1)))
    (assert (or (>= Y_0 1) (<= Y_0 -1)))"""
    cases = load(text).cases
    assert [(c.lo.tolist(), c.hi.tolist(), len(c.disjuncts)) for c in cases] == [
        ([0.7, 0], [1, 0.5], 2),
        ([-1, 0], [-0.7, 0.5], 2),
    ]


def test_boxes_with_outputs_of_their_own_and_same_boxes_merged(load):
    text = f"""{declared(1, 1)}
    (assert (or (and (<= 0 X_0) (<= X_0 1) (>= Y_0 5)) (and (<= X_0 2) (<= 1 X_0) (>= Y_0 6)) (and (<= 0 X_0) (<= X_0 1) (<= Y_0 0))))"""
    cases = load(text).cases
    assert [(c.lo[0], c.hi[0], [rows(d) for d in c.disjuncts]) for c in cases] == [
        (0, 1, [[(-1, -5)], [(1, 0)]]),
        (1, 2, [[(-1, -6)]]),
    ]


def test_bounds_are_intersected_scaled_and_swapped(load):
    text = f"{declared(1, 1)} (assert (<= X_0 9)) (assert (<= X_0 3)) (assert (<= (* -2 X_0) 1)) (assert (>= Y_0 0))"
    (case,) = load(text).cases
    assert (case.lo[0], case.hi[0]) == (-0.5, 3)


def test_empty_boxes_of_a_disjunction_are_left_out(load):
    (case,) = load(f"{declared(1, 1)} {boxed(1)} (assert (or (>= X_0 2) (<= X_0 0))) (assert (>= Y_0 0))").cases
    assert (case.lo[0], case.hi[0]) == (-1, 0)


def test_constant_comparisons(load):
    assert outputs(load, "(assert (or (<= 1 0) (<= Y_0 0)))") == [[(1, 0, 0, 0)]]
    assert load(f"{declared(1, 1)} {boxed(1)} (assert (and (<= 1 0) (<= Y_0 0)))").cases == []
    (case,) = load(f"{declared(1, 1)} {boxed(1)} (assert (or (<= 0 1) (<= Y_0 0)))").cases
    assert len(case.disjuncts[0][1]) == 0
    assert case.unsafe([0.0], [7.0])
    assert float(case.objective(lambda z: z)(jnp.zeros(1))[0]) == np.inf


def test_comments_other_commands_and_gzip(tmp_path):
    head = '; a (comment\n(set-logic QF_LRA)(set-info :source |any ( thing|)(set-info :x "a)")\n(declare-fun X_0 () Real)\n'
    text = f"{head}{declared(0, 1)}{boxed(1)}(assert (>= Y_0 0)) ; end"
    path = tmp_path / "a.vnnlib.gz"
    path.write_bytes(gzip.compress(text.encode()))
    spec = load_vnnlib(path)
    assert (spec.inputs, spec.outputs, len(spec.cases)) == (1, 1, 1)


HEAD = f"{declared(2, 2)}\n{boxed(2)}\n"  # 6 lines
MISTAKES = [
    ("(assert (<= Y_0 Y_2))", 7, "Y_2 is not declared"),
    ("(assert (<= Y_0 y))", 7, "unknown symbol 'y'"),
    ("(assert (<= Y_0 nan))", 7, "unknown symbol 'nan'"),
    ("(assert (<= Y_0 1_0))", 7, "unknown symbol '1_0'"),
    ("(assert (<= Y_0 1e999))", 7, "finite"),
    ("(assert\n (<= Y_0 X_0))", 8, "inputs and outputs"),
    ("(assert (<= X_1 X_0))", 7, "X_0 and X_1 are compared"),
    ("(assert (<= (* Y_0 Y_1) 0))", 7, "not linear"),
    ("(assert (<= (/ 1 Y_1) 0))", 7, "not linear"),
    ("(assert (<= (/ Y_1 0) 0))", 7, "division by zero"),
    ("(assert (not (<= Y_0 0)))", 7, "'not'"),
    ("(assert (or))", 7, "without any formula"),
    ("(assert (<= Y_0))", 7, "two expressions"),
    ("(assert Y_0)", 7, "expected a formula"),
    ("(assert (<= Y_0 0) (<= Y_1 0))", 7, "one formula"),
    ("(assert (or (<= Y_0 0)\n", 7, "never closed"),
    ("(assert (<= Y_0 0)))", 7, "')' without '('"),
    ("(assert (<= X_0 0))", 7, "no assertion speaks of an output"),
    ("(assert (<= Y_0 0))\nfoo", 8, "expected '('"),
    ("(define-fun f () Real 1)", 7, "unknown command 'define-fun'"),
    ("(declare-const Z_0 Real)", 7, "unknown variable 'Z_0'"),
    ("(declare-const X_3 Real)", 7, "X_3 is declared, X_2 is not"),
    ("(declare-const X_2 Int)", 7, "expected Real"),
    ("(declare-const X_2)", 7, "expected (declare-const NAME Real)"),
    ("(declare-const X_0 Real)", 7, "declared twice"),
    ("(declare-const X_2 Real)\n(assert (<= Y_0 0))", 7, "X_2, declared here, has no lower bound"),
    ("(assert (<= Y_0 0))(assert (>= X_1 1.5))", 2, "X_1, declared here, has an empty range: from 1.5 to 1"),
    ("(assert (<= X_1 1e39))", 7, "no float32"),
    ("(assert " + "(and " * 300 + "(<= Y_0 0)" + ")" * 301, 7, "deep"),
    ("(assert (and " + "(or (<= Y_0 0) (<= Y_1 0))" * 40 + "))", None, "1099511627776 conjunctions"),
]


@pytest.mark.parametrize(("text", "line", "said"), MISTAKES, ids=[m[2][:30] for m in MISTAKES])
def test_mistakes_name_file_and_line(load, text, line, said):
    began = time.process_time()
    with pytest.raises(ValueError, match=r"spec\.vnnlib, line \d+: ") as error:
        load(HEAD + text)
    assert said in str(error.value)
    assert line is None or f"line {line}:" in str(error.value)
    assert time.process_time() - began < 1.0


def test_damaged_files(tmp_path):
    path = tmp_path / "a.vnnlib.gz"
    path.write_bytes(gzip.compress((HEAD * 50).encode())[:-20])
    with pytest.raises(ValueError, match="cut short or damaged"):
        load_vnnlib(path)
    path.write_bytes(b"\xff\xfe(")
    with pytest.raises(ValueError, match="no text file"):
        load_vnnlib(path)
    with pytest.raises(FileNotFoundError):
        load_vnnlib(tmp_path / "none.vnnlib")


# Against the evaluator

numbers = st.integers(-4, 4).map(lambda k: str(k / 2))
ys = st.sampled_from(["Y_0", "Y_1", "Y_2"])
expressions = st.recursive(
    numbers | ys,
    lambda e: st.one_of(
        st.builds("(+ {} {})".format, e, e),
        st.builds("(- {} {})".format, e, e),
        st.builds("(- {})".format, e),
        st.builds("(* {} {})".format, numbers, e),
        st.builds("(* {} {})".format, e, numbers),
    ),
    max_leaves=4,
)
comparisons = st.builds("({} {} {})".format, st.sampled_from(["<=", ">=", "<", ">", "="]), expressions, expressions)
bounds = st.builds("({} {} {})".format, st.sampled_from(["<=", ">="]), st.sampled_from(["X_0", "X_1"]), numbers)
formulas = st.recursive(
    comparisons | bounds,
    lambda f: st.builds(
        lambda head, parts: f"({head} {' '.join(parts)})",
        st.sampled_from(["and", "or"]),
        st.lists(f, min_size=1, max_size=4),
    ),
    max_leaves=10,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(formulas, min_size=1, max_size=3), st.integers(0, 2**31))
def test_random_formulas(tmp_path_factory, parts, seed):
    path = tmp_path_factory.getbasetemp() / "random.vnnlib"
    text = f"{declared(2, 3)}\n{boxed(2, '-2', '2')}\n(assert (<= Y_0 50))\n" + "\n".join(
        f"(assert {p})" for p in parts
    )
    path.write_text(text)
    try:
        cases = load_vnnlib(path).cases
    except ValueError as error:  # a formula may contradict the box: then nothing is unsafe
        if "empty range" not in str(error):
            raise
        cases = []
    rng = np.random.default_rng(seed)
    for _ in range(15):
        x, y = rng.integers(-5, 6, 2) / 2, rng.integers(-6, 7, 3) / 2
        assert any(case.unsafe(x, y) for case in cases) == asserted(path, x, y)
    boxes = [(c.lo.tobytes(), c.hi.tobytes()) for c in cases]
    assert len(set(boxes)) == len(boxes)


def check_file(path):
    spec = load_vnnlib(path)
    rng = np.random.default_rng(0)
    seen = set()
    for x, y in points(spec, rng, 6 if spec.inputs > 100 else 40):
        truth = asserted(path, x, y)
        assert any(case.unsafe(x, y) for case in spec.cases) == truth, path
        seen.add(truth)
    return seen


SAMPLE = [
    *(f"acasxu/prop_{i}.vnnlib.gz" for i in range(1, 11)),
    "mnist_fc/prop_0_0.03.vnnlib.gz",
    "rl_benchmarks/cartpole_case_safe_14.vnnlib.gz",
    "rl_benchmarks/dubinsrejoin_case_unsafe_88.vnnlib.gz",
    "rl_benchmarks/lunarlander_case_safe_80.vnnlib.gz",
]


@in_folder
def test_sample_of_the_competition(folder):
    seen = [check_file(folder / name) for name in SAMPLE]
    assert set().union(*seen) == {True, False}
    assert len(load_vnnlib(folder / "acasxu/prop_6.vnnlib.gz").cases) == 2


@in_folder
@pytest.mark.sweep
def test_every_file_of_the_competition(folder):
    paths = sorted(folder.rglob("*.vnnlib.gz"))
    assert len(paths) > 350
    for path in paths:
        check_file(path)


def test_speed(tmp_path):
    path = tmp_path / "wide.vnnlib"
    path.write_text(
        f"{declared(784, 10)}\n{boxed(784)}\n(assert (or {' '.join(f'(and (>= Y_{j} Y_9))' for j in range(9))}))"
    )
    assert min(_seconds(path) for _ in range(2)) < 0.6  # 0.04 without run-time checks of annotations
    terms = " ".join(f"(and (<= {i} X_0) (<= X_0 {i + 1}) (>= Y_0 {i}.5))" for i in range(2_000))
    path.write_text(f"{declared(1, 1)}\n(assert (or {terms}))")  # 0.1 MB
    began = time.process_time()
    assert len(load_vnnlib(path).cases) == 2_000
    assert time.process_time() - began < 5


def _seconds(path):
    began = time.process_time()
    load_vnnlib(path)
    return time.process_time() - began


# Cases as objectives and sets


def test_objective_is_the_unsafe_set(load):
    text = "(assert (or (<= Y_0 Y_1) (and (>= Y_2 1) (<= Y_0 2) (<= Y_1 0)) (and (= Y_0 3))))"
    (case,) = load(f"{declared(3, 3)}\n{boxed(3, '-9', '9')}\n{text}").cases
    f = case.objective(lambda z: z)
    rng = np.random.default_rng(0)
    for y in rng.integers(-2, 5, (200, 3)).astype(np.float32):
        slack = [min(float(v) for v in b - A @ y) for A, b in case.disjuncts]
        np.testing.assert_allclose(f(jnp.asarray(y)), slack, atol=1e-6)
        assert bool((np.asarray(f(y)) >= 0).any()) == case.unsafe(y, y)


def test_single_rows_are_one_affine_map(load):
    disjuncts = " ".join(f"(and (>= Y_{j} Y_9))" for j in range(9))
    (case,) = load(f"{declared(2, 10)}\n{boxed(2)}\n(assert (or {disjuncts}))").cases
    w = jnp.ones((10, 2))
    names = [e.primitive.name for e in jax.make_jaxpr(case.objective(lambda z: w @ z))(jnp.zeros(2)).eqns]
    assert names.count("dot_general") == 2
    assert not any("min" in name or "gather" in name for name in names)


@pytest.mark.parametrize("method", [jr.bounds.ibp(), jr.bounds.crown()], ids=lambda m: m.name)
def test_bounds_on_mixed_disjuncts(load, method):
    text = "(assert (or (<= (+ Y_0 Y_1) 2) (and (>= Y_2 1) (<= Y_0 2)) (>= Y_0 5)))"
    (case,) = load(f"{declared(3, 3)}\n{boxed(3, '1', '1.5')}\n{text}").cases
    f, s = case.objective(jax.nn.relu), case.threat_set((3,))
    elements = method.solve(jax.random.key(0), f, s).info["elements"]
    samples = jax.vmap(s.sample)(jax.random.split(jax.random.key(1), 500))
    assert bool((jax.vmap(f)(samples).max(0) <= elements + 1e-5).all())
    np.testing.assert_allclose(elements[jnp.array([0, 2])], [0.0, -3.5], atol=1e-5)


def test_float32_boxes():
    rng = np.random.default_rng(0)
    lo = np.concatenate([rng.normal(size=1000), [0.0, 0.1, 0.5, -0.1, 1e-300]])
    hi = lo + np.concatenate([rng.choice([0.0, 1e-12, 1e-7, 1.0], 1000), [0.0] * 5])
    a, b = outward(lo, hi)
    assert (a <= lo).all()
    assert (hi <= b).all()
    assert (np.nextafter(a, np.float32(np.inf)) > lo).all()
    a, b = inward(lo, hi)
    assert (a <= b).all()
    fits = (a >= lo) & (b <= hi)
    # where no float32 fits, the point of the true box that is reported reads as the float32 that was run
    assert (a[~fits] == b[~fits]).all()
    assert (np.clip(a.astype(np.float64), lo, hi).astype(np.float32) == a).all()
    assert fits[hi - lo > 1e-3].all()
    assert not fits.all()


def test_shape_must_fit(load):
    (case,) = load(f"{HEAD}(assert (<= Y_0 0))").cases
    assert case.threat_set((1, 2, 1)).center.shape == (1, 2, 1)
    with pytest.raises(ValueError, match=r"2 inputs.*has 3"):
        case.threat_set((3,))
