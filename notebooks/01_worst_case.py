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
# # The one idea
#
# How bad can a function get over a set of inputs, and who says so? An **oracle** bounds `sup { f(z) : z in S }` from a
# stated side. Ten cells: a set, a lower bound with a witness, an upper bound with a proof, both together, and what they
# do to a training loss.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import jrobust as jr

digits = jr.data.load("digits")
x, y = jnp.asarray(digits.train_x), jnp.asarray(digits.train_y)
key = jax.random.key(0)
x.shape, y.shape

# %% [markdown]
# A model is any pure function. Here a two-layer net, and a loss as data so that an oracle can look inside.


# %%
def apply(params, rest, x, *, train):
    h = jax.nn.relu(x.reshape(x.shape[0], -1) @ params["w1"] + params["b1"])
    return h @ params["w2"] + params["b2"], rest


def fresh(key):
    k1, k2 = jax.random.split(key)
    return {
        "w1": jax.random.normal(k1, (64, 64)) / 8,
        "b1": jnp.zeros(64),
        "w2": jax.random.normal(k2, (64, 10)) / 8,
        "b2": jnp.zeros(10),
    }


loss = jr.objectives.cross_entropy(apply)

# %% [markdown]
# A set *is* its support function: `support(c) = sup <c, z>`. Its gradient is the point that attains it, which is what
# FGSM computes; a linear bound concretises with the same function, so attack and bound cannot disagree about the
# threat.

# %%
threat = jr.sets.linf(0.1, clip=(0, 1))
s = threat(x[0])
c = jax.random.normal(key, x[0].shape)
bool(jnp.allclose(jax.grad(s.support)(c), s.argsup(c), atol=1e-6))

# %% [markdown]
# `worst_case` turns a loss into a robust loss of the same shape. Natural, adversarial and certified training differ in
# one argument. A bound is trained with an eps that grows; eps is traced, so nothing recompiles.

# %%
LOSSES = {
    "natural": loss,
    "adversarial": jr.worst_case(loss, threat, jr.attacks.pgd(steps=7, step=0.03)),
    "certified": jr.training.scheduled(
        lambda t: jr.worst_case(loss, threat.family(0.1 * jnp.minimum(1.0, t / 300)), jr.bounds.ibp())
    ),
}


def train(robust, steps=500, batch=128):
    tx = optax.adam(2e-3)
    step = jr.training.make_step(robust, tx)

    def one(state, t):
        k_batch, k_step = jax.random.split(jax.random.fold_in(key, t))
        index = jax.random.randint(k_batch, (batch,), 0, len(x))
        return step(state, (x[index], y[index]), key=k_step)

    state = jr.training.init(fresh(key), None, tx)
    return jax.jit(lambda state: jax.lax.scan(one, state, jnp.arange(steps)))(state)


trained = {name: train(robust) for name, robust in LOSSES.items()}
{name: round(float(history["loss"][-50:].mean()), 3) for name, (_, history) in trained.items()}

# %% [markdown]
# One example, one property: "this image is classified as its label". An attack bounds its worst margin from below, with
# a witness; bounds bound it from above, with a proof.

# %%
params = {name: state.params for name, (state, _) in trained.items()}
x0, y0 = jnp.asarray(digits.test_x[0]), int(digits.test_y[0])
f = jr.objectives.classification(lambda z: apply(params["adversarial"], None, z[None], train=False)[0][0], y0)
oracles = {"pgd": jr.restarts(jr.attacks.pgd(steps=20), 4), "crown": jr.bounds.crown(), "ibp": jr.bounds.ibp()}
{name: (o.side, round(float(jax.jit(o.solve)(key, f, threat(x0)).value), 3)) for name, o in oracles.items()}

# %% [markdown]
# The verb that puts both sides together: violated (with the witness), verified, or unknown with a gap.


# %%
@jax.jit
def decide(eps):
    s = jr.sets.linf(eps, clip=(0, 1))(x0)
    return jr.verify(f, s, key=key, lower=oracles["pgd"], upper=oracles["crown"])


for eps in (0.02, 0.1, 0.4):
    verdict = decide(eps)
    print(f"eps {eps:4}: {verdict.status:9} {float(verdict.lower):8.3f} <= worst margin <= {float(verdict.upper):.3f}")

# %% [markdown]
# Any oracle answers the other question too, how far until it breaks: an attack from above, a certificate from below.

# %%
above, below = (
    jax.jit(jr.critical_radius(oracles[name], upper=0.5).solve)(key, f, threat, x0) for name in ("pgd", "crown")
)
print(f"{float(below.value):.4f} <= critical radius <= {float(above.value):.4f}")

# %% [markdown]
# Over a test set the driver compacts, batches and counts. Every number says its n, side and confidence.


# %%
def model(name):
    return jax.tree_util.Partial(lambda p, x: apply(p, None, x, train=False)[0], params[name])


n = 200
tx_, ty_ = digits.test_x[:n], digits.test_y[:n]
reports = {
    name: jr.evaluate(model(name), tx_, ty_, threat=threat, oracles=oracles, key=key, batch_size=n) for name in LOSSES
}
for name, report in reports.items():
    print(f"--- {name}\n{report.table()}")

# %% [markdown]
# eps is a leaf, so the whole curve is one vmapped program: the truth lies between the certified floor and the attack
# ceiling.


# %%
@jax.jit
def sandwich(params, eps):
    def at(e, z, label):
        g = jr.objectives.classification(lambda z: apply(params, None, z[None], train=False)[0][0], label)
        s = jr.sets.linf(e, clip=(0, 1))(z)
        clean = g.value(g.outputs(z))
        broken = jnp.maximum(jr.attacks.pgd(steps=10).solve(key, g, s).value, clean)
        return broken < 0, jr.bounds.crown().solve(key, g, s).value < 0

    over_examples = jax.vmap(at, in_axes=(None, 0, 0))
    return jax.vmap(lambda e: jax.tree.map(jnp.mean, over_examples(e, tx_[:100], ty_[:100])))(eps)


grid = jnp.linspace(0, 0.25, 11)
fig, axes = plt.subplots(1, 3, figsize=(11, 3), sharey=True)
for ax, name in zip(axes, LOSSES, strict=True):
    ceiling, floor = sandwich(params[name], grid)
    ax.fill_between(grid, floor, ceiling, alpha=0.3)
    ax.plot(grid, ceiling, label="PGD (at most)")
    ax.plot(grid, floor, label="CROWN (at least)")
    ax.set(title=name, xlabel="eps")
axes[0].set_ylabel("robust accuracy, n = 100")
axes[0].legend()
fig.tight_layout()

# %% [markdown]
# What the ten cells claim, checked.

# %%
for report in reports.values():
    clean, pgd, crown = (report[k].accuracy().value for k in ("clean", "pgd", "crown"))
    assert crown <= pgd <= clean
    assert not report.contradictions()
assert reports["certified"]["ibp"].accuracy().value > 0.5 > 0.1 > reports["natural"]["ibp"].accuracy().value
assert float(below.value) <= float(above.value)
print("every bound on its side")
