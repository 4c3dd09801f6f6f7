"""`av2t predict`: videos in, for each a folder with its masks out."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from av2t.console import counted, note, progress_bar, writing_into
from av2t.options import ModelOptions, Names, load_predictor
from av2t.signature import Arg
from av2t_core.errors import AV2TError, MediaError
from av2t_core.media.clip import Clip
from av2t_core.prediction.drawing import ContactSheet, write_overlay
from av2t_core.prediction.folder import NAME, OVERLAY, SHEET, Prediction, PredictionWriter, check_directory, dumps
from av2t_core.text import one_line
from av2t_core.versions.version import resolve

if TYPE_CHECKING:
    from av2t_core.prediction.predictor import Predictor

VIDEOS = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv"}
)
"""How the files of a folder end that are predicted."""
SURE = 0.5
"""A score of less says that the mask is more probably wrong."""


def predict(
    videos: Annotated[Sequence[Path], Arg("video files with sound (mp4, mov, webm, mkv, avi …), or folders", "VIDEO")],
    *,
    out: Annotated[Path, Arg("folder for the prediction; of several videos, for a folder for each", "DIR")],
    options: ModelOptions,
    random_weights: Annotated[bool, Arg("draw the preset's weights: its speed and memory, no real masks")] = False,
    names: Annotated[
        Names,
        Arg("what to look for, as dog,guitar; the paper's models choose among these names", "A,B,C"),
    ] = (),
    json: Annotated[bool, Arg("print each prediction.json instead of a summary")] = False,
    no_overlay: Annotated[bool, Arg("leave out overlay.mp4, which takes most of the time")] = False,
) -> None:
    """Mask what sounds in videos, without Label Studio.

    examples:
      av2t predict clip.mp4 --out result
      av2t predict clips/ more.mov --out results     # results/NAME for each; run again, it goes on where it stopped

    writes
      result/prediction.json   every keyframe: its frame and time, whether something sounds, what and where
      result/masks/000.png     one mask for each keyframe, 255 where it sounds, of the video's own size
      result/sheet.png         the keyframes side by side, with their masks and their sound
      result/overlay.mp4       the clip with its masks and its sound
    """
    # Clips, model name and folders come first: a mistake in one of them should not wait for the model to load.
    settings = options.settings(run_model=not random_weights)
    several = len(videos) > 1 or videos[0].is_dir()
    places = _places(videos, out) if several else {videos[0]: out}
    if not several:
        with Clip(videos[0]):
            pass
    remark: str | None
    if random_weights:
        remark = "the weights are drawn at random, so the masks mean nothing"
    else:
        version = resolve(settings.model, settings.models_dir).check()
        if names and version.card.labels:
            raise AV2TError(f"--names: {version.name} has names of its own for what it knows; leave the option out")
        remark = version.caution
    held = {video: check_directory(directory) for video, directory in places.items()}
    limits = {"silence_dbfs": settings.silence_dbfs, "least_score": settings.least_score}
    predictor = load_predictor(settings, random=random_weights, **({} if random_weights else limits))
    for name in predictor.unknown(names):
        note(f"note: {predictor.model_version} knows nothing that is called {name!r}, and will not find it")
    one, done, failed = _Run(predictor=predictor, names=names, overlay=not no_overlay), 0, 0
    for video, directory in places.items():
        before = held[video]
        if several and before is not None and one.has_made(before, video):
            done += 1
            continue
        if before is not None and (several or before["video"] != str(video)):
            note(f"note: {directory} holds the prediction of {before['video']}, which this one replaces")
        try:
            prediction = one.predict(video, directory)
        except MediaError as error:
            if not several:
                raise
            note(f"error: {error}")
            failed += 1
            continue
        for sentence in prediction["remarks"]:
            note(f"note: {f'{video}: ' if several else ''}{sentence}")
        print(dumps(prediction) if json else _summary(prediction, directory, several), flush=True)
    if remark:
        note(f"note: {remark}")
    if several:
        made = len(places) - done - failed
        note(f"{counted(made, 'video')} predicted, {done} done before, {failed} failed")
    if failed:
        raise AV2TError(f"{counted(failed, 'video')} of {len(places)} could not be predicted; the errors above say why")


@dataclass(frozen=True, kw_only=True)
class _Run:
    predictor: "Predictor"
    names: Names
    overlay: bool

    def has_made(self, prediction: Prediction, video: Path) -> bool:
        """Whether it would come out the same again, as far as that is known of it."""
        wanted = {"video": str(video), "model_version": self.predictor.model_version, "names": list(self.names)}
        return wanted.items() <= prediction.items()

    def predict(self, video: Path, directory: Path) -> Prediction:
        """MediaError: it is no video that can be read."""
        sheet = ContactSheet()
        with Clip(video) as clip, writing_into(directory), PredictionWriter(directory) as writer:
            with progress_bar(f"masks of {video.name}", clip.expected_windows, "keyframes") as bar:
                for keyframe in self.predictor.predict_clip(sheet.listen(clip.windows()), self.names):
                    writer.add(keyframe)
                    sheet.add(keyframe)
                    bar.update()
            sheet.image().save(writer.staging / SHEET)
            if self.overlay:
                with progress_bar("overlay", len(writer.keyframes), "s") as bar:
                    overlay = writer.staging / OVERLAY
                    write_overlay(video, writer.keyframes, writer.staging, overlay, on_second=bar.update)
            return writer.finish(str(video), clip.info, self.predictor.model_version, self.names)


def _places(videos: Sequence[Path], out: Path) -> dict[Path, Path]:
    """The folder below `out` of each video: called as it, without its ending where that tells them apart."""
    files = [file for video in videos for file in (_in_folder(video) if video.is_dir() else [video])]
    files = list(dict.fromkeys(files))
    missing = next((file for file in files if not file.exists()), None)
    if missing is not None:
        raise AV2TError(f"{missing}: there is no such file")
    stems = Counter(file.stem for file in files)
    names = {file: file.stem if stems[file.stem] == 1 else file.name for file in files}
    twice = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if twice is not None:
        raise AV2TError(f"several videos are called {twice}; predict them apart, each into a folder of its own")
    return {file: out / name for file, name in names.items()}


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in VIDEOS and file.is_file())
    if not found:
        raise AV2TError(f"{folder}: has no video; files are looked for that end in {' '.join(sorted(VIDEOS))}")
    return found


def _summary(prediction: Prediction, directory: Path, several: bool) -> str:
    keyframes = prediction["keyframes"]
    sounding = sum(keyframe["sounding"] for keyframe in keyframes)
    lines = [f"{counted(len(keyframes), 'keyframe')}, something sounds in {sounding} of them"]
    if several:
        lines[0] = f"{one_line(prediction['video'])}: {lines[0]}"
    lines += _heard(prediction)
    written = [NAME, "masks", SHEET, *([OVERLAY] if (directory / OVERLAY).exists() else [])]
    lines.append("written: " + ", ".join(str(directory / name) for name in written))
    return "\n".join(lines)


def _heard(prediction: Prediction) -> Iterator[str]:
    """What has masks, the most frequent first, with its scores."""
    scores: dict[str, list[float]] = defaultdict(list)
    for keyframe in prediction["keyframes"]:
        for found in keyframe["objects"]:
            scores[found["label"] or "unnamed"].append(found["score"])
    for label, each in sorted(scores.items(), key=lambda item: -len(item[1])):
        low, high = (f"{round(100 * score)} %" for score in (min(each), max(each)))
        yield f"  {label}: {counted(len(each), 'mask')}, {low if low == high else f'{low} to {high}'} sure"
    if scores and max(max(each) for each in scores.values()) < SURE:
        yield "  nothing that it is sure of"
