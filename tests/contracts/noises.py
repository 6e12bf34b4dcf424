"""The table of smoothing noises: each with an example that it takes."""

import jax.numpy as jnp

from jrobust import smoothing

FLAT = jnp.array([0.2, -0.4, 1.0, 0.7])
IMAGE = jnp.linspace(0.0, 1.0, 4 * 4 * 3).reshape(4, 4, 3)
CLOUD = jnp.linspace(-1.0, 1.0, 20 * 3).reshape(20, 3)
BITS = jnp.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0])

NOISES = {
    "gaussian": (smoothing.gaussian(0.5), FLAT),
    "gaussian l1": (smoothing.gaussian(0.5, norm="l1"), FLAT),
    "gaussian linf": (smoothing.gaussian(0.5, norm="linf"), IMAGE),
    "anisotropic": (smoothing.anisotropic(jnp.array([0.5, 1.0, 0.25, 2.0])), FLAT),
    "laplace": (smoothing.laplace(0.3), FLAT),
    "laplace l2": (smoothing.laplace(0.3, norm="l2"), IMAGE),
    "exponential l2": (smoothing.exponential(0.1, of="l2"), FLAT),
    "exponential linf": (smoothing.exponential(0.1), IMAGE),
    "exponential linf in l2": (smoothing.exponential(0.1, norm="l2"), FLAT),
    "uniform": (smoothing.uniform(0.5), FLAT),
    "uniform linf": (smoothing.uniform(0.5, norm="linf"), IMAGE),
    "uniform l2": (smoothing.uniform(0.5, norm="l2"), FLAT),
    "uniform ball": (smoothing.uniform_ball(1.0), FLAT),
    "uniform ball linf": (smoothing.uniform_ball(1.0, norm="linf"), IMAGE),
    "flips": (smoothing.flips(0.05, 0.4), BITS),
    "ablation": (smoothing.ablation(2), jnp.tile(FLAT, 20)),
    "ablation of pixels": (smoothing.ablation(1, pixels=True), IMAGE),
    "hierarchical": (smoothing.hierarchical(0.5, p=0.9, touched=2), IMAGE),
    "hierarchical flips": (smoothing.hierarchical_flips(0.05, 0.4, p=0.9, touched=1), BITS[:, None]),
    "left half": (smoothing.halves(0.5)[0], IMAGE),
    "right half": (smoothing.halves(0.5)[1], IMAGE),
    "subsample": (smoothing.subsample(2), CLOUD),
    "subsample, deletion": (smoothing.subsample(2, change="delete"), CLOUD),
    "brightness": (smoothing.brightness(0.3), IMAGE),
    "contrast": (smoothing.contrast(0.3), IMAGE),
    "brightness and contrast": (smoothing.brightness_contrast(0.3, 0.2, contrast=0.1), IMAGE),
    "translation": (smoothing.translation(1.5), IMAGE),
    "blur": (smoothing.blur(0.7), IMAGE),
}
