"""Flax NNX models: images [B, H, W, C] in [0, 1] to logits [B, K], with the normalisation inside."""

from jrobust.models._create import create, ibp_init, registry
from jrobust.models._plain import cnn7, cnn_medium, cnn_small, mlp
from jrobust.models._residual import preact_resnet18, wide_resnet
from jrobust.models._transformer import vit_tiny

__all__ = [
    "cnn7",
    "cnn_medium",
    "cnn_small",
    "create",
    "ibp_init",
    "mlp",
    "preact_resnet18",
    "registry",
    "vit_tiny",
    "wide_resnet",
]
