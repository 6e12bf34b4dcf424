# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bounds
#
# A bound limits a worst case **from above**: nothing in the set is worse. This page looks at bounds where they can be
# drawn: a net with two inputs and two outputs. How far a box grows on its way through it, what stands in for an activation,
# how one property is proven step by step, and where in the plane the net is proven robust.

# %%
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jrobust as jr
from jrobust import attacks, bounds

key = jax.random.key(0)


def moons(key, n):
    """Two half circles that reach into each other."""
    k1, k2, k3 = jax.random.split(key, 3)
    y = jax.random.bernoulli(k1, 0.5, (n,)).astype(int)
    t = jnp.pi * jax.random.uniform(k2, (n,))
    up = jnp.stack([jnp.cos(t), jnp.sin(t)], 1)
    points = jnp.where(y[:, None] == 0, up, jnp.array([1.0, 0.5]) - up)
    return points + 0.08 * jax.random.normal(k3, (n, 2)), y


def apply(params, rest, x, *, train):
    for w, b in params[:-1]:
        x = jax.nn.relu(x @ w + b)
    return x @ params[-1][0] + params[-1][1], rest


SIZES = [2, 16, 16, 16, 2]
keys = jax.random.split(key, len(SIZES) - 1)
fresh = [
    (jax.random.normal(k, (a, b)) * (2 / a) ** 0.5, jnp.zeros(b))
    for k, a, b in zip(keys, SIZES[:-1], SIZES[1:], strict=True)
]
x, y = moons(jax.random.key(1), 400)
loss = jr.objectives.cross_entropy(apply)
robust = jr.worst_case(loss, jr.sets.linf(0.05), attacks.fgsm())  # else there is little to prove
tx = optax.adam(5e-3)
step = jr.training.make_step(robust, tx)


@jax.jit
def train(state):
    return jax.lax.scan(lambda s, t: step(s, (x, y), key=jax.random.fold_in(key, t)), state, jnp.arange(300))


params = train(jr.training.init(fresh, None, tx))[0].params


def net(z):
    return apply(params, None, z, train=False)[0]


print(f"accuracy {float(jnp.mean(jnp.argmax(net(x), 1) == y)):.3f}, n = 400")

# %% [markdown]
# ## A box goes through a net
# Grey: where the points of the box really go (a dense grid). Frames: the elementwise bounds of the two outputs. Every frame
# holds the grey set; IBP forgets that the entries of a layer depend on one input and is far too wide.
#
# The polygon asks CROWN for the largest value in sixteen directions of the output plane, not in the four of the frame: the same
# method, other specifications, each with affine functions of its own. It follows the slant that no frame can.

# %%
TURNS = jnp.linspace(0, 2 * jnp.pi, 16, endpoint=False)
DIRECTIONS = jnp.stack([jnp.cos(TURNS), jnp.sin(TURNS)], 1)
METHODS = {"ibp": bounds.ibp(), "zonotope": bounds.zonotope()}
COLOURS = {"ibp": "tab:red", "zonotope": "tab:orange", "crown": "tab:blue"}
CENTRE = jnp.array([0.5, 0.3])


@jax.jit
def pushed(eps):
    s = jr.sets.linf(eps)(CENTRE)
    frames = {name: bounds.output_bounds(net, s, method=method) for name, method in METHODS.items()}
    support = bounds.output_bounds(lambda z: DIRECTIONS @ net(z), s, method=bounds.crown())[1]
    frames["crown"] = -support[jnp.array([8, 12])], support[jnp.array([0, 4])]  # four of the directions are the axes
    side = jnp.linspace(-1, 1, 121)
    grid = CENTRE + eps * jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    return frames, support, net(grid)


def polygon(support):
    """Corners of the intersection of the half planes ``<d, v> <= support``, in order: what any two lines leave inside all others."""
    corners = [
        np.linalg.solve(np.stack([DIRECTIONS[i], DIRECTIONS[j]]), np.stack([support[i], support[j]]))
        for i in range(16)
        for j in range(i + 1, 16)
        if (j - i) % 8
    ]
    inside = [c for c in corners if np.all(np.asarray(DIRECTIONS) @ c <= np.asarray(support) + 1e-4)]
    middle = np.mean(inside, axis=0)
    return np.stack(sorted(inside, key=lambda c: np.arctan2(*(c - middle)[::-1])))


