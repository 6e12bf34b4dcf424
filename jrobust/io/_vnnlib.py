"""VNN-LIB files: assertions over X and Y become boxes of inputs with unions of polyhedra of outputs."""

import itertools
import math
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np

from jrobust.io._sexpr import Source, forms, read_text
from jrobust.io._specification import Specification
from jrobust.io._terms import Row, Term, cases, joined, multiplied

_MOST = 100_000  # conjunctions in the disjunctive normal form
_SKIPPED = frozenset(("set-logic", "set-info", "set-option", "check-sat", "get-model", "get-value", "exit"))
_FLIPPED = {"<=": ">=", "<": ">", ">=": "<=", ">": "<", "=": "="}
_LARGEST = float(np.finfo(np.float32).max)


def load_vnnlib(path: Any) -> Specification:
    """Read a VNN-LIB specification (.vnnlib, or gzipped).

    Understood: ``declare-const X_i | Y_i Real``; assertions of any nesting of ``and`` / ``or`` over ``<= >= < > =`` between linear
    expressions (``+ - *`` and ``/`` by a constant, numbers in any notation, fractions), with variables on either side. Comparisons
    of inputs must bound single ones; disjunctions over inputs become several boxes, everything over outputs a union of polyhedra.

    Args:
      path: the file.

    Returns:
      A `Specification`: a list of cases ``(lo[n], hi[n], disjuncts)``. The UNSAFE set is: for some case x in [lo, hi], and for some
      disjunct ``(A, b)`` of it all rows ``A y <= b``.

    Raises:
      ValueError: naming file and line: cut short, an unknown symbol, an undeclared variable, an input without bound, an empty box,
        inputs and outputs in one comparison, or a formula whose disjunctive normal form has more than 100000 conjunctions.

    Deviations: numbers are read as float64, as the competition's own tools do; strict comparisons are read as non-strict ones.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.vnnlib"
    >>> _ = path.write_text('''(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    ... (assert (and (>= X_0 -1) (<= X_0 0.5)))
    ... (assert (or (<= Y_0 Y_1) (>= Y_0 10)))''')
    >>> spec = load_vnnlib(path)
    >>> [(case.lo, case.hi, len(case.disjuncts)) for case in spec.cases]
    [(array([-1.]), array([0.5]), 2)]
    >>> spec.cases[0].disjuncts[0]
    (array([[ 1., -1.]]), array([0.]))

    References:
      Demarchi, Guidotti, Pulina & Tacchella, Supporting standardization of neural networks verification with VNN-LIB and CoCoNet,
      FoMLAS 2023.
    """
    source = read_text(path)
    return _Reader(source).specification(forms(source))


