"""The demo's clips: what they are made of, and what the default model makes of them."""

from pathlib import Path

import numpy as np
import pytest

from av2t_core.data.real_clips import RealClip, read_real_clips
from av2t_core.data.real_media import Composition, Material
from av2t_core.evaluation.scores import mask_iou
from av2t_core.media.clip import Clip
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from av2t_core.settings import ModelSettings
from tests.conftest import ROOT

CLIPS = ROOT / "av2t" / "demo_clips"
DATA = ROOT / "tests" / "data"
MADE_OF = {clip.name: clip for clip in read_real_clips(DATA / "demo_clips")}
LABELS = tuple((CLIPS / "labels.txt").read_text().split())


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load(ModelSettings.model_fields["model"].default, "cpu")


def predicted(predictor: Predictor, name: str) -> list[KeyframePrediction]:
    with Clip(CLIPS / f"{name}.mp4") as clip:
        return list(predictor.predict_clip(clip.windows(), LABELS))


def iou(clip: RealClip, seen: list[KeyframePrediction]) -> float:
    """The mean over the keyframes in which something sounds."""
    truth = [(clip.mask(each), found.mask) for each, found in zip(clip.keyframes, seen, strict=True) if each.scored]
    return float(np.mean([mask_iou(found, mask) for mask, found in truth if mask.any()]))


def test_they_are_what_their_material_makes(tmp_path: Path) -> None:
    assert {path.stem for path in CLIPS.glob("*.mp4")} == MADE_OF.keys()
    for name, clip in MADE_OF.items():
        assert isinstance(clip.source, Composition)
        clip.source.write(tmp_path / "again.mp4", Material(DATA, None, tmp_path))
        with Clip(tmp_path / "again.mp4") as again, Clip(CLIPS / f"{name}.mp4") as shipped:
            for made, kept in zip(again.windows(), shipped.windows(), strict=True):
                assert np.abs(made.image.astype(int) - kept.image).mean() < 2
                np.testing.assert_allclose(made.sound.samples, kept.sound.samples, atol=0.02)


@pytest.mark.parametrize(("name", "least"), [("cat", 0.7), ("cow", 0.8), ("chicken", 0.3)])
def test_what_sounds_is_masked_by_its_name(predictor: Predictor, name: str, least: float) -> None:
    clip, seen = MADE_OF[name], predicted(predictor, name)
    assert iou(clip, seen) >= least
    assert {thing.label for found in seen for thing in found.objects} == {name}
    assert not any(found.objects for each, found in zip(clip.keyframes, seen, strict=True) if not each.things)


def test_what_is_silent_in_view_is_not_masked(predictor: Predictor) -> None:
    assert not any(found.objects for found in predicted(predictor, "dog"))
