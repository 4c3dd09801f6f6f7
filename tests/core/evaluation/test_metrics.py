"""AVSBench's measures against numbers that its authors' code and the reference's gave for 17 clips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from av2t_core.evaluation.scores import THRESHOLDS, avsbench_iou, f_avsbench, f_reference, mask_iou, precision_recall

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
