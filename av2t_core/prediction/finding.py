"""Masks of what a finder found: a prompt for each thing that sounds, and of SAM's candidates the one that fits."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from av2t_core.media.clip import Window
from av2t_core.model.inputs import to_device
from av2t_core.prediction.objects import Detection, Evidence
from av2t_core.versions.checkpoint import Loaded
from av2t_core.words import Found

Mask = NDArray[np.bool_]

MARGIN = 0.1
"""By how much of its size a mask may leave the box that a detector gave."""
TIDY = 0.03
"""Parts and holes of less than this share of a mask are noise."""
NOTHING = Evidence(iou=0, peak=-10, heard=0, match=0, share=0)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """SAM's candidates for what was found, on the host: logits (N, h, w), and the IoU expected of each (N,)."""

    found: Found
    logits: Tensor
    scores: Tensor


def ask(
    loaded: Loaded, windows: Sequence[Window], a: Tensor, beside: Tensor, names: Sequence[str]
) -> list[list[Answer]]:
    """What the finder finds in each window, and SAM's candidates for it. `a`, `beside`: see `Finder.find`."""
    assert loaded.finder is not None
    assert loaded.namer is not None
    segmenter = loaded.model.segmenter
    images = to_device([window.image for window in windows], loaded.device)
    found = loaded.finder.find(list(images), a, beside, names, loaded.namer)
    answers: list[list[Answer]] = [[] for _ in windows]
    pictures = [i for i, some in enumerate(found) if some]
    if not pictures:
        return answers
    frames = [images[i] for i in pictures]
    text, additions = None, None
    if loaded.model.says_something:
        text, additions = loaded.model.prompt(loaded.image_encoder.encode(frames), a[pictures])
    with torch.autocast(loaded.device.type, torch.bfloat16, enabled=loaded.precision == "bf16"):
        inputs = segmenter.inputs(segmenter.squares(frames))
        features = segmenter.encode(inputs, additions)
        asked = [
            (number, each, prompt if text is None else torch.cat([prompt, text[number]]))
            for number, i in enumerate(pictures)
            for each in found[i]
            for prompt in each.prompts
        ]
        candidates: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        # Prompts of one length go together: SAM reads a token that fills up, too.
        for length in sorted({len(prompt) for _, _, prompt in asked}):
            some = [each for each in asked if len(each[2]) == length]
            of = torch.tensor([number for number, _, _ in some], device=a.device)
            answered = segmenter.decode(inputs, features, torch.stack([prompt for _, _, prompt in some]), of)
            for (_, each, _), *answer in zip(some, answered.logits, answered.scores, strict=True):
                candidates[id(each)].append((answer[0].float().cpu(), answer[1].float().cpu()))
    for i in pictures:
        for each in found[i]:
            logits, scores = zip(*candidates[id(each)], strict=True)
            answers[i].append(Answer(found=each, logits=torch.cat(logits), scores=torch.cat(scores)))
    return answers


def find_objects(
    loaded: Loaded, windows: Sequence[Window], a: Tensor, beside: Tensor, names: Sequence[str]
) -> list[tuple[list[Detection], Evidence]]:
    """The objects that sound in each window, and what the model says of all of them together."""
    results = []
    for window, answers in zip(windows, ask(loaded, windows, a, beside, names), strict=True):
        objects = [each for answer in answers if (each := _object(loaded, answer, window.image.shape[:2])) is not None]
        results.append((objects, _together(objects)))
    return results


def find_logits(loaded: Loaded, windows: Sequence[Window], a: Tensor, beside: Tensor, size: tuple[int, int]) -> Tensor:
    """The logits (B, H, W) at `size` of all that sounds in each window, whatever it is called."""
    logits = []
    for window, answers in zip(windows, ask(loaded, windows, a, beside, ()), strict=True):
        height, width = window.image.shape[:2]
        best = [answer.logits[_fits(answer, (height, width)).argmax()] for answer in answers]
        each = [loaded.model.segmenter.upsample(one[None], size)[0] for one in best]
        logits.append(torch.stack(each).amax(dim=0) if each else torch.full(size, NOTHING.peak))
    return torch.stack(logits)


