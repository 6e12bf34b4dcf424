"""Tables too long for every run: some rows always, all of them in the sweep."""

import pytest


def thinned(names, every, keep=()):
    """Each ``every``-th name and those to ``keep``; the others are marked ``sweep``."""
    return [
        name if i % every == 0 or name in keep else pytest.param(name, marks=pytest.mark.sweep)
        for i, name in enumerate(names)
    ]
