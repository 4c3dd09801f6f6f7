"""`av2t evaluate`: how right a model version is on a data set in AVSBench's layout."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from av2t.console import note, progress_bar, table
from av2t.options import add_model, count
from av2t_core.data.avsbench import LAYOUTS, SPLITS, LabelledClip, missing_files, read_clips, refuse_missing
from av2t_core.errors import AV2TError
from av2t_core.evaluation.hearing import Hearing, shuffled
from av2t_core.evaluation.saved_predictions import check_predictions
from av2t_core.versions.version import resolve
from worker.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from av2t_core.evaluation.scores import ClipScores, Evaluation, OnClip, Scores

DESCRIPTION = """\
Measure how right a model version is on a data set in AVSBench's layout: AVSBench itself, or what `av2t compose
--layout` makes. `av2t bench` measures how fast it is.

Masks are compared at 224 x 224, as in the literature: without the rules of `av2t predict`, which looks at no silent
second and leaves out small parts. All numbers lie in 0..1:

  mIoU               intersection over union as AVSBench computes it: the mean over all frames; one in which nothing
                     sounds scores the share of its pixels that are not masked
  F (AVSBench)       F measure, beta^2 = 0.3, of the best of 255 thresholds of the probability; for each clip over its
                     frames in which something sounds (0 if there is none), then the mean over clips
  F (reference)      the same with thresholds of the raw logits, as AV2T-SAM's authors compute it
  IoU where something sounds   intersection over union, of the frames in which something sounds alone
  false masks in silence       the share of the frames in which nothing sounds that are masked, more than 0.5 % of the
                     picture (with another clip's sound they are not silent any more, and masking may be right)
  false masks, off-screen      the same of the frames in which only something sounds that is not in view; where the
                     data set does not tell these from silence (`av2t compose` does), they count as silent
  masked             the share of all frames that are masked

--shuffle-audio and --mute measure again with the wrong sound or none, and show by how much the numbers change: those
of a model that listens fall."""

EPILOG = """examples:
  av2t evaluate AVSBench --layout s4 --model sam2-l --shuffle-audio
  av2t evaluate AVSBench --layout ms3 --split val --save-overlays strips
  av2t evaluate AVSBench --layout ms3 --predictions masks
  av2t evaluate composed --layout ms3 --predictions composed/all_objects    # a model that sees all and hears nothing

--predictions DIR measures masks that any program saved: DIR/VIDEO/1.png to 5.png are the frames of the clip VIDEO,
counted from 1, grey, 0 to 255 for the probability that a pixel sounds, of any size. It also takes the folders that
`av2t predict clip.mp4 --out DIR/VIDEO` writes, with masks/000.png to 004.png."""

COLUMNS: dict[Hearing, str] = {"own": "as recorded", "shuffled": "shuffled sound", "muted": "muted"}
ROWS = {
    "miou": "mIoU",
    "f_avsbench": "F (AVSBench)",
    "f_reference": "F (reference: raw logits)",
    "iou_sounding": "IoU where something sounds",
    "false_positives": "false masks in silence",
    "false_positives_off_screen": "false masks, off-screen",
    "masked": "masked",
}
"""What the text shows, by the names of the JSON."""

MOST_CATEGORIES = 30  # that a person is shown
HARDLY = 0.9  # a model that keeps so much of its IoU under the wrong sound shows little of listening
SEED = 0  # of the shuffling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        required=True,
        help="which of AVSBench's parts it is",
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="default: %(default)s")
    parser.add_argument(
        "--clips", type=count, metavar="N", help="only so many of the split's clips, evenly spread (default: all)"
    )
    add_model(parser)
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="measure saved masks instead of a model's")
    parser.add_argument(
        "--shuffle-audio",
        action="store_true",
        help="also with the sound of another clip, of another category where there are several",
    )
    parser.add_argument("--mute", action="store_true", help="also with digital silence")
    parser.add_argument(
        "--save-overlays",
        type=Path,
        metavar="DIR",
        help="a PNG for each clip: the masks as a tint, the truth as a contour",
    )
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON, every category among them")


def run(args: argparse.Namespace) -> int:
    # A mistake in a name, or a file that is missing, should not wait for what takes seconds to import.
    settings = Settings.load(model=args.model, device=args.device, precision=args.precision)
    if args.predictions is not None:
        _refuse_what_needs_a_model(args)
    else:
        resolve(settings.model, settings.models_dir).check()
    clips = read_clips(args.root, args.layout, args.split)
    if args.clips is not None:
        count = min(args.clips, len(clips))
        clips = [clips[index * len(clips) // count] for index in range(count)]
    _check_files(args, clips)
    if args.save_overlays is not None:
        with _written_to(args.save_overlays):
            args.save_overlays.mkdir(parents=True, exist_ok=True)
    if args.predictions is not None:
        told, evaluations = _of_predictions(args, clips)
    else:
        told, evaluations = _of_model(args, settings, clips)
    categories = evaluations["own"].categories
    if args.json:
        numbers = {
            "root": str(args.root),
            "layout": args.layout,
            "split": args.split,
            **told,
            "sounds": {hearing: _numbers(evaluation.scores) for hearing, evaluation in evaluations.items()},
            "categories": {category: _numbers(scores) for category, scores in categories.items()},
        }
        print(json.dumps(numbers))
    else:
        title = f"{told['model_version'] or told['predictions']} on {args.layout} {args.split} of {args.root}"
        scores = {hearing: evaluation.scores for hearing, evaluation in evaluations.items()}
        print("\n".join([title, *_table(scores), *_remarks(scores), *_category_table(categories)]))
    return 0


def _refuse_what_needs_a_model(args: argparse.Namespace) -> None:
    for option in ("model", "device", "precision", "shuffle_audio", "mute"):
        if getattr(args, option):
            raise AV2TError(
                f"--{option.replace('_', '-')} does not go with --predictions, which measures masks as they are,"
                " without a model"
            )


def _check_files(args: argparse.Namespace, clips: Sequence[LabelledClip]) -> None:
    missing = missing_files(clips)
    if args.predictions is not None:
        check_predictions(args.predictions, clips)
        if args.save_overlays is None:
            masks = {mask for clip in clips for mask in clip.masks}
            missing = [path for path in missing if path in masks]
    refuse_missing(missing, args.root, args.layout)
    if args.shuffle_audio:
        shuffled(clips, SEED)  # refuses a single clip


def _of_predictions(
    args: argparse.Namespace, clips: Sequence[LabelledClip]
) -> tuple[dict[str, str | None], "dict[Hearing, Evaluation]"]:
    from av2t_core.evaluation.scores import score_predictions

    with progress_bar("evaluating", len(clips), "clips") as bar:
        evaluation = score_predictions(args.predictions, clips, _on_clip(args, "own", bar.update))
    told = {"model_version": None, "predictions": str(args.predictions), "device": None, "precision": None}
    return told, {"own": evaluation}


def _of_model(
    args: argparse.Namespace, settings: Settings, clips: Sequence[LabelledClip]
) -> tuple[dict[str, str | None], "dict[Hearing, Evaluation]"]:
    if sys.stderr.isatty():
        note(f"loading the model {settings.model}")
    from av2t_core.evaluation.scores import evaluate_clips
    from av2t_core.prediction.predictor import Predictor

    predictor = Predictor.load(
        settings.model, settings.device, models_dir=settings.models_dir, precision=settings.precision
    )
    hearings: dict[Hearing, bool] = {"own": True, "shuffled": args.shuffle_audio, "muted": args.mute}
    evaluations: dict[Hearing, Evaluation] = {}
    with progress_bar("evaluating", len(clips) * sum(hearings.values()), "clips") as bar:
        for hearing in (hearing for hearing, wanted in hearings.items() if wanted):
            on_clip = _on_clip(args, hearing, bar.update)
            evaluations[hearing] = evaluate_clips(predictor, clips, sound=hearing, seed=SEED, on_clip=on_clip)
    told = {
        "model_version": predictor.model_version,
        "predictions": None,
        "device": str(predictor.loaded.device),
        "precision": predictor.loaded.precision,
    }
    return told, evaluations


def _on_clip(args: argparse.Namespace, hearing: Hearing, done: Callable[[], object]) -> "OnClip":
    from av2t_core.evaluation.strips import write_strip

    def on_clip(scores: "ClipScores", masks: "NDArray[np.bool_]") -> None:
        if args.save_overlays is not None:
            name = scores.clip.video + ("" if hearing == "own" else f".{hearing}")
            with _written_to(args.save_overlays):
                write_strip(args.save_overlays / f"{name}.png", scores, masks)
        done()

    return on_clip


@contextmanager
def _written_to(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AV2TError(f"{directory}: cannot be written ({error.strerror or error}); choose another folder") from error


def _numbers(scores: "Scores") -> dict[str, int | float | None]:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(scores).items()}


def _table(scores: "Mapping[Hearing, Scores]") -> list[str]:
    own = scores["own"]
    counts = f"{_counted(own.clips, 'clip')}, {_counted(own.frames, 'frame')}, {own.frames_sounding} of them sounding"
    rows = [["", *(COLUMNS[hearing] for hearing in scores)]]
    for name, label in ROWS.items():
        recorded, *others = (getattr(its, name) for its in scores.values())
        cells = [_cell(recorded)]
        for value in others:
            cells.append(_cell(value) + ("" if value is None else f" ({value - recorded:+.4f})"))
        rows.append([label, *cells])
    return [counts, *table("", rows)[1:]]


def _remarks(scores: "Mapping[Hearing, Scores]") -> list[str]:
    recorded = scores["own"].iou_sounding
    without = {"shuffled": "with another clip's sound", "muted": "without sound"}
    hardly = [
        without[hearing]
        for hearing, its in scores.items()
        if hearing != "own" and recorded and its.iou_sounding and its.iou_sounding > HARDLY * recorded
    ]
    if not hardly:
        return []
    return [
        "",
        f"Where something sounds, the IoU hardly falls {' and '.join(hardly)}: this data set can be solved without"
        " listening, or the model does not listen.",
    ]


def _category_table(categories: "Mapping[str, Scores]") -> list[str]:
    shown = list(categories.items())[:MOST_CATEGORIES]
    rows = [[name, str(its.clips), _cell(its.miou), _cell(its.f_avsbench)] for name, its in shown]
    lines = table("by category, as recorded", [["", "clips", "mIoU", "F (AVSBench)"], *rows] if rows else [])
    more = len(categories) - len(shown)
    return [*lines, f"  and {more} more, which --json has"] if more else lines


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
