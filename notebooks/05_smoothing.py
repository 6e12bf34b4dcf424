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
# # Randomized smoothing
#
# Ask a model for its answer under noise, many times, and take the class that wins. That *smoothed* classifier cannot change its mind
# close by: the more votes the winner has, the further. Nothing is asked of the model, and no bound has to be propagated through it; the
# price is that every statement holds with a confidence, and is about the smoothed classifier.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jrobust as jr
from jrobust import smoothing, training

digits = jr.data.load("digits")
key = jax.random.key(0)
net = jr.models.create("mlp", shape=(8, 8, 1), classes=10)
apply, params, rest = jr.nnx.functional(net)
loss = jr.objectives.cross_entropy(apply)
SIGMA = 0.5


def trained(robust, epochs=60, batch=128):
    tx = optax.adam(2e-3)
    step, start = training.make_step(robust, tx), training.init(params, rest, tx)
    data = (digits.train_x, digits.train_y)
    state = training.fit(step, start, *data, epochs=epochs, batch_size=batch, key=key, show=False)
    return jax.tree_util.Partial(lambda p, x: apply(p, rest, x, train=False)[0], state.params)


# %% [markdown]
# ## Three nets, one noise
#
# A net that never saw noise is lost in it. Gaussian augmentation shows it the noise; consistency training also asks that its answers under
# different draws agree.

# %%
models = {
    "natural": trained(loss),
    "noisy": trained(training.noisy(loss, SIGMA, samples=2)),
    "consistency": trained(training.consistency(loss, SIGMA, samples=2, weight=5.0)),
}
x, y = jnp.asarray(digits.test_x[:120]), digits.test_y[:120]
noise = smoothing.gaussian(SIGMA)
certificates = {
    name: smoothing.certify(model, x, noise=noise, n0=100, n=5000, alpha=0.001, key=key)
    for name, model in models.items()
}
for name, certificate in certificates.items():
    print(f"{name}: average certified radius {certificate.average_radius(y)}")
    print(certificate.table(y, (0.0, 0.25, 0.5, 0.75)), "\n")

# %%
figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
radii = np.linspace(0, 1.6, 60)
for name, certificate in certificates.items():
    curve = certificate.curve(y, radii)
    (line,) = axes.plot(radii, [a.value for a in curve], label=name)
    axes.fill_between(radii, [a.low for a in curve], [a.high for a in curve], color=line.get_color(), alpha=0.12, lw=0)
axes.axvline(float(noise.certify(0.001 ** (1 / 5000))), color="grey", ls=":", lw=1)
axes.text(
    float(noise.certify(0.001 ** (1 / 5000))) - 0.03, 0.9, "the most that\n5000 draws certify", ha="right", fontsize=9
)
axes.set(xlabel="certified l2 radius", ylabel="certified accuracy", ylim=(0, 1.02))
axes.legend(frameon=False)

# %% [markdown]
# ## What a radius says, and what it does not
#
# We attack the smoothed classifier itself, by gradients of its averaged probabilities, within the certified radius and far beyond, and ask
# for the votes at what the attack found. Within the radius the class must win; beyond, it may.

# %%
model = models["noisy"]
certificate = certificates["noisy"]
held = np.flatnonzero((certificate.prediction == y) & (certificate.radius > 0.1))[:20]


def attacked(times):
    attack = jr.attacks.pgd(steps=20)

    def one(k, x, label, radius):
        soft = smoothing.smooth(lambda z: jax.nn.softmax(model(z[None])[0]), noise, 64)
        f = jr.objectives.classification(lambda z: jnp.log(soft(k, z)), label)
        return attack.solve(k, f, jr.sets.l2(radius)(x)).witness

    radius = jnp.asarray(times * certificate.radius[held], jnp.float32)
    return jax.jit(jax.vmap(one))(jax.random.split(key, len(held)), x[held], jnp.asarray(y[held]), radius)


for times in (1.0, 1.5, 2.5):
    votes = smoothing.predict(model, attacked(times), noise=noise, n=2000, key=jax.random.key(1)).counts
    share = votes[np.arange(len(held)), y[held]] / 2000
    print(
        f"{times} radii: the class keeps {share.min():.2f} of the votes or more; it loses in {np.sum(share < 0.5)} of {len(held)}"
    )

# %% [markdown]
# ## Other noise, other norms
#
# A `Noise` is how to draw and which radius a probability certifies. Uniform and Laplace noise certify l1 radii; flips and ablation count
# entries. At equal standard deviation:

# %%
shapes = {
    "gaussian": smoothing.gaussian(SIGMA, norm="l1"),
    "laplace": smoothing.laplace(SIGMA / np.sqrt(2)),
    "uniform": smoothing.uniform(SIGMA * np.sqrt(3)),
}
p = np.linspace(0.5, 0.9999, 400)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for name, shape in shapes.items():
    axes.plot(p, shape.certify(p), label=name)
axes.set(xlabel="probability of the class under noise (lower bound)", ylabel="certified l1 radius")
axes.legend(frameon=False)
for name, shape in shapes.items():
    cert = smoothing.certify(models["noisy"], x, noise=shape, n=2000, key=key)
    print(f"{name}: average certified l1 radius {cert.average_radius(y)}")

# %% [markdown]
# ## Fewer draws
#
# Most examples need few draws to reach a radius that is enough, and hopeless ones show it early. With several `n` each looks at its votes
# on the way; alpha is shared among the looks, so the confidence stays.

# %%
staged = smoothing.certify(model, x, noise=noise, n=(1000, 5000, 20_000), target=0.5, key=key)
whole = smoothing.certify(model, x, noise=noise, n=20_000, key=key)
for name, cert in (("one n", whole), ("three looks", staged)):
    print(f"{name}: certified at 0.5 {cert.accuracy(y, 0.5)}, with {cert.draws.mean():.0f} draws an example")

# %% [markdown]
# ## All examples at once
#
# Each certificate is right with probability 0.999. That all of them are is another statement, and takes a correction (Holm's):

# %%
print("one at a time:", int((whole.radius >= 0.5).sum()), "of", len(y), "have radius 0.5")
print("all together: ", int(whole.jointly(noise, 0.5).sum()), "of", len(y))

# %%
assert all(c.accuracy(y).value > 0.5 for c in certificates.values())
assert float(certificates["noisy"].average_radius(y)) > float(certificates["natural"].average_radius(y))
assert staged.draws.mean() < whole.draws.mean()
assert (staged.radius >= 0.5).sum() <= (whole.radius >= 0.5).sum() + 5
