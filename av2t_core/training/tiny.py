"""The recipe of the `tiny` preset: encoders, then the trunk, then all of AV2T-SAM on composed frames.

    audio   multi-label tagging of mixtures against the prototypes
    image   multi-label tagging of frames against the same prototypes, from what ImageNet taught EfficientNet-Lite0
    trunk   SAM2's image encoder, likewise, by the class of every pixel, which composed frames give for free
    joint   the paper's model and loss, encoders frozen; the same frame with two sounds, so that only listening helps.
            The class of every pixel goes on being asked, now of what sounds alone: what only adapters can tell
    settle  both encoders and the whole once more, now also with the photographs and recordings that were held out

Every stage writes its result and is skipped when that exists; an interrupted stage goes on from its last checkpoint.
"""

import json
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn import functional as F
from tqdm import tqdm

from av2t_core.checkpoint import build, fill, save_version
from av2t_core.compose.cutouts import Cutouts
from av2t_core.encoders.tiny import TinyAudioEncoder, TinyEncodersConfig, TinyImageEncoder
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.model.config import AV2TSamConfig, Sam2Config
from av2t_core.model.efficientnet import EfficientNetLite
from av2t_core.model.evf_sam2 import build_sam2
from av2t_core.model.inputs import multimodal_images, normalise_sam
from av2t_core.predictor import Predictor, computes_bf16
from av2t_core.presets import TINY
from av2t_core.training.evaluation import evaluate
from av2t_core.training.imagenet import imagenet_weights
from av2t_core.training.losses import soft_iou
from av2t_core.training.samples import draw_frames, draw_hearing, draw_sound, sounding_mask

STAGES = ("audio", "image", "trunk", "joint", "settle")
# The last blocks of the image encoder, at S/32, learn the classes; those before stay as ImageNet taught them.
_FROZEN_BLOCKS = 7


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """`trunk_lr` counts in each tensor's own size (RMS): what ImageNet taught has tensors of very different sizes."""

    seed: int = 7
    audio_steps: int = 520
    image_steps: int = 320
    trunk_steps: int = 700
    joint_steps: tuple[int, int] = (700, 850)  # at each of the sizes
    settle_steps: tuple[int, int, int] = (100, 60, 250)  # of the sound's encoder, the image's, and the whole
    sizes: tuple[int, int] = (128, 192)
    trunk_lr: float = 4e-3
    lr: float = 1e-3
    batch: int = 8  # frames; each is used with `draws` sounds
    draws: int = 2
    checkpoint_steps: int = 100


def train_tiny(
    cutouts: Cutouts, out: Path, *, recipe: TinyRecipe, stages: Sequence[str] = STAGES, processes: int = 1
) -> None:
    """Runs those of the stages that are not done yet; progress goes to the terminal and to OUT/log.jsonl.

    `processes` share each step's gradients, every one with a batch of its own; on a CPU they are faster than as many
    threads.
    """
    out.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        if not (out / f"{stage}.pt").exists():
            (out / f"{stage}.rendezvous").unlink(missing_ok=True)
            spawn(  # type: ignore[no-untyped-call]
                _process, (processes, cutouts, out, recipe, stage), nprocs=processes
            )


def _process(rank: int, processes: int, cutouts: Cutouts, out: Path, recipe: TinyRecipe, stage: str) -> None:
    # By it torch tells of the parent's death; whoever was started in the background would ignore it, and train on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{(out / f'{stage}.rendezvous').absolute()}", rank=rank, world_size=processes
    )
    getattr(Run(out, recipe, cutouts), stage)()
    distributed.destroy_process_group()


def keep_version(
    cutouts: Cutouts, out: Path, *, recipe: TinyRecipe, directory: Path, settled: bool = True, frames: int = 150
) -> None:
    """The stages' results as a model version, with what it scores on `frames` frames that no stage has seen.

    `settled` False: as it was before the last stage, when the held-out photographs and recordings were new to it.
    """
    stage = "settle" if settled else "joint"
    tensors = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in torch.load(out / f"{stage}.pt", weights_only=True).items()
    }
    loaded = fill(build("tiny", labels=cutouts.labels), tensors.items(), torch.device("cpu"), "fp32")
    predictor = Predictor(directory.name, loaded)
    card = {
        "preset": "tiny",
        "labels": cutouts.labels,
        "parent": None,
        "recipe": asdict(recipe),
        "metrics": evaluate(predictor, cutouts.part("val"), frames),
    }
    save_version(directory, card, tensors)


