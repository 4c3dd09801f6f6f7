"""The recipe of the `tiny` preset: encoders, then the trunk, then all of AV2T-SAM on composed frames.

    audio   multi-label tagging of mixtures against the prototypes
    image   multi-label tagging of frames against the same prototypes, from what ImageNet taught EfficientNet-Lite0
    trunk   SAM2's image encoder, likewise, by the class of every pixel, which composed frames give for free
    joint   the paper's model and loss, encoders frozen; the same frame with two sounds, so that only listening helps.
            The class of every pixel goes on being asked, now of what sounds alone: what only adapters can tell
    settle  both encoders and, at the preset's size, the whole once more, now also with the photographs and recordings
            that were held out

Every stage writes its result and is skipped when that exists; an interrupted stage goes on from its last checkpoint.
"""

import signal
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F

from av2t_core.data.avsbench import FRAMES
from av2t_core.data.composed_set import composed_windows
from av2t_core.data.cutouts import Cutouts
from av2t_core.encoders.efficientnet import EfficientNetLite
from av2t_core.encoders.tiny import TinyAudioEncoder, TinyEncodersConfig, TinyImageEncoder
from av2t_core.evaluation.reliability import CLIPS, fit
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.inputs import normalise_sam, to_device
from av2t_core.model.presets import PRESETS
from av2t_core.prediction.predictor import Predictor
from av2t_core.pretraining.composed_frames import draw_frames, draw_hearing, draw_sound, evaluate, sounding_mask
from av2t_core.pretraining.imagenet_weights import imagenet_weights
from av2t_core.pretraining.stages import StagesFolder
from av2t_core.pretraining.taggers import (
    DenseHead,
    DenseTagger,
    Tagger,
    candidates_loss,
    pixel_loss,
    tagging_loss,
)
from av2t_core.segmenters.evf_sam2 import EvfSam2, EvfSam2Config
from av2t_core.training import replay
from av2t_core.versions.checkpoint import build, fill, read_tensors
from av2t_core.versions.names import REPLAY_FILE
from av2t_core.versions.saving import save_version
from av2t_core.versions.version import resolve

STAGES = ("audio", "image", "trunk", "joint", "settle")
# The last blocks of the image encoder, at S/32, learn the classes; those before stay as ImageNet taught them.
_FROZEN_BLOCKS = 7
State = dict[str, Tensor]
_TINY = EvfSam2.sizes["tiny"]


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """`trunk_lr` counts in each tensor's own size (RMS): what ImageNet taught has tensors of very different sizes.

    `start`: a model version of this preset, which learns on: it goes through the last stage alone.
    """

    start: str | None = None
    seed: int = 7
    audio_steps: int = 520
    image_steps: int = 320
    trunk_steps: int = 700
    joint_steps: tuple[int, ...] = (700, 850, 1000)  # at each of `sizes`, the trunk's steps at the first
    settle_steps: tuple[int, int, int] = (150, 150, 1200)  # of the sound's encoder, the image's, and the whole
    sizes: tuple[int, ...] = (128, 192, 256)
    trunk_lr: float = 2e-3
    lr: float = 1e-3
    batch: int = 8  # frames; each is used with `draws` sounds
    draws: int = 2
    checkpoint_steps: int = 100

    @classmethod
    def onward(cls, start: str, seed: int) -> Self:
        return cls(start=start, seed=seed, settle_steps=(250, 0, 1250))

    @property
    def stages(self) -> tuple[str, ...]:
        return STAGES if self.start is None else STAGES[-1:]


def train_tiny(
    cutouts: Cutouts, out: Path, *, recipe: TinyRecipe, stages: Sequence[str] | None = None, processes: int = 1
) -> None:
    """Runs those of its stages, or of `stages`, that are not done yet; progress goes to the terminal and OUT/log.jsonl.

    `processes` share each step's gradients, every one with a batch of its own; on a CPU they are faster than as many
    threads.
    """
    out.mkdir(parents=True, exist_ok=True)
    left = [stage for stage in stages or recipe.stages if not (out / f"{stage}.pt").exists()]
    if left:
        (out / "rendezvous").unlink(missing_ok=True)
        spawn(  # type: ignore[no-untyped-call]
            _process, (processes, cutouts, out, recipe, left), nprocs=processes
        )


