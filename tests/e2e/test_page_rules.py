"""What Label Studio's page takes from a label config and a task's data, and what we take: the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.labelstudio.task_data import frame_rate, look_up
from tests.conftest import LabelStudioServer
from tests.e2e.labelling_page import LabellingPage
from worker.client.label_studio import Task

CONFIG = """<View><Video name="video" {}/>
<TimelineLabels name="times" toName="video"><Label value="dog"/></TimelineLabels>
<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<Image name="frames" valueList="$media.frames"/></View>"""
FRAMES = ["/static/a.jpg", "/static/b.jpg"]
READ = """() => {
    const names = window.Htx?.annotationStore?.selected?.names
    if (!names) return null
    const [video, frames] = [names.get("video"), names.get("frames")]
    return {rate: Number(video.framerate), clip: video._value, frames: frames.imageEntities.map(each => each.src)}
}"""


@pytest.fixture(scope="module")
def page(chromium: Browser, label_studio: LabelStudioServer) -> Iterator[LabellingPage]:
    page = LabellingPage(chromium.new_page(), label_studio.url)
    page.log_in(label_studio.email, label_studio.password)
    yield page
    page.page.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("attributes", "data", "rate"),
    [
        ('value="$video" frameRate="50"', {"video": "/u"}, 50),
        ('VALUE="$video" framerate="0.02"', {"video": "/u"}, 50),
        ('value="$video" framerate="$fps"', {"video": "/u", "fps": "50"}, 50),
        ('value="$video" framerate="$fps"', {"video": "/u", "fps": 0.02}, 50),
        ('value="$video" framerate="30000/1001"', {"video": "/u"}, 24),
        ('value="$media.video" framerate="$media.fps"', {"media": {"video": "/u", "fps": 50}}, 50),
        ('value="$videos[0]" framerate="$media.fps"', {"videos": ["/u"], "media": {"fps": 25}, "media.fps": 50}, 50),
        ('value="/data/$folder/clip" framerate="$a$b"', {"folder": "u", "a": 5, "b": 0}, 50),
    ],
)
def test_the_rate_the_clip_and_the_frames_are_the_pages(
    page: LabellingPage, label_studio: LabelStudioServer, attributes: str, data: dict[str, Any], rate: float
) -> None:
    config = CONFIG.format(attributes)
    project = int(label_studio.make_project(config).id)
    data = {**data, "media": {**data.get("media", {}), "frames": FRAMES}}
    task = int(label_studio.request("POST", "/api/tasks/", json={"project": project, "data": data}).json()["id"])
    page.page.goto(f"{label_studio.url}/projects/{project}/data?task={task}")
    seen = page.page.wait_for_function(READ).json_value()

    targets = parse_label_config(config)
    [variable] = targets.frame_variables
    assert seen == {
        "rate": frame_rate(data, targets.video.framerate),
        "clip": Task(id=task, project=project, data=data).clip_url(targets.video),
        "frames": look_up(data, variable),
    }
    assert (seen["rate"], seen["frames"]) == (rate, FRAMES)
