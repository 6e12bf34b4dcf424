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
# # Attacks
#
# Every attack bounds a worst case **from below**: it shows a point. This page puts them side by side on one net and one
# image: what they find, how they climb, how many examples they leave at every radius, how close the closest violation
# is, what they do without gradients, and what a defence that merely hides its gradient is worth.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jrobust as jr
from jrobust import attacks

digits = jr.data.load("digits")
key = jax.random.key(0)


def apply(params, rest, x, *, train):
    h = jax.nn.relu(x.reshape(x.shape[0], -1) @ params["w1"] + params["b1"])
    return h @ params["w2"] + params["b2"], rest


threat = jr.sets.linf(0.1, clip=(0, 1))
robust = jr.worst_case(jr.objectives.cross_entropy(apply), threat, attacks.pgd(steps=5, keep="last"))
tx = optax.adam(3e-3)
step = jr.training.make_step(robust, tx)
xs, ys = jnp.asarray(digits.train_x), jnp.asarray(digits.train_y)


@jax.jit
def train(state):
    def one(state, t):
        k = jax.random.fold_in(key, t)
        index = jax.random.randint(k, (128,), 0, len(xs))
        return step(state, (xs[index], ys[index]), key=k)

    return jax.lax.scan(one, state, jnp.arange(400))


k1, k2 = jax.random.split(key)
fresh = {
    "w1": jax.random.normal(k1, (64, 64)) / 8,
    "b1": jnp.zeros(64),
    "w2": jax.random.normal(k2, (64, 10)) / 8,
    "b2": jnp.zeros(10),
}
params = train(jr.training.init(fresh, None, tx))[0].params


@jax.tree_util.Partial
def net(x):
    return apply(params, None, x, train=False)[0]


x, y = jnp.asarray(digits.test_x[:64]), jnp.asarray(digits.test_y[:64])
print(f"clean accuracy {float(jnp.mean(jnp.argmax(net(x), 1) == y)):.2f}, n = 64")


def objective(label):
    return jr.objectives.classification(lambda z: net(z[None])[0], label)


# %% [markdown]
# ## Every attack at every radius
# eps is a leaf: all attacks at all radii on all examples are one vmapped, jitted call.

# %%
BUDGET = {
    "fgsm": attacks.fgsm(),
    "rfgsm": attacks.rfgsm(),
    "pgd": attacks.pgd(steps=20),
    "mim": attacks.mim(steps=20),
    "frank_wolfe": attacks.frank_wolfe(steps=20),
    "apgd": attacks.apgd(steps=20),
    "fab": attacks.within(attacks.fab(steps=20)),
    "square": attacks.square(queries=300),
}


@jax.jit
def attacked(eps, x, y):
    def at(e, x, y):
        f, s = objective(y), jr.sets.linf(e, clip=(0, 1))(x)
        bounds = {name: attack.solve(key, f, s) for name, attack in BUDGET.items()}
        return {name: (bound.value, f.value(f.outputs(bound.witness)), bound.witness) for name, bound in bounds.items()}

    over_examples = jax.vmap(at, in_axes=(None, 0, 0))
    return jax.vmap(over_examples, in_axes=(0, None, None))(eps, x, y)


grid = jnp.linspace(0.0, 0.3, 7)
found = attacked(grid, x, y)
curves = {name: jnp.mean(found[name][0] < 0, axis=1) for name in BUDGET}
fig, ax = plt.subplots(figsize=(6, 3.5))
for name, share in curves.items():
    ax.plot(grid, share, marker=".", label=name)
ax.set(xlabel="eps (Linf)", ylabel="not broken (robust accuracy is at most this)")
ax.legend(fontsize=8)
# %% [markdown]
# ## One image
# The same image, the same set (eps 0.1), and the point that each attack shows. The title is the margin there: at or above 0
# it is another class.

# %%
clean = found["fgsm"][0][0]  # at radius 0
i = int(jnp.argmax(jnp.where(clean < 0, clean, -jnp.inf)))  # the correct one nearest to another class
fig, axes = plt.subplots(2, len(BUDGET) + 1, figsize=(13, 3.2))
axes[0, 0].imshow(x[i].squeeze(), cmap="gray", vmin=0, vmax=1)
axes[0, 0].set_title(f"clean\n{float(clean[i]):.2f}", fontsize=9)
for column, name in zip(axes.T[1:], BUDGET, strict=True):
    value, _, witness = (leaf[2, i] for leaf in found[name])
    column[0].imshow(witness.squeeze(), cmap="gray", vmin=0, vmax=1)
    column[0].set_title(f"{name}\n{float(value):.2f}", fontsize=9)
    column[1].imshow((witness - x[i]).squeeze(), cmap="bwr", vmin=-0.1, vmax=0.1)
for ax in axes.ravel():
    ax.axis("off")

# %% [markdown]
# ## How they climb
# `trace=True` keeps the surrogate at each step. A rule is any optax transformation.

