"""`av2t up --demo` from the outside, and in the browser what a person sees and does there.

All in one file, for the demo is started twice for them: the masks lie where the model predicts them, and a mask can be
fixed and submitted.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser
from scipy.ndimage import binary_dilation, distance_transform_edt

from av2t.options import DEMO_CLIPS
from tests.e2e.conftest import BY_DEFAULT, RunningDemo
from tests.e2e.labelling_page import LabellingPage
from tests.up import Up, python_m_av2t

Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def page(chromium: Browser, demo: RunningDemo) -> LabellingPage:
    # High enough for the whole frame below the player.
    page = LabellingPage(chromium.new_page(viewport={"width": 1500, "height": 1250}), demo.url)
    page.log_in(demo.email, demo.password)
    return page


def test_every_clip_has_frames_and_one_prediction(demo: RunningDemo) -> None:
    tasks = demo.tasks()
    uploaded = [task["file_upload"].partition("-")[2] for task in tasks]
    assert sorted(uploaded) == sorted(clip.name for clip in DEMO_CLIPS.glob("*.mp4"))
    for task in tasks:
        assert len(task["data"]["frames"]) > 0
        assert task["total_predictions"] == 1


def test_the_first_start_uploads_and_the_second_finds_all_of_it(demo: RunningDemo) -> None:
    clips = len(list(DEMO_CLIPS.glob("*.mp4")))
    assert f"demo: clips uploaded: {clips}, there already: 0" in demo.first_output
    assert f"demo: clips uploaded: 0, there already: {clips}" in demo.second_output
    for output in (demo.first_output, demo.second_output):
        assert f"demo: {clips} of {clips} clips have their masks" in output


def test_it_says_where_to_log_in(demo: RunningDemo) -> None:
    assert f"Label Studio is ready at {demo.url}" in demo.second_output
    assert demo.email in demo.second_output
    assert demo.password in demo.second_output


def test_a_second_one_on_the_same_data_is_refused(demo: RunningDemo) -> None:
    with Up(demo.data_dir, "--demo", *demo.arguments) as second:
        assert second.wait() == 2
        assert "another av2t up" in second.output
        assert "--data-dir" in second.output


@pytest.mark.browser
def test_each_page_shows_the_mask_that_prediction_json_names(
    page: LabellingPage, demo: RunningDemo, tmp_path: Path, screenshots: Path
) -> None:
    task = demo.task_with_most_masks()
    clip = DEMO_CLIPS / task["file_upload"].partition("-")[2]
    labels = ",".join((DEMO_CLIPS / "labels.txt").read_text().split())
    predict = [*python_m_av2t(), "predict", str(clip), "--names", labels, "--out", str(tmp_path)]
    subprocess.run(predict, check=True, capture_output=True, env={**os.environ, **BY_DEFAULT})
    keyframes = json.loads((tmp_path / "prediction.json").read_text())["keyframes"]

    page.open_task(demo.project, task["id"])
    assert page.pages == len(keyframes)
    for keyframe in keyframes:
        page.go_to(keyframe["index"] + 1)
        page.page.screenshot(path=screenshots / f"{clip.stem}-{keyframe['index']:03}.png")
        mask = np.asarray(Image.open(tmp_path / keyframe["mask"])) > 0
        expected, drawn = page.view().crop(mask), page.drawn()
        # The browser smooths the edge, by about one pixel of the frame.
        allowed = binary_dilation(expected, iterations=2 + round(page.view().frame[2] / mask.shape[1]))
        assert np.count_nonzero(drawn & ~allowed) <= 0.001 * drawn.size, (
            f"keyframe {keyframe['index']}: drawn beside it"
        )
        missing = np.count_nonzero(expected & ~drawn)
        assert missing <= 0.01 * np.count_nonzero(expected), f"keyframe {keyframe['index']}: not drawn"
    assert any(keyframe["sounding"] for keyframe in keyframes)


@pytest.mark.browser
def test_a_mask_fixed_with_the_brush_is_submitted_as_a_changed_prediction(
    page: LabellingPage, demo: RunningDemo, screenshots: Path
) -> None:
    task = demo.task_with_most_masks()
    [prediction] = demo.get("/api/predictions/", task=task["id"])
    before = {region["id"]: mask for region in prediction["result"] if (mask := _mask(region)) is not None}
    edited, mask = next(iter(before.items()))

    page.open_task(demo.project, task["id"])
    page.select_region(0)
    row, column = _far_from(mask)
    view = page.view()
    page.brush(view.on_screen(row, column - 5, mask.shape), view.on_screen(row, column + 5, mask.shape))
    page.page.screenshot(path=screenshots / "edited.png")
    page.submit()

    [annotation] = demo.get(f"/api/tasks/{task['id']}")["annotations"]
    after = {region["id"]: region for region in annotation["result"]}
    assert {id: region["origin"] for id, region in after.items() if id in before} == {
        id: "prediction-changed" if id == edited else "prediction" for id in before
    }
    now = _mask(after[edited])
    assert now is not None
    assert now[row, column]
    assert not mask[row, column]
    # The rest of the mask is still what it was.
    assert np.count_nonzero(now & mask) >= 0.95 * np.count_nonzero(mask)


def _mask(region: dict[str, Any]) -> Mask | None:
    if region["type"] != "brushlabels":
        return None
    shape = (region["original_height"], region["original_width"], 4)
    mask: Mask = decode_rle(region["value"]["rle"]).reshape(shape)[..., 3] > 127
    return mask


def _far_from(mask: Mask) -> tuple[int, int]:
    """The place in the middle of the frame that is farthest from the mask: row and column."""
    height, width = mask.shape
    middle = (slice(height // 4, height * 3 // 4), slice(width // 4, width * 3 // 4))
    distance = distance_transform_edt(~mask)[middle]
    row, column = np.unravel_index(np.argmax(distance), distance.shape)
    return int(row) + height // 4, int(column) + width // 4
