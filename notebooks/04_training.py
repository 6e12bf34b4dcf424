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
# # Training
#
# One line, `jr.worst_case(loss, threat, oracle)`, is adversarial training with an attack and certified training with
# a bound. This page trains one small
# net in five ways, judges all of them by the same attack and the same bound, and looks at what changed inside: input
# gradients and loss surfaces.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jrobust as jr
from jrobust import training

digits = jr.data.load("digits")
key = jax.random.key(0)
threat = jr.sets.linf(0.1, clip=(0, 1))
net = jr.models.create("mlp", shape=(8, 8, 1), classes=10)
apply, params, rest = jr.nnx.functional(net)
loss = jr.objectives.cross_entropy(apply)

# %% [markdown]
# ## Five losses
#
# The last one is scheduled: eps grows from 0, and the weight of the clean loss falls. TRADES is a formula of two
# batches of logits (`paired`).

# %%
EPOCHS, BATCH = 60, 128
steps = EPOCHS * training.epoch_steps(len(digits.train_x), BATCH)
eps = training.smoothed(0.1, begin=steps // 10, end=steps // 2)
kappa = training.linear(1.0, 0.5, begin=steps // 10, end=steps // 2)
losses = {
    "natural": loss,
    "N-FGSM": training.n_fgsm(loss, threat),
    "PGD": jr.worst_case(loss, threat, jr.attacks.pgd(steps=5, keep="last")),
    "TRADES": training.trades(loss, threat, attack=5),
    "IBP": training.certified(loss, threat, jr.bounds.ibp(), eps=eps, kappa=kappa),
}


def trained(robust, start):
    tx, watched = optax.adam(2e-3), []
    x, y = jnp.asarray(digits.train_x[:256]), jnp.asarray(digits.train_y[:256])
    attack = jr.worst_case(loss, threat, jr.attacks.pgd(steps=10))

    @jax.jit
    def accuracy(state):
        z = attack.craft(state.params, state.rest, x, y, key=key)
        return jnp.mean(jnp.argmax(apply(state.params, state.rest, z, train=False)[0], -1) == y)

    state = training.fit(
        training.make_step(robust, tx),
        training.init(start, rest, tx),
        digits.train_x,
        digits.train_y,
        epochs=EPOCHS,
        batch_size=BATCH,
        key=key,
        hook=lambda epoch, state: watched.append(float(accuracy(state))),
        show=False,
    )
    return state, watched


states, curves = {}, {}
for name, robust in losses.items():
    start = jr.models.ibp_init(key, params) if name == "IBP" else params
    states[name], curves[name] = trained(robust, start)

# %%
for name, curve in curves.items():
    plt.plot(curve, label=name)
plt.xlabel("epoch")
plt.ylabel("accuracy of 256 training images under PGD-10")
plt.legend()
plt.title("An attack's accuracy is an upper bound of the robust one")
plt.show()

# %% [markdown]
# ## One judge for all
#
# The attack's column bounds the robust accuracy from above, the bound's from below: the truth lies between. Natural training
# is broken; attacked training resists, but this bound proves nothing of it; of IBP training it proves four images in five.

# %%
oracles = {"pgd": jr.restarts(jr.attacks.pgd(steps=20), 2), "crown": jr.bounds.crown_ibp()}
models = {name: jr.nnx.merge(net, state.params, state.rest) for name, state in states.items()}
judged = {}
for name, model in models.items():
    model.eval()
    ev = jr.evaluate(model, digits.test_x, digits.test_y, threat=threat, oracles=oracles, key=key, batch_size=256)
    judged[name] = [float(np.mean(ev[column].holds)) for column in ("clean", "pgd", "crown")]

places = np.arange(len(judged))
for i, (label, colour) in enumerate(
    (("clean", "0.7"), ("at most (PGD)", "tab:orange"), ("at least (CROWN-IBP)", "tab:blue"))
):
    plt.bar(places + 0.27 * (i - 1), [row[i] for row in judged.values()], 0.25, label=label, color=colour)
plt.xticks(places, judged)
plt.ylabel("accuracy at linf 0.1")
plt.legend(loc="lower left", framealpha=0.9)
plt.show()

# %% [markdown]
# ## Input gradients
#
# The gradient of the loss by the image: noise for the natural net, strokes for the robust ones (Tsipras et al.,
# 2019).

# %%
x, y = jnp.asarray(digits.test_x[3:4]), jnp.asarray(digits.test_y[3:4])
fig, axes = plt.subplots(1, 1 + len(states), figsize=(12, 2.4))
axes[0].imshow(x[0, ..., 0], cmap="gray")
axes[0].set_title("image")
for axis, (name, state) in zip(axes[1:], states.items(), strict=True):
    slope = jax.grad(lambda v, state=state: loss(state.params, state.rest, v, y)[0][0])(x)[0, ..., 0]
    axis.imshow(slope, cmap="coolwarm", vmin=-jnp.abs(slope).max(), vmax=jnp.abs(slope).max())
    axis.set_title(name)
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Loss surfaces
#
# The loss over a plane through the image: along the sign of its gradient, and along random signs. Where single-step
# training collapses, this surface buckles
# between 0 and eps (catastrophic overfitting; `training.overfitting_guard` watches for it); where it does not, it is
# close to flat.

# %%
span = jnp.linspace(-0.15, 0.15, 31)
random = jnp.sign(jax.random.normal(key, x.shape))


def plane(state):
    def at(v):
        return loss(state.params, state.rest, v, y)[0][0]

    ahead = jnp.sign(jax.grad(at)(x))
    return jax.vmap(lambda b: jax.vmap(lambda a: at(x + a * ahead + b * random))(span))(span)


fig, axes = plt.subplots(1, len(states), figsize=(13, 2.8), sharey=True)
rough = {}
for axis, (name, state) in zip(axes, states.items(), strict=True):
    surface = plane(state)
    rough[name] = float(jnp.max(surface) - jnp.min(surface))
    axis.contourf(span, span, surface, levels=np.linspace(0, 8, 17), extend="max")
    axis.set_title(f"{name}: range {rough[name]:.1f}")
    axis.set_xlabel("along the gradient's sign")
axes[0].set_ylabel("along random signs")
plt.show()

# %%
for clean, attacked, proven in judged.values():
    assert proven <= attacked <= clean
assert all(judged[name][1] > judged["natural"][1] for name in ("N-FGSM", "PGD", "TRADES", "IBP"))
assert judged["IBP"][2] == max(row[2] for row in judged.values())
assert rough["PGD"] < rough["natural"]
