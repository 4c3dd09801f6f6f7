"""Fits a model version's Calibration where the truth is known, and measures how reliable its probabilities are.

The clips are composed as by `composed_set`, in memory, of backgrounds and silent things that no stage has seen.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from av2t_core.data.composed_set import Mask, composed_windows
from av2t_core.data.cutouts import Cutouts
from av2t_core.evaluation.scores import mask_iou
from av2t_core.media.clip import Window
from av2t_core.prediction.calibration import Calibration
from av2t_core.prediction.objects import FEATURES
from av2t_core.prediction.predictor import KeyframePrediction, Predictor

CLIPS = 200
RIGHT = 0.5
"""A mask is right if its IoU with what sounds is above this."""

_DECAY = 1.0


Observed = Iterable[tuple[KeyframePrediction, list[Mask]]]
"""Predictions without a calibration, each with the masks of the things in view that sound."""


def fit(predictor: Predictor, cutouts: Cutouts, clips: int = CLIPS, seed: int = 1) -> Calibration:
    """On the validation part of `cutouts`. What calibration the predictor has plays no part."""
    bare = Predictor(predictor.model_version, predictor.loaded, batch_size=predictor.batch_size)
    return fit_to(_observe(bare, cutouts.part("val"), clips, seed))


def fit_to(observed: Observed) -> Calibration:
    """On at least one keyframe that is not silent."""
    presence, present, right, was_right = [], [], [], []
    for seen, truth in observed:
        if seen.evidence is None:
            continue
        presence.append(seen.evidence.features)
        present.append(bool(truth))
        for thing in seen.objects:
            right.append(thing.evidence_of(seen.evidence).features)
            was_right.append(_is_right(thing.mask, truth))
    return Calibration(presence=_line(presence, present), right=_line(right, was_right))


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Of the cases whose probability lies in one tenth: how many, their mean, and the share that was the case."""

    count: int
    said: float
    was: float


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How reliable a probability is. `error`: the mean distance of `said` and `was`, over all cases."""

    bins: tuple[Bin, ...]
    error: float

    @classmethod
    def of(cls, said: Sequence[float], was: Sequence[bool]) -> Self:
        """At least one case."""
        probabilities, outcomes = np.array(said), np.array(was, np.float64)
        tenths = np.minimum((probabilities * 10).astype(int), 9)
        bins = tuple(
            Bin(count=int(some.sum()), said=float(probabilities[some].mean()), was=float(outcomes[some].mean()))
            for some in (tenths == tenth for tenth in range(10))
            if some.any()
        )
        return cls(bins=bins, error=sum(each.count * abs(each.said - each.was) for each in bins) / len(outcomes))


def measure(
    predictor: Predictor,
    cutouts: Cutouts,
    clips: int = CLIPS,
    seed: int = 2,
    done: Callable[[], object] = lambda: None,
) -> dict[str, Reliability]:
    """On the test part of `cutouts`, of a predictor with a calibration: `presence`, `object` and `keyframe`.

    `done` is called after each keyframe.
    """
    cases: dict[str, tuple[list[float], list[bool]]] = {"presence": ([], []), "object": ([], []), "keyframe": ([], [])}
    for seen, truth in _observe(predictor, cutouts.part("test"), clips, seed):
        assert seen.presence is not None, f"{predictor.model_version} has no calibration"
        found = [("presence", seen.presence, bool(truth))]
        found += [("object", thing.score, _is_right(thing.mask, truth)) for thing in seen.objects]
        union = np.logical_or.reduce([*truth, np.zeros_like(seen.mask)])
        keyframe = mask_iou(seen.mask, union) > RIGHT if seen.sounding else not truth
        found.append(("keyframe", seen.score, keyframe))
        for kind, said, was in found:
            cases[kind][0].append(said)
            cases[kind][1].append(was)
        done()
    return {kind: Reliability.of(*both) for kind, both in cases.items() if both[0]}


def _observe(
    predictor: Predictor, cutouts: Cutouts, clips: int, seed: int
) -> Iterator[tuple[KeyframePrediction, list[Mask]]]:
    """Each keyframe's prediction, and the masks of the things in view that sound there."""
    truths: deque[list[Mask]] = deque()  # windows are read ahead, in another thread

    def windows() -> Iterator[Window]:
        for window, truth in composed_windows(cutouts, clips, seed):
            truths.append(truth)
            yield window

    with closing(predictor.predict(windows())) as predictions:
        for prediction in predictions:
            yield prediction, truths.popleft()


def _is_right(mask: Mask, truth: list[Mask]) -> bool:
    """Whether it is one of the things, or all of them together."""
    return any(mask_iou(mask, each) > RIGHT for each in [*truth, *([np.logical_or.reduce(truth)] if truth else [])])


def _line(features: Sequence[Sequence[float]], outcomes: Sequence[bool]) -> tuple[float, ...]:
    x = torch.tensor(features, dtype=torch.float64).reshape(-1, len(FEATURES))
    line = fit_lines(x, torch.tensor(outcomes, dtype=torch.float64)[:, None], _DECAY)[0]
    return tuple(round(weight, 4) for weight in line.tolist())


def write_diagram(path: Path, measured: Mapping[str, Reliability]) -> None:
    """A PNG with a reliability diagram for each: a dot for a tenth of the scores, the larger the more cases it has."""
    from matplotlib.figure import Figure  # half a second that only a drawing needs

    figure = Figure(figsize=(4.5 * len(measured), 4.5), layout="constrained")
    panels = figure.subplots(1, len(measured), squeeze=False)[0]
    for axes, (name, reliability) in zip(panels, measured.items(), strict=True):
        counts = [each.count for each in reliability.bins]
        x, y = [each.said for each in reliability.bins], [each.was for each in reliability.bins]
        axes.plot([0, 1], [0, 1], color="tab:gray")
        axes.scatter(x, y, [20 + 180 * count / max(counts) for count in counts], color="tab:pink")
        for at, count in zip(zip(x, y, strict=True), counts, strict=True):
            axes.annotate(str(count), at, textcoords="offset points", xytext=(0, 8), ha="center", fontsize="small")
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="said", ylabel="was")
        axes.set_title(f"{name}, {sum(counts)} cases, off by {reliability.error:.3f}", fontsize="medium")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def fit_lines(x: Tensor, y: Tensor, decay: float, weight: Tensor | None = None) -> Tensor:
    """A line for each column of `y` (examples, lines), 0 or 1, on `x` (examples, width): (lines, width + 1), the bias
    last.

    `weight`: how much an example counts for each line, shape of `y`. `decay`, of the lines' squared lengths: a line
    exists even where all outcomes are alike, or where there are none.
    """
    x = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    lines = torch.zeros(y.shape[1], x.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([lines], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        wrong = F.binary_cross_entropy_with_logits(x @ lines.T, y.double(), weight=weight, reduction="sum")
        value = wrong + decay * lines.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return lines.detach()
