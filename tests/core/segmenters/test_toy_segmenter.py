"""A segmenter that nobody else knows, without BEiT-3 and with five masks for a prompt: a class, and one line."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from av2t_core.errors import WeightsError
from av2t_core.evaluation.benchmark import measure
from av2t_core.model import presets
from av2t_core.model.config import SegmenterConfig
from av2t_core.model.inputs import stack_frames
from av2t_core.model.published_weights import Published
from av2t_core.prediction.predictor import Predictor
from av2t_core.segmenters import Candidates, Images
from av2t_core.training.paper import Inputs, PaperTraining, accelerator
from av2t_core.training.plan import PaperRecipe
from tests.core.clips import Sound as Track
from tests.core.clips import at_rate, tone, write_clip
from tests.core.toys import assert_same, fine_tuned, saved_and_loaded, windows

QUERIES = 5


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    image_size: int = 16
    text_width: int = 6

    def build(self) -> "ToySegmenter":
        return ToySegmenter(self)


class ToySegmenter(nn.Module):
    """Each query has a mask and a score of its own; all that score above one half count."""

    sizes: Mapping[str, SegmenterConfig] = {"toy": ToyConfig()}
    published: Published | None = None
    checkpoint = ""
    block_widths: tuple[int, ...] = (3,)
    shared_adapter = False
    trained: tuple[str, ...] = ("masks.", "scores.")
    halved: tuple[str, ...] = ("encoder",)
    unread: tuple[str, ...] = ()
    published_names: tuple[tuple[str, str], ...] = ()

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.image_size, self.text_width = config.image_size, config.text_width
        self.encoder = nn.Conv2d(3, 8, 3, padding=1)
        self.masks = nn.Linear(config.text_width, QUERIES * 8)
        self.scores = nn.Linear(config.text_width, QUERIES)

    @property
    def image_encoder(self) -> nn.Module:
        return self.encoder

    def squares(self, images: Tensor | Sequence[Tensor], *, encoded: bool = False) -> dict[str, Tensor]:
        return {} if encoded else {"picture": stack_frames(images, self.image_size, "bilinear")}

    def inputs(self, squares: Images) -> dict[str, Tensor]:
        return {name: square / 255 for name, square in squares.items()}

    def encode(self, images: Images, additions: Sequence[Tensor] | None = None) -> list[Tensor]:
        picture = images["picture"]
        return [self.encoder(picture if additions is None else picture + additions[0][:, :, None, None])]

    def decode(
        self, _images: Images, features: Sequence[Tensor], text: Tensor, pictures: Tensor | None = None
    ) -> Candidates:
        [picture] = features
        words = text.mean(dim=1)
        queries = self.masks(words).unflatten(-1, (QUERIES, -1))
        logits = torch.einsum("pqc,pchw->pqhw", queries, picture if pictures is None else picture[pictures])
        scores = self.scores(words).sigmoid()
        return Candidates(logits=logits, scores=scores, counts=scores > 0.5)

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(logits[:, None], size, mode="bilinear")[:, 0]

    def stages(self) -> dict[str, tuple[Any, str]]:
        return {"toy_encoder": (self.encoder, "forward"), "toy_decoder": (self, "decode")}

    def recomputed(self) -> Iterator[nn.Module]:
        yield self.encoder

    def plain_attention(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.SEGMENTERS, "toy", presets.Part(f"{__name__}:ToySegmenter"))
    parts = {"segmenter": "toy", "size": "toy", "image_encoder": "tiny", "audio_encoder": "tiny"}
    monkeypatch.setitem(presets.PRESETS, "toy", presets.Preset(**parts))  # type: ignore[arg-type]
    monkeypatch.setitem(presets.PRESETS, "toy-noadapter", presets.Preset(**parts, adapter=False))  # type: ignore[arg-type]


def toy(preset: str = "toy", *, counted: int = 3) -> Predictor:
    """Of its masks the first `counted` count, whatever is asked."""
    torch.manual_seed(0)
    predictor = Predictor.random(preset, "cpu", precision="fp32")
    segmenter = predictor.loaded.model.segmenter
    assert isinstance(segmenter, ToySegmenter)
    with torch.no_grad():
        segmenter.scores.weight.zero_()
        segmenter.scores.bias.copy_(torch.arange(QUERIES, 0, -1) - QUERIES + counted - 0.5)
    return predictor


def test_every_mask_that_counts_is_seen_and_none_where_none_does() -> None:
    predictor = toy()
    found = list(predictor.predict(windows()))
    expected = {round(float(torch.tensor(score).sigmoid()), 5) for score in (2.5, 1.5, 0.5)}
    assert {round(thing.score, 5) for prediction in found for thing in prediction.objects} <= expected
    assert any(len({thing.score for thing in prediction.objects}) > 1 for prediction in found)
    assert not any(prediction.sounding for prediction in toy(counted=0).predict(windows()))


def test_a_picture_is_encoded_once_and_asked_with_many_prompts() -> None:
    segmenter = toy().loaded.model.segmenter
    images = segmenter.inputs(segmenter.squares(torch.rand(2, 3, 30, 40) * 255))
    features, text = segmenter.encode(images), torch.randn(3, 2, 6)
    together = segmenter.decode(images, features, text, torch.tensor([0, 1, 1]))
    assert together.logits.shape == (3, QUERIES, 16, 16)
    alone = segmenter.decode(images, [feature[1:] for feature in features], text[2:])
    torch.testing.assert_close(together.logits[2:], alone.logits)


def test_it_predicts_is_saved_and_loaded_and_fine_tuned(tmp_path: Path) -> None:
    predictor = toy()
    again = saved_and_loaded(predictor, "toy", tmp_path)
    assert_same(list(predictor.predict(windows())), list(again.predict(windows())))
    changed = fine_tuned(again, tmp_path / "run")
    assert {name for name in changed if name.startswith("segmenter.")} == {
        "segmenter.masks.weight",
        "segmenter.masks.bias",
    }


@pytest.mark.parametrize("preset", ["toy", "toy-noadapter"])
def test_it_is_trained_as_the_paper_does(preset: str) -> None:
    model = toy(preset).loaded.model
    segmenter = model.segmenter
    images = segmenter.inputs(segmenter.squares(torch.rand(2, 3, 30, 40) * 255))
    model.recompute()
    training = PaperTraining(model, PaperRecipe(), accelerator(cpu=True))
    features = None if model.adapters else [feature.detach() for feature in segmenter.encode(images)]
    given = Inputs(
        images={} if features else images,
        v=torch.rand(2, 256),
        a=torch.rand(2, 256),
        features=features,
        target=(torch.rand(2, 30, 40) > 0.5).float(),
    )
    first, second = (training.learn([given], count=1, frames=2) for _ in range(2))
    assert second["loss"] < first["loss"]
    assert {name for name in training.learned if name.startswith("segmenter.")} == {
        f"segmenter.{part}.{kind}" for part in ("masks", "scores") for kind in ("weight", "bias")
    }


def test_its_stages_are_timed_by_its_own_names(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", at_rate(5, 1), sounds=[Track(samples=tone(1))], sound_codec="aac")
    stages = measure(toy(), clip, 1, int).stages
    assert tuple(stages) == (
        "decoding",
        "image_encoder",
        "audio_encoder",
        "toy_encoder",
        "toy_decoder",
        "native_size",
        "rest",
    )
    assert all(seconds > 0 for seconds in stages.values())


def test_its_matrices_may_be_halved() -> None:
    assert set(toy().loaded.model.matrices()) == {"segmenter.encoder.weight", "segmenter.encoder.bias"}


def test_a_segmenter_that_nobody_knows_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "odd", presets.Preset(segmenter="sam9"))
    with pytest.raises(
        WeightsError, match="there is no segmenter 'sam9'; there are evf-sam2, evf-sam1, mobile-sam, toy"
    ):
        Predictor.random("odd", "cpu")