class _Reader:
    """One file: its variables, and the conjunctions so far."""

    def __init__(self, source: Source) -> None:
        self.source, self.fail = source, source.fail
        self.variables: dict[str, tuple[str, int]] = {}
        self.declared: dict[str, dict[int, int]] = {"X": {}, "Y": {}}

    def specification(self, top: list[Any]) -> Specification:
        asserted: list[list[Any]] = []
        for form in top:
            at, *words = form
            command = words[0] if words and isinstance(words[0], str) else None
            if command == "assert":
                if len(words) != 2:
                    self.fail(at, f"assert takes one formula, got {len(words) - 1}")
                asserted += self.conjuncts(words[1], at)
            elif command in ("declare-const", "declare-fun"):
                self.declare(at, words)
            elif command not in _SKIPPED:
                said = f"unknown command {command!r}" if command else "expected a command"
                self.fail(at, f"{said}; VNN-LIB 1.0 has declare-const and assert")
        n, m = (self.count(kind) for kind in "XY")
        base, terms = self.gathered(asserted, 0)
        if terms and not base.rows and not any(term.rows for term in terms):
            self.fail(len(self.source.text.rstrip()) - 1, "no assertion speaks of an output; is the file cut short?")
        return Specification(cases(base, terms, n, m, self.blame), n, m, self.source.name)

    def blame(self, i: int, what: str) -> NoReturn:
        """An error about input i, at its declaration."""
        self.fail(self.declared["X"][i], f"X_{i}, declared here, {what}")

    # Declarations

    def declare(self, at: int, words: list[Any]) -> None:
        command, name, *none, sort = words if len(words) > 2 else (words[0], None, None)
        arguments = [len(word) - 1 for word in none if isinstance(word, list)]
        if not isinstance(name, str) or arguments != [0] * (command == "declare-fun") or len(none) != len(arguments):
            self.fail(at, f"expected ({command} NAME {'() ' * (command == 'declare-fun')}Real)")
        if sort != "Real":
            self.fail(at, f"{name} is declared {sort!r}; expected Real")
        kind, _, number = name.partition("_")
        if kind not in self.declared or not number.isdecimal() or number != str(int(number)):
            self.fail(at, f"unknown variable {name!r}; inputs are X_0, X_1, ..., outputs Y_0, Y_1, ...")
        if name in self.variables:
            self.fail(at, f"{name} is declared twice")
        self.variables[name] = kind, int(number)
        self.declared[kind][int(number)] = at

    def count(self, kind: str) -> int:
        places = self.declared[kind]
        if not places:
            self.fail(len(self.source.text.rstrip()) - 1, f"no {kind}_i is declared")
        last = max(places)
        if len(places) <= last:
            gap = next(i for i in range(last) if i not in places)
            self.fail(places[last], f"{kind}_{last} is declared, {kind}_{gap} is not")
        return last + 1

    # Formulas, in disjunctive normal form

    def conjuncts(self, node: Any, at: int) -> list[list[Term]]:
        """The parts of an asserted ``and``, so that its bounds of all inputs are kept once, not in every conjunction."""
        if isinstance(node, list) and node[1:2] == ["and"] and len(node) > 2:
            return list(itertools.chain.from_iterable(self.conjuncts(part, node[0]) for part in node[2:]))
        return [self.formula(node, at)]

    def formula(self, node: Any, at: int) -> list[Term]:
        if node == "true":
            return [Term({}, {})]
        if node == "false":
            return []
        if isinstance(node, str):
            self.fail(at, f"expected a formula, got {node!r}")
        at, *words = node
        head = words[0] if words else None
        if head in _FLIPPED:
            if len(words) < 3:
                self.fail(at, f"{head} compares two expressions, got {len(words) - 1}")
            pairs = itertools.pairwise(words[1:])  # (<= a b c) is a chain
            return self.both([self.comparison(str(head), a, b, at) for a, b in pairs], at)
        if head not in ("and", "or"):
            said = "a formula" if head is None or isinstance(head, list) else f"{head!r}"
            self.fail(at, f"expected and, or, <=, >=, <, > or =, got {said}")
        if len(words) == 1:
            self.fail(at, f"({head}) without any formula")
        parts = [self.formula(word, at) for word in words[1:]]
        if head == "and":
            return self.both(parts, at)
        terms = list(itertools.chain.from_iterable(parts))
        self.within(len(terms), at)
        return terms

    def within(self, terms: int, at: int) -> None:
        if terms > _MOST:
            self.fail(
                at, f"the disjunctive normal form has {terms} conjunctions, more than {_MOST}; split the specification"
            )

    def both(self, parts: list[list[Term]], at: int) -> list[Term]:
        """The conjunction of formulas."""
        base, terms = self.gathered(parts, at)
        return [joined(base, term) for term in terms]

    def gathered(self, parts: list[list[Term]], at: int) -> tuple[Term, list[Term]]:
        """The conjunction of formulas as one conjunction and a disjunction."""
        self.within(math.prod(map(len, parts)), at)
        return multiplied(parts)

    def comparison(self, sign: str, a: Any, b: Any, at: int) -> list[Term]:
        """One comparison; the two common forms, of a variable with a number or a variable, take no arithmetic."""
        left, right = (self.variables.get(w) if isinstance(w, str) else None for w in (a, b))
        if left is None and right is not None and isinstance(b, str):
            sign, a, b, left, right = _FLIPPED[sign], b, a, right, None
        if left is not None and right is None and isinstance(b, str):
            return self.literal(sign, {left: 1.0}, self.number(b, at), at)
        if left is not None and right is not None and left[0] == right[0] == "Y" and left != right:
            return self.literal(sign, {left: 1.0, right: -1.0}, 0.0, at)
        total: dict[Any, Fraction] = {}
        for expression, factor in ((a, 1), (b, -1)):
            for variable, value in self.linear(expression, at).items():
                total[variable] = total.get(variable, Fraction(0)) + factor * value
        constant = -total.pop(None, Fraction(0))
        total = {variable: value for variable, value in total.items() if value}
        if not total:
            holds = {"<": constant >= 0, ">": constant <= 0, "=": constant == 0}[sign[0]]
            return [Term({}, {})] if holds else []
        if len(total) == 1:  # a bound is the quotient, rounded once
            ((variable, value),) = total.items()
            if variable[0] == "X":
                sign, constant, total = (
                    (_FLIPPED[sign] if value < 0 else sign),
                    constant / value,
                    {variable: Fraction(1)},
                )
        return self.literal(sign, {v: float(c) for v, c in total.items()}, float(constant), at)

    def literal(self, sign: str, coefficients: dict[tuple[str, int], float], b: float, at: int) -> list[Term]:
        """``sum of coefficients sign b`` as a conjunction: a bound of one input, or rows over outputs."""
        kinds = {kind for kind, _ in coefficients}
        if len(kinds) > 1:
            self.fail(
                at, "one comparison holds inputs and outputs; only comparisons of inputs with numbers are supported"
            )
        if kinds == {"X"}:
            if len(coefficients) > 1:
                names = " and ".join(f"X_{i}" for _, i in sorted(coefficients))
                self.fail(at, f"{names} are compared; inputs must be bounded by numbers, one by one")
            if abs(b) > _LARGEST:
                self.fail(at, f"the bound {b:g} is no float32")
            ((_, i),) = coefficients
            return [
                Term(
                    {i: (b if sign in (">=", ">", "=") else -math.inf, b if sign in ("<=", "<", "=") else math.inf)}, {}
                )
            ]
        row = tuple(sorted((j, a) for (_, j), a in coefficients.items()))
        rows: dict[Row, None] = {}
        if sign in ("<=", "<", "="):
            rows[row, b] = None
        if sign in (">=", ">", "="):
            rows[tuple((j, -a) for j, a in row), -b] = None
        return [Term({}, rows)]

    # Expressions

    def linear(self, node: Any, at: int) -> dict[Any, Fraction]:
        """A linear expression as {variable: coefficient}, its constant under None; exact on the float64 numbers of the file."""
        if isinstance(node, str):
            variable = self.variables.get(node)
            return {variable: Fraction(1)} if variable else {None: Fraction(self.number(node, at))}
        at, *words = node
        head = words[0] if words else None
        if head not in ("+", "-", "*", "/") or len(words) < 2:
            said = f"{head!r} with {len(words) - 1} operands" if isinstance(head, str) else "a formula"
            self.fail(at, f"expected a linear expression of + - * /, got {said}")
        first, *rest = (self.linear(word, at) for word in words[1:])
        if head == "-" and not rest:
            return {v: -c for v, c in first.items()}
        for other in rest:
            if head in ("+", "-"):
                sign = 1 if head == "+" else -1
                first = {v: first.get(v, 0) + sign * other.get(v, Fraction(0)) for v in {**first, **other}}
                continue
            if head == "*" and not set(first) - {None}:
                first, other = other, first
            if set(other) - {None}:
                self.fail(at, f"not linear: ({head} ...) of variables")
            factor = other.get(None, Fraction(0))
            if head == "/" and not factor:
                self.fail(at, "division by zero")
            first = {v: c * factor if head == "*" else c / factor for v, c in first.items()}
        return first

    def number(self, word: str, at: int) -> float:
        try:
            top, slash, bottom = word.partition("/")
            value = float(Fraction(float(top)) / Fraction(float(bottom))) if slash else float(word)
            if "_" not in word and math.isfinite(value):
                return value
        except (ValueError, ZeroDivisionError, OverflowError):
            pass
        if word[:2] in ("X_", "Y_") and word[2:].isdecimal():
            ends = ", ".join(f"{kind}_0 to {kind}_{max(v)}" for kind, v in self.declared.items() if v)
            self.fail(at, f"{word} is not declared (there are {ends or 'none'})")
        self.fail(at, f"unknown symbol {word!r}; expected a variable X_i or Y_i, or a finite number")