def _process(rank: int, processes: int, cutouts: Cutouts, out: Path, recipe: TinyRecipe, stages: Sequence[str]) -> None:
    # By it torch tells of the parent's death; whoever was started in the background would ignore it, and train on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{(out / 'rendezvous').absolute()}", rank=rank, world_size=processes
    )
    run = Run(out, recipe, cutouts)
    for stage in stages:
        torch.manual_seed(recipe.seed)
        getattr(run, stage)()
    distributed.destroy_process_group()


def keep_version(
    cutouts: Cutouts,
    out: Path,
    *,
    recipe: TinyRecipe,
    directory: Path,
    settled: bool = True,
    frames: int = 150,
    clips: int = CLIPS,
    replayed_clips: int = replay.WINDOWS // FRAMES,
) -> None:
    """The stages' results as a model version, with its calibration, its scores, and a replay of its training.

    It is calibrated on `clips` clips and scored on `frames` frames, all of which no stage has seen. `settled` False: as
    it was before the last stage, when the held-out photographs and recordings were new to it.
    """
    stage = "settle" if settled else "joint"
    tensors = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in torch.load(out / f"{stage}.pt", weights_only=True).items()
    }
    loaded = fill(build("tiny", labels=cutouts.labels), tensors.items(), torch.device("cpu"), "fp32")
    calibration = fit(Predictor(directory.name, loaded), cutouts, clips)
    predictor = Predictor(directory.name, loaded, calibration=calibration)
    v, a = [], []
    with torch.inference_mode():
        for window, _ in composed_windows(cutouts.part("train"), replayed_clips, seed=3):
            v.append(loaded.image_encoder.encode(to_device([window.image], loaded.device)))
            a.append(loaded.audio_encoder.encode([window.sound]))
    replayed = out / REPLAY_FILE
    card = {
        "preset": "tiny",
        "labels": cutouts.labels,
        "parent": None,
        "recipe": asdict(recipe),
        "calibration": asdict(calibration),
        "metrics": evaluate(predictor, cutouts.part("val"), frames),
        "replay_sha256": replay.keep(replayed, replay.Replay(v=torch.cat(v), a=torch.cat(a))),
    }
    save_version(directory, card, tensors, [replayed])


class _Encoders(nn.Module):
    """Both, by the names that a model version has for them."""

    def __init__(self, config: TinyEncodersConfig) -> None:
        super().__init__()
        audio = TinyAudioEncoder(config)  # drawn first
        self.image_encoder, self.audio_encoder = TinyImageEncoder(config), audio


