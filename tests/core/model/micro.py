"""The reference's micro model with either SAM: config, weights by name, inputs and intermediate results."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from av2t_core.model.adapters import adapted
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import AV2TSamConfig, Feature
from av2t_core.segmenters.beit3 import Beit3Config
from av2t_core.segmenters.evf_sam import EvfSam, EvfSamConfig
from av2t_core.segmenters.evf_sam1 import EvfSam1Config, Sam1Config
from av2t_core.segmenters.evf_sam2 import EvfSam2, EvfSam2Config, Sam2Config
from tests.data.golden import by_name

Backbone = Literal["evf_sam2", "evf_sam"]
BACKBONES: tuple[Backbone, ...] = ("evf_sam2", "evf_sam")
GOLDEN = Path(by_name.__file__).parent

_BEIT3 = Beit3Config(image_size=224, width=32, layers=2, heads=4, ffn_width=64)
SEGMENTERS: dict[Backbone, EvfSam1Config | EvfSam2Config] = {
    "evf_sam2": EvfSam2Config(
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
    "evf_sam": EvfSam1Config(
        beit3=_BEIT3,
        sam=Sam1Config(
            image_size=128, embed_dim=32, num_heads=4, blocks=4, global_att_blocks=(1, 3), window_size=5, width=32
        ),
    ),
}
MICRO = {backbone: AV2TSamConfig(segmenter=segmenter) for backbone, segmenter in SEGMENTERS.items()}
VOCABULARY = 32  # rows of the micro model's word table


def micro(backbone: Backbone = "evf_sam2", feature: Feature = "mul", adapter: bool = True) -> AV2TSam:
    """The complete model, as the reference's state dict has it."""
    config = replace(complete(MICRO[backbone], VOCABULARY), feature=feature, adapter=adapter)
    model = AV2TSam(config).eval()
    load_reference_state_dict(model, reference_weights(model))
    return model


def complete(config: AV2TSamConfig, vocabulary: int = 64010) -> AV2TSamConfig:
    """The same with all that the authors' state dicts hold."""
    return replace(config, segmenter=cast(EvfSamConfig, config.segmenter).complete(vocabulary))  # type: ignore[arg-type]


def load_reference_state_dict(model: AV2TSam, state: Mapping[str, Tensor]) -> None:
    """A model on the meta device takes the tensors themselves, any other one copies them."""
    empty = any(parameter.is_meta for parameter in model.parameters())
    model.load_state_dict(model.from_checkpoint(state), assign=empty)


def to_reference_state_dict(model: AV2TSam) -> dict[str, Tensor]:
    """The model's weights under the authors' names; all of theirs if it is of a `complete` config."""
    return {model.published_name(key): tensor for key, tensor in model.state_dict().items()}


def evf(model: AV2TSam) -> EvfSam:
    assert isinstance(model.segmenter, EvfSam)
    return model.segmenter


def reference_weights(model: AV2TSam) -> dict[str, Tensor]:
    """The weights that the reference's golden files were made with, under the authors' names."""
    shapes = {key: tuple(tensor.shape) for key, tensor in to_reference_state_dict(model).items()}
    return {key: torch.from_numpy(by_name.tensor(key, shape)) for key, shape in shapes.items()}


def golden(backbone: Backbone) -> dict[str, NDArray[np.float32]]:
    """ROW/RESULT to the reference's numbers, of the first frame alone where they are large."""
    with np.load(GOLDEN / f"micro_{backbone}.npz") as file:
        return dict(file)


Batch = tuple[dict[str, Tensor], Tensor, Tensor]
"""images, v, a."""


def inputs() -> Batch:
    """Of 2 clips of 2 frames, as one batch of 4."""
    embeddings = golden("evf_sam2")
    arrays = (
        by_name.tensor_input("micro.images_sam", (2, 2, 3, 128, 128)),
        by_name.tensor_input("micro.images_beit", (2, 2, 3, 224, 224)),
        embeddings["clip_embeddings"],
        embeddings["clap_embeddings"],
    )
    first, second, third, fourth = (torch.from_numpy(array).flatten(0, 1) for array in arrays)
    return {"sam": first, "multimodal": second}, third, fourth


def some(batch: Batch, frames: slice) -> Batch:
    images, v, a = batch
    return {name: image[frames] for name, image in images.items()}, v[frames], a[frames]


@torch.inference_mode()
def results(model: AV2TSam, batch: Batch) -> dict[str, Tensor]:
    """Every intermediate result under the golden files' name for it, (4, …)."""
    images, v, a = batch
    segmenter = evf(model)
    f = model.projector.feature(v, a)
    text = model.projector.tokens(f)
    additions = model.adapters(f) if model.adapters is not None else None
    sequence = segmenter.multimodal(images["multimodal"], text)
    prompt = segmenter.prompt(images["multimodal"], text)
    with adapted(segmenter.blocks, additions):
        features = segmenter.image_features(images["sam"])
        encoder = segmenter.sam.image_encoder
        stages = encoder.trunk(images["sam"]) if isinstance(segmenter, EvfSam2) else []
    candidates = model.candidates(*batch)
    best = candidates.union
    found = {
        "projector_features": f,
        "text_embeddings": text.flatten(1),
        "beit3_encoder_out": sequence,
        "beit3_feat": sequence[:, :1],
        "text_hidden": prompt,
        "sparse_embeddings": prompt,
        "low_res_masks": candidates.logits,
        "iou_predictions": candidates.scores,
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
