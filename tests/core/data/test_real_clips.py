"""The evaluation set of real clips: its outlines, and the data set that is written from them."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from av2t_core.data.avsbench import DataError, read_clips, read_frame, read_mask
from av2t_core.data.real_clips import RealClip, read_real_clips, write_set
from av2t_core.data.real_media import Composition, Material
from av2t_core.errors import AV2TError
from av2t_core.evaluation.scores import score_predictions
from av2t_core.media.clip import Clip

POLYGONS = Path(__file__).parents[2] / "data" / "real_clips"
CLIPS = read_real_clips(POLYGONS)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)
def test_outlines_lie_in_their_frames(clip: RealClip) -> None:
    for keyframe in clip.keyframes:
        for thing in keyframe.things:
            assert thing.label
            for polygon in thing.polygons:
                assert len(polygon) >= 3
            assert thing.mask(clip.height, clip.width).mean() > 0.001
            if not isinstance(clip.source, Composition):  # whose view may cut a thing off
                points = np.concatenate(thing.polygons)
                assert points.min() >= 0
                assert (points <= (clip.width - 0.5, clip.height - 0.5)).all()


def test_a_keyframe_that_is_scored_has_outlines_or_none_for_a_reason() -> None:
    keyframes = [keyframe for clip in CLIPS for keyframe in clip.keyframes if keyframe.scored]
    counts = Counter(bool(keyframe.things) for keyframe in keyframes)
    assert counts[True] >= 60
    assert counts[False] >= 30
    times = {clip.name: [keyframe.time for keyframe in clip.keyframes] for clip in CLIPS}
    assert all(each == sorted(set(each)) for each in times.values())


def test_the_set_of_the_media_that_are_there(shared: Path, tmp_path: Path) -> None:
    material = Material(shared / "media", None, tmp_path / "copies")
    clips = [clip for clip in CLIPS if all(map(material.has, clip.members))]
    assert len(clips) >= 10
    write_set(tmp_path / "set", clips, material)
    written = read_clips(tmp_path / "set", "clips", "test")
    for clip, files in zip(clips, written, strict=True):
        assert files.labelled == [index for index, keyframe in enumerate(clip.keyframes) if keyframe.scored]
        for index in files.labelled:
            mask = files.masks[index]
            assert mask is not None
            assert read_mask(mask).shape == (clip.height, clip.width) == read_frame(files.frames[index]).shape[:2]
        with Clip(next((tmp_path / "set" / "media").glob(f"{clip.name}.*"))) as media:
            assert len(list(media.windows())) == len(clip.keyframes)


@pytest.fixture
def composed(tmp_path: Path) -> Path:
    """Outlines of a clip composed of a picture and a tone, and the archive that holds both."""
    picture = np.full((90, 160, 3), 60, np.uint8)
    picture[20:60, 40:80] = (250, 240, 200)
    Image.fromarray(picture).save(tmp_path / "square.png")
    tone = (0.3 * np.sin(np.arange(16_000) / 16_000 * 2 * np.pi * 440)).astype(np.float32)
    with av.open(str(tmp_path / "tone.wav"), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone[None] * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        file.mux([*stream.encode(frame), *stream.encode(None)])
    with zipfile.ZipFile(tmp_path / "things-1.0-py3-none-any.whl", "w") as wheel:
        for name in ("square.png", "tone.wav"):
            wheel.write(tmp_path / name, f"things/{name}")
    clip = {
        "source": {
            "picture": {"package": "things-1.0", "file": "things/square.png"},
            "views": [[0, 0, 160, 90], [32, 0, 128, 72]],
            "size": [320, 180],
            "seconds": 3,
            "sounds": [{"recording": {"package": "things-1.0", "file": "things/tone.wav"}, "at": 0, "seconds": 1}],
        },
        "width": 320,
        "height": 180,
        "outlines": {"square": [[40, 20, 79, 20, 79, 59, 40, 59]]},
        "keyframes": [
            {"time": 0.9375, "how_sure": "sure", "sounds": ["square"]},
            {"time": 1.9375, "how_sure": "unsure"},
            {"time": 2.9375, "how_sure": "sure", "heard": "narrator"},
        ],
    }
    (tmp_path / "outlines").mkdir()
    (tmp_path / "outlines" / "moving.json").write_text(json.dumps(clip))
    return tmp_path


def test_a_photograph_with_a_recording_becomes_a_clip_whose_masks_move_with_it(composed: Path) -> None:
    clips = read_real_clips(composed / "outlines")
    write_set(composed / "set", clips, Material(None, composed, composed / "copies"))
    (clip,) = read_clips(composed / "set", "clips", "test")
    assert (clip.category, clip.labelled, clip.heard) == ("square", [0, 2], frozenset({0, 2}))
    first, _, last = clip.masks
    assert first is not None
    assert last is not None
    bright = read_frame(clip.frames[0])[..., 0] > 150
    mask = read_mask(first)
    assert (mask & bright).sum() / (mask | bright).sum() > 0.97
    assert not read_mask(last).any()
    with Clip(composed / "set" / "media" / "moving.mp4") as media:
        levels = [float(np.abs(window.sound.second).max()) for window in media.windows()]
    assert levels[0] > 0.3
    assert levels[2] < 0.01


def test_saved_masks_are_measured_against_it(composed: Path) -> None:
    write_set(composed / "set", read_real_clips(composed / "outlines"), Material(None, composed, composed / "copies"))
    clips = read_clips(composed / "set", "clips", "test")
    masks = composed / "set" / "clips" / "moving" / "masks"
    predicted = composed / "predictions" / "moving" / "masks"
    predicted.mkdir(parents=True)
    for index in (0, 2):
        Image.open(masks / "000.png").save(predicted / f"{index:03}.png")
    keyframes = [{"objects": [{"label": label}]} for label in ("square", "circle", "circle")]
    predicted.with_name("prediction.json").write_text(json.dumps({"keyframes": keyframes}))
    scores = score_predictions(composed / "predictions", clips).scores
    assert (scores.frames, scores.frames_sounding, scores.frames_off_screen) == (2, 1, 1)
    assert scores.iou_sounding == pytest.approx(1, abs=0.03)  # saved masks are resized smoothly, the truth is not
    assert scores.false_positives_off_screen == scores.false_positives_all == 1
    assert scores.names_right == 1  # what must have none has no right name, and counts as a false mask


def _changed(composed: Path, **changes: Any) -> list[RealClip]:
    path = composed / "outlines" / "moving.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_real_clips(composed / "outlines")


def test_what_is_missing_or_another_clip_is_named(composed: Path) -> None:
    clips, copies = read_real_clips(composed / "outlines"), composed / "copies"
    with pytest.raises(AV2TError, match=r"package things-1\.0 is missing"):
        write_set(composed / "set", clips, Material(None, None, copies))
    with pytest.raises(DataError, match="is 320x180, and moving was outlined at 640x180"):
        write_set(composed / "set", _changed(composed, width=640), Material(None, composed, copies))
    late = [{"time": 5.0, "how_sure": "unsure"}] * 3
    with pytest.raises(DataError, match="was outlined at"):
        write_set(composed / "set", _changed(composed, width=320, keyframes=late), Material(None, composed, copies))
    with pytest.raises(DataError, match="how_sure is 'maybe'"):
        _changed(composed, keyframes=[{"time": 1.0, "how_sure": "maybe"}])
    with pytest.raises(AV2TError, match=r"a\.mp4 is missing"):
        Material(composed, None, copies).path(_changed(composed, source={"file": "a.mp4"}, keyframes=[])[0].members[0])
    with pytest.raises(DataError, match="has no clip"):
        read_real_clips(composed)
