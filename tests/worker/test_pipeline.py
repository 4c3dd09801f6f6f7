"""The road of a task: a real Label Studio, a real Redis, real clips and the model that ships with the package."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.label_interface import LabelInterface
from numpy.typing import NDArray
from redis import Redis
from rq.job import JobStatus

from av2t_core.data.cutouts import Cutouts
from av2t_core.errors import AV2TError, ConfigError, MediaError
from av2t_core.labelstudio.label_config import CONTROLS as CONTROL_TAGS
from av2t_core.media.clip import Clip
from av2t_core.prediction.predictor import KeyframePrediction, Predictor
from tests.conftest import COMPOSED_CLIPS, EMBEDDED, ROOT, LabelStudioServer, wait_until
from tests.core.clips import SOUND_RATE, Sound, at_rate, write_clip
from tests.core.labelstudio.test_toy_tag import EllipseLabels
from tests.worker.conftest import LOOPBACK, Serve
from worker.jobs import preannotation as jobs
from worker.jobs import prediction_pass
from worker.jobs.prediction_pass import Checkpoint, Part
from worker.queue import heartbeat
from worker.queue.heartbeat import Interrupted
from worker.queue.job import PROTOCOL, KnownJob, fetch
from worker.queue.preannotation import Preannotated, job_id
from worker.queue.queue import enqueue_preannotation
from worker.settings import Settings

KEYFRAMES = 2
LONG = 24
CONFIG = """<View><Video name="clip" value="$video" framerate="$rate"/>
<BrushLabels name="what" toName="pages"><Label value="dog"/><Label value="Horn"/></BrushLabels>
<Image name="pages" valueList="$stills"/></View>"""


def barking_clip(path: Path, seconds: int) -> Path:
    """Of noise for pictures, over which a dog barks all the time, so that the model has to look at each."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(4 * seconds)]
    bark = Cutouts.load(ROOT / "tests" / "data" / "cutouts").sounds["dog"][0]
    sound = np.resize(bark, SOUND_RATE * seconds)[None]
    return write_clip(path, at_rate(4, seconds), images=images, sounds=[Sound(samples=sound)], sound_codec="aac")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return barking_clip(tmp_path_factory.mktemp("clips") / "dog.mp4", KEYFRAMES)


@pytest.fixture(scope="module")
def context(label_studio: LabelStudioServer) -> Iterator[jobs.Context]:
    told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.api_key, "device": "cpu"}
    jobs.set_up(Settings.load(**told, clip_networks=LOOPBACK))
    context = jobs._context
    assert context is not None
    yield context
    context.client.close()
    jobs._context = None


@dataclass
class Task:
    """A task in Label Studio with its job in Redis."""

    server: LabelStudioServer
    redis: "Redis"
    project: int
    id: int

    @property
    def job(self) -> KnownJob:
        [job] = fetch(self.redis, [job_id(self.project, self.id, EMBEDDED)])
        return job

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.server.sdk.tasks.get(id=str(self.id)).data)

    @property
    def predictions(self) -> list[Any]:
        return list(self.server.sdk.predictions.list(task=self.id))

    @property
    def uploads(self) -> list[str]:
        return [upload.file for upload in self.server.sdk.files.list(id=self.project, all_=True)]

    def set(self, **values: Any) -> None:
        self.server.request("PATCH", f"/api/tasks/{self.id}/", json={"data": {**self.data, **values}})


Make = Callable[..., Task]


@pytest.fixture
def make(label_studio: LabelStudioServer, redis_url: str) -> Iterator[Make]:
    with Redis.from_url(redis_url) as redis:

        def make(path: Path, config: str = CONFIG) -> Task:
            project = int(label_studio.make_project(config).id)
            task = Task(label_studio, redis, project, int(label_studio.upload(project, path).id))
            enqueue_preannotation(redis, project, [task.id], EMBEDDED)
            return task

        yield make


