"""The pictures of README.md and docs/label-studio.md, of the demo's clips: `python -m tests.e2e.pictures docs`.

Started is what `make demo` starts. Beside the demo there are a project with every control tag, and one that is trained.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from av2t.options import DEMO_CLIPS
from av2t_core.data.real_clips import RealClip, read_real_clips
from av2t_core.data.real_media import Composition, Material
from av2t_core.labelstudio.controls.brush import BrushLabels
from av2t_core.media.clip import Clip
from av2t_core.prediction.drawing import ContactSheet
from av2t_core.prediction.predictor import Predictor
from av2t_core.settings import ModelSettings
from tests.conftest import ROOT, wait_until
from tests.e2e.conftest import BY_DEFAULT, CHROMIUMS, FLAGS
from tests.e2e.labelling_page import LabellingPage
from tests.up import Up, options, ports, python_m_av2t
from tests.worker.conftest import client_of
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import connect_backend, find_or_make, recommended_config, upload_clip

DATA = ROOT / "tests" / "data"
FOLDER = ROOT / ".av2t" / "pictures"  # kept, so that a second run is quick
LABELS = tuple((DEMO_CLIPS / "labels.txt").read_text().split())
_NAMES = "".join(f'<Label value="{label}"/>' for label in LABELS)
EVERY_CONTROL = f"""<View>
<Labels name="what" toName="video">{_NAMES}</Labels><VideoRectangle name="box" toName="video"/>
<Video name="video" value="$video" framerate="$fps" sync="audio" height="260" timelineHeight="100"/>
<TimelineLabels name="times" toName="video">{_NAMES}</TimelineLabels>
<Audio name="audio" value="$video" sync="video" height="60"/>
<PolygonLabels name="mask" toName="frames">{_NAMES}</PolygonLabels>
<Image name="frames" valueList="$frames" zoom="true" zoomControl="true"/></View>"""
SECONDS = 5  # of each clip that the sheets show


def sheets(out: Path) -> None:
    """What the default model makes of each clip, one below the other."""
    predictor = Predictor.load(ModelSettings().model, "cpu")
    rows = []
    for path in sorted(DEMO_CLIPS.glob("*.mp4")):
        sheet = ContactSheet()
        with Clip(path) as clip:
            for keyframe in predictor.predict_clip(sheet.listen(islice(clip.windows(), SECONDS)), LABELS):
                sheet.add(keyframe)
        rows.append(sheet.image())
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for number, row in enumerate(rows):
        picture.paste(row, (0, sum(above.height for above in rows[:number])))
    picture.save(out, quality=88)


@dataclass(frozen=True, kw_only=True)
class Studio:
    """What `av2t up` has started."""

    client: LabelStudioClient
    url: str
    backend: str
    demo: int

    def project(self, title: str, config: str, clips: Iterable[Path]) -> tuple[int, bool]:
        """The one of this title, with these clips, pre-annotated; and whether it is new."""
        api = self.client.api
        project = find_or_make(api, title, config)
        connect_backend(api, project, self.backend)
        is_new = not any(self.client.tasks(project))
        if is_new:
            for clip in clips:
                upload_clip(api, project, clip)
            wait_until(lambda: all(task.predictions_model_versions for task in self.client.tasks(project)), 600)
        return project, is_new

    def task(self, project: int, clip: str) -> int:
        [found] = [task.id for task in self.client.tasks(project) if task.file == clip]
        return found

    def correct(self, project: int, clip: RealClip) -> None:
        """Submit its outlines."""
        regions = []
        for page, keyframe in enumerate(clip.keyframes):
            for thing in keyframe.things:
                [value] = BrushLabels().write(clip.mask(keyframe))
                about = {"id": f"page{page}", "from_name": "mask", "to_name": "frames", "type": "brushlabels"}
                size = {"original_width": clip.width, "original_height": clip.height, "image_rotation": 0}
                regions.append({**about, "item_index": page, **size, "value": {**value, "brushlabels": [thing.label]}})
        task = self.task(project, f"{clip.name}.mp4")
        self.client.api.tell("POST", f"/api/tasks/{task}/annotations", "an annotation", json={"result": regions})

    def train(self, project: int) -> None:
        asked = httpx.post(f"{self.backend}/train", json={"project": project}, timeout=30).raise_for_status()
        job = asked.json()["job"]
        told = wait_until(lambda: self._ended(job), 900, "the training")
        assert told["state"] == "done", told

    def _ended(self, job: str) -> dict[str, Any] | None:
        told: dict[str, Any] = httpx.get(f"{self.backend}/train/{job}", timeout=30).json()
        return told if told["state"] in ("done", "failed") else None


def corrected_clips(folder: Path) -> list[RealClip]:
    """The demo's, as they are and with the window moving the other way; their files lie in `folder`."""
    for path in (DATA / "demo_clips").glob("*.json"):
        content = json.loads(path.read_text())
        (folder / path.name).write_text(json.dumps(content))
        content["source"]["views"].reverse()
        (folder / f"{path.stem}-back.json").write_text(json.dumps(content))
    clips = read_real_clips(folder)
    for clip in clips:
        assert isinstance(clip.source, Composition)
        clip.source.write(folder / f"{clip.name}.mp4", Material(DATA, None, folder))
    return clips


