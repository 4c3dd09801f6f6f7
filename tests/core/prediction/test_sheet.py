from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from av2t_core.media.clip import Keyframe, Window
from av2t_core.media.sound import Sound
from av2t_core.prediction.drawing import MOST, TINT, ContactSheet
from av2t_core.prediction.objects import Detection
from av2t_core.prediction.predictor import KeyframePrediction

RATE = 8000


def window(index: int, loudness: float = 0.5, shape: tuple[int, int] = (90, 160)) -> Window:
    return Window(
        keyframe=Keyframe(index=index, frame=index, time=index + 15 / 16),
        image=np.full((*shape, 3), 128, np.uint8),
        sound=Sound.alone(np.full((1, RATE), loudness, np.float32), RATE),
    )


def seen(window: Window, *, sounding: bool = True) -> KeyframePrediction:
    mask = np.zeros(window.image.shape[:2], np.bool_)
    mask[20:60, 40:100] = sounding
    return KeyframePrediction(
        keyframe=window.keyframe,
        image=window.image,
        level=-20,
        presence=0.5,
        score=0.5,
        objects=(Detection(names={"dog": 0.9}, score=0.5, mask=mask),) if sounding else (),
        evidence=None,
    )


def sheet_of(windows: list[Window], **said: bool) -> Image.Image:
    sheet = ContactSheet()
    for each in sheet.listen(windows):
        sheet.add(seen(each, **said))
    return sheet.image()


def pink(image: Image.Image) -> Any:
    return (np.abs(np.asarray(image).astype(int) - TINT).max(axis=2) < 24).sum()


def test_masks_names_and_sound_are_drawn() -> None:
    loud, none = sheet_of([window(0)]), sheet_of([window(0)], sounding=False)
    assert loud.size == none.size
    assert pink(loud) > pink(none) == 0
    # The wave below the picture, where the mask does not reach.
    assert pink(loud.crop((0, 150, loud.width, loud.height))) > pink(
        sheet_of([window(0, 0.0)]).crop((0, 150, loud.width, loud.height))
    )


def test_an_hour_is_no_larger_than_a_minute() -> None:
    minute, hour = (sheet_of([window(k) for k in range(count)]) for count in (MOST, 3600))
    assert minute.width == hour.width
    assert minute.height / 2 < hour.height <= minute.height


@pytest.mark.parametrize("shape", [(8000, 2), (2, 8000)])
def test_a_clip_of_any_shape_gives_no_larger_a_sheet(shape: tuple[int, int]) -> None:
    sheet = ContactSheet()
    for each in sheet.listen([window(k, shape=shape) for k in range(2)]):
        sheet.add(seen(each, sounding=False))
    assert sheet.image().width == sheet_of([window(0), window(1)]).width
    assert sheet.image().height < 600


@pytest.mark.parametrize("sound", [Sound(samples=np.zeros((1, 0), np.float32), rate=0), window(0, 0.0).sound])
def test_no_sound_is_no_problem(sound: Sound) -> None:
    silent = Window(keyframe=window(0).keyframe, image=window(0).image, sound=sound)
    assert pink(sheet_of([silent], sounding=False)) == 0


def test_the_model_may_lag_behind_the_windows() -> None:
    sheet = ContactSheet()
    windows = [window(k) for k in range(7)]
    heard: Iterator[Window] = sheet.listen(windows)
    for _ in range(7):
        next(heard)
    for each in windows:
        sheet.add(seen(each))
    assert sheet.image().height > 2 * sheet_of(windows[:5]).height * 0.9
