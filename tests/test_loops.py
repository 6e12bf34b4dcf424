"""The CPU-convolution remedy: every convolution as slices and a dot, and lax's loops over rewritten bodies."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jrobust import _loops
from jrobust._conv import conv_as_dot

LAYOUTS = {
    1: [("NHC", "HIO", "NHC"), ("NCH", "OIH", "NCH"), ("HNC", "IHO", "CHN")],
    2: [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW"), ("CHWN", "IHWO", "WCHN")],
    3: [("NDHWC", "DHWIO", "NDHWC"), ("NCDHW", "OIDHW", "NCDHW")],
}


def random_conv(seed):
    """A random convolution: (lhs, rhs, parameters of lax.conv_general_dilated)."""
    r = np.random.default_rng(seed)
    n = int(r.choice([1, 2, 2, 2, 3]))
    names = LAYOUTS[n][r.integers(len(LAYOUTS[n]))]
    feature, batch = [(1, 1), (2, 1), (4, 1), (1, 2), (1, 3)][r.integers(5)]
    per_group, out_per_group = int(r.integers(1, 4)), int(r.integers(1, 3))
    while True:
        size, kernel = r.integers(1, 8 if n < 3 else 5, n), r.integers(1, 5 if n < 3 else 3, n)
        stride, ld, rd = r.integers(1, 4, n), r.integers(1, 4, n), r.integers(1, 3, n)
        padding = r.integers(-1, 4, (n, 2))
        if np.all((size - 1) * ld + 1 + padding.sum(1) >= (kernel - 1) * rd + 1):
            break
    lhs = dict(zip("NC", (batch * int(r.integers(1, 3)), feature * per_group)))
    rhs = dict(zip("IO", (per_group, feature * batch * out_per_group)))
    spatial = "DHW"[-n:] if n > 1 else "H"
    lhs |= dict(zip(spatial, map(int, size)))
    rhs |= dict(zip(spatial, map(int, kernel)))
    params = dict(
        window_strides=tuple(map(int, stride)),
        padding=tuple((int(a), int(b)) for a, b in padding),
        lhs_dilation=tuple(map(int, ld)),
        rhs_dilation=tuple(map(int, rd)),
        dimension_numbers=names,
        feature_group_count=feature,
        batch_group_count=batch,
    )
    x = r.normal(size=[lhs[c] for c in names[0]]).astype(np.float32)
    w = r.normal(size=[rhs[c] for c in names[1]]).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(w), params


def has_conv(fn, *args):
    return "conv_general_dilated" in str(jax.make_jaxpr(fn)(*args))


def close(a, b, tol=2e-5):
    """Alike to rounding, which is relative to an array's largest entry."""

    def alike(x, y):
        np.testing.assert_allclose(x, y, rtol=tol, atol=tol * max(1.0, float(jnp.max(jnp.abs(y), initial=0.0))))

    jax.tree.map(alike, a, b)


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def init_cnn(key):
    k = jax.random.split(key, 3)
    return {
        "a": 0.3 * jax.random.normal(k[0], (3, 3, 2, 4)),
        "b": 0.3 * jax.random.normal(k[1], (3, 3, 4, 4)),
        "d": 0.1 * jax.random.normal(k[2], (36, 3)),
    }


def cnn(p, x):
    h = jax.nn.relu(conv(x, p["a"]))
    h = jax.nn.relu(conv(h, p["b"], 2))
    return h.reshape(x.shape[0], -1) @ p["d"]


def loss(p, x):
    return -jnp.mean(jax.nn.log_softmax(cnn(p, x))[:, 0])


@pytest.fixture
def net(key):
    return init_cnn(key), jax.random.normal(jax.random.fold_in(key, 1), (4, 6, 6, 2))


