"""The reference's micro model with either SAM: config, weights by name, inputs and intermediate results."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.model.adapters import adapted
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import AV2TSamConfig, Beit3Config, Feature, Sam1Config, Sam2Config
from av2t_core.segmenters.evf_sam import best_mask
from av2t_core.segmenters.evf_sam2 import EvfSam2
from av2t_core.segmenters.reference import load_reference_state_dict, to_reference_state_dict
from tests.data.golden import by_name

Backbone = Literal["evf_sam2", "evf_sam"]
BACKBONES: tuple[Backbone, ...] = ("evf_sam2", "evf_sam")
GOLDEN = Path(by_name.__file__).parent

_BEIT3 = Beit3Config(image_size=224, width=32, layers=2, heads=4, ffn_width=64)
MICRO: dict[Backbone, AV2TSamConfig] = {
    "evf_sam2": AV2TSamConfig(
        beit3=_BEIT3,
        sam=Sam2Config(
            image_size=128,
            embed_dim=8,
            num_heads=1,
            stages=(1, 2, 3, 1),
            global_att_blocks=(4,),
            window_spec=(8, 4, 14, 7),
            width=32,
            memory_layers=1,
            memory_ffn_width=64,
            memory_width=16,
        ),
    ),
    "evf_sam": AV2TSamConfig(
        beit3=_BEIT3,
        sam=Sam1Config(
            image_size=128, embed_dim=32, num_heads=4, blocks=4, global_att_blocks=(1, 3), window_size=5, width=32
        ),
    ),
}
VOCABULARY = 32  # rows of the micro model's word table


def micro(backbone: Backbone = "evf_sam2", feature: Feature = "mul", adapter: bool = True) -> AV2TSam:
    """The complete model, as the reference's state dict has it."""
    config = replace(MICRO[backbone], feature=feature, adapter=adapter).complete(vocabulary=VOCABULARY)
    model = AV2TSam(config).eval()
    load_reference_state_dict(model, reference_weights(model))
    return model


def reference_weights(model: AV2TSam) -> dict[str, Tensor]:
    """The weights that the reference's golden files were made with, under the authors' names."""
    shapes = {key: tuple(tensor.shape) for key, tensor in to_reference_state_dict(model).items()}
    return {key: torch.from_numpy(by_name.tensor(key, shape)) for key, shape in shapes.items()}


def golden(backbone: Backbone) -> dict[str, NDArray[np.float32]]:
    """ROW/RESULT to the reference's numbers, of the first frame alone where they are large."""
    with np.load(GOLDEN / f"micro_{backbone}.npz") as file:
        return dict(file)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """images_sam, images_mm, v, a of 2 clips of 2 frames, as one batch of 4."""
    embeddings = golden("evf_sam2")
    arrays = (
        by_name.tensor_input("micro.images_sam", (2, 2, 3, 128, 128)),
        by_name.tensor_input("micro.images_beit", (2, 2, 3, 224, 224)),
        embeddings["clip_embeddings"],
        embeddings["clap_embeddings"],
    )
    first, second, third, fourth = (torch.from_numpy(array).flatten(0, 1) for array in arrays)
    return first, second, third, fourth


@torch.inference_mode()
def results(model: AV2TSam, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
    """Every intermediate result under the golden files' name for it, (4, …)."""
    images_sam, images_mm, v, a = batch
    segmenter = model.segmenter
    f = model.projector.feature(v, a)
    text = model.projector.tokens(f)
    additions = model.adapters(f) if model.adapters is not None else None
    sequence = segmenter.multimodal(images_mm, text)
    prompt = segmenter.prompt(images_mm, text)
    with adapted(segmenter.blocks, additions):
        features = segmenter.image_features(images_sam)
        encoder = segmenter.sam.image_encoder
        stages = encoder.trunk(images_sam) if isinstance(segmenter, EvfSam2) else []
    logits, ious = model.candidates(*batch)
    best = best_mask(logits, ious)
    found = {
        "projector_features": f,
        "text_embeddings": text.flatten(1),
        "beit3_encoder_out": sequence,
        "beit3_feat": sequence[:, :1],
        "text_hidden": prompt,
        "sparse_embeddings": prompt,
        "low_res_masks": logits,
        "iou_predictions": ious,
        "low_res_best": best,
        "masks": segmenter.upsample(best, (224, 224)),
    }
    found |= {f"prompt_{i}": addition for i, addition in enumerate(additions or [])}
    if isinstance(segmenter, EvfSam2):
        fpn, _ = encoder.neck(stages)
        found |= {f"trunk_{i}": stage for i, stage in enumerate(stages)}
        found |= {f"fpn_{i}": level for i, level in enumerate(fpn[:3])}
        decoded = segmenter.levels(features)
        found |= dict(zip(("decoder_high_res_0", "decoder_high_res_1", "decoder_image_embed"), decoded, strict=True))
    else:
        found["image_embeddings"] = features[0]
    return found


def difference(ours: Tensor, theirs: NDArray[np.float32]) -> float:
    """The largest absolute one; `theirs` may hold fewer frames than `ours`, and names its own shape."""
    frames = theirs.reshape(-1, *theirs.shape[2:]) if theirs.shape[:2] == (2, 2) else theirs
    return float(np.abs(ours[: len(frames)].numpy().reshape(frames.shape) - frames).max())
