"""Flax NNX models: images [B, H, W, C] in [0, 1] to logits [B, K], with the normalisation inside."""

from jrobust.models._create import create, ibp_init, registry
from jrobust.models._lipschitz import BjorckLinear, CayleyConv, lipschitz_cnn, lipschitz_mlp, max_min
from jrobust.models._plain import cnn7, cnn_medium, cnn_small, mlp
from jrobust.models._residual import preact_resnet18, wide_resnet
from jrobust.models._spectral import Spectral, spectral_mlp
from jrobust.models._transformer import vit_tiny
from jrobust.models._unet import unet

__all__ = [
    "BjorckLinear",
    "CayleyConv",
    "Spectral",
    "cnn7",
    "cnn_medium",
    "cnn_small",
    "create",
    "ibp_init",
    "lipschitz_cnn",
    "lipschitz_mlp",
    "max_min",
    "mlp",
    "preact_resnet18",
    "registry",
    "spectral_mlp",
    "unet",
    "vit_tiny",
    "wide_resnet",
]
