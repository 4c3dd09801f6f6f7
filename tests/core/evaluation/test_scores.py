"""The measure of a data set, with the embedded model on small composed ones and with saved masks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from av2t_core.data.avsbench import SIZE, DataError, Hearing, LabelledClip, read_clips, read_target
from av2t_core.encoders import ImageEncoder
from av2t_core.evaluation.scores import (
    THRESHOLDS,
    ClipScores,
    Evaluation,
    Scores,
    avsbench_iou,
    evaluate_clips,
    f_avsbench,
    f_reference,
    mask_iou,
    precision_recall,
    score_predictions,
    windows,
)
from av2t_core.prediction.predictor import Predictor
from tests.core.avsbench_sets import compose_set

LABELS = ("dog", "owl", "elephant", "kettle", "violin")
CLIPS = 4


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.load("tiny", "cpu")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[LabelledClip]:
    """Multi-source: things sound by turns, and in some seconds none does."""
    root = compose_set(tmp_path_factory.mktemp("ms3"), "ms3", clips=CLIPS, shares=(0, 0, 100), labels=LABELS)
    return read_clips(root, "ms3", "test")


@dataclass(frozen=True, kw_only=True)
class Done:
    evaluation: Evaluation
    handed: list[tuple[ClipScores, NDArray[np.bool_]]]  # to on_clip


@pytest.fixture(scope="module")
def done(predictor: Predictor, clips: list[LabelledClip]) -> Done:
    handed: list[tuple[ClipScores, NDArray[np.bool_]]] = []
    evaluation = evaluate_clips(predictor, clips, on_clip=lambda scores, masks: handed.append((scores, masks)))
    return Done(evaluation=evaluation, handed=handed)


@pytest.fixture(scope="module")
def logits(predictor: Predictor, clips: list[LabelledClip]) -> list[Tensor]:
    """Of each clip alone, (5, SIZE, SIZE)."""
    return [torch.stack(list(predictor.logits(windows([clip], "own", 0), (SIZE, SIZE)))) for clip in clips]


def truths(clip: LabelledClip) -> NDArray[np.bool_]:
    return np.stack([read_target(mask) for mask in clip.masks if mask is not None])


def test_scores_are_those_of_the_models_logits(clips: list[LabelledClip], logits: list[Tensor], done: Done) -> None:
    """Counted once more, in words of sets."""
    mious, fs, sounding, masked = [], [], [], []
    false: list[bool] = []
    off_screen: list[bool] = []
    for clip, own in zip(clips, logits, strict=True):
        ious = []
        for second, (mask, truth) in enumerate(zip((own > 0).numpy(), truths(clip), strict=True)):
            masked.append(mask.mean() > 0.005)
            if truth.any():
                ious.append((mask & truth).sum() / (mask | truth).sum())
                sounding.append(ious[-1])
            else:
                ious.append((~mask).mean())
                (off_screen if second in clip.heard else false).append(masked[-1])
        mious.append(np.mean(ious))
        fs.append(f_avsbench(own, truths(clip)))
    scores = done.evaluation.scores
    assert (scores.clips, scores.frames) == (CLIPS, 5 * CLIPS)
    assert (scores.frames_sounding, scores.frames_silent) == (len(sounding), len(false))
    assert scores.frames_off_screen == len(off_screen)
    assert len(false) > 0
    assert len(off_screen) > 0
    for found, wanted in (
        (scores.miou, mious),
        (scores.f_avsbench, fs),
        (scores.iou_sounding, sounding),
        (scores.false_positives, false),
        (scores.false_positives_off_screen, off_screen),
        (scores.masked, masked),
    ):
        assert found == pytest.approx(float(np.mean(wanted)), abs=1e-3)


def test_a_model_that_listens_falls_with_the_wrong_sound(
    predictor: Predictor, clips: list[LabelledClip], done: Done
) -> None:
    def heard(hearing: Hearing) -> Scores:
        return evaluate_clips(predictor, clips, sound=hearing).scores

    own, shuffled, muted = done.evaluation.scores, heard("shuffled"), heard("muted")
    assert own.iou_sounding is not None
    assert shuffled.iou_sounding is not None
    assert own.iou_sounding > 0.4
    assert shuffled.iou_sounding < own.iou_sounding - 0.1
    assert muted.masked < 0.2
    assert (own.frames_sounding, own.frames_silent) == (muted.frames_sounding, muted.frames_silent)


class Counting:
    """An image encoder that notes the sizes of its batches."""

    def __init__(self, encoder: ImageEncoder) -> None:
        self.width, self.encoder = encoder.width, encoder
        self.sizes: list[int] = []

    def encode(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        self.sizes.append(len(images))
        return self.encoder.encode(images)


def counting(predictor: Predictor) -> tuple[Predictor, Counting]:
    encoder = Counting(predictor.loaded.image_encoder)
    return Predictor("tiny", replace(predictor.loaded, image_encoder=encoder), batch_size=4), encoder


def test_frames_of_several_clips_share_a_batch(predictor: Predictor, clips: list[LabelledClip], done: Done) -> None:
    counted, encoder = counting(predictor)
    again = evaluate_clips(counted, clips)
    assert encoder.sizes == [4] * CLIPS + [CLIPS]
    for one, other in zip(again.clips, done.evaluation.clips, strict=True):
        assert one.clip == other.clip
        assert one.ious == pytest.approx(other.ious, abs=1e-3)


def test_frames_without_a_mask_are_not_computed(predictor: Predictor, tmp_path: Path) -> None:
    clips = read_clips(compose_set(tmp_path, "s4", clips=3, shares=(100, 0, 0)), "s4", "train")
    counted, encoder = counting(predictor)
    scores = evaluate_clips(counted, clips).scores
    assert encoder.sizes == [3]
    assert (scores.clips, scores.frames, scores.frames_sounding) == (3, 3, 3)
    assert scores.false_positives is None


def test_each_clip_is_handed_over_with_its_masks(logits: list[Tensor], done: Done) -> None:
    assert [scores for scores, _ in done.handed] == list(done.evaluation.clips)
    for (scores, masks), own in zip(done.handed, logits, strict=True):
        assert masks.shape == (5, SIZE, SIZE)
        assert (masks != (own > 0).numpy()).mean() < 1e-3
        assert list(scores.masked) == [bool(mask.mean() > 0.005) for mask in masks]


def test_a_frame_that_cannot_be_read_is_named(predictor: Predictor, tmp_path: Path) -> None:
    clips = read_clips(compose_set(tmp_path, "s4", clips=2, shares=(0, 0, 100)), "s4", "test")
    clips[1].frames[3].write_text("a letter")
    with pytest.raises(DataError, match=f"{clips[1].frames[3]} is no PNG or JPEG picture"):
        evaluate_clips(predictor, clips)


def scored(
    category: str,
    ious: Sequence[float],
    sounding: Sequence[bool],
    masked: Sequence[bool],
    heard: Sequence[bool] | None = None,
) -> ClipScores:
    clip = LabelledClip(video="v", category=category, split="test", frames=(), masks=(), sound=Path("v.wav"))
    return ClipScores(
        clip=clip,
        ious=tuple(ious),
        sounding=tuple(sounding),
        masked=tuple(masked),
        heard=tuple(heard or [False] * len(ious)),
        f_avsbench=max(ious),
        f_reference=min(ious),
    )


def test_the_numbers_by_hand() -> None:
    clips = (
        scored("owl", (0.5, 1.0), (True, False), (True, False)),
        scored("dog", (0.1, 0.2), (True, False), (False, True)),
        scored("owl", (0.4, 0.6), (True, False), (True, True), heard=(True, True)),
    )
    assert asdict(Scores.of(clips)) == pytest.approx(
        {
            "clips": 3,
            "frames": 6,
            "miou": (0.75 + 0.15 + 0.5) / 3,
            "f_avsbench": (1.0 + 0.2 + 0.6) / 3,
            "f_reference": (0.5 + 0.1 + 0.4) / 3,
            "iou_sounding": (0.5 + 0.1 + 0.4) / 3,
            "false_positives": 1 / 2,
            "false_positives_off_screen": 1.0,
            "false_positives_all": 2 / 3,
            "names_right": None,
            "masked": 4 / 6,
            "frames_sounding": 3,
            "frames_silent": 2,
            "frames_off_screen": 1,
        }
    )
    evaluation = Evaluation(scores=Scores.of(clips), clips=clips)
    assert list(evaluation.categories) == ["dog", "owl"]
    assert evaluation.categories["owl"] == Scores.of((clips[0], clips[2]))


def test_clips_without_a_category_have_no_rows() -> None:
    clips = (scored("", (0.5,), (True,), (True,)),)
    assert Evaluation(scores=Scores.of(clips), clips=clips).categories == {}


def test_what_there_is_none_of_has_no_number() -> None:
    silent = Scores.of([scored("", (1.0,), (False,), (False,))])
    assert (silent.iou_sounding, silent.false_positives) == (None, 0.0)
    loud = Scores.of([scored("", (0.5,), (True,), (True,))])
    assert (loud.iou_sounding, loud.false_positives) == (0.5, None)


def save(directory: Path, clip: LabelledClip, greys: NDArray[np.uint8]) -> None:
    folder = directory / clip.video
    folder.mkdir(parents=True)
    for index, grey in enumerate(greys):
        Image.fromarray(grey).save(folder / f"{index + 1}.png")


def test_the_truth_as_a_prediction_is_right_everywhere(clips: list[LabelledClip], tmp_path: Path) -> None:
    for clip in clips:
        save(tmp_path, clip, truths(clip).astype(np.uint8) * 255)
    scores = score_predictions(tmp_path, clips).scores
    sounding = sum(bool(truths(clip).any()) for clip in clips) / len(clips)  # a clip without any scores no F
    assert scores.miou == pytest.approx(1, abs=1e-6)
    assert scores.iou_sounding == pytest.approx(1, abs=1e-6)
    assert (scores.f_avsbench, scores.f_reference) == (sounding, sounding)
    assert scores.false_positives == 0


def test_saved_probabilities_score_what_the_model_scores(
    clips: list[LabelledClip], logits: list[Tensor], done: Done, tmp_path: Path
) -> None:
    """But for the 255 steps of grey."""
    for clip, own in zip(clips, logits, strict=True):
        save(tmp_path, clip, (own.sigmoid() * 255).round().byte().numpy())
    saved = asdict(score_predictions(tmp_path, clips).scores)
    assert saved == pytest.approx(asdict(done.evaluation.scores), abs=0.01)


def test_masks_of_ones_are_not_taken_for_hardly_anything(clips: list[LabelledClip], tmp_path: Path) -> None:
    for clip in clips:
        save(tmp_path, clip, truths(clip).astype(np.uint8))
    with pytest.raises(DataError, match="have no grey above 1 of 255; save masks as 0 and 255"):
        score_predictions(tmp_path, clips)


def test_nothing_masked_anywhere_is_no_mistake(clips: list[LabelledClip], tmp_path: Path) -> None:
    for clip in clips:
        save(tmp_path, clip, np.zeros((5, SIZE, SIZE), np.uint8))
    scores = score_predictions(tmp_path, clips).scores
    assert (scores.masked, scores.iou_sounding, scores.f_reference) == (0, 0, 0)


def test_a_prediction_that_is_missing_is_named(clips: list[LabelledClip], tmp_path: Path) -> None:
    for clip in clips:
        save(tmp_path, clip, truths(clip).astype(np.uint8) * 255)
    (tmp_path / clips[1].video / "5.png").unlink()
    with pytest.raises(DataError, match=r"5\.png is missing \(1 of 20 predictions are\)"):
        score_predictions(tmp_path, clips)


GOLDEN = Path(__file__).parents[2] / "data" / "golden"
TOLERANCE = 1e-6

with np.load(GOLDEN / "metrics.npz") as file:
    NUMBERS: dict[str, NDArray[np.float32]] = dict(file)
CASES = sorted(name.removesuffix("/pred") for name in NUMBERS if name.endswith("/pred"))


@pytest.mark.parametrize("case", CASES)
def test_matches_avsbench(case: str) -> None:
    logits, targets = NUMBERS[f"{case}/pred"], NUMBERS[f"{case}/target"]
    ious = avsbench_iou(logits, targets)
    precision, recall = precision_recall(torch.from_numpy(logits).sigmoid(), torch.from_numpy(targets))
    found = {
        "miou_per_frame": ious.numpy(),
        "miou": ious.mean().item(),
        "f_sigmoid_avsbench": f_avsbench(logits, targets),
        "f_raw_av2t": f_reference(logits, targets),
        "prec_sigmoid_frame0": precision[0].numpy(),
        "recall_sigmoid_frame0": recall[0].numpy(),
    }
    differences = {name: float(np.abs(value - NUMBERS[f"{case}/{name}"]).max()) for name, value in found.items()}
    print(f"{case}: largest difference", ", ".join(f"{name} {value:.1e}" for name, value in differences.items()))
    assert max(differences.values()) <= TOLERANCE, differences


def test_a_data_set_scores_the_mean_of_its_clips() -> None:
    """However many frames each has."""
    assert len(CASES) == 17
    clips = [(NUMBERS[f"{case}/pred"], NUMBERS[f"{case}/target"]) for case in CASES]
    assert {len(logits) for logits, _ in clips} == {1, 5, 10}
    for name, values in (
        ("miou", [avsbench_iou(*clip).mean().item() for clip in clips]),
        ("f_sigmoid", [f_avsbench(*clip) for clip in clips]),
        ("f_raw", [f_reference(*clip) for clip in clips]),
    ):
        assert np.mean(values) == pytest.approx(float(NUMBERS[f"average_meter/{name}"]), abs=TOLERANCE)


def clip(seed: int = 0, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits on either side of the thresholds and masks that they have something to do with."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.rand(frames, 20, 30, generator=generator) > 0.6
    return 2 * torch.randn(frames, 20, 30, generator=generator) + targets, targets


def test_counting_each_pixel_once_is_comparing_it_with_every_threshold() -> None:
    """Pixels that lie exactly on a threshold among them."""
    logits, targets = clip()
    thresholds = torch.linspace(0, 1, THRESHOLDS)
    scores = logits.sigmoid()
    scores[:, :8] = thresholds[:240].view(8, 30)
    precision, recall = precision_recall(scores, targets)
    for index, threshold in enumerate(thresholds):
        masks = scores >= threshold
        hits = (masks & targets).sum(dim=(-2, -1)).double()
        assert torch.equal(precision[:, index], hits / masks.sum(dim=(-2, -1)).clamp_min(1))
        assert torch.equal(recall[:, index], hits / targets.sum(dim=(-2, -1)))


def test_precision_and_recall_of_a_frame_do_not_depend_on_the_others() -> None:
    logits, targets = clip()
    together = precision_recall(logits, targets)
    for frame in range(len(logits)):
        alone = precision_recall(logits[frame : frame + 1], targets[frame : frame + 1])
        assert all(torch.equal(a[frame], b[0]) for a, b in zip(together, alone, strict=True))


def test_an_empty_frame_counts_for_the_iou_and_not_for_f() -> None:
    logits, targets = clip()
    nothing = torch.zeros_like(targets[:1])
    longer = torch.cat([logits, logits[:1]]), torch.cat([targets, nothing])
    assert avsbench_iou(*longer)[-1].item() == pytest.approx(1 - (logits[0] > 0).float().mean().item())
    assert f_avsbench(*longer) == f_avsbench(logits, targets)
    assert f_reference(*longer) == f_reference(logits, targets)


def test_masks_of_booleans_are_targets_too() -> None:
    logits, targets = clip()
    for measure in (avsbench_iou, f_avsbench, f_reference):
        wanted = torch.as_tensor(measure(logits, targets.float()))
        assert torch.equal(torch.as_tensor(measure(logits.numpy(), targets.numpy())), wanted)


def test_narrow_logits_are_measured_in_fp32() -> None:
    """In bf16 the sigmoid has but 8 bits, and the thresholds would blur."""
    logits, targets = clip()
    narrow = logits.bfloat16()
    assert torch.equal(avsbench_iou(narrow, targets), avsbench_iou(narrow.float(), targets))
    assert f_avsbench(narrow, targets) == f_avsbench(narrow.float(), targets)


def test_nothing_inside_nothing_fits() -> None:
    nothing, corner = np.zeros((4, 4), np.bool_), np.eye(4, dtype=np.bool_)
    assert mask_iou(nothing, nothing) == 1
    assert mask_iou(corner, nothing) == 0
    assert mask_iou(corner, np.ones((4, 4), np.bool_)) == 0.25
