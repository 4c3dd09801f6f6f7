"""What Label Studio's page shows of each shape that can be drawn on a frame, and what we read: the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser
from scipy.ndimage import binary_dilation, binary_erosion

from av2t_core.labelstudio import rle
from av2t_core.labelstudio.annotations import read_annotation
from av2t_core.labelstudio.label_config import parse_label_config
from tests.conftest import LabelStudioServer
from tests.e2e.labelling_page import LabellingPage

SHAPE = (240, 320)
SHOWN = """<View><BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<EllipseLabels name="round" toName="frames"><Label value="dog"/></EllipseLabels>
<VectorLabels name="path" toName="frames" closable="true" curves="true"><Label value="dog"/></VectorLabels>
<MagicWand name="wand" toName="frames"/><Image name="frames" valueList="$frames"/></View>"""
CONFIG = SHOWN.replace("<View>", '<View><Video name="video" value="$video"/>')


def shapes() -> list[dict[str, Any]]:
    """A turned ellipse, a path with two curves, and what a magic wand has filled."""
    filled = np.zeros(SHAPE, bool)
    filled[150:200, 40:100] = True
    curved = {"isBezier": True, "controlPoint1": {"x": 80, "y": 30}, "controlPoint2": {"x": 80, "y": 90}}
    vertices = [
        {"id": "a", "x": 45, "y": 60, "isBezier": False},
        {"id": "b", "prevPointId": "a", "x": 70, "y": 60, **curved},
        {"id": "c", "prevPointId": "b", "x": 60, "y": 85, "isBezier": False},
    ]
    values: dict[str, tuple[str, dict[str, Any]]] = {
        "ellipselabels": ("round", {"x": 30, "y": 35, "radiusX": 20, "radiusY": 10, "rotation": 30}),
        "vectorlabels": ("path", {"vertices": vertices, "closed": True}),
        "magicwand": ("wand", {"format": "rle", "rle": rle.encode(filled)}),
    }
    size = {"original_width": SHAPE[1], "original_height": SHAPE[0], "image_rotation": 0, "item_index": 0}
    return [
        {"id": kind, "from_name": name, "to_name": "frames", "type": kind, **size, "value": {**value, kind: ["dog"]}}
        for kind, (name, value) in values.items()
    ]


@pytest.mark.browser
def test_each_shape_covers_what_the_page_shows(
    chromium: Browser, label_studio: LabelStudioServer, tmp_path: Path
) -> None:
    project = int(label_studio.make_project(SHOWN).id)
    frame = tmp_path / "frame.png"
    Image.new("RGB", SHAPE[::-1], (90, 90, 90)).save(frame)
    files = {"frame.png": ("frame.png", frame.read_bytes(), "image/png")}
    sent = label_studio.request("POST", f"/api/projects/{project}/import?commit_to_project=false", files=files).json()
    upload = label_studio.request("GET", f"/api/import/file-upload/{sent['file_upload_ids'][0]}").json()["file"]
    body = {"project": project, "data": {"frames": [f"/data/{upload}"] * 2}}
    task = int(label_studio.request("POST", "/api/tasks/", json=body).json()["id"])
    label_studio.request("POST", "/api/predictions/", json={"task": task, "model_version": "v", "result": shapes()})

    page = LabellingPage(chromium.new_page(viewport={"width": 1500, "height": 1250}), label_studio.url)
    page.log_in(label_studio.email, label_studio.password)
    page.open_task(project, task)
    drawn = page.drawn()
    read = read_annotation(parse_label_config(CONFIG), shapes(), shape=SHAPE, pages=2)
    expected, pixel = page.view().crop(read[0]), 1 + round(page.view().frame[2] / SHAPE[1])
    page.page.close()
    # The page draws a line around each shape, smooths its edge, and puts a dot on each vertex.
    assert np.count_nonzero(drawn & ~binary_dilation(expected, iterations=pixel)) <= 0.0002 * drawn.size
    assert not (binary_erosion(expected, iterations=pixel) & ~drawn).any()
    assert expected.sum() > 0.1 * expected.size