shown = {eps: pushed(eps) for eps in (0.02, 0.08, 0.2)}
fig, axes = plt.subplots(1, 3, figsize=(11, 3.6))
for ax, (eps, (frames, support, image)) in zip(axes, shown.items(), strict=True):
    ax.scatter(*image.T, s=1, color="0.6", rasterized=True)
    for name, colour in COLOURS.items():
        lo, hi = frames[name]
        ax.add_patch(plt.Rectangle(lo, *(hi - lo), fill=False, color=colour, label=name))
    ax.fill(*polygon(support).T, fill=False, color="tab:blue", linestyle=":", label="crown, 16 directions")
    ax.set(title=f"eps {eps}", xlabel="logit 0")
    ax.autoscale_view()
axes[0].set_ylabel("logit 1")
axes[-1].legend(fontsize=7)
fig.tight_layout()

# %% [markdown]
# ## What stands in for an activation
# CROWN puts two lines around a nonlinear function on the interval that its input is known to lie in. Asked for `f(z) - k z`, it returns
# how high a line of slope k must start; over all slopes those lines leave the band between its pair, cut off where interval
# arithmetic knows better: hence the flat parts, and all of ReLU's triangle. The three columns are ever wider intervals around the
# same centre. The band is thin where the function is nearly straight, and its slanted sides touch the function.

# %%
ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": lambda z: jax.nn.gelu(z, approximate=False)}
SLOPES = jnp.linspace(-1.5, 1.5, 121)
WIDTHS = (0.5, 1.5, 3.0)


@jax.jit
def band(centre, radius):
    s = jr.sets.linf(radius)(centre[None])
    grid = centre + radius * jnp.linspace(-1, 1, 101)
    lines = {}
    for name, f in ACTIVATIONS.items():
        lo, hi = bounds.output_bounds(lambda z, f=f: f(z) - SLOPES * z, s)
        lines[name] = jnp.max(lo[:, None] + SLOPES[:, None] * grid, 0), jnp.min(hi[:, None] + SLOPES[:, None] * grid, 0)
    return grid, lines


bands = [band(jnp.float32(0.3), radius) for radius in WIDTHS]
line = jnp.linspace(-3, 3.6, 200)
fig, axes = plt.subplots(len(ACTIVATIONS), len(WIDTHS), figsize=(10, 7), sharex=True)
for column, (grid, lines), radius in zip(axes.T, bands, WIDTHS, strict=True):
    for ax, name in zip(column, ACTIVATIONS, strict=True):
        below, above = lines[name]
        ax.fill_between(grid, below, above, alpha=0.3)
        ax.plot(line, ACTIVATIONS[name](line), color="k", linewidth=1)
        ax.set_title(f"{name} on [{0.3 - radius:.1f}, {0.3 + radius:.1f}]", fontsize=9)
fig.tight_layout()

# %% [markdown]
# ## One property, ever tighter
# The property: no point of the box is classified otherwise; the worst margin of the other class is below 0. Left: what each method
# proves (from above) and what PGD shows (from below). The property holds, yet on this box neither CROWN nor alpha-CROWN
# proves it. Right: branch and bound cuts the box, and the gap closes with the number of domains until the two sides meet
# (within 1e-4, the grey line).

# %%
LADDER = {
    "ibp": bounds.ibp(),
    "crown-ibp": bounds.crown_ibp(),
    "crown": bounds.crown(),
    "alpha-crown": bounds.alpha_crown(steps=30),
}


clean = net(x)
margins = jnp.take_along_axis(clean, y[:, None], 1)[:, 0] - jnp.take_along_axis(clean, 1 - y[:, None], 1)[:, 0]
chosen = int(jnp.argmin(jnp.abs(margins - jnp.quantile(margins, 0.6))))
f, s = jr.objectives.classification(net, y[chosen]), jr.sets.linf(0.25)(x[chosen])
upper = {name: float(jax.jit(lambda m=m: m.solve(key, f, s).value)()) for name, m in LADDER.items()}
lower = float(jax.jit(lambda: attacks.pgd(steps=50).solve(key, f, s).value)())
search, history = None, []
for nodes in (1, 4, 8, 16, 32, 64, 128, 256, 512):
    search = bounds.branch(f, s, nodes=nodes, batch=16, target=None, resume=search)
    history.append((search.nodes, search.lower, search.upper))
