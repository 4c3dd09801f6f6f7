"""`av2t predict`: one video in, a folder with its masks out."""

from collections import Counter
from pathlib import Path
from typing import Annotated

from av2t.console import counted, note, progress_bar, writing_into
from av2t.options import ModelOptions, Names, load_predictor
from av2t.signature import Arg
from av2t_core.errors import AV2TError
from av2t_core.media.clip import Clip
from av2t_core.prediction.drawing import ContactSheet, write_overlay
from av2t_core.prediction.folder import NAME, OVERLAY, SHEET, Prediction, PredictionWriter, check_directory, dumps
from av2t_core.versions.version import resolve


def predict(
    video: Annotated[Path, Arg("a video file with sound: mp4, mov, webm, mkv, avi …", "VIDEO")],
    *,
    out: Annotated[Path, Arg("folder for the prediction", "DIR")],
    options: ModelOptions,
    random_weights: Annotated[bool, Arg("draw the preset's weights: its speed and memory, no real masks")] = False,
    names: Annotated[
        Names,
        Arg("what to look for, as dog,guitar; the paper's models choose among these names", "A,B,C"),
    ] = (),
    json: Annotated[bool, Arg("print prediction.json instead of a summary")] = False,
    no_overlay: Annotated[bool, Arg("leave out overlay.mp4, which takes most of the time")] = False,
) -> None:
    """Mask what sounds in one video, without Label Studio.

    example:
      av2t predict clip.mp4 --out result

    writes
      result/prediction.json   every keyframe: its frame and time, whether something sounds, what and where
      result/masks/000.png     one mask for each keyframe, 255 where it sounds, of the video's own size
      result/sheet.png         the keyframes side by side, with their masks and their sound
      result/overlay.mp4       the clip with its masks and its sound
    """
    # Clip, model name and folder come first: a mistake in one of them should not wait for the model to load.
    settings = options.settings(run_model=not random_weights)
    with Clip(video) as clip:
        remark: str | None
        if random_weights:
            remark = "the weights are drawn at random, so the masks mean nothing"
        else:
            version = resolve(settings.model, settings.models_dir).check()
            if names and version.card.labels:
                raise AV2TError(f"--names: {version.name} has names of its own for what it knows; leave the option out")
            remark = version.caution
        replaced = check_directory(out)
        if replaced is not None and replaced != str(video):
            note(f"note: {out} holds the prediction of {replaced}, which this one replaces")
        limits = {"silence_dbfs": settings.silence_dbfs, "least_score": settings.least_score}
        predictor = load_predictor(settings, random=random_weights, **({} if random_weights else limits))
        for name in predictor.unknown(names):
            note(f"note: {predictor.model_version} knows nothing that is called {name!r}, and will not find it")
        sheet = ContactSheet()
        with writing_into(out), PredictionWriter(out) as writer:
            with progress_bar("masks", clip.expected_windows, "keyframes") as bar:
                for keyframe in predictor.predict_clip(sheet.listen(clip.windows()), names):
                    writer.add(keyframe)
                    sheet.add(keyframe)
                    bar.update()
            sheet.image().save(writer.staging / SHEET)
            if not no_overlay:
                with progress_bar("overlay", len(writer.keyframes), "s") as bar:
                    overlay = writer.staging / OVERLAY
                    write_overlay(video, writer.keyframes, writer.staging, overlay, on_second=bar.update)
            prediction = writer.finish(str(video), clip.info, predictor.model_version)
    for sentence in (*prediction["remarks"], *([remark] if remark else [])):
        note(f"note: {sentence}")
    print(dumps(prediction) if json else _summary(prediction, out))


def _summary(prediction: Prediction, directory: Path) -> str:
    keyframes = prediction["keyframes"]
    sounding = [keyframe for keyframe in keyframes if keyframe["sounding"]]
    labels = Counter(found["label"] or "unnamed" for keyframe in sounding for found in keyframe["objects"])
    lines = [f"{counted(len(keyframes), 'keyframe')}, something sounds in {len(sounding)} of them"]
    lines += [f"  {label}: {count}" for label, count in labels.most_common()]
    written = [NAME, "masks", SHEET, *([OVERLAY] if (directory / OVERLAY).exists() else [])]
    lines.append("written: " + ", ".join(str(directory / name) for name in written))
    return "\n".join(lines)
