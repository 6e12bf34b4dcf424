"""When does noise in training help a smoothed classifier? Exact risks of Bayes rules on a comb in one dimension.

Command:  python -m experiments.interference prints the table of experiments/README.md, in a second; there are no draws and no seeds.
Setting:  teeth of class + of width 3 sigma, gaps of class - between them, for ever; both classes have mass 1/2, uniform within teeth and
          within gaps. The *interference distance*, as used here, is the width of a gap: how far apart two regions of one class lie.
          One rule is Bayes' rule of the data, one that of the data under Gaussian noise of the training level (noise augmentation); both
          are then smoothed: the majority vote under noise of level sigma. The risk is that of the smoothed rule on data without noise.
Expected: augmentation at the smoothing level is worse where gaps are several sigma wide (the noisy data's + reaches beyond the teeth),
          and better where they are at most as wide as sigma (the vote of the clean rule fills the gaps).
Methods:  convolutions on a circle of whole periods by FFT, float64; regions are resolved to one point of the grid.

Pal & Sulam, Understanding noise-augmented training for randomized smoothing, TMLR 2023: what is asked is theirs; the comb is ours.
"""

import numpy as np

GAPS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 8.0, 16.0)
LEVELS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
TOOTH = 3.0


def comb(tooth: float, gap: float, *, teeth: int = 8, points: int = 4000) -> tuple[np.ndarray, np.ndarray, float]:
    """Densities of the classes + and -, each of mass 1/2, on a circle of so many teeth, and the grid's step.

    Args:
      tooth, gap: widths.
      teeth: periods on the circle, which must be wide for the noise.
      points: of the grid in a period.
    """
    period = tooth + gap
    place = (np.arange(points * teeth) + 0.5) * period / points
    inside = np.abs(place % period - period / 2) < tooth / 2
    step = period / points
    return 0.5 * inside / (inside.sum() * step), 0.5 * ~inside / ((~inside).sum() * step), step


def convolve(values: np.ndarray, sigma: float, step: float) -> np.ndarray:
    """Values on a circle, under Gaussian noise: exact in frequencies below the grid's own."""
    frequencies = 2 * np.pi * np.fft.rfftfreq(len(values), step)
    return np.fft.irfft(np.fft.rfft(values) * np.exp(-0.5 * (sigma * frequencies) ** 2), len(values))


def bayes_rule(plus: np.ndarray, minus: np.ndarray) -> np.ndarray:
    """Where + is the likelier class."""
    return plus > minus


def smooth_rule(rule: np.ndarray, sigma: float, step: float) -> np.ndarray:
    """Where the rule says + for more than half of the noise."""
    return convolve(rule.astype(float), sigma, step) > 0.5


def risk(rule: np.ndarray, plus: np.ndarray, minus: np.ndarray, step: float) -> float:
    """How often the rule is wrong."""
    return float(np.sum(np.where(rule, minus, plus)) * step)


def smoothed_risk(gap: float, level: float, *, tooth: float = TOOTH, sigma: float = 1.0) -> float:
    """The risk of the smoothed Bayes rule of data under training noise of this level (0: of the data themselves)."""
    plus, minus, step = comb(tooth, gap)
    seen = (convolve(plus, level, step), convolve(minus, level, step)) if level else (plus, minus)
    return risk(smooth_rule(bayes_rule(*seen), sigma, step), plus, minus, step)


def table() -> str:
    """Risks in per cent, gaps and levels in units of the smoothing noise; the least of a row is marked."""
    lines = [
        f"| gap | {' | '.join(f'trained at {level:g}' for level in LEVELS)} |",
        "|---" * (len(LEVELS) + 1) + "|",
    ]
    for gap in GAPS:
        risks = [100 * smoothed_risk(gap, level) for level in LEVELS]
        cells = [f"**{r:.1f}**" if r < min(risks) + 0.05 else f"{r:.1f}" for r in risks]
        lines.append(f"| {gap:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