history = np.array(history)
print("  ".join(f"{name} {v:.3f}" for name, v in upper.items()), f" branch {search.upper:.4f}  pgd {lower:.4f}")

fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
left.plot(range(len(upper) + 1), [*upper.values(), search.upper], "o-", label="proven: at most")
left.axhline(lower, color="tab:red", linestyle="--", label="PGD: at least")
left.axhline(0, color="0.7", linewidth=0.8)
left.set_xticks(range(len(upper) + 1), [*upper, "branch"], rotation=20)
left.set_ylabel("worst margin of the other class")
left.legend()
right.loglog(history[:, 0], np.maximum(history[:, 2] - history[:, 1], 1e-5), "o-")
right.axhline(1e-4, color="0.7", linewidth=0.8)
right.set(xlabel="domains bounded", ylabel="upper - lower")
fig.tight_layout()

# %% [markdown]
# ## A map
# Every point of the plane is the centre of a box of radius eps, with the class that the net gives it. Green: no point of
# the box has the other class (proven). Red: PGD shows one that does. Pale: nobody knows, which says something
# about the method, not about the net: with CROWN the unknown is a thin seam, with IBP about half of the plane.

# %%
EPS = 0.1
across, up = jnp.linspace(-1.5, 2.5, 56), jnp.linspace(-1.2, 1.7, 40)
plane = jnp.stack(jnp.meshgrid(across, up), -1).reshape(-1, 2)
ASKED = {"ibp": bounds.ibp(), "crown": bounds.crown()}


@jax.jit
def asked(z):
    f, s = jr.objectives.classification(net, jnp.argmax(net(z))), jr.sets.linf(EPS)(z)
    shown = attacks.pgd(steps=20).solve(key, f, s).value
    return shown, {name: method.solve(key, f, s).value for name, method in ASKED.items()}


attacked, proven = jax.lax.map(asked, plane, batch_size=256)
fig, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True)
shares = {}
for ax, name in zip(axes, ASKED, strict=True):
    value = proven[name]
    verdict = np.where(value < 0, 2, np.where(attacked >= 0, 0, 1)).reshape(len(up), len(across))
    shares[name] = {word: float(np.mean(verdict == k)) for k, word in enumerate(("violated", "unknown", "verified"))}
    ax.imshow(
        verdict, origin="lower", extent=(-1.5, 2.5, -1.2, 1.7), cmap="RdYlGn", vmin=0, vmax=2, alpha=0.5, aspect="auto"
    )
    ax.scatter(*x.T, c=y, s=4, cmap="gray")
    ax.set_title(f"{name}: " + ", ".join(f"{word} {share:.0%}" for word, share in shares[name].items()), fontsize=9)
fig.tight_layout()

# %% [markdown]
# What the cells claim, checked.

# %%
for eps, (frames, support, image) in shown.items():
    for name, (lo, hi) in frames.items():
        assert bool(jnp.all((image >= lo - 1e-4) & (image <= hi + 1e-4))), (eps, name)
    assert bool(jnp.all(image @ DIRECTIONS.T <= support + 1e-4)), eps
    assert bool(jnp.all(frames["crown"][1] <= frames["ibp"][1] + 1e-4)), eps
for grid, lines in bands:
    for name, (below, above) in lines.items():
        value = ACTIVATIONS[name](grid)
        assert bool(jnp.all((below <= value + 1e-4) & (value <= above + 1e-4))), name
values = [*upper.values(), search.upper]
assert all(b <= a + 1e-4 for a, b in itertools.pairwise(values))
assert lower <= search.upper + 1e-4
assert search.gap < 1e-3
assert not np.any((np.asarray(attacked) >= 0) & (np.asarray(proven["crown"]) < 0))
assert shares["crown"]["verified"] >= shares["ibp"]["verified"]
print("every bound holds where it was looked at")