def save(png: bytes, path: Path, size: tuple[int, int] | None = None) -> None:
    """In 256 colours, which a page has."""
    with Image.open(io.BytesIO(png)) as taken:
        picture = taken.convert("RGB").resize(size or taken.size, Image.Resampling.LANCZOS)
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, optimize=True)


def photograph(browser: Browser, studio: Studio, account: Mapping[str, str], every: int, out: Path) -> None:
    def opened(width: int, height: int) -> LabellingPage:
        page = LabellingPage(browser.new_page(viewport={"width": width, "height": height}), studio.url)
        page.log_in(account["email"], account["password"])
        return page

    task = opened(1500, 1350)
    task.open_task(studio.demo, studio.task(studio.demo, "cow.mp4"))
    task.go_to(3)
    save(task.page.screenshot(), out / "screenshot.png", (1200, 1080))
    stream = opened(1400, 1100)
    stream.open_label_stream(studio.demo)
    save(stream.page.screenshot(), out / "label-stream.png")
    controls = opened(1400, 1250)
    controls.open_task(every, studio.task(every, "cat.mp4"))
    save(controls.page.screenshot(), out / "all-controls.png")
    status = browser.new_page(viewport={"width": 1100, "height": 900})
    status.goto(studio.backend)
    save(status.screenshot(full_page=True), out / "status-page.png")


def main(out: Path) -> None:
    os.environ.update(BY_DEFAULT)
    sheets(out / "demo.jpg")
    chosen = ports()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Up(FOLDER / "data", "--demo", *options(chosen)) as up, sync_playwright() as playwright:
        up.wait_for("Ctrl-C stops", timeout=900)
        account = json.loads((up.data_dir / "label-studio-account.json").read_text())
        url, backend = (f"http://127.0.0.1:{chosen[f'--{each}-port']}" for each in ("label-studio", "backend"))
        with client_of(url, account["api_key"]) as client:
            studio = Studio(client=client, url=url, backend=backend, demo=int(up.wait_for(r"demo: project (\d+)")[1]))
            every, _ = studio.project("All controls", EVERY_CONTROL, [DEMO_CLIPS / "cat.mp4"])
            clips = corrected_clips(FOLDER)
            files = [FOLDER / f"{clip.name}.mp4" for clip in clips]
            trained, is_new = studio.project("Corrected", recommended_config(LABELS), files)
            if is_new:
                for clip in clips:
                    studio.correct(trained, clip)
                studio.train(trained)
            chromium = next(filter(None, map(shutil.which, CHROMIUMS)), None)
            with playwright.chromium.launch(executable_path=chromium, args=list(FLAGS)) as browser:
                photograph(browser, studio, account, every, out)
        environment = {"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": account["api_key"]}
        environment |= {"AV2T_BACKEND_PORT": str(chosen["--backend-port"]), "AV2T_DATA_DIR": str(up.data_dir)}
        doctor = [*python_m_av2t(), "doctor", "--project", str(every)]
        subprocess.run(doctor, env={**os.environ, **environment}, check=False)
        up.send(signal.SIGINT)
        up.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
