"""Every noise satisfies `check_noise`."""

import pytest

from jrobust.testing import check_noise
from tests.contracts.noises import NOISES


@pytest.mark.parametrize("name", NOISES)
def test_facts_agree(name, key):
    noise, x = NOISES[name]
    check_noise(noise, x, key=key)


def test_a_wrong_noise_is_found(key):
    import dataclasses

    noise, x = NOISES["gaussian"]
    upside_down = dataclasses.replace(noise, radius=lambda scale, p, q, shape, norm: scale * (1 - p))
    with pytest.raises(AssertionError, match="smaller radius"):
        check_noise(upside_down, x, key=key)
