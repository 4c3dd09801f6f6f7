"""`av2t predict`: one video in, a folder with its masks out."""

import argparse
import errno
import sys
from collections import Counter
from pathlib import Path

from av2t.console import note, progress_bar
from av2t.options import DEMO_CLIPS, add_model
from av2t.remedies import caution
from av2t_core.errors import AV2TError
from av2t_core.media.clip import Clip
from av2t_core.prediction.drawing import ContactSheet, write_overlay
from av2t_core.prediction.folder import NAME, OVERLAY, SHEET, Prediction, PredictionWriter, check_directory, dumps
from av2t_core.versions.version import resolve
from worker.settings import Settings

_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

_EXAMPLE = """example:
  av2t predict clip.mp4 --out result

writes
  result/prediction.json   every keyframe: its frame and time, whether something sounds, what and where
  result/masks/000.png     one mask for each keyframe, 255 where it sounds, of the video's own size
  result/sheet.png         the keyframes side by side, with their masks and their sound
  result/overlay.mp4       the clip with its masks and its sound"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLE
    parser.add_argument("video", metavar="VIDEO", type=Path, help="a video file with sound: mp4, mov, webm, mkv, avi …")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the prediction")
    add_model(parser)
    parser.add_argument(
        "--random-weights", action="store_true", help="draw the preset's weights: its speed and memory, no real masks"
    )
    parser.add_argument(
        "--names",
        metavar="A,B,C",
        type=_names,
        default=(),
        help="what things may be called; the paper's models choose among these, the embedded one has its own",
    )
    parser.add_argument("--json", action="store_true", help="print prediction.json instead of a summary")
    parser.add_argument("--no-overlay", action="store_true", help="leave out overlay.mp4, which takes most of the time")


def run(args: argparse.Namespace) -> int:
    # Clip, model name and folder come first: a mistake in one of them should not wait for the model to load.
    settings = Settings.load(model=args.model, device=args.device, precision=args.precision)
    with Clip(args.video) as clip:
        remark = None
        if not args.random_weights:
            version = resolve(settings.model, settings.models_dir)
            version.check()
            if args.names and version.card.labels:
                raise AV2TError(f"--names: {version.name} has names of its own for what it knows; leave the option out")
            remark = caution(version)
        replaced = check_directory(args.out)
        if replaced is not None and replaced != str(args.video):
            note(f"note: {args.out} holds the prediction of {replaced}, which this one replaces")
        try:
            prediction = _predict(clip, args, settings)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            raise AV2TError(f"{args.out}: cannot be written ({error.strerror}); choose another folder") from error
    for sentence in prediction["remarks"]:
        note(f"note: {sentence}")
    if remark is not None and args.video.resolve().parent != DEMO_CLIPS:
        note(f"note: {remark}")
    print(dumps(prediction) if args.json else _summary(prediction, args.out))
    return 0


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write them as dog,violin")
    return names


def _predict(clip: Clip, args: argparse.Namespace, settings: Settings) -> Prediction:
    if sys.stderr.isatty():
        note(f"loading the model {settings.model}")
    from av2t_core.prediction.predictor import Predictor  # takes seconds: it brings torch

    if args.random_weights:
        note("note: the weights are drawn at random, so the masks mean nothing")
        predictor = Predictor.random(settings.model, settings.device, precision=settings.precision)
    else:
        predictor = Predictor.load(
            settings.model,
            settings.device,
            models_dir=settings.models_dir,
            precision=settings.precision,
            silence_dbfs=settings.silence_dbfs,
            least_score=settings.least_score,
        )
    sheet = ContactSheet()
    with PredictionWriter(args.out) as writer:
        with progress_bar("masks", clip.expected_windows, "keyframes") as bar:
            for keyframe in predictor.predict_clip(sheet.listen(clip.windows()), args.names):
                writer.add(keyframe)
                sheet.add(keyframe)
                bar.update()
        sheet.image().save(writer.staging / SHEET)
        if not args.no_overlay:
            with progress_bar("overlay", len(writer.keyframes), "s") as bar:
                overlay = writer.staging / OVERLAY
                write_overlay(args.video, writer.keyframes, writer.staging, overlay, on_second=bar.update)
        return writer.finish(str(args.video), clip.info, predictor.model_version)


def _summary(prediction: Prediction, directory: Path) -> str:
    keyframes = prediction["keyframes"]
    sounding = [keyframe for keyframe in keyframes if keyframe["sounding"]]
    labels = Counter(found["label"] or "unnamed" for keyframe in sounding for found in keyframe["objects"])
    counted = f"{len(keyframes)} keyframe{'s' if len(keyframes) > 1 else ''}"
    lines = [f"{counted}, something sounds in {len(sounding)} of them"]
    lines += [f"  {label}: {count}" for label, count in labels.most_common()]
    written = [NAME, "masks", SHEET, *([OVERLAY] if (directory / OVERLAY).exists() else [])]
    lines.append("written: " + ", ".join(str(directory / name) for name in written))
    return "\n".join(lines)
