"""Look at pages in a real browser: a screenshot of each, and a failure on a console error or an empty picture.

    python .ci/look.py OUT PAGE.html ...

Chromium is installed with apt-get where it is missing (as root; without apt the script says so and fails). Pictures of every page at
1200 and 400 pixels, light and dark, are left in OUT.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
VIEWS = {"wide-light": (1200, 1), "wide-dark": (1200, 0), "narrow-light": (400, 1), "narrow-dark": (400, 0)}


def main(out: str, *pages: str) -> None:
    """Look at every page."""
    browser = _browser()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        # the last view asks the page itself how wide and high it is
        height = _measured(browser, Path(page))
        for view, (width, light) in VIEWS.items():
            picture = folder / f"{Path(page).stem}-{view}.png"
            said = _run(
                browser, f"--screenshot={picture}", f"--window-size={width},{height[width]}",
                f"--blink-settings=preferredColorScheme={light}", Path(page).resolve().as_uri(),
            ).stderr  # fmt: skip
            errors = [line for line in said.splitlines() if "CONSOLE" in line]
            if errors:
                raise SystemExit(f"{page}, {view}: the browser's console says\n" + "\n".join(errors))
            _not_empty(picture, page, bright=bool(light))
        print(f"looked at {page}: {len(VIEWS)} pictures in {folder}, no console errors")


def _browser() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        apt = shutil.which("apt-get")
        if apt is None:
            raise SystemExit(
                "NO BROWSER: neither chromium nor apt-get is here, so the report was not looked at. Install chromium."
            )
        subprocess.run([apt, "update", "-qq"], check=True)
        subprocess.run(
            [apt, "install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core"], check=True
        )
        found = shutil.which("chromium")
    if found is None:
        raise SystemExit("NO BROWSER: apt-get installed chromium, but there is no such command")
    return found


def _run(browser: str, *words: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [browser, *FLAGS, f"--user-data-dir={profile}", *words], capture_output=True, text=True, timeout=60
        )
    if done.returncode:
        raise SystemExit(f"{browser} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done


def _measured(browser: str, page: Path) -> dict[int, int]:
    """The page's height at every width; a page that is wider than its window fails."""
    heights = {}
    for width in sorted({w for w, _ in VIEWS.values()}):
        with tempfile.TemporaryDirectory() as folder:
            frame = Path(folder) / "frame.html"
            # a frame of that very width: headless windows have a least width of their own
            script = (
                "const f=document.querySelector('iframe').contentDocument.documentElement;"
                "document.title=f.scrollWidth+' '+f.scrollHeight"
            )
            frame.write_text(
                f'<iframe style="border:0;width:{width}px;height:600px" srcdoc="{_quoted(page)}"></iframe>'
                f"<script>onload=()=>{{{script}}}</script>"
            )
            dom = _run(browser, "--dump-dom", f"--window-size={width + 100},800", frame.as_uri()).stdout
        size = re.search(r"<title>(\d+) (\d+)</title>", dom)
        if size is None:
            raise SystemExit(f"{page}: the browser did not lay it out at {width} pixels")
        if int(size[1]) > width:
            raise SystemExit(f"{page}: {size[1]} pixels wide in a window of {width}: it scrolls sideways")
        heights[width] = min(int(size[2]) + 20, 16_000)
    return heights


def _quoted(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")


def _not_empty(picture: Path, page: str, *, bright: bool) -> None:
    """Ink on every third of the picture, and the ground as bright as the theme says."""
    if not picture.exists():
        raise SystemExit(f"{page}: no picture was taken")
    pixels = np.asarray(Image.open(picture).convert("L"), np.float32)
    ground = float(np.median(pixels))
    if (ground > 128) != bright:
        raise SystemExit(
            f"{page}: {picture.name} should be {'light' if bright else 'dark'}, its ground is {ground:.0f} of 255"
        )
    for third in np.array_split(pixels, 3):
        ink = float((np.abs(third - ground) > 60).mean())
        if ink < 0.002:
            raise SystemExit(f"{page}: {picture.name} is empty in part ({ink:.2%} of a third is ink)")


if __name__ == "__main__":
    main(*sys.argv[1:])