def test_a_task_gets_its_frames_its_rate_and_its_prediction(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    task.set(note={"by": "somebody"})
    before = task.data

    assert task.job.perform() == Preannotated(outcome="predicted", keyframes=KEYFRAMES)

    stills = task.data["stills"]
    assert [url.partition("-")[2] for url in stills] == [
        f"av2t-task{task.id}-k{k:03d}-f{4 * k + 4 if k < KEYFRAMES - 1 else 4 * k + 3:05d}.jpg"
        for k in range(KEYFRAMES)
    ]
    assert task.data == {**before, "stills": stills, "rate": 4.0}
    assert task.server.request("GET", stills[0]).headers["content-type"] == "image/jpeg"

    with Clip(clip) as windows:
        seen = list(Predictor.load(EMBEDDED, "cpu").predict(windows.windows()))
    [prediction] = task.predictions
    assert prediction.model_version == EMBEDDED
    assert prediction.score == pytest.approx(np.mean([each.score for each in seen]), abs=1e-3)
    assert [region["item_index"] for region in prediction.result] == [
        page for page, each in enumerate(seen) for _ in each.objects
    ]
    assert {region["value"]["brushlabels"][0] for region in prediction.result} <= {"dog", "Horn"}
    assert task.job.meta == {"done": KEYFRAMES, "total": KEYFRAMES, "uploading": True, "protocol": PROTOCOL}


def test_a_long_clip_gets_its_keyframes_spread_and_says_so(
    make: Make, clip: Path, context: jobs.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = context.settings.model_copy(update={"max_keyframes": 1})
    monkeypatch.setattr(jobs, "_context", replace(context, settings=settings))
    task = make(clip)
    result = task.job.perform()
    assert (result.outcome, result.keyframes) == ("predicted", 1)
    assert result.remarks == (f"It is long: one keyframe every {KEYFRAMES:.1f} s, 1 in all.",)
    assert len(task.data["stills"]) == 1
    assert task.data["av2t_remarks"] == result.remarks[0]


@pytest.mark.parametrize(
    ("sounds", "said"),
    [
        ([], "The sound is missing: nothing is heard in this clip."),
        ([np.zeros((1, 2 * SOUND_RATE), np.float32)], "The sound is digital silence throughout"),
    ],
)
def test_a_clip_in_which_nothing_can_be_heard_comes_first(
    make: Make, context: jobs.Context, tmp_path: Path, sounds: list[NDArray[np.float32]], said: str
) -> None:
    laid = [Sound(samples=each) for each in sounds]
    clip = write_clip(tmp_path / "clip.mp4", at_rate(10, 2), sounds=laid, sound_codec="aac")
    task = make(clip)
    assert task.job.perform().outcome == "predicted"
    [prediction] = task.predictions
    assert (prediction.score, prediction.result) == (0, [])
    assert said in task.data["av2t_remarks"]


LABEL = '<Label value="dog"/>'
CONTROLS = {
    tag: f'<{tag} name="{tag}" toName="{on}">{LABEL}</{tag}>'
    for tag, on in {
        "BrushLabels": "pages",
        "BitmaskLabels": "pages",
        "PolygonLabels": "pages",
        "RectangleLabels": "pages",
        "TimelineLabels": "clip",
    }.items()
} | {
    "VideoRectangle": f'<Labels name="things" toName="clip">{LABEL}</Labels>'
    '<VideoRectangle name="VideoRectangle" toName="clip"/>'
}


@pytest.mark.parametrize(
    "tags",
    # Of two that hold a mask, one is used.
    [*([tag] for tag in CONTROLS), *([tag for tag in CONTROLS if tag != other] for other in list(CONTROLS)[:2])],
    ids="+".join,
)
def test_each_control_alone_and_all_together(make: Make, context: jobs.Context, tags: list[str]) -> None:
    controls = "".join(CONTROLS[tag] for tag in tags)
    config = f"""<View><Video name="clip" value="$video" framerate="$rate"/>{controls}
    <Image name="pages" valueList="$stills"/></View>"""
    task = make(COMPOSED_CLIPS / "dog.mp4", config)
    assert task.job.perform().outcome == "predicted"
    [prediction] = task.predictions
    assert {(region["from_name"], region["type"]) for region in prediction.result} == {
        (tag, tag.lower()) for tag in tags
    }
    stored = {"model_version": prediction.model_version, "score": prediction.score, "result": prediction.result}
    interface = LabelInterface(task.server.sdk.projects.get(id=task.project).label_config)
    assert interface.validate_prediction(stored, return_errors=True) == []


def test_a_control_of_peoples_own_gets_no_regions(make: Make, context: jobs.Context) -> None:
    own = CONTROLS["RectangleLabels"].replace("<RectangleLabels", '<RectangleLabels predict="false"')
    config = f"""<View><Video name="clip" value="$video" framerate="$rate"/>{own}{CONTROLS["BrushLabels"]}
    <Image name="pages" valueList="$stills"/></View>"""
    task = make(COMPOSED_CLIPS / "dog.mp4", config)
    assert task.job.perform().outcome == "predicted"
    [prediction] = task.predictions
    assert {region["from_name"] for region in prediction.result} == {"BrushLabels"}


def test_a_control_tag_that_is_registered_gets_its_regions(
    make: Make, context: jobs.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTROL_TAGS, "EllipseLabels", EllipseLabels())
    task = make(COMPOSED_CLIPS / "dog.mp4", CONFIG.replace("BrushLabels", "EllipseLabels"))
    assert task.job.perform().outcome == "predicted"
    [prediction] = task.predictions
    assert {(region["from_name"], region["type"]) for region in prediction.result} == {("what", "ellipselabels")}


def test_every_control_gets_its_regions_on_the_frames_that_it_points_at(make: Make, context: jobs.Context) -> None:
    labels = '<Label value="dog"/><Label value="horn"/>'
    config = f"""<View><Video name="clip" value="$video"/>
    <BitmaskLabels name="bits" toName="pages">{labels}</BitmaskLabels>
    <RectangleLabels name="box" toName="pages">{labels}</RectangleLabels><Image name="pages" valueList="$stills"/>
    <PolygonLabels name="outline" toName="again">{labels}</PolygonLabels>
    <Image name="again" valueList="$copies"/></View>"""
    task = make(COMPOSED_CLIPS / "dog.mp4", config)
    assert task.job.perform().outcome == "predicted"
    assert task.data["stills"] == task.data["copies"]
    assert len(task.uploads) == len(task.data["stills"]) + 1  # and the clip
    [prediction] = task.predictions
    assert {(region["from_name"], region["to_name"]) for region in prediction.result} == {
        ("bits", "pages"),
        ("box", "pages"),
        ("outline", "again"),
    }


def test_controls_of_the_video_need_no_frames(make: Make, context: jobs.Context) -> None:
    config = """<View><Video name="clip" value="$video" framerate="$rate"/>
    <Labels name="things" toName="clip"><Label value="dog"/></Labels><VideoRectangle name="box" toName="clip"/>
    <TimelineLabels name="times" toName="clip"><Label value="dog"/></TimelineLabels></View>"""
    task = make(COMPOSED_CLIPS / "dog.mp4", config)
    assert task.job.perform().outcome == "predicted"
    assert task.data.keys() == {"video", "rate"}
    assert len(task.uploads) == 1  # the clip
    [prediction] = task.predictions
    assert {(region["from_name"], region["type"]) for region in prediction.result} == {
        ("box", "videorectangle"),
        ("times", "timelinelabels"),
    }


def test_doing_it_twice_changes_nothing(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    task.job.perform()
    data, uploads, [prediction] = task.data, task.uploads, task.predictions
    # What another worker kept that had the same job.
    Checkpoint(task.job, "a").add(Part(first=0, scores=[], result="", sightings=[]))
    assert task.job.perform() == Preannotated(outcome="predicted already", keyframes=0)
    assert (task.data, task.uploads, task.predictions) == (data, uploads, [prediction])
    assert task.redis.keys("av2t:kept:*") == []


class Killed(BaseException):
    """What a kill looks like from inside: nothing after it is done."""


class Dying:
    """The client, until the worker is killed before or after one of its calls."""

    def __init__(self, client: Any, call: str, moment: str) -> None:
        self._client, self._call, self._moment = client, call, moment

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if name != self._call:
            return method

        def die(*args: Any, **kwargs: Any) -> None:
            if self._moment == "after":
                method(*args, **kwargs)
            raise Killed

        return die


@pytest.mark.parametrize(
    ("call", "moment"),
    [
        ("fetch", "after"),
        ("upload_frames", "before"),
        ("upload_frames", "after"),
        ("set_task_data", "after"),
        ("create_prediction", "before"),
        ("create_prediction", "after"),
    ],
)
def test_killed_between_any_two_steps(
    make: Make, clip: Path, context: jobs.Context, monkeypatch: pytest.MonkeyPatch, call: str, moment: str
) -> None:
    task = make(clip)
    with monkeypatch.context() as patch:
        patch.setattr(context, "client", Dying(context.client, call, moment))
        with pytest.raises(Killed):
            task.job.perform()
    task.job.perform()
    assert len(task.predictions) == 1
    assert len(task.data["stills"]) == KEYFRAMES
    # The clip itself, and each frame once.
    assert len(task.uploads) == 1 + KEYFRAMES
    assert sorted(task.data["stills"]) == sorted(f"/data/{name}" for name in task.uploads if "av2t-task" in name)


def test_frames_and_a_rate_that_are_there_stay(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    stills = [f"http://127.0.0.1:9/{n}.jpg" for n in range(KEYFRAMES)]
    task.set(stills=stills, rate=5)
    task.job.perform()
    assert (task.data["stills"], task.data["rate"]) == (stills, 5)
    assert len(task.predictions) == 1


def test_frames_and_a_rate_by_paths_are_where_the_page_looks_first(
    make: Make, clip: Path, context: jobs.Context
) -> None:
    task = make(clip, CONFIG.replace("$rate", "$media.rate").replace("$stills", "$media.stills"))
    task.set(media={"by": "somebody"})
    before = task.data
    task.job.perform()
    stills = task.data["media.stills"]
    assert len(stills) == KEYFRAMES
    assert task.data == {**before, "media.stills": stills, "media.rate": 4.0}
    assert len(task.predictions) == 1


@pytest.mark.parametrize("rate", ["50", 0.02])
def test_a_rate_is_the_pages(make: Make, context: jobs.Context, rate: object) -> None:
    config = """<View><Video name="clip" value="$video" frameRate="$rate"/>
    <TimelineLabels name="times" toName="clip"><Label value="dog"/></TimelineLabels></View>"""
    task = make(COMPOSED_CLIPS / "dog.mp4", config)
    task.set(rate=rate)
    task.job.perform()
    assert task.data["rate"] == rate
    [prediction] = task.predictions
    [[found], *_] = [region["value"]["ranges"] for region in prediction.result]
    assert (found["start"] - 1) % 50 == 0
    assert found["end"] % 50 == 0


@pytest.mark.parametrize("frames", [7, {"0": "a.jpg"}])
def test_frames_that_are_none_are_said(make: Make, clip: Path, context: jobs.Context, frames: object) -> None:
    task = make(clip)
    task.set(stills=frames)
    with pytest.raises(MediaError, match=r'as its "stills", where a list of frames belongs; empty it'):
        task.job.perform()


def test_frames_that_do_not_fit_are_said(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    task.set(stills=["http://127.0.0.1:9/0.jpg"])
    with pytest.raises(AV2TError, match=r'has 1 frames in "stills", and its clip has 2 keyframes; empty "stills"'):
        task.job.perform()
    assert task.predictions == []


def test_a_task_without_a_clip(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    task.set(video="")
    with pytest.raises(MediaError, match=r'has no "video", from which Video "clip" takes its clip'):
        task.job.perform()


def test_what_is_no_clip_is_named_as_the_user_knows_it(make: Make, tmp_path: Path, context: jobs.Context) -> None:
    path = tmp_path / "letter.mp4"
    path.write_text("Dear reader,")
    with pytest.raises(MediaError, match=r"letter\.mp4") as caught:
        make(path).job.perform()
    assert "av2t-" not in str(caught.value)


def test_a_config_with_nothing_to_predict_into(make: Make, clip: Path, context: jobs.Context) -> None:
    config = (
        '<View><Video name="clip" value="$video"/><Choices name="c" toName="clip"><Choice value="a"/></Choices></View>'
    )
    with pytest.raises(ConfigError, match="none of BrushLabels, BitmaskLabels"):
        make(clip, config).job.perform()


def test_a_clip_that_is_called_as_one_of_its_frames(
    make: Make, clip: Path, tmp_path: Path, context: jobs.Context, serve: Serve
) -> None:
    """Each is written, and the clip that is kept for the next try stays what it is."""
    task, server = make(clip), serve()
    path = f"/av2t-task{task.id}-k000-f00004.jpg"
    server.answers[path] = (200, {"ETag": f'"{tmp_path}"'}, clip.read_bytes())
    task.set(video=server.url + path)
    assert task.job.perform().outcome == "predicted"
    assert len(task.data["stills"]) == KEYFRAMES
    context.client.fetch(server.url + path, task.id, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == clip.read_bytes()


def test_a_task_of_another_project_is_left_alone(make: Make, clip: Path, context: jobs.Context) -> None:
    task, other = make(clip), make(clip)
    enqueue_preannotation(task.redis, other.project, [task.id], EMBEDDED)
    with pytest.raises(AV2TError, match=f"Task {task.id} belongs to project {task.project} and not to {other.project}"):
        replace(task, project=other.project).job.perform()
    assert not task.predictions
    assert len(other.uploads) == 1


def test_a_task_that_is_gone_ends_quietly(make: Make, clip: Path, context: jobs.Context) -> None:
    task = make(clip)
    job = task.job
    task.server.sdk.tasks.delete(id=str(task.id))
    assert job.perform() == Preannotated(outcome="the task is gone", keyframes=0)


def test_a_task_deleted_in_the_middle_ends_quietly(
    make: Make, clip: Path, context: jobs.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(clip)
    create = context.client.create_prediction

    def delete_first(*args: Any) -> int:
        task.server.sdk.tasks.delete(id=str(task.id))
        return create(*args)

    monkeypatch.setattr(context.client, "create_prediction", delete_first)
    assert task.job.perform() == Preannotated(outcome="the task is gone", keyframes=0)


def test_told_to_stop_in_the_middle_it_goes_on_there(
    make: Make, context: jobs.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = "".join(f'<Label value="{name}"/>' for name in ("elephant", "rooster", "kettle"))
    config = CONFIG.replace('<Label value="dog"/><Label value="Horn"/>', labels)
    task = make(COMPOSED_CLIPS / "elephant-rooster-kettle.mp4", config)  # in each of its five seconds one sounds
    looks: list[int] = []
    look = Predictor._predict_audible

    def noted(self: Predictor, heard: Any, *rest: Any) -> list[KeyframePrediction]:
        looks.extend(each.window.keyframe.index for each in heard)
        return look(self, heard, *rest)

    monkeypatch.setattr(Predictor, "_predict_audible", noted)
    asked = iter([False, False, True])
    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "cancelled", lambda: next(asked))
        with pytest.raises(Interrupted):
            task.job.perform()
    assert task.predictions == []
    before, looks[:] = list(looks), []
    assert task.job.perform() == Preannotated(outcome="predicted", keyframes=5)
    # The first try had more in hand than it got to say, but no more than that was looked at twice.
    assert before[:3] == [0, 1, 2]
    assert looks == [3, 4]
    [in_two] = task.predictions
    assert len(task.data["stills"]) == len(task.uploads) - 1 == 5

    task.server.sdk.predictions.delete(id=in_two.id)
    looks[:] = []
    monkeypatch.setattr(prediction_pass, "CHECKPOINT_INTERVAL", 0)  # what is kept on the way does not stop the job
    task.job.perform()
    [at_once] = task.predictions
    assert looks == list(range(5))  # nothing is left of what was kept
    assert len({region["item_index"] for region in at_once.result}) == 5
    assert (in_two.result, in_two.score) == (at_once.result, at_once.score)


def test_a_worker_killed_in_the_middle_of_a_clip_leaves_exactly_one_prediction(
    make: Make, tmp_path: Path, redis_url: str
) -> None:
    task = make(barking_clip(tmp_path / "long.mp4", LONG))

    def start(log: Path) -> "subprocess.Popen[bytes]":
        environment = {
            **os.environ,
            "LABEL_STUDIO_URL": task.server.url,
            "LABEL_STUDIO_API_KEY": task.server.api_key,
            "REDIS_URL": redis_url,
            "AV2T_DEVICE": "cpu",
            "AV2T_DATA_DIR": str(tmp_path / "data"),
        }
        with log.open("wb") as file:
            command = [sys.executable, "-m", "av2t", "worker", "--queues", "preannotate"]
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    first = start(tmp_path / "first.log")
    second = None
    try:
        wait_until(lambda: task.job.told.done, 180, "the middle of the clip")
        assert (task.job.told.done or 0) < (task.job.told.total or 0)
        first.send_signal(signal.SIGKILL)
        second = start(tmp_path / "second.log")
        wait_until(lambda: task.job.get_status() == JobStatus.FINISHED, 180, "the end of the clip")
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
    assert len(task.predictions) == 1
    assert len(task.data["stills"]) == len(task.uploads) - 1 == LONG
    log = (tmp_path / "second.log").read_text()
    assert f"task {task.id} of project {task.project}: predicted, {LONG} keyframes" in log
    assert task.server.api_key not in log