def _object(loaded: Loaded, answer: Answer, size: tuple[int, int]) -> Detection | None:
    """None if nothing is left of its mask (H, W)."""
    best = int(_fits(answer, size).argmax())
    native = loaded.model.segmenter.upsample(answer.logits[best][None], size)[0] > 0
    mask = np.asarray(native.cpu().numpy(), np.bool_)
    if answer.found.sure:
        mask &= _inside(answer.found.box, size)
    mask = _tidy(mask)
    if not mask.any():
        return None
    evidence = Evidence(
        iou=float(answer.scores[best].clamp(0, 1)),
        peak=float(answer.logits[best].max()),
        heard=answer.found.heard,
        match=answer.found.likelihood,
        share=float(mask.mean()),
    )
    return Detection(names=answer.found.names, score=evidence.iou, mask=mask, evidence=evidence)


def _fits(answer: Answer, size: tuple[int, int]) -> Tensor:
    """How well each candidate answers what was asked for (N,).

    It is the product of the IoU that SAM expects, of how little the mask depends on the threshold, of the IoU of its
    box with the one asked for, of the share of that one's middle that it covers, and of how like the thing it looks.
    """
    logits, found = answer.logits, answer.found
    stable = (logits > 1).sum(dim=(1, 2)) / (logits > -1).sum(dim=(1, 2)).clamp(min=1)
    masks = logits > 0
    scale = torch.tensor([logits.shape[2] / size[1], logits.shape[1] / size[0]]).repeat(2)
    boxed = torch.stack([_box_iou(mask, torch.tensor(found.box) * scale) for mask in masks])
    cells = F.interpolate(masks[None].float(), found.places.shape, mode="area")[0]
    alike = ((cells * found.places).sum(dim=(1, 2)) / cells.sum(dim=(1, 2)).clamp(min=0.1)).sigmoid()
    middle = torch.stack([_middle(mask, torch.tensor(found.box) * scale) for mask in masks])
    return answer.scores * stable * boxed * middle * alike


def _middle(mask: Tensor, box: Tensor) -> Tensor:
    """The share of the middle of a box, x0, y0, x1, y1, that a mask (h, w) covers."""
    x0, y0, x1, y1 = box.tolist()
    dx, dy = 0.3 * (x1 - x0), 0.3 * (y1 - y0)
    part = mask[int(y0 + dy) : max(int(y0 + dy) + 1, int(y1 - dy)), int(x0 + dx) : max(int(x0 + dx) + 1, int(x1 - dx))]
    return part.float().mean() if part.numel() else box.new_tensor(0)


def _box_iou(mask: Tensor, box: Tensor) -> Tensor:
    """Of the box of a mask (h, w) and x0, y0, x1, y1."""
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return box.new_tensor(0)
    own = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
    low, high = torch.maximum(own[:2], box[:2]), torch.minimum(own[2:], box[2:])
    both = (high - low).clamp(min=0).prod()
    return both / ((own[2:] - own[:2]).prod() + (box[2:] - box[:2]).prod() - both)


def _tidy(mask: Mask) -> Mask:
    """Without crumbs and without pinholes: what is small beside the mask itself."""
    least, tidy = TIDY * mask.sum(), mask.copy()
    for wrong in (True, False):  # crumbs are taken away, holes are filled
        _, parts, stats, _ = cv2.connectedComponentsWithStats((tidy == wrong).view(np.uint8))
        small = stats[:, cv2.CC_STAT_AREA] < least
        small[0] = False
        tidy[small[parts]] = not wrong
    return tidy


def _inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> Mask:
    """(H, W): the box and a margin around it."""
    x0, y0, x1, y1 = box
    dx, dy = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    inside = np.zeros(size, np.bool_)
    inside[max(0, round(y0 - dy)) : round(y1 + dy), max(0, round(x0 - dx)) : round(x1 + dx)] = True
    return inside


def _together(objects: Sequence[Detection]) -> Evidence:
    """Of the surest object; the share is that of all."""
    each = [one.evidence for one in objects if one.evidence]
    if not each:
        return NOTHING
    best = max(each, key=lambda evidence: evidence.match)
    return Evidence(
        iou=best.iou, peak=best.peak, heard=best.heard, match=best.match, share=sum(one.share for one in each)
    )
