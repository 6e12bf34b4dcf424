"""Data, trained nets and other tools' figures that lie beside a checkout on the project's own machines; elsewhere there is nothing to
compare with, and tables made from them have no cases."""

from pathlib import Path

SHARED = Path(__file__).parents[2] / "shared"
