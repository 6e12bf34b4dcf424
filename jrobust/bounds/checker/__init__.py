"""Checks the certificates of `jrobust.bounds.prove`. This directory is NumPy and the standard library alone, shares no code with what makes
certificates, and runs wherever it is copied to: ``python checker FILE.npz [--rational] [--expect DIGEST] [--expect-set DIGEST]``.

It establishes, for the recorded function f (its weights as they are stored, its arithmetic that of real numbers) and the recorded set, that
every output of f is below 0 on the whole set. Nothing in a proof is believed: a proof consists of choices alone (slopes, multipliers, where
to cut), some of which are useless and none unsound. Intercepts, intervals and bounds are computed here. Trusted are NumPy, IEEE 754
in float64, SHA-256 and, of NumPy's ``tanh``, an error of at most 1e-15.

Rounding: a pass pulls rows of coefficients through the operations. Whatever it computes *is* the next row; what this row misses of the
exact one is charged to the bound, times the largest magnitude of the value that it multiplies (gamma_n sums of absolute values; Higham,
Accuracy and stability of numerical algorithms, ch. 3). ``--rational`` computes in fractions instead, where nothing is charged.
"""

from ._format import FORMAT, VERSION, Rejected, digests, dumps, plain, read
from ._proof import Report, check, derived, evaluate

__all__ = [
    "FORMAT",
    "VERSION",
    "Rejected",
    "Report",
    "check",
    "derived",
    "digests",
    "dumps",
    "evaluate",
    "plain",
    "read",
]
