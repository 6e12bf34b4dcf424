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
# # Honest evaluation
#
# A number on robustness is a bound from one side, on some examples, under one protocol. This notebook evaluates three honest nets and one
# that hides its gradients: what each number says, which signs give the fourth away, and what a report must hold so that a reader can
# disagree with it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jrobust as jr
from jrobust import evaluation, metrics, training

digits = jr.data.load("digits")
key = jax.random.key(0)
net = jr.models.create("mlp", shape=(8, 8, 1), classes=10)
apply, params, rest = jr.nnx.functional(net)
loss = jr.objectives.cross_entropy(apply)
EPS = 0.1
threat = jr.sets.linf(EPS, clip=(0, 1))


def trained(robust, params=params, epochs=60, batch=128):
    tx = optax.adam(2e-3)
    step, start = training.make_step(robust, tx), training.init(params, rest, tx)
    data = (digits.train_x, digits.train_y)
    state = training.fit(step, start, *data, epochs=epochs, batch_size=batch, key=key, show=False)
    return jax.tree_util.Partial(lambda p, x: apply(p, rest, x, train=False)[0], state.params)


steps = 60 * training.epoch_steps(len(digits.train_x), 128)
eps = training.smoothed(EPS, begin=steps // 10, end=steps // 2)
certified = training.certified(loss, threat, jr.bounds.ibp(), eps=eps)
natural = trained(loss)
models = {
    "natural": natural,
    "adversarial": trained(jr.worst_case(loss, threat, jr.attacks.pgd(steps=7))),
    "certified": trained(certified, jr.models.ibp_init(key, params)),
    "hidden": lambda x: natural(jnp.round(x * 4) / 4),  # the natural net behind five levels of grey
}
x, y = jnp.asarray(digits.test_x[:200]), digits.test_y[:200]

# %% [markdown]
# ## One attack flatters
#
# PGD is the attack that everybody runs. It says *at most*: the truth may be far below.

# %%
pgd = {
    name: jr.evaluate(model, x, y, threat=threat, oracles={"pgd": jr.attacks.pgd(steps=20)}, key=key)
    for name, model in models.items()
}
for name, ev in pgd.items():
    print(f"{name:12s} clean {ev['clean'].accuracy().value:.3f}   under PGD {ev['pgd'].accuracy()}")

# %% [markdown]
# ## Can it be believed?
#
# The hidden net looks robust under PGD. `diagnose` looks for what makes an attack's number meaningless: gradients that are zero, queries or
# random points that do better than gradients, an attack that may do anything and still fails.

# %%
signs = {name: evaluation.diagnose(model, x[:64], y[:64], threat=threat, key=key) for name, model in models.items()}
for name, sign in signs.items():
    print(name, "-", "; ".join(sign.warnings) or "no sign of trouble")

# %% [markdown]
# The loss along the gradient's sign and a random direction shows why: there is no slope to climb, only steps.

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
for axis, name in zip(axes, ("natural", "hidden")):
    found = evaluation.landscape(models[name], x[:1], y[:1], span=0.3, points=61, key=key)  # .plot() draws it too
    shade = axis.contourf(found.b, found.a, found.margin[0], levels=20)
    axis.contour(found.b, found.a, found.margin[0], levels=[0.0], colors="red")
    figure.colorbar(shade, ax=axis)
    axis.set(title=name, xlabel="random signs", ylabel="sign of the gradient")

# %% [markdown]
# An attack that knows the defence goes *through* it: forward the rounding, backward the identity. And one that asks for scores alone does
# not care.

# %%
through = jr.objectives.straight_through(lambda z: jnp.round(z * 4) / 4)
known = {
    "pgd": jr.evaluate(
        models["hidden"],
        x,
        y,
        threat=threat,
        oracles={"pgd": jr.attacks.pgd(steps=20), "square": jr.attacks.square(queries=1000)},
        key=key,
    ),
    "bpda": jr.evaluate(
        lambda x: natural(jax.vmap(through)(x)),
        x,
        y,
        threat=threat,
        oracles={"bpda": jr.attacks.pgd(steps=20)},
        key=key,
    ),
}
print("PGD", known["pgd"]["pgd"].accuracy())
print("Square", known["pgd"]["square"].accuracy())
print("PGD through the rounding", known["bpda"]["bpda"].accuracy())

# %% [markdown]
# ## From both sides
#
# An attack from above, a proof from below: the truth lies in between, example by example. Where they meet, it is known.

# %%
radii = [0.02, 0.05, 0.08, 0.12]
oracles = {"attack": jr.restarts(jr.attacks.pgd(steps=20), 2), "proof": jr.bounds.crown()}
names = ("natural", "adversarial", "certified")
curves = {
    name: evaluation.curve(
        models[name], x, y, threat=jr.sets.linf(0.0, clip=(0, 1)), eps=radii, oracles=oracles, key=key
    )
    for name in names
}
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
for axis, name in zip(axes, names):
    above, below = (
        [found[side].accuracy().value for found in curves[name].evaluations] for side in ("attack", "proof")
    )
    axis.fill_between(radii, below, above, color="tab:grey", alpha=0.3, lw=0, label="unknown")
    axis.plot(radii, above, "o-", color="tab:red", label="attack: at most")
    axis.plot(radii, below, "o-", color="tab:green", label="proof: at least")
    axis.set(title=name, xlabel="linf radius", ylim=(-0.02, 1.02))
axes[0].set_ylabel("accuracy")
_ = axes[0].legend(frameon=False, fontsize=8)

# %% [markdown]
# ## A certificate that lies is caught
#
# Every witness is evaluated again, and where a proof and an attack contradict each other one of them is wrong. Here is a "bound" that
# forgets half of the radius:

# %%
import dataclasses
import warnings

honest = jr.bounds.crown()
liar = dataclasses.replace(
    jr.shrink(honest, 0.4), side="upper"
)  # `shrink` alone is an "estimate", which no metric accepts
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    caught = jr.evaluate(
        models["natural"], x, y, threat=threat, oracles={"pgd": jr.attacks.pgd(steps=20), "liar": liar}, key=key
    )
print(len(caught.contradictions()), "contradictions;", said[0].message)

# %% [markdown]
# ## Estimates are no bounds
#
# CLEVER guesses a radius from gradient norms around an example. Of the hidden net, whose gradients are zero, it guesses the most that
# it can say; a minimum-norm attack through the rounding shows witnesses much closer. So its side is "estimate", and no metric takes
# it for a certificate.

# %%
few = slice(0, 40)
guess = metrics.clever(models["hidden"], x[few], y[few], threat=jr.sets.l2(3.0), samples=32, batches=10, key=key)
found = jr.evaluate(
    lambda x: natural(jax.vmap(through)(x)),
    x[few],
    y[few],
    threat=jr.sets.l2(0.5, clip=(0, 1)),
    oracles={"ddn": jr.attacks.ddn(steps=60)},
    key=key,
)
distance = np.asarray(found["ddn"].value)
figure, axis = plt.subplots(figsize=(4, 3.4), layout="constrained")
axis.plot([0, 3], [0, 3], color="grey", lw=0.8)
axis.plot(distance, guess.values, "o", ms=4)
axis.set(xlabel="distance of a witness: radius at most", ylabel="CLEVER: an estimate")
too_much = int((guess.values > distance).sum())
print(f"{guess.side}: beyond the distance of a witness in {too_much} of {len(distance)} examples")

# %% [markdown]
# ## Beyond balls
#
# Noise, blur, weather and compression at five severities (here the kinds that a grey 8 x 8 image bears). The certified
# net, provably robust in its ball, is the worst of the three.

# %%
kinds = ("gaussian_noise", "impulse_noise", "brightness", "contrast", "pixelate")
errors = {}
for name in names:
    table = np.empty((len(kinds), 5))
    for i, kind in enumerate(kinds):
        for severity in range(1, 6):
            z = jr.corruptions.corrupted(jr.corruptions.cifar_c[kind], x, severity=severity, key=key)
            table[i, severity - 1] = np.mean(np.argmax(models[name](z), 1) != y)
    errors[name] = table
figure, axes = plt.subplots(1, 3, figsize=(9, 2.4), sharey=True, layout="constrained")
for axis, name in zip(axes, names):
    axis.imshow(errors[name], vmin=0, vmax=1, cmap="magma_r")
    for (i, j), error in np.ndenumerate(errors[name]):
        axis.text(
            j, i, f"{100 * error:.0f}", ha="center", va="center", fontsize=8, color="white" if error > 0.5 else "black"
        )
    axis.set(
        title=f"{name}: {100 * errors[name].mean():.0f} % wrong",
        xticks=range(5),
        xticklabels=range(1, 6),
        xlabel="severity",
    )
_ = axes[0].set_yticks(range(len(kinds)), kinds)

# %% [markdown]
# ## The report
#
# `jrobust evaluate`, `certify` and `report` do all of this from the command line; in Python a `Section` a model, on one page that needs no
# network.

# %%
import tempfile

with tempfile.TemporaryDirectory() as folder:
    sections = [evaluation.Section(name, evaluation.rows_of(curves[name], model=name, seed=0)) for name in names]
    page = evaluation.report(sections, f"{folder}/report.html")
    print(page.name, page.stat().st_size // 1024, "KiB")

# %%
assert known["pgd"]["pgd"].accuracy().value > known["bpda"]["bpda"].accuracy().value + 0.1
assert signs["hidden"].masked
assert not signs["natural"].masked
assert not signs["adversarial"].masked
assert len(caught.contradictions()) > 0
assert guess.side == "estimate"
assert too_much > 20
