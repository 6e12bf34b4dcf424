"""The script that looks at pages: what it must not let pass (CI runs it on real pages, in a browser)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

spec = importlib.util.spec_from_file_location("look", Path(__file__).parents[1] / ".ci" / "look.py")
look = importlib.util.module_from_spec(spec)
spec.loader.exec_module(look)


def picture(path, ground, ink=None):
    pixels = np.full((90, 60), ground, np.uint8)
    if ink is not None:
        pixels[::10, ::5] = ink
    Image.fromarray(pixels).save(path)
    return path


def test_pictures(tmp_path):
    look._not_empty(picture(tmp_path / "a.png", 250, 20), "page", bright=True)
    look._not_empty(picture(tmp_path / "a.png", 20, 230), "page", bright=False)
    wrong = ((250, None, True, "empty"), (250, 20, False, "should be dark"), (20, 230, True, "should be light"))
    for ground, ink, bright, message in wrong:
        with pytest.raises(SystemExit, match=message):
            look._not_empty(picture(tmp_path / "a.png", ground, ink), "page", bright=bright)
    with pytest.raises(SystemExit, match="no picture"):
        look._not_empty(tmp_path / "none.png", "page", bright=True)


def test_no_browser_is_said_aloud(monkeypatch):
    monkeypatch.setattr(look.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match="NO BROWSER"):
        look._browser()
