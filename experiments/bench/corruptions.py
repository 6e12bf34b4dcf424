"""Corruptions: the 19 of ImageNet-C on 32 x 32 images, ours over imagecorruptions (PyPI).

Command:  python -m experiments.bench.corruptions --peer PYTHON    (a Python that has imagecorruptions installed)
Prints:   for each name microseconds an image of both and their ratio (wanted: at least 5 for the sum), severity 3, a batch of 256, the
          median of three runs after compilation; theirs over 32 images, since its cost is linear. Both have the same cores. A new
          shape or severity costs us a compilation, which is printed apart. The same in seconds of all cores ("cpu"), the least of
          three runs, which other processes on the machine disturb little. "all but slow" leaves out what is slow there for other
          reasons than arithmetic: glass blur (a Python loop) and frost (files).
Hardware: 2 CPU cores; one minute.
Theirs:   its elastic transform has another table and no affine map, its frost reads photographs from disk.

With --agree nothing is timed: the eight that draw nothing, all severities, on images of 32 x 32 and 224 x 224, a line each with the largest
difference of two bytes and the share of the bytes that differ (wanted: at most one level; two minutes).
"""

import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import jax
import numpy as np

from jrobust.corruptions import corrupted, imagenet_c

# names that later versions of its dependencies dropped, put back
SHIMS = r"""
import json, os, sys, time, types
import numpy as np
resources = types.ModuleType("pkg_resources")
resources.resource_filename = lambda n, f: os.path.join(os.path.dirname(sys.modules[n].__file__), f)
sys.modules.setdefault("pkg_resources", resources)
np.float_ = np.float64
import skimage.filters
import skimage.util
plain = skimage.filters.gaussian
def gaussian(image, sigma=1, **options):
    if options.pop("multichannel", False):
        options["channel_axis"] = -1
    return plain(image, sigma=sigma, **options)
skimage.filters.gaussian = gaussian
import imagecorruptions
"""
PEER = (
    SHIMS
    + r"""
x = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3), np.uint8)
for name in imagecorruptions.get_corruption_names("all"):
    try:
        imagecorruptions.corrupt(x[0], corruption_name=name, severity=3)
        times, cpu = [], []
        for _ in range(3):
            start, busy = time.perf_counter(), time.process_time()
            for image in x:
                imagecorruptions.corrupt(image, corruption_name=name, severity=3)
            times.append((time.perf_counter() - start) / len(x))
            cpu.append((time.process_time() - busy) / len(x))
        print(json.dumps({"name": name, "seconds": sorted(times)[1], "cpu": min(cpu)}))
    except Exception as error:
        print(json.dumps({"name": name, "error": repr(error)[:100]}))
"""
)
STILL = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)
AGREE = (
    SHIMS
    + r"""
folder, *names = sys.argv[1:]
for size, x in np.load(folder + "/images.npz").items():
    out = {n: [imagecorruptions.corrupt(x, corruption_name=n, severity=s) for s in range(1, 6)] for n in names}
    np.savez(folder + "/" + size, **out)
"""
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", required=True)
    parser.add_argument("--agree", action="store_true")
    options = parser.parse_args()
    if options.agree:
        return agree(options.peer)
    run = subprocess.run([options.peer, "-W", "ignore", "-c", PEER], capture_output=True, text=True, check=True)
    peer = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    x = np.random.default_rng(0).integers(0, 256, (256, 32, 32, 3), np.uint8)
    key, compiling, slow = jax.random.key(0), 0.0, ("glass_blur", "frost")
    ours, theirs = {}, {}
    for row in peer:
        name, times, cpu = row["name"], [], []
        for _ in range(4):
            start, busy = time.perf_counter(), time.process_time()
            corrupted(imagenet_c[name], x, severity=3, key=key)
            times.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
        mine = np.array([sorted(times[1:])[1], min(cpu[1:])]) / len(x)
        compiling += times[0]
        if "error" in row:
            print(json.dumps({"name": name, "ours_us": round(1e6 * mine[0], 1), "peer": row["error"]}), flush=True)
            continue
        ours[name], theirs[name] = mine, np.array([row["seconds"], row["cpu"]])
        print(json.dumps({"name": name, **figures(ours[name], theirs[name])}), flush=True)
    for title, names in (("all", list(ours)), ("all but slow", [name for name in ours if name not in slow])):
        sums = (sum(side[name] for name in names) for side in (ours, theirs))
        print(json.dumps({"name": title, **figures(*sums)}))
    print(json.dumps({"compiling_s": round(compiling, 1)}))


def agree(peer):
    rng, images = np.random.default_rng(0), {}
    for size in (32, 224):
        smooth = rng.uniform(size=(4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
        images[str(size)] = np.round(255 * (0.8 * smooth + 0.2 * rng.uniform(size=(size, size, 3)))).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(pathlib.Path(folder, "images.npz"), **images)
        subprocess.run([peer, "-W", "ignore", "-c", AGREE, folder, *STILL], check=True)
        wanted = {size: dict(np.load(pathlib.Path(folder, f"{size}.npz"))) for size in images}
    for name in STILL:
        away = []
        for size, x in images.items():
            for severity, theirs in enumerate(wanted[size][name], 1):
                ours = corrupted(imagenet_c[name], x[None], severity=severity, key=jax.random.key(0))[0]
                away.append(np.abs(ours.astype(int) - theirs.astype(int)))
        most = max(int(a.max()) for a in away)
        off = max(float(np.mean(a > 0)) for a in away)
        print(json.dumps({"name": name, "levels": most, "most_off": round(off, 4)}), flush=True)


def figures(ours, theirs):
    """Of wall and CPU seconds an image of both sides."""
    both = {"ours_us": 1e6 * ours, "peer_us": 1e6 * theirs, "ratio": theirs / ours}
    return {f"{prefix}{k}": round(float(v[i]), 1) for i, prefix in enumerate(("", "cpu_")) for k, v in both.items()}


if __name__ == "__main__":
    main()