class Run:
    """The stages; each is a model, a batch's loss and an optimiser, given to the one loop."""

    def __init__(self, out: Path, recipe: TinyRecipe, cutouts: Cutouts) -> None:
        self.out, self.recipe = out, recipe
        self.training = cutouts.part("train")
        self.everything = replace(self.training, images=cutouts.images, sounds=cutouts.sounds)
        self.encoders = TinyEncodersConfig(labels=cutouts.labels)

    def audio(self) -> None:
        torch.manual_seed(self.recipe.seed)
        model = TinyAudioEncoder(self.encoders)
        self._fit_audio("audio", model, self.training, self.recipe.audio_steps, 2e-3)

    def image(self) -> None:
        torch.manual_seed(self.recipe.seed)
        model = TinyImageEncoder(self.encoders)
        learned = imagenet_weights()
        model.trunk.load_state_dict(learned.trunk)
        model.last.load_state_dict(learned.last)
        self._fit_image("image", model, self.training, self.recipe.image_steps, 1e-3)

    def trunk(self) -> None:
        torch.manual_seed(self.recipe.seed)
        model = DenseTagger(replace(TINY, sam=replace(TINY.sam, image_size=self.recipe.sizes[0])), self.encoders)
        model.trunk.load_state_dict(imagenet_weights().trunk)

        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, self.training, 2 * self.recipe.batch, self.recipe.sizes[0])
            return _pixel_loss(model(normalise_sam(_batch(frames.images))), frames.owners)

        groups = _groups(model, model.trunk, 1.5 * self.recipe.trunk_lr, self.recipe.lr)
        self._fit("trunk", model, loss, groups, self.recipe.trunk_steps)

    def joint(self) -> None:
        torch.manual_seed(self.recipe.seed)
        audio, image = self._encoders("audio", "image")
        weights = self._initial_weights()
        for size, steps, scale in zip(self.recipe.sizes, self.recipe.joint_steps, (1.0, 0.7), strict=True):
            name = f"joint{size}"
            self._fit_joint(name, weights, image, audio, self.training, size, steps, scale)
            weights = self._result(name)
        self._keep_whole("joint", image, audio)

    def settle(self) -> None:
        audio, image = self._encoders("audio", "image")
        for encoder in (audio, image):
            encoder.train()
        audio_steps, image_steps, steps = self.recipe.settle_steps
        self._fit_audio("settle-audio", audio, self.everything, audio_steps, 5e-4)
        self._fit_image("settle-image", image, self.everything, image_steps, 3e-4)
        audio, image = self._encoders("settle-audio", "settle-image")
        size = self.recipe.sizes[-1]
        weights = self._result(f"joint{size}")
        self._fit_joint(f"settle{size}", weights, image, audio, self.everything, size, steps, 0.5)
        self._keep_whole("settle", image, audio)

    def _fit_audio(self, name: str, model: TinyAudioEncoder, cutouts: Cutouts, steps: int, lr: float) -> None:
        count = len(cutouts.labels)

        def loss(rng: np.random.Generator) -> Tensor:
            heard = [_some(rng, count) for _ in range(48)]
            sounds = np.stack([draw_sound(rng, cutouts, indices) for indices in heard])
            return _tagging_loss(model.prototypes(model(torch.from_numpy(sounds))), heard)

        self._fit(name, model, loss, [{"params": model.parameters(), "lr": lr}], steps)

    def _fit_image(self, name: str, model: TinyImageEncoder, cutouts: Cutouts, steps: int, lr: float) -> None:
        _freeze(model.trunk, _FROZEN_BLOCKS)

        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, cutouts, 32, model.image_size)
            return _tagging_loss(model.prototypes(model(_batch(frames.images))), frames.in_view)

        self._fit(name, model, loss, _groups(model, model.trunk, self.recipe.trunk_lr, lr), steps)

    def _encoders(self, audio_name: str, image_name: str) -> tuple[TinyAudioEncoder, TinyImageEncoder]:
        audio, image = TinyAudioEncoder(self.encoders), TinyImageEncoder(self.encoders)
        audio.load_state_dict(self._result(audio_name))
        image.load_state_dict(self._result(image_name))
        return audio.eval(), image.eval()

    def _initial_weights(self) -> dict[str, Tensor]:
        model = AV2TSam(TINY)
        with torch.no_grad():
            # The product must start as the sound's code, gently changed by the picture: unit-length inputs through
            # kaiming weights would give a product near zero, and scramble the one by the other.
            nn.init.orthogonal_(model.projector.audio_proj.weight, gain=4.0)
            nn.init.normal_(model.projector.vision_proj.weight, std=0.02)
            nn.init.ones_(model.projector.vision_proj.bias)
            for name, parameter in model.named_parameters():
                if name.startswith("adapters.") and name.endswith(".2.weight"):
                    nn.init.zeros_(parameter)
        weights = Tagger(model, DenseHead(TINY, self.encoders)).state_dict()
        for key, tensor in self._result("trunk").items():
            if key.startswith("sam.image_encoder."):
                weights[f"model.segmenter.{key}"] = tensor
            elif key.startswith("head."):
                weights[key] = tensor
        return weights

    def _fit_joint(
        self,
        name: str,
        weights: dict[str, Tensor],
        image: TinyImageEncoder,
        audio: TinyAudioEncoder,
        cutouts: Cutouts,
        size: int,
        steps: int,
        scale: float,
    ) -> None:
        """`scale`: of the learning rates."""
        recipe, labels = self.recipe, len(cutouts.labels)
        config = replace(TINY, sam=replace(TINY.sam, image_size=size))
        tagger = Tagger(AV2TSam(config), DenseHead(config, self.encoders))
        tagger.load_state_dict(weights)

        def loss(rng: np.random.Generator) -> Tensor:
            frames = draw_frames(rng, cutouts, recipe.batch, size)
            pixels = _batch(frames.images)
            heard = [draw_hearing(rng, view, labels) for view in frames.in_view for _ in range(recipe.draws)]
            sounds = np.stack([draw_sound(rng, cutouts, indices) for indices in heard])
            owners = np.stack([_owners(frames.owners[i // recipe.draws], hears) for i, hears in enumerate(heard)])
            with torch.no_grad():
                a = audio(torch.from_numpy(sounds))
                v = image.encode(pixels).repeat_interleave(recipe.draws, 0)
                a = F.normalize(a, dim=-1) + 0.02 * torch.randn_like(a)
                v = F.normalize(v, dim=-1) + 0.02 * torch.randn_like(v)
                squares = multimodal_images(pixels, config.beit3.image_size, config.antialias)
                squares = squares.repeat_interleave(recipe.draws, 0)
                pixels = normalise_sam(pixels).repeat_interleave(recipe.draws, 0)
            logits, ious, tags = tagger(pixels, squares, v, a)
            return candidates_loss(logits.float(), ious.float(), _coverage(owners > 0)) + _pixel_loss(tags, owners)

        trunk = tagger.model.segmenter.sam.image_encoder.trunk
        self._fit(name, tagger, loss, _groups(tagger, trunk, recipe.trunk_lr * scale, recipe.lr * scale), steps)

    def _fit(
        self,
        name: str,
        model: nn.Module,
        loss: Callable[[np.random.Generator], Tensor],
        groups: list[dict[str, Any]],
        steps: int,
    ) -> None:
        """AdamW with a short warm-up and a cosine; the average of the weights (EMA) is what is kept."""
        if (self.out / f"{name}.pt").exists():
            return
        optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda s: _cosine(s, steps))
        average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        checkpoint, first = self.out / f"{name}.checkpoint", 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            optimiser.load_state_dict(state["optimiser"])
            schedule.load_state_dict(state["schedule"])
            average, first = state["average"], state["step"]
        smooth = math.nan
        rank = distributed.get_rank()
        bar = tqdm(range(first, steps), name, initial=first, total=steps, mininterval=5, disable=rank > 0)
        model.train()
        for step in bar:
            # A generator for each step: what is drawn does not depend on where a run was interrupted.
            torch.manual_seed(self.recipe.seed * 1_000_003 + 2 * step + rank)
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_bf16(torch.device("cpu"))):
                value = loss(np.random.default_rng([self.recipe.seed, step, crc32(name.encode()), rank]))
            if not torch.isfinite(value):
                raise FloatingPointError(f"the loss of stage {name} is {value.item()} at step {step}")
            optimiser.zero_grad()
            torch.autograd.backward(value)
            _share_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            decay = min(0.999, (step + 1) / (step + 10))
            for key, tensor in model.state_dict().items():
                if tensor.is_floating_point():
                    average[key].lerp_(tensor.detach(), 1 - decay)
                else:
                    average[key].copy_(tensor)
            smooth = value.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * value.item()
            if rank == 0 and step % 50 == 49:
                bar.set_postfix(loss=f"{smooth:.4f}")
                self._log(stage=name, step=step + 1, loss=round(smooth, 5))
            if (step + 1) % self.recipe.checkpoint_steps == 0:
                self._keep(
                    checkpoint.name,
                    model=model.state_dict(),
                    optimiser=optimiser.state_dict(),
                    schedule=schedule.state_dict(),
                    average=average,
                    step=step + 1,
                )
        self._keep(f"{name}.pt", **average)
        checkpoint.unlink(missing_ok=True)

    def _keep_whole(self, name: str, image: TinyImageEncoder, audio: TinyAudioEncoder) -> None:
        """The last result of this stage, and the encoders it was trained behind, as a model version's tensors."""
        trained = self._result(f"{name}{self.recipe.sizes[-1]}")
        tensors = {key: tensor for key, tensor in trained.items() if key.startswith("model.")}
        for part, encoder in (("image_encoder", image), ("audio_encoder", audio)):
            tensors |= {f"{part}.{key}": tensor for key, tensor in encoder.state_dict().items()}
        self._keep(f"{name}.pt", **tensors)

    def _result(self, name: str) -> dict[str, Tensor]:
        state: dict[str, Tensor] = torch.load(self.out / f"{name}.pt", weights_only=True)
        return state

    def _keep(self, name: str, **state: Any) -> None:
        """Written aside by the first process and renamed, so that a kill never leaves half a file."""
        if distributed.get_rank() == 0:
            torch.save(state, self.out / f"{name}.part")
            (self.out / f"{name}.part").replace(self.out / name)
        distributed.barrier()

    def _log(self, **entry: object) -> None:
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")


class DenseHead(nn.Module):
    """Names every pixel by the levels of SAM2's neck."""

    def __init__(self, config: AV2TSamConfig, encoders: TinyEncodersConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.sam.width, len(encoders.labels) + 1, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """The levels (B, width, s, s), the finest first, to (B, labels + 1, S/4, S/4); 0 is the background."""
        summed = levels[0]
        for level in levels[1:]:
            summed = summed + F.interpolate(level, summed.shape[-2:], mode="bilinear", align_corners=False)
        return self.conv(F.gelu(summed))  # type: ignore[no-any-return]


class DenseTagger(nn.Module):
    """SAM2's image encoder alone, under that head."""

    def __init__(self, config: AV2TSamConfig, encoders: TinyEncodersConfig) -> None:
        super().__init__()
        assert isinstance(config.sam, Sam2Config)
        self.sam = build_sam2(config.sam)
        self.head = DenseHead(config, encoders)

    @property
    def trunk(self) -> EfficientNetLite:
        return self.sam.image_encoder.trunk  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, labels + 1, S/4, S/4)."""
        return self.head(self.sam.image_encoder(images)["backbone_fpn"])  # type: ignore[no-any-return]


class Tagger(nn.Module):
    """AV2T-SAM, with that head beside its decoder."""

    def __init__(self, model: AV2TSam, head: DenseHead) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, images: Tensor, squares: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As AV2TSam.candidates; and the classes of the pixels (B, labels + 1, S/4, S/4) as adapters let them be."""
        levels: list[Tensor] = []
        encoder = self.model.segmenter.sam.image_encoder
        hook = encoder.register_forward_hook(lambda _encoder, _images, out: levels.extend(out["backbone_fpn"]))
        try:
            logits, ious = self.model.candidates(images, squares, v, a)
        finally:
            hook.remove()
        return logits, ious, self.head(levels)


def candidates_loss(logits: Tensor, ious: Tensor, target: Tensor) -> Tensor:
    """The paper's loss for every candidate (B, 3, h, w), and the expected IoU (B, 3) against the IoU there is.

    The cross-entropy counts three times, and the IoU only where something sounds: an empty target has none. A right
    "nothing" counts as an IoU of 1 for the expectation, so that it is a score.
    """
    target = target[:, None].expand_as(logits)
    some = target.amax(dim=(-2, -1)) > 0
    bce = F.binary_cross_entropy_with_logits(logits, target)
    iou = soft_iou(logits, target)
    shape = ((1 - iou) * some).sum() / some.sum().clamp(min=1)
    with torch.no_grad():
        hard, truth = logits > 0, target > 0.5
        union = (hard | truth).sum(dim=(-2, -1))
        real = torch.where(union > 0, (hard & truth).sum(dim=(-2, -1)) / union.clamp(min=1), 1.0)
    return 3 * bce + shape + 0.5 * F.mse_loss(ious, real)


def _freeze(trunk: EfficientNetLite, blocks: int = 0) -> None:
    """What comes first, and so many blocks more."""
    for module in (trunk.first, trunk.stem, *trunk.blocks[:blocks]):
        module.requires_grad_(False)


def _groups(model: nn.Module, trunk: EfficientNetLite, trunk_lr: float, lr: float) -> list[dict[str, Any]]:
    """What learns, for the optimiser: the trunk's tensors each at a rate of its own, all of the rest at `lr`."""
    _freeze(trunk)
    learned = [p for p in trunk.parameters() if p.requires_grad]
    known = {id(p) for p in trunk.parameters()}
    rest = [p for p in model.parameters() if id(p) not in known]
    sizes = [float(p.detach().square().mean().sqrt()) for p in learned]
    return [{"params": rest, "lr": lr}] + [
        {"params": [p], "lr": trunk_lr * size} for p, size in zip(learned, sizes, strict=True)
    ]


def _some(rng: np.random.Generator, count: int) -> tuple[int, ...]:
    number = rng.choice([0, 1, 2, 3], p=[0.08, 0.5, 0.32, 0.1])
    return tuple(int(i) for i in rng.choice(count, number, replace=False))


def _tagging_loss(log_odds: Tensor, present: Sequence[tuple[int, ...]]) -> Tensor:
    """log_odds (B, labels + 1); the last column is "nothing"."""
    target = torch.zeros_like(log_odds, dtype=torch.float32)
    for row, indices in enumerate(present):
        target[row, list(indices) or [-1]] = 1
    return F.binary_cross_entropy_with_logits(log_odds.float(), target) * log_odds.shape[1] / 4


def _batch(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def _pixel_loss(logits: Tensor, owners: NDArray[np.uint8]) -> Tensor:
    """logits (B, labels + 1, S/4, S/4) against the owner of the middle of each cell, owners (B, S, S)."""
    target = torch.from_numpy(owners[:, 2::4, 2::4].astype(np.int64))
    # The background is most of a frame; as many pixels again of the things keep it from winning by default.
    weight = torch.ones(logits.shape[1])
    weight[0] = 0.3
    return F.cross_entropy(logits.float(), target, weight)


def _owners(owners: NDArray[np.uint8], heard: Sequence[int]) -> NDArray[np.uint8]:
    """(S, S), of what sounds alone; all else is background."""
    return np.where(sounding_mask(owners, heard), owners, np.uint8(0))


def _coverage(masks: NDArray[np.bool_]) -> Tensor:
    """Masks (B, S, S) at a quarter of the resolution, as the share of each cell that is covered."""
    return F.avg_pool2d(torch.from_numpy(masks).float()[:, None], 4)[:, 0]


def _cosine(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _share_gradients(model: nn.Module) -> None:
    """Every process goes on with the mean of all gradients."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