class Run:
    """The stages; each is a model, a batch's loss and an optimiser, given to the one loop."""

    def __init__(self, out: Path, recipe: TinyRecipe, cutouts: Cutouts) -> None:
        self.recipe = recipe
        self.folder = StagesFolder(out, seed=recipe.seed, checkpoint_steps=recipe.checkpoint_steps)
        self.training = cutouts.part("train")
        self.everything = replace(self.training, images=cutouts.images, sounds=cutouts.sounds)
        self.encoders = TinyEncodersConfig(labels=cutouts.labels)

    def audio(self) -> None:
        self._fit_audio("audio", TinyAudioEncoder(self.encoders), self.training, self.recipe.audio_steps, 2e-3)

    def image(self) -> None:
        model, learned = TinyImageEncoder(self.encoders), imagenet_weights()
        model.trunk.load_state_dict(learned.trunk_for_sam)
        model.last.load_state_dict(learned.last)
        self._fit_image("image", model, self.training, self.recipe.image_steps, 1e-3)

    def trunk(self) -> None:
        model = DenseTagger(_segmenter(self.recipe.sizes[0]), self.encoders)
        model.trunk.load_state_dict(imagenet_weights().trunk_for_sam)

        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, self.training, 2 * self.recipe.batch, self.recipe.sizes[0], varied=True)
            return pixel_loss(model(normalise_sam(_batch(frames.images))), frames.owners)

        groups = _groups(model, model.trunk, 1.5 * self.recipe.trunk_lr, self.recipe.lr)
        self.folder.fit("trunk", model, loss, groups, self.recipe.trunk_steps)

    def joint(self) -> None:
        encoders = self._encoders("audio", "image")
        weights = self._initial_weights()
        for key, tensor in self.folder.result("trunk").items():
            if key.startswith("sam.image_encoder."):
                weights[f"model.segmenter.{key}"] = tensor
            elif key.startswith("head."):
                weights[key] = tensor
        for size, steps in zip(self.recipe.sizes, self.recipe.joint_steps, strict=True):
            name, scale = f"joint{size}", 1.0 if size == self.recipe.sizes[0] else 0.7
            self._fit_joint(name, weights, encoders, self.training, size, steps, scale)
            weights = self.folder.result(name)
        self._keep_whole("joint", weights, encoders)

    def settle(self) -> None:
        if self.recipe.start:
            encoders, weights = self._start(self.recipe.start)
        else:
            encoders = self._encoders("audio", "image")
            weights = self.folder.result(f"joint{self.recipe.sizes[-1]}")
        audio_steps, image_steps, steps = self.recipe.settle_steps
        self._fit_audio("settle-audio", encoders.audio_encoder, self.everything, audio_steps, 5e-4)
        self._fit_image("settle-image", encoders.image_encoder, self.everything, image_steps, 3e-4)
        encoders = self._encoders("settle-audio", "settle-image")
        size = _TINY.image_size
        self._fit_joint(f"settle{size}", weights, encoders, self.everything, size, steps, 0.7)
        self._keep_whole("settle", self.folder.result(f"settle{size}"), encoders)

    def _fit_audio(self, name: str, model: TinyAudioEncoder, cutouts: Cutouts, steps: int, lr: float) -> None:
        count = len(cutouts.labels)

        def loss(rng: np.random.Generator) -> Tensor:
            numbers = (rng.choice([0, 1, 2, 3], p=[0.08, 0.5, 0.32, 0.1]) for _ in range(48))
            heard = [tuple(rng.choice(count, number, replace=False).tolist()) for number in numbers]
            sounds = np.stack([draw_sound(rng, cutouts, indices) for indices in heard])
            return tagging_loss(model.prototypes(model(torch.from_numpy(sounds))), heard)

        self.folder.fit(name, model, loss, [{"params": model.parameters(), "lr": lr}], steps)

    def _fit_image(self, name: str, model: TinyImageEncoder, cutouts: Cutouts, steps: int, lr: float) -> None:
        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, cutouts, 32, model.image_size, varied=True)
            return tagging_loss(model.prototypes(model(_batch(frames.images))), frames.in_view)

        self.folder.fit(name, model, loss, _groups(model, model.trunk, self.recipe.trunk_lr, lr, _FROZEN_BLOCKS), steps)

    def _encoders(self, audio_name: str, image_name: str) -> _Encoders:
        encoders = _Encoders(self.encoders).eval()
        encoders.audio_encoder.load_state_dict(self.folder.result(audio_name))
        encoders.image_encoder.load_state_dict(self.folder.result(image_name))
        return encoders

    def _initial_weights(self) -> State:
        model = AV2TSam(PRESETS["tiny"].config())
        with torch.no_grad():
            # The product must start as the sound's code, gently changed by the picture: unit-length inputs through
            # kaiming weights would give a product near zero, and scramble the one by the other.
            nn.init.orthogonal_(model.projector.audio_proj.weight, gain=4.0)
            nn.init.normal_(model.projector.vision_proj.weight, std=0.02)
            nn.init.ones_(model.projector.vision_proj.bias)
            for name, parameter in model.named_parameters():
                if name.startswith("adapters.") and name.endswith(".2.weight"):
                    nn.init.zeros_(parameter)
        return Tagger(model, DenseHead(_TINY, self.encoders)).state_dict()

    def _fit_joint(
        self, name: str, weights: State, encoders: _Encoders, cutouts: Cutouts, size: int, steps: int, scale: float
    ) -> None:
        """`scale`: of the learning rates."""
        recipe, labels = self.recipe, len(cutouts.labels)
        model = AV2TSam(replace(PRESETS["tiny"].config(), segmenter=_segmenter(size)))
        segmenter = cast(EvfSam2, model.segmenter)
        tagger = Tagger(model, DenseHead(_TINY, self.encoders))
        tagger.load_state_dict(weights)
        trunk = cast(EfficientNetLite, segmenter.trunk)
        trunk.repeats = recipe.draws

        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, cutouts, recipe.batch, size, varied=True)
            pixels = _batch(frames.images)
            heard = [draw_hearing(rng, view, labels) for view in frames.in_view for _ in range(recipe.draws)]
            sounds = np.stack([draw_sound(rng, cutouts, indices) for indices in heard])
            # Of what sounds alone; all else is background.
            everything = frames.owners.repeat(recipe.draws, axis=0)
            owners = np.stack([o * sounding_mask(o, hears) for o, hears in zip(everything, heard, strict=True)])
            with torch.no_grad():
                a = encoders.audio_encoder(torch.from_numpy(sounds))
                v = encoders.image_encoder.encode(pixels).repeat_interleave(recipe.draws, 0)
                a = F.normalize(a, dim=-1) + 0.02 * torch.randn_like(a)
                v = F.normalize(v, dim=-1) + 0.02 * torch.randn_like(v)
                images = segmenter.inputs(segmenter.squares(pixels))
                images["multimodal"] = images["multimodal"].repeat_interleave(recipe.draws, 0)
            found, tags = tagger(images, v, a)
            # At a quarter of the resolution, as the share of each cell that is covered.
            coverage = F.avg_pool2d(torch.from_numpy(owners > 0).float()[:, None], 4)[:, 0]
            return candidates_loss(found.logits.float(), found.scores.float(), coverage) + pixel_loss(tags, owners)

        self.folder.fit(name, tagger, loss, _groups(tagger, trunk, recipe.trunk_lr * scale, recipe.lr * scale), steps)

    def _start(self, name: str) -> tuple[_Encoders, State]:
        """A version's encoders, and its weights under a head that has yet to learn."""
        tensors = {k: t.float() for k, t in read_tensors(resolve(name).weights, torch.device("cpu"))}
        encoders = _Encoders(self.encoders)
        encoders.load_state_dict({key: tensors[key] for key in encoders.state_dict()})
        return encoders, self._initial_weights() | {k: t for k, t in tensors.items() if k.startswith("model.")}

    def _keep_whole(self, name: str, trained: State, encoders: _Encoders) -> None:
        """What a stage trained, and the encoders it was trained behind, as a model version's tensors."""
        tensors = {key: tensor for key, tensor in trained.items() if key.startswith("model.")}
        self.folder.keep(f"{name}.pt", **tensors, **encoders.state_dict())


def _segmenter(size: int) -> EvfSam2Config:
    return replace(_TINY, sam=replace(_TINY.sam, image_size=size))


def _groups(
    model: nn.Module, trunk: EfficientNetLite, trunk_lr: float, lr: float, frozen: int = 0
) -> list[dict[str, Any]]:
    """What learns, for the optimiser: the trunk's tensors each at a rate of its own, all of the rest at `lr`.

    The trunk's stem and so many `frozen` blocks more do not.
    """
    for module in (trunk.first, trunk.stem, *trunk.blocks[:frozen]):
        module.requires_grad_(False)
    learned = [p for p in trunk.parameters() if p.requires_grad]
    known = {id(p) for p in trunk.parameters()}
    rest = [p for p in model.parameters() if id(p) not in known]
    sizes = [float(p.detach().square().mean().sqrt()) for p in learned]
    return [{"params": rest, "lr": lr}] + [
        {"params": [p], "lr": trunk_lr * size} for p, size in zip(learned, sizes, strict=True)
    ]


def _batch(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()
