"""`av2t evaluate`, how right a model version is on a data set in AVSBench's layout, and `av2t scores`, how far its
scores can be trusted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from av2t.console import counted, progress_bar, report, table, writing_into
from av2t.options import Count, ModelOptions, load_predictor
from av2t.signature import Arg
from av2t_core.data.avsbench import (
    Hearing,
    LabelledClip,
    Layout,
    Split,
    missing_files,
    read_clips,
    refuse_missing,
    shuffled,
)
from av2t_core.errors import AV2TError
from av2t_core.evaluation.pictures import check_predictions, write_strip
from av2t_core.versions.version import resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from av2t_core.evaluation.reliability import Reliability
    from av2t_core.evaluation.scores import ClipScores, Evaluation, Scores
    from av2t_core.prediction.predictor import Predictor

COLUMNS: dict[Hearing, str] = {"own": "as recorded", "shuffled": "shuffled sound", "muted": "muted"}
ROWS = {
    "miou": "mIoU",
    "f_avsbench": "F (AVSBench)",
    "f_reference": "F (reference: raw logits)",
    "iou_sounding": "IoU where something sounds",
    "false_positives": "false masks in silence",
    "false_positives_off_screen": "false masks, off-screen",
    "false_positives_all": "false masks, both",
    "names_right": "right names",
    "masked": "masked",
}
"""What the text shows, by the names of the JSON."""

MOST_CATEGORIES = 30  # that a person is shown
HARDLY = 0.9  # a model that keeps so much of its IoU under the wrong sound shows little of listening
SEED = 0  # of the shuffling


def evaluate(
    root: Annotated[Path, Arg("folder of the data set", "ROOT")],
    *,
    layout: Annotated[Layout, Arg("which of AVSBench's parts it is")],
    split: Split = "test",
    clips: Annotated[Count | None, Arg("only so many of the split's clips, evenly spread (default: all)", "N")] = None,
    options: ModelOptions,
    predictions: Annotated[Path | None, Arg("measure saved masks instead of a model's", "DIR")] = None,
    shuffle_audio: Annotated[bool, Arg("also with another clip's sound, of another category if possible")] = False,
    mute: Annotated[bool, Arg("also with digital silence")] = False,
    save_overlays: Annotated[Path | None, Arg("a PNG for each clip: tinted masks, the truth's contour", "DIR")] = None,
    json: Annotated[bool, Arg("print the numbers as JSON, every category among them")] = False,
) -> None:
    """Measure how right a model version is on a data set in AVSBench's layout: AVSBench itself, or what `av2t compose
    --layout` makes. `av2t bench` measures how fast it is.

    Masks are compared at 224 x 224, as in the literature: without the rules of `av2t predict`, which looks at no silent
    second and leaves out small parts. All numbers lie in 0..1:

      mIoU               intersection over union as AVSBench computes it: the mean over all frames; one in which nothing
                         sounds scores the share of its pixels that are not masked
      F (AVSBench)       F measure, beta^2 = 0.3, of the best of 255 thresholds of the probability; for each clip over
                         its frames in which something sounds (0 if there is none), then the mean over clips
      F (reference)      the same with thresholds of the raw logits, as AV2T-SAM's authors compute it
      IoU where something sounds   intersection over union, of the frames in which something sounds alone
      false masks in silence       the share of the frames in which nothing sounds that are masked, more than 0.5 % of
                         the picture (with another clip's sound they are not silent any more, and masking may be right)
      false masks, off-screen      the same of the frames in which only something sounds that is not in view; where the
                         data set does not tell these from silence (`av2t compose` does), they count as silent
      right names        the share of the objects, where something in view sounds, that go under the name of something
                         that sounds; of predictions in folders of `av2t predict`, where the data set has names
      masked             the share of all frames that are masked

    --shuffle-audio and --mute measure again with the wrong sound or none, and show by how much the numbers change:
    those of a model that listens fall.

    examples:
      av2t evaluate AVSBench --layout s4 --model sam2-l --shuffle-audio
      av2t evaluate AVSBench --layout ms3 --split val --save-overlays strips
      av2t evaluate AVSBench --layout ms3 --predictions masks
      av2t evaluate composed --layout ms3 --predictions composed/all_objects   # sees all, hears nothing

    --predictions DIR measures masks that any program saved: DIR/VIDEO/1.png to 5.png are the frames of the clip VIDEO,
    counted from 1, grey, 0 to 255 for the probability that a pixel sounds, of any size. It also takes the folders that
    `av2t predict clip.mp4 --out DIR/VIDEO` writes, with masks/000.png to 004.png. In the layout clips there are as many
    as the clip has keyframes.
    """
    # A mistake in a name, or a file that is missing, should not wait for what takes seconds to import.
    wanted: dict[Hearing, bool] = {"own": True, "shuffled": shuffle_audio, "muted": mute}
    hearings = [hearing for hearing, said in wanted.items() if said]
    settings = options.settings(run_model=predictions is None)
    if predictions is None:
        resolve(settings.model, settings.models_dir).check()
    else:
        needing = {**asdict(options), "shuffle-audio": shuffle_audio, "mute": mute}
        if option := next((option for option, value in needing.items() if value), None):
            raise AV2TError(
                f"--{option} does not go with --predictions, which measures masks as they are, without a model"
            )
    chosen = read_clips(root, layout, split)
    if clips is not None:
        count = min(clips, len(chosen))
        chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    missing = missing_files(chosen)
    if predictions is not None:
        check_predictions(predictions, chosen)
        if save_overlays is None:
            masks = {mask for clip in chosen for mask in clip.masks}
            missing = [path for path in missing if path in masks]
    refuse_missing(missing, root, layout)
    if shuffle_audio:
        shuffled(chosen, SEED)  # refuses a single clip
    if save_overlays is not None:
        with writing_into(save_overlays):
            save_overlays.mkdir(parents=True, exist_ok=True)
    source = predictions or load_predictor(settings)
    predictor = None if isinstance(source, Path) else source
    evaluations = _evaluations(source, chosen, hearings, save_overlays)
    categories = evaluations["own"].categories
    scores = {hearing: evaluation.scores for hearing, evaluation in evaluations.items()}
    found = {
        **{"root": str(root), "layout": layout, "split": split},
        "model_version": predictor and predictor.model_version,
        "predictions": predictions and str(predictions),
        "device": predictor and str(predictor.loaded.device),
        "precision": predictor and predictor.loaded.precision,
        "sounds": {hearing: _numbers(its) for hearing, its in scores.items()},
        "categories": {category: _numbers(its) for category, its in categories.items()},
    }
    title = f"{found['model_version'] or predictions} on {layout} {split} of {root}"
    report(found, [title, *_table(scores), *_remarks(scores), *_category_table(categories)], json=json)


def _evaluations(
    source: "Path | Predictor", clips: Sequence[LabelledClip], hearings: Sequence[Hearing], overlays: Path | None
) -> "dict[Hearing, Evaluation]":
    """Of saved masks, else of the model by each hearing."""
    from av2t_core.evaluation.scores import evaluate_clips, score_predictions

    def on_clip(hearing: Hearing, scores: "ClipScores", masks: "NDArray[np.bool_]") -> None:
        if overlays is not None:
            name = scores.clip.video + ("" if hearing == "own" else f".{hearing}")
            with writing_into(overlays):
                write_strip(overlays / f"{name}.png", scores, masks)
        bar.update()

    with progress_bar("evaluating", len(clips) * len(hearings), "clips") as bar:
        if isinstance(source, Path):
            return {"own": score_predictions(source, clips, partial(on_clip, "own"))}
        return {
            hearing: evaluate_clips(source, clips, sound=hearing, seed=SEED, on_clip=partial(on_clip, hearing))
            for hearing in hearings
        }


def _numbers(scores: "Scores") -> dict[str, int | float | None]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(scores).items()}


def _table(scores: "Mapping[Hearing, Scores]") -> list[str]:
    own = scores["own"]
    counts = f"{counted(own.clips, 'clip')}, {counted(own.frames, 'frame')}, {own.frames_sounding} of them sounding"
    rows = [["", *(COLUMNS[hearing] for hearing in scores)]]
    for name, label in ROWS.items():
        recorded, *others = (getattr(its, name) for its in scores.values())
        changes = (_cell(value) + ("" if value is None else f" ({value - recorded:+.4f})") for value in others)
        rows.append([label, _cell(recorded), *changes])
    return [counts, *table("", rows)[1:]]


def _remarks(scores: "Mapping[Hearing, Scores]") -> list[str]:
    recorded = scores["own"].iou_sounding
    without: dict[Hearing, str] = {"shuffled": "with another clip's sound", "muted": "without sound"}
    hardly = [
        words
        for hearing, words in without.items()
        if hearing in scores and recorded and (scores[hearing].iou_sounding or 0) > HARDLY * recorded
    ]
    what = "this data set can be solved without listening, or the model does not listen"
    return ["", f"Where something sounds, the IoU hardly falls {' and '.join(hardly)}: {what}."] if hardly else []


def _category_table(categories: "Mapping[str, Scores]") -> list[str]:
    rows = [[name, str(its.clips), _cell(its.miou), _cell(its.f_avsbench)] for name, its in categories.items()]
    shown = [["", "clips", "mIoU", "F (AVSBench)"], *rows[:MOST_CATEGORIES]] if rows else []
    more = [f"  and {len(rows) - MOST_CATEGORIES} more, which --json has"] if len(rows) > MOST_CATEGORIES else []
    return table("by category, as recorded", shown) + more


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def scores(
    *,
    cutouts: Annotated[Path, Arg("folder with the photographs and recordings")],
    options: ModelOptions,
    out: Annotated[Path | None, Arg("draw a diagram into this file", "PNG")] = None,
    clips: Annotated[Count, Arg("of five seconds", "N")] = 200,
    seed: int = 2,
    json: Annotated[bool, Arg("print the numbers as JSON")] = False,
) -> None:
    """Measure how far the scores of a model version can be trusted: of all masks that it calls right with 80 %, are
    four of five right? On clips composed for it, of backgrounds and silent things that its training has not seen.

    Three scores are looked at: `presence`, that something in view sounds; `object`, that a thing's mask overlaps what
    sounds by more than half; `keyframe`, that all that is masked does so, or that nothing sounds where nothing is
    masked.

    example:
      av2t scores --cutouts cutouts --out reliability.png
    """
    settings = options.settings(run_model=True)
    version = resolve(settings.model, settings.models_dir).check()
    if version.card.calibration is None:
        raise AV2TError(f"model version {version.name} has no calibration, so its scores are no probabilities")
    from av2t_core.data.cutouts import Cutouts
    from av2t_core.evaluation.reliability import measure, write_diagram

    found = Cutouts.load(cutouts)
    predictor = load_predictor(settings)
    with progress_bar("clips", 5 * clips, "keyframes") as bar:
        measured = measure(predictor, found, clips, seed, done=bar.update)
    if out is not None:
        write_diagram(out, measured)
    found_scores = {name: asdict(reliability) for name, reliability in measured.items()}
    report(found_scores, _reliability(measured), json=json)


def _reliability(measured: "dict[str, Reliability]") -> Iterator[str]:
    for name, reliability in measured.items():
        yield f"{name}: off by {reliability.error:.3f}"
        yield from (f"  said {each.said:4.0%}, was {each.was:4.0%} of {each.count}" for each in reliability.bins)