# %%
RULES = {
    "sign": None,
    "momentum": optax.chain(optax.trace(0.75), attacks.steepest(relative=True), optax.scale(0.1)),
    "adam": optax.adam(0.02),
    "decay": optax.chain(
        attacks.steepest(relative=True), optax.scale_by_schedule(optax.cosine_decay_schedule(0.4, 30))
    ),
}


@jax.jit
def climbed(x, y):
    runs = {name: attacks.pgd(steps=30, rule=rule, trace=True) for name, rule in RULES.items()}
    return {name: run.solve(key, objective(y), threat(x)).info["trace"]["surrogate"] for name, run in runs.items()}


traces = jax.vmap(climbed)(x, y)
fig, ax = plt.subplots(figsize=(5, 3))
for name, trace in traces.items():
    ax.plot(trace.mean(0), label=name)
ax.set(xlabel="step", ylabel="mean cross-entropy")
ax.legend()
# %% [markdown]
# ## How far until it breaks
# Minimum-norm attacks answer it themselves, from above; `critical_radius` makes one of any attack.

# %%
RADII = {
    "l2": {
        "ddn": attacks.ddn(),
        "fmn": attacks.fmn(),
        "deepfool": attacks.deepfool(),
        "hop_skip_jump": attacks.hop_skip_jump(queries=1000),  # sees the decision alone
    },
    "l0": {"fmn": attacks.fmn(), "sigma_zero": attacks.sigma_zero(steps=200)},
}
BALLS = {"l2": jr.sets.l2(0.0, clip=(0, 1)), "l0": jr.sets.l0(0, clip=(0, 1))}


@jax.jit
def closest(x, y):
    return {
        (norm, name): attack.solve(key, objective(y), BALLS[norm], x)
        for norm, some in RADII.items()
        for name, attack in some.items()
    }


near = jax.vmap(closest)(x[:16], y[:16])
for (norm, name), r in near.items():
    print(f"{norm}  {name:14} median radius {float(jnp.median(r.value)):.3f}")

# %%
fig, axes = plt.subplots(1, len(near), figsize=(12, 2))
j = int(jnp.argmax(clean[:16] < 0))
for ax, ((norm, name), r) in zip(axes, near.items(), strict=True):
    ax.imshow(r.witness[j].squeeze(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(f"{name}, {norm}\n{float(r.value[j]):.2f}", fontsize=9)
    ax.axis("off")

# %% [markdown]
# ## AutoAttack
# The cascade that robust accuracy is quoted by, on the survivors of each stage, every witness confirmed by the driver.
# (Its standard is 100 steps and 5,000 queries; this is a short form.)

# %%
short = attacks.autoattack(steps=20, queries=200)
ev = jr.evaluate(net, x, y, threat=threat, oracles={"autoattack, short": short}, key=key, batch_size=64)
print(ev.table())
stages, counts = np.unique(ev["autoattack, short"].info["stage"], return_counts=True)
print("broken by stage:", dict(zip(stages.tolist(), counts.tolist(), strict=True)))

# %% [markdown]
# ## A defence that hides its gradient
# Rounding the input leaves PGD no gradient, and the net looks more robust than it is. `straight_through` keeps the
# values and lends the gradient of the identity; for random defences there is `eot`.


# %%
def rounded(x):
    return jnp.round(8 * x) / 8


fast = attacks.pgd(steps=10, start="center")
through = jr.objectives.straight_through(rounded)
MODELS = {
    "rounded, attacked naively": lambda x: net(rounded(x)),
    "rounded, attacked through it": lambda x: net(through(x)),
}
wide = jr.sets.linf(0.2, clip=(0, 1))
shares = {}
for name, model in MODELS.items():
    result = jr.evaluate(model, x, y, threat=wide, oracles={"pgd": fast}, key=key)["pgd"]
    shares[name] = result.accuracy().value
    print(f"{name:30} {result.accuracy()}")

# %% [markdown]
# What the cells claim, checked.

# %%
for name, (value, again, witness) in found.items():
    np.testing.assert_allclose(again, value, atol=1e-4, err_msg=name)
    assert bool(jnp.all(jnp.abs(witness - x) <= grid[:, None, None, None, None] + 1e-6)), name
assert float(curves["apgd"][-1]) <= float(curves["fgsm"][-1]) + 1e-6 < float(curves["fgsm"][0])
for (norm, name), r in near.items():
    d = np.asarray(r.witness - x[:16]).reshape(16, -1)
    moved = np.linalg.norm(d, axis=1) if norm == "l2" else np.count_nonzero(d, axis=1)
    np.testing.assert_allclose(moved, r.value, rtol=1e-4, atol=1e-5, err_msg=f"{norm} {name}")
assert ev["autoattack, short"].accuracy().value <= ev["clean"].accuracy().value
assert shares["rounded, attacked through it"] < shares["rounded, attacked naively"]
print("every attack shows what it claims")
