"""Graphs in the form of TensorFlow.js: a JSON file with the nodes, and a binary file with the weights."""

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[Any]]
Nodes = Sequence[Mapping[str, Any]]

_FUSED = {"_FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative"}


def read(folder: Path, name: str) -> tuple[Nodes, Weights]:
    """The nodes, and the values of the constants among them. AssertionError: the weights are not those described."""
    graph = json.loads((folder / f"{name}.json").read_text())
    return graph["modelTopology"]["node"], _weights(graph, (folder / f"{name}.bin").read_bytes())


def _weights(graph: Mapping[str, Any], content: bytes) -> Weights:
    """They lie one after the other."""
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


def run(
    nodes: Nodes, weights: Weights, feed: Mapping[str, NDArray[np.float32]], outputs: Sequence[str]
) -> list[NDArray[np.float32]]:
    """What TensorFlow makes of the inputs in the graph: the outputs, which are named as `node:0`."""
    # It takes seconds, and the product does without it.
    import tensorflow  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from google.protobuf import json_format  # type: ignore[import-untyped]

    definition = tensorflow.compat.v1.GraphDef()
    known = [each for node in nodes for each in _known(node)]
    json_format.ParseDict({"node": known}, definition)
    for node in definition.node:
        if node.op == "Const":
            dtype = node.attr["dtype"].type  # int64 is stored as int32
            node.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(weights[node.name], dtype))
    with tensorflow.Graph().as_default() as graph, tensorflow.compat.v1.Session(graph=graph) as session:
        tensorflow.graph_util.import_graph_def(definition, name="")
        said: list[NDArray[np.float32]] = session.run(list(outputs), dict(feed))
    return said


def _known(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The node in operations that TensorFlow takes: TensorFlow.js fuses convolutions with what comes after them."""
    if node["op"] not in _FUSED:
        return [node]
    name, (image, kernel, bias) = node["name"], node["input"]
    after = [base64.b64decode(each).decode() for each in node["attr"]["fused_ops"]["list"]["s"]]
    assert after in (["BiasAdd"], ["BiasAdd", "Relu"]), f"{name} is fused with {after}"
    attributes = {key: node["attr"][key] for key in ("T", "data_format", "strides", "padding", "dilations")}
    of_sum = {key: attributes[key] for key in ("T", "data_format")}
    parts = [
        {"op": _FUSED[node["op"]], "input": [image, kernel], "attr": attributes},
        {"op": "BiasAdd", "input": [f"{name}/0", bias], "attr": of_sum},
        {"op": "Relu", "input": [f"{name}/1"], "attr": {"T": attributes["T"]}},
    ][: 1 + len(after)]
    # The last has the name by which others know the node.
    names = [f"{name}/{index}" for index in range(len(after))] + [name]
    return [{**part, "name": each} for part, each in zip(parts, names, strict=True)]
