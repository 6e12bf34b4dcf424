"""PGD against PyTorch's attack libraries: same net, weights, examples, steps; every figure a ratio of one run.

Command:  python -m experiments.bench.pgd        (peers: pip install torch torchattacks foolbox adversarial-robustness-toolbox)
Hardware: 2 CPU cores. Wall time: about two minutes.
Expected: dense net >= 1.5x faster than the fastest peer; small CNN <= 1.15x its time at equal passes, faster with early stop;
          one attack step <= 1.15 of a bare jitted ``value_and_grad`` of the batch (of the same form of the net).
Targets are missed where the output says so; the numbers of a run stand in CHANGELOG.md and the issue's closing note.
"""

import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import jrobust as jr
from jrobust._transforms import example_keys

EPS, STEPS, STEP, N = 0.1, 40, 0.01, 512


def mlp(params, x):
    h = x.reshape(x.shape[0], -1)
    for w, b in params[:-1]:
        h = jax.nn.relu(h @ w + b)
    return h @ params[-1][0] + params[-1][1]


def cnn(params, x):
    (k1, b1), (k2, b2), *dense = params
    for k, b in ((k1, b1), (k2, b2)):
        x = jax.lax.conv_general_dilated(x, k, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.relu(x + b)
    return mlp(dense, x)


def weights(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (np.float32(rng.normal(size=s) * np.sqrt(2 / np.prod(s[:-1]))), np.zeros(s[-1], np.float32)) for s in shapes
    ]


NETS = {
    "dense 784-1024-1024-10": (mlp, weights([(784, 1024), (1024, 1024), (1024, 10)])),
    "small CNN": (cnn, weights([(4, 4, 1, 16), (4, 4, 16, 32), (1568, 100), (100, 10)])),
}


def interleaved(runs, repeats=5):
    """Median seconds of each run, taken in turn, so that drift of the machine hits all alike."""
    times = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(t) for name, t in times.items()}


@partial(jax.jit, static_argnums=0)
def attack(net, oracle, params, threat, x, y, key):
    def one(k, xi, yi):
        f = jr.objectives.classification(lambda z: net(params, z[None])[0], yi)
        return oracle.solve(k, f, threat(xi))

    return jax.vmap(one)(example_keys(key, jnp.arange(x.shape[0])), x, y)


def torch_runs(name, params, x, y):
    """The same attack by bare torch and by the libraries that are installed."""
    import torch
    from torch import nn

    torch.set_num_threads(2)
    layers = []
    if name == "small CNN":
        for k, b in params[:2]:
            conv = nn.Conv2d(k.shape[2], k.shape[3], 4, 2, 1)
            conv.weight.data, conv.bias.data = torch.tensor(k.transpose(3, 2, 0, 1).copy()), torch.tensor(b)
            layers += [conv, nn.ReLU()]
        params = params[2:]
    layers.append(nn.Flatten())
    for i, (w, b) in enumerate(params):
        dense = nn.Linear(*w.shape)
        dense.weight.data, dense.bias.data = torch.tensor(w.T.copy()), torch.tensor(b)
        layers += [dense] + [nn.ReLU()] * (i < len(params) - 1)
    model = nn.Sequential(*layers).eval()
    tx, ty = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y, dtype=torch.long)

    def bare():
        z = (tx + torch.empty_like(tx).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(STEPS):
            z.requires_grad_(True)
            (g,) = torch.autograd.grad(nn.functional.cross_entropy(model(z), ty, reduction="sum"), z)
            z = (tx + (z.detach() + STEP * g.sign() - tx).clamp(-EPS, EPS)).clamp(0, 1)
        return model(z)

    def torchattacks_run():
        import torchattacks

        return torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS)(tx, ty)

    def foolbox_run():
        import foolbox

        fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        return foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)(fmodel, tx, ty, epsilons=EPS)

    def art_run():
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), tx.shape[1:], 10, clip_values=(0, 1), device_type="cpu"
        )
        pgd = ProjectedGradientDescentPyTorch(
            classifier, eps=EPS, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=N, verbose=False
        )
        return pgd.generate(x.transpose(0, 3, 1, 2), y)

    runs = {}
    for label, run in {
        "bare torch": bare,
        "torchattacks": torchattacks_run,
        "foolbox": foolbox_run,
        "ART": art_run,
    }.items():
        try:
            run()
            runs[label] = run
        except ImportError as error:
            print(f"  ({label} left out: {error})")
    return runs


def main():
    rng = np.random.default_rng(1)
    x = np.float32(rng.uniform(size=(N, 28, 28, 1)))
    threat, key = jr.sets.linf(EPS, clip=(0.0, 1.0)), jax.random.key(0)
    for name, (net, params) in NETS.items():
        logits = np.asarray(net(params, x))
        # labels of a random net: its own predictions, so that there is something to break
        y = np.int32(logits.argmax(1))
        arguments = jax.device_put((params, threat, x, y, key))

        def ours(net=net, arguments=arguments, **options):
            oracle = jr.attacks.pgd(steps=STEPS, step=STEP, **options)
            return lambda: jax.block_until_ready(attack(net, oracle, *arguments))

        def bare(net=net, params=params, y=y):
            loss = jr.objectives.cross_entropy(lambda p, rest, a, train: (net(p, a), rest))
            grad = jax.jit(jax.value_and_grad(lambda z: jnp.sum(loss(params, None, z, y)[0])))
            z = jnp.asarray(x)
            return lambda: [jax.block_until_ready(grad(z)) for _ in range(STEPS)]

        runs = {"jrobust": ours(), "jrobust, early stop": ours(early_stop=True), "bare value_and_grad x40": bare()}
        runs |= torch_runs(name, params, x, y)
        seconds = interleaved(runs)
        print(f"{name}: PGD-{STEPS}, {N} examples")
        for label, t in seconds.items():
            print(f"  {label:26s} {t:7.3f} s   {t / seconds['jrobust']:5.2f} of jrobust")
        peers = [t for label, t in seconds.items() if label in ("torchattacks", "foolbox", "ART")]
        if peers:
            print(f"  fastest library / jrobust        {min(peers) / seconds['jrobust']:.2f}")
            print(f"  fastest library / jrobust, stop  {min(peers) / seconds['jrobust, early stop']:.2f}")
        # 40 steps and one forward pass more
        print(f"  one step / bare value_and_grad   {seconds['jrobust'] / seconds['bare value_and_grad x40']:.2f}")


if __name__ == "__main__":
    main()