def usual_conv(kernel, stride, channels, out, size=9, padding=1):
    """A convolution as nets have them: steps of one kind only."""
    r = np.random.default_rng(kernel * 100 + stride)
    x, w = (
        jnp.asarray(r.normal(size=s), jnp.float32)
        for s in ((2, channels, size, size + 1), (out, channels, kernel, kernel))
    )
    padding = ((padding, padding), (0, padding))
    params = dict(window_strides=(stride, stride), padding=padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return x, w, params | dict(lhs_dilation=(1, 1), rhs_dilation=(1, 1))


def usual_transposed_conv(kernel, dilation, channels, out, low, high):
    x, w, params = usual_conv(kernel, 1, channels, out, 5)
    return x, w, params | dict(padding=((low, high), (high, low)), lhs_dilation=(dilation, dilation))


USUAL = [
    *(usual_conv(k, s, 3, 5) for k, s in ((4, 2), (3, 2), (5, 3), (2, 2), (1, 2), (3, 1), (7, 2))),
    *(usual_conv(3, 2, c, 4) for c in (1, 20, 70)),
    usual_conv(4, 4, 2, 3, 12, 0),  # patches
    usual_conv(3, 2, 2, 3, 8, -1),  # cropped
    *(usual_transposed_conv(k, d, c, o, low, high)
      for k, d, c, o, low, high in ((4, 2, 5, 3, 2, 1), (3, 2, 8, 1, 1, 2), (3, 2, 2, 12, 2, 2), (1, 2, 3, 2, 0, 1),
                                    (2, 3, 3, 4, 1, 1), (5, 3, 9, 2, -1, 3), (6, 4, 3, 3, 7, 0))),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(12 + len(USUAL)))
def test_conv_and_both_gradients_agree_with_lax(seed):
    x, w, params = random_conv(seed) if seed < 12 else USUAL[seed - 12]
    native = partial(lax.conv_general_dilated, **params)

    def everything(fn, x, w):
        out, pull = jax.vjp(fn, x, w)
        return out, pull(jnp.cos(jnp.arange(out.size, dtype=out.dtype).reshape(out.shape)))

    derivative_rewritten = _loops.rewrite(partial(everything, native))
    rewritten_differentiated = partial(everything, _loops.rewrite(native))
    assert not has_conv(derivative_rewritten, x, w)
    assert not has_conv(rewritten_differentiated, x, w)
    a, b, expected = jax.jit(
        lambda x, w: (derivative_rewritten(x, w), rewritten_differentiated(x, w), everything(native, x, w))
    )(x, w)
    close(a, expected)
    close(b, expected)


def test_the_weight_gradient_of_an_input_gradient_multiplies_little():
    """As gradients of bounds and double backpropagation take it: its kernel is an image, with far more places than its output."""
    b, n, c, o, k = 4, 16, 3, 5, 4
    x, w, out = jnp.ones((b, n, n, c)), jnp.ones((k, k, c, o)), jnp.ones((b, n // 2, n // 2, o))

    def of_weights(x, w, out):
        back = lambda w: jax.vjp(lambda x: conv(x, w, 2), jnp.zeros_like(x))[1](out)[0]  # noqa: E731
        return jax.vjp(back, w)[1](x)[0]

    fn = _loops.rewrite(of_weights)
    assert not has_conv(fn, x, w, out)
    cost = jax.jit(fn).lower(x, w, out).compile().cost_analysis()
    assert (
        cost["flops"] < 3 * 2 * out.size * k * k * c
    )  # phases that hang over the edge included; it was 16 times what is needed
    close(fn(x, w, out), of_weights(x, w, out))


def test_conv_element_types_and_limits():
    x, w = jnp.ones((1, 4, 4, 3), jnp.bfloat16), jnp.ones((3, 3, 3, 2), jnp.bfloat16)
    for preferred in (None, jnp.float32):
        fn = partial(
            lax.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=preferred,
        )  # fmt: skip
        a, b = _loops.rewrite(fn)(x, w), fn(x, w)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.astype(jnp.float32), b.astype(jnp.float32))
    big = jnp.ones((1, 80, 80, 1)), jnp.ones((40, 40, 1, 1))
    assert has_conv(_loops.rewrite(conv), *big)  # 1600 taps, 6400 positions: not worth unrolling
    numbers = lax.conv_dimension_numbers((0, 4, 4, 3), w.shape, ("NHWC", "HWIO", "NHWC"))
    same = {"window_strides": (1, 1), "padding": ((1, 1),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)}
    assert conv_as_dot(x[:0], w, dimension_numbers=numbers, **same) is None


def sgd(loop, p, x, steps=3):
    def body(p, xi):
        value, g = jax.value_and_grad(loss)(p, xi)
        return jax.tree.map(lambda a, b: a - 0.1 * b, p, g), value

    return loop(body, p, jnp.stack([x] * steps))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_scan_of_training_steps(net, transform):
    p, x = net
    ours, theirs = (transform(partial(sgd, loop))(p, x) for loop in (_loops.scan, lax.scan))
    close(ours, theirs)
    assert not has_conv(partial(sgd, _loops.scan), p, x)


def test_gradient_through_scan(net):
    p, x = net
    ours, theirs = (
        jax.jit(jax.grad(lambda p, x, loop=loop: loss(sgd(loop, p, x)[0], x), (0, 1)))(p, x)
        for loop in (_loops.scan, lax.scan)
    )
    close(ours, theirs)


def attack(loops, p, x, steps=3):
    return loops.fori_loop(0, steps, lambda i, z: z + 0.01 * jnp.sign(jax.grad(loss, 1)(p, z)), x)


def test_vmap_and_batched_leaves(net, key):
    p, x = net
    for axes, q in (((None, 0), p), ((0, 0), jax.vmap(init_cnn)(jax.random.split(key, 4)))):
        ours, theirs = (
            jax.jit(jax.vmap(lambda q, xi, loops=loops: attack(loops, q, xi[None]), axes))(q, x)
            for loops in (_loops, lax)
        )
        close(ours, theirs)


def test_named_axis_inside_a_vmapped_loop(net):
    _, x = net

    def one(loops, xi):
        def body(_, z):
            return z + 0.1 * conv(lax.pmean(z, "batch")[None], jnp.ones((3, 3, 2, 2)))[0]

        return loops.fori_loop(0, 2, body, xi)

    ours, theirs = (jax.vmap(partial(one, loops), axis_name="batch")(x) for loops in (_loops, lax))
    close(ours, theirs)


def test_while_condition_and_body(net):
    p, x = net

    def run(loops, x):
        def cond(state):
            return (state[0] < 5) & (loss(p, state[1]) < 1.5)

        return loops.while_loop(cond, lambda s: (s[0] + 1, s[1] + 0.3 * jax.grad(loss, 1)(p, s[1])), (0, x))

    ours, theirs = (jax.jit(partial(run, loops))(x) for loops in (_loops, lax))
    assert not has_conv(partial(run, _loops), x)
    assert int(ours[0]) == int(theirs[0]) > 0
    close(ours[1], theirs[1])


@pytest.mark.parametrize("batch_size", [None, 3])
def test_map(net, batch_size):
    p, x = net
    fn = lambda loops: loops.map(lambda xi: cnn(p, xi[None])[0], x, batch_size=batch_size)  # noqa: E731
    close(jax.jit(lambda: fn(_loops))(), jax.jit(lambda: fn(lax))())
    assert not has_conv(lambda: fn(_loops))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (3.0 * g,))


@jax.custom_vjp
def quantised_conv(x, w):
    """A convolution whose gradient is deliberately not its derivative."""
    return jnp.round(conv(x, w))


quantised_conv.defvjp(lambda x, w: (quantised_conv(x, w), (x, w)), lambda r, g: (2.0 * conv(g, r[1]), 5.0 * r[1]))


@jax.custom_jvp
def signed_conv(x, w):
    return jnp.sign(conv(x, w))


@signed_conv.defjvp
def _(primals, tangents):
    return signed_conv(*primals), 7.0 * tangents[0] + conv(primals[0], tangents[1])


def odd_net(w, x, i):
    h = straight_through(4 * conv(x, w)) / 4
    h = quantised_conv(h, w) + signed_conv(h, w)
    h = jax.checkpoint(lambda z: jnp.tanh(conv(z, w)))(h)
    h = lax.cond(i % 2 == 0, lambda z: conv(z, w), lambda z: 2 * z, h)
    h = lax.switch(i, [lambda z: z, lambda z: -conv(z, w), lambda z: conv(z, 2 * w)], h)
    h = jax.jit(conv)(h, w)
    return lax.scan(lambda c, _: (jnp.tanh(conv(c, w)), None), h, None, length=2)[0]


@pytest.mark.parametrize("where", ["inside", "outside", "rewrite"])
def test_custom_derivatives_remat_and_control_flow(key, where):
    """Value and gradient, differentiated inside the body and through the loop; straight-through rules are kept."""
    w = 0.3 * jax.random.normal(key, (3, 3, 2, 2))
    x = jax.random.normal(jax.random.fold_in(key, 1), (2, 5, 5, 2))

    def objective(w, x, i):
        return jnp.sum(jnp.sin(odd_net(w, x, i)))

    def inside(loops, w, x):
        def body(c, i):
            g = jax.grad(objective, (0, 1))(w, c, i)
            return c + 0.1 * jnp.tanh(g[1]), (objective(w, c, i), g[0])

        return loops.scan(body, x, jnp.arange(3), reverse=True)

    def outside(loops, w, x):
        run = lambda w, x: jnp.sum(loops.scan(lambda c, i: (odd_net(w, c, i), None), x, jnp.arange(3))[0] ** 2)  # noqa: E731
        return jax.value_and_grad(run, (0, 1))(w, x)

    def whole(loops, w, x):
        fn = partial(objective, i=1) if loops is lax else _loops.rewrite(partial(objective, i=1))
        return jax.value_and_grad(fn, (0, 1))(w, x)

    fn = {"inside": inside, "outside": outside, "rewrite": whole}[where]
    ours, theirs = (jax.jit(partial(fn, loops))(w, x) for loops in (_loops, lax))
    assert float(jnp.abs(theirs[1][1] if where != "inside" else theirs[0]).max()) > 0.01
    close(ours, theirs, 1e-4)
    if where == "inside":
        assert not has_conv(partial(fn, _loops), w, x)


def test_straight_through_gradient_is_the_rule():
    x = jnp.array([[[[0.3], [1.7]]]])
    w = jnp.full((1, 1, 1, 1), 2.0)

    def run(x):
        return jnp.sum(_loops.scan(lambda c, _: (straight_through(conv(c, w)), None), x, None, length=2)[0])

    np.testing.assert_allclose(jax.grad(run)(x), 36.0)  # (3 * 2)^2; rounding itself has derivative 0


def test_bodies_without_convolutions_are_laxs():
    def program(loops):
        def run(x, n):
            y, ys = loops.scan(lambda c, a: (jnp.sin(c) * a, c), 1.0, x, reverse=True, unroll=2)
            z = loops.while_loop(lambda c: c < 3, lambda c: c + n, y)
            u = loops.fori_loop(0, 4, lambda i, c: c + i, z)
            return u, loops.map(jnp.tanh, ys, batch_size=2), loops.fori_loop(0, n, lambda i, c: c * 2, u)

        return run

    args = jnp.arange(4.0), 2
    assert str(jax.make_jaxpr(program(_loops))(*args)) == str(jax.make_jaxpr(program(lax))(*args))
    close(program(_loops)(*args), program(lax)(*args))
    weak, count = (
        _loops.scan(lambda c, _: (c + 1.5, None), 0, None, length=2)[0],
        _loops.fori_loop(0, 3, lambda i, c: c + 1, 0),
    )
    assert float(weak) == 3.0
    assert int(count) == 3  # weak types are promoted as lax does
    with pytest.raises(TypeError, match="carry"):
        _loops.scan(lambda c, _: (jnp.stack([c, c]), None), jnp.float32(0), None, length=2)


def test_native_loops_elsewhere(net, monkeypatch):
    p, x = net
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert has_conv(partial(sgd, _loops.scan), p, x)
    assert _loops.rewrite(cnn)(p, x).shape == (4, 3)
    assert has_conv(_loops.rewrite(cnn), p, x)


def test_disable_jit_and_keys(net, key):
    p, x = net

    def noisy(loops, key):
        return loops.scan(
            lambda k, _: (jax.random.split(k)[0], cnn(p, x + jax.random.normal(k, x.shape))), key, None, length=2
        )[1]

    close(noisy(_loops, key), noisy(lax, key))
    with jax.disable_jit():
        close(noisy(_loops, key), noisy(lax, key))


def test_weights_stay_arguments(net):
    """New parameters, same program: nothing of the model is baked into the rewritten body."""
    p, x = net
    traces = []

    @jax.jit
    def step(p, x):
        traces.append(p)
        return attack(_loops, p, x)

    step(p, x)
    step(jax.tree.map(lambda a: 2 * a, p), x)
    assert len(traces) == 1
    assert jax.make_jaxpr(partial(attack, _loops))(p, x).consts == []


@pytest.mark.parametrize("host", [False, True], ids=["device", "numpy"])
def test_map_where_is_a_selection(host):
    """Values and gradients, alone, vmapped over shared and own arguments, twice."""
    keys = jax.random.split(jax.random.key(0), 3)
    w, x, d = jax.random.normal(keys[0], (5, 7)), jax.random.normal(keys[1], (4, 5)), jnp.arange(28.0).reshape(4, 7)
    active = jax.random.bernoulli(keys[2], 0.4, (4, 7)).at[1].set(False).at[2].set(True)
    held, x = (np.asarray(w), np.asarray(x)) if host else (w, x)

    def ours(w, x, active, d):
        h = jnp.tanh(x @ w)
        return _loops.map_where(lambda i: h[i] ** 2 + jnp.sum(((held * w)[:, i]) * x), active, d, batch_size=2)

    def theirs(w, x, active, d):
        return jnp.where(active, jnp.tanh(x @ w) ** 2 + jnp.sum(held * w * x[:, None], 0), d)

    def over(fn):
        return jax.vmap(jax.vmap(fn, (None, 0, 0, 0)), (0, None, None, None))

    def loss(fn):
        return lambda w, x, d: jnp.sum(jnp.sin(over(fn)(jnp.stack([w, 2 * w]), x, active, d)))

    np.testing.assert_allclose(ours(w, x[0], active[0], d[0]), theirs(w, x[0], active[0], d[0]), atol=1e-5)
    np.testing.assert_allclose(*(jax.jit(loss(fn))(w, x, d) for fn in (ours, theirs)), rtol=1e-5)
    for a, b in zip(*(jax.grad(loss(fn), (0, 1, 2))(w, x, d) for fn in (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_map_where_over_all_is_a_plain_vmap_whose_gradient_is_shared(key):
    n, size, width = 5, 7, 11
    x = jax.random.normal(key, (size, width))
    w = jax.random.normal(jax.random.fold_in(key, 1), (width, n, 3))

    def total(w, x, active, batch_size):
        def one(x):
            f = lambda i: jnp.sum(jnp.tanh(x @ w[:, i])) * (1 + i)  # noqa: E731
            return jnp.sum(_loops.map_where(f, active, jnp.ones(n), batch_size=batch_size) ** 2)

        return jnp.sum(jax.vmap(one)(x))

    expected = jax.value_and_grad(lambda w, x: total(w, x, jnp.ones(n, bool), n), (0, 1))(w, x)
    for batch_size in (n, 2 * n, 2):
        got = jax.value_and_grad(lambda w, x, m=batch_size: total(w, x, None, m), (0, 1))(w, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)
    forward = jax.jvp(lambda w: total(w, x, None, n), (w,), (jnp.ones_like(w),))[1]
    np.testing.assert_allclose(forward, jnp.sum(expected[1][0]), rtol=1e-3)

    def shapes(active, batch_size=n):
        return str(jax.make_jaxpr(jax.grad(lambda w: total(w, x, active, batch_size)))(w))

    each = f"f32[{size},{width},{n},3]"  # the weights' gradient of each example by itself
    assert each not in shapes(None)
    assert each in shapes(jnp.ones(n, bool))


def test_kept_is_the_identity_with_its_derivative_and_one_place_in_memory(monkeypatch):
    x = jnp.array([-1.0, 2.0, jnp.nan, jnp.inf])

    def twice(x):
        (v,) = _loops.kept([jnp.where(x > 0, x, 0.5 * x) + 1.0])
        return v, v[::-1]

    plain = jnp.where(x > 0, x, 0.5 * x) + 1.0
    np.testing.assert_array_equal(jax.jit(twice)(x)[0], plain)
    np.testing.assert_array_equal(jax.vmap(twice)(x[:, None])[0][:, 0], plain)
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(twice(x)[0]))(x[:2]), [0.5, 1.0])
    np.testing.assert_array_equal(jax.jvp(lambda x: twice(x)[0], (x[:2],), (jnp.ones(2),))[1], [0.5, 1.0])
    assert "conditional(" in jax.jit(twice).lower(x).compile().as_text()  # XLA has not seen through it
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "cond" not in str(jax.make_jaxpr(lambda x: twice(x))(x))


def test_the_weight_gradient_of_a_large_cotangent_agrees_with_lax():
    numbers = ("NHWC", "HWIO", "NHWC")
    x, g = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(300, 16, 16, 3), (300, 8, 8, 56)]))
    assert g.size >= 2**20

    def gradient(w):
        return jax.vjp(lambda w: lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=numbers), w)[1](g)[0]

    w = jnp.zeros((3, 3, 3, 56))
    np.testing.assert_allclose(_loops.rewrite(gradient)(w), gradient(w), rtol=1e-4, atol=1e-3)
    text = jax.jit(_loops.rewrite(gradient)).lower(w).compile().as_text()
    assert "convolution(" not in text
