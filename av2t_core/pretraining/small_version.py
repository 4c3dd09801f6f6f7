"""Joins the converted parts of `small` to the model version that ships.

    python -m av2t_core.pretraining.small_version PARTS CUTOUTS POLYGONS CLIPS DIRECTORY

PARTS holds yamnet.safetensors, imagenet.safetensors, mobile_sam.safetensors, nanodet.safetensors and
faces.safetensors, as the scripts beside this one write them. Large tensors of SAM and of ImageNet's net are stored as
bytes, all others as halves. The projector and the adapters are drawn so that they say nothing: what sounds is found by
its name, until a project teaches more.

CUTOUTS are composed to clips that nothing learns from: what things sound and look like on them is the replay, beside
which a project's names are learned. Its scores are calibrated on the real clips that POLYGONS, tests/data/real_clips,
outlines; CLIPS is the folder `media` of the set that `av2t_core.data.real_clips` writes. They cannot judge them, too.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from av2t_core.data.composed_set import composed_windows
from av2t_core.data.cutouts import Cutouts
from av2t_core.data.real_clips import read_real_clips
from av2t_core.evaluation.reliability import Observed, fit_to
from av2t_core.media.clip import Clip
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.inputs import to_device
from av2t_core.model.presets import PRESETS
from av2t_core.prediction.predictor import Predictor, crop
from av2t_core.segmenters.mobile_sam import MobileSam
from av2t_core.training import replay
from av2t_core.versions.checkpoint import SCALE, build, fill, read_tensors
from av2t_core.versions.names import REPLAY_FILE, WEIGHTS_FILE
from av2t_core.versions.saving import save_version

SEED = 0
WHOLE = "positional_encoding_gaussian_matrix"
"""By which SAM places prompts: half its digits would move them."""
CLIPS = 60
SMALL = 16_384
"""Tensors with fewer numbers stay halves, …"""
PRECISE = ("audio_encoder.", "finder.")
"""… and all of these parts, which are small and decide what is there at all."""
PARTS = {
    "mobile_sam": "model.segmenter.",
    "imagenet": "image_encoder.",
    "yamnet": "audio_encoder.",
    "nanodet": "finder.detector.",
    "faces": "finder.faces.",
}
"""The names of the files, and what their tensors begin with in a model version."""


def join(parts: Path, folder: Path, polygons: Path, clips: Path, directory: Path) -> None:
    """WeightsError: there is a version in `directory` already. DataError: there are no cutouts in `folder`."""
    tensors: dict[str, Tensor] = {}
    for name, prefix in PARTS.items():
        tensors |= {prefix + key: tensor for key, tensor in load_file(parts / f"{name}.safetensors").items()}
    torch.manual_seed(SEED)
    model = AV2TSam(PRESETS["small"].config())
    model.load_state_dict(
        {key.removeprefix("model."): t for key, t in tensors.items() if key.startswith("model.")}, strict=False
    )
    _silence(model)
    tensors |= {f"model.{key}": t for key, t in model.state_dict().items() if not key.startswith("segmenter.")}
    stored = dict(each for key, tensor in tensors.items() for each in _stored(key, tensor))
    with TemporaryDirectory() as made:
        save_file(stored, Path(made) / WEIGHTS_FILE)
        read = read_tensors(Path(made) / WEIGHTS_FILE, torch.device("cpu"))
        loaded = fill(build("small"), read, torch.device("cpu"), "fp32")
    cutouts = Cutouts.load(folder, "sounding")
    predictor = Predictor(directory.name, loaded)
    with TemporaryDirectory() as made:
        replayed = Path(made) / REPLAY_FILE
        card: dict[str, object] = {
            "preset": "small",
            "labels": [],
            "parent": None,
            "calibration": asdict(fit_to(_observed(predictor, polygons, clips))),
            "replay_sha256": replay.keep(replayed, _replay(predictor, cutouts)),
        }
        save_version(directory, card, stored, [replayed])


@torch.no_grad()
def _silence(model: AV2TSam) -> None:
    """Have it say nothing: its text tokens are SAM's own for a prompt that is not there, its adapters add zeros."""
    last, segmenter = model.projector.to_text_space[-1], model.segmenter
    assert isinstance(last, nn.Linear)
    assert isinstance(segmenter, MobileSam)
    last.weight.zero_()
    last.bias.copy_(segmenter.sam.prompt_encoder.not_a_point_embed.weight[0].repeat(model.config.text_tokens))
    assert model.adapters is not None
    for block in model.adapters.blocks:
        block[-1].weight.zero_()  # type: ignore[index]


def _stored(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A large matrix or convolution as bytes, with a scale for each of its outputs; what else there is as halves."""
    if tensor.ndim < 2 or tensor.numel() < SMALL or name.endswith(WHOLE) or name.startswith(PRECISE):
        yield name, tensor if name.endswith(WHOLE) else tensor.half()
        return
    scale = tensor.float().abs().flatten(1).amax(dim=1).clamp(min=1e-12) / 127
    yield name, (tensor.float() / scale.reshape(-1, *[1] * (tensor.ndim - 1))).round().to(torch.int8)
    yield name + SCALE, scale


def _observed(predictor: Predictor, polygons: Path, clips: Path) -> Observed:
    files = {path.stem: path for path in clips.iterdir()}
    for real in read_real_clips(polygons):
        with Clip(files[real.name]) as clip:
            for seen, keyframe in zip(predictor.predict(clip.windows()), real.keyframes, strict=True):
                if keyframe.scored:
                    height, width = seen.image.shape[:2]
                    yield seen, [thing.mask(height, width) for thing in keyframe.things]


@torch.inference_mode()
def _replay(predictor: Predictor, cutouts: Cutouts) -> replay.Replay:
    """Of the surroundings of things that sound, and of whole frames where none does, with their sounds."""
    loaded = predictor.loaded
    v, a = [], []
    for window, truth in composed_windows(cutouts.part("train"), CLIPS, seed=3):
        for seen in [crop(window.image, mask) for mask in truth] or [window.image]:
            v.append(loaded.image_encoder.encode(to_device([seen], loaded.device)))
            a.append(loaded.audio_encoder.encode([window.sound]))
    return replay.Replay(v=torch.cat(v), a=torch.cat(a))


if __name__ == "__main__":
    join(*map(Path, sys.argv[1:]))
