"""From annotations in a real Label Studio to a model version; the trainings are as short as they can be."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from redis import Redis
from safetensors.torch import load_file

from av2t_core.data.cutouts import Cutouts
from av2t_core.errors import AV2TError, StoreAwayError
from av2t_core.labelstudio.controls.brush import BrushLabels
from av2t_core.media.clip import Clip
from av2t_core.prediction.predictor import Predictor
from av2t_core.versions.checkpoint import load_version
from av2t_core.versions.pointers import current, promote
from av2t_core.versions.store import Store
from av2t_core.versions.version import Version, resolve
from tests.conftest import EMBEDDED, ROOT, SHIPPED, LabelStudioServer, wait_until
from tests.core.clips import SOUND_RATE, Sound, at_rate, write_clip
from tests.up import python_m_av2t
from tests.worker.conftest import LOOPBACK, Serve
from tests.worker.http_server import Answer
from tests.worker.test_trainings import model_processes
from worker.failures import judge
from worker.jobs import finetuning
from worker.jobs import preannotation as jobs
from worker.queue import heartbeat
from worker.queue.heartbeat import Interrupted
from worker.queue.job import KnownJob, open_queue
from worker.queue.kind import State
from worker.queue.preannotation import job_id
from worker.queue.queue import enqueue_preannotation, enqueue_training
from worker.queue.training import TRAIN, Trained
from worker.queue.views import training
from worker.settings import Settings

CONFIG = """<View><Video name="clip" value="$video"/>
<BrushLabels name="what" toName="pages"><Label value="dog"/><Label value="sheet"/></BrushLabels>
<Image name="pages" valueList="$stills"/></View>"""
HEIGHT, WIDTH = 60, 80
CLIPS = 6


def bright_square(path: Path, seed: int) -> NDArray[np.bool_]:
    """A clip of two seconds over which a dog barks and a bright square stands; the square's mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    top, left = (int(place) for place in rng.integers(5, 30, 2))
    mask[top : top + 25, left : left + 25] = True
    image = rng.integers(0, 90, (HEIGHT, WIDTH, 3), np.uint8)
    image[mask] = 250
    bark = Cutouts.load(ROOT / "tests" / "data" / "cutouts").sounds["dog"][0]
    sound = Sound(samples=np.resize(np.roll(bark, 500 * seed), 2 * SOUND_RATE)[None])
    write_clip(path, at_rate(2, 2), images=[image] * 4, sounds=[sound], sound_codec="aac")
    return mask


@dataclass
class Annotated:
    """A project of which somebody has annotated clips."""

    server: LabelStudioServer
    redis: Redis
    settings: Settings
    id: int
    tasks: list[int]

    def annotate(self, path: Path, mask: NDArray[np.bool_] | None, label: str = "dog") -> int:
        """A new task with the clip; `mask` on both of its frames, or "nothing sounds" on both."""
        task = self.server.upload(self.id, path)
        self.server.sdk.tasks.update(id=str(task.id), data={**task.data, "stills": ["/data/1.jpg", "/data/2.jpg"]})
        value = [] if mask is None else BrushLabels().write(mask)
        regions: list[dict[str, Any]] = [
            {
                **{
                    "id": f"r{page}",
                    "from_name": "what",
                    "to_name": "pages",
                    "type": "brushlabels",
                    "origin": "manual",
                },
                **{"item_index": page, "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0},
                "value": {**each, "brushlabels": [label]},
            }
            for page in range(2)
            for each in value
        ]
        self.server.sdk.annotations.create(id=task.id, result=regions)
        self.tasks.append(int(task.id))
        return int(task.id)

    def request(self, **options: Any) -> KnownJob:
        id, _ = enqueue_training(self.redis, self.id, **options)
        job: KnownJob = KnownJob.fetch(id, connection=self.redis, serializer="json")
        return job

    def train(self, job: KnownJob) -> Trained:
        """As a worker does it, in this process."""
        result: Trained = job.perform()
        self.redis.lrem(open_queue(self.redis, TRAIN).key, 0, job.id)
        return result


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Sequence[tuple[Path, NDArray[np.bool_]]]:
    folder = tmp_path_factory.mktemp("squares")
    paths = [folder / f"{number}.mp4" for number in range(CLIPS)]
    return [(path, bright_square(path, seed)) for seed, path in enumerate(paths)]


@pytest.fixture
def empty(label_studio: LabelStudioServer, redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[Annotated]:
    settings = Settings(
        label_studio_url=label_studio.url,
        label_studio_api_key=label_studio.api_key,  # type: ignore[arg-type]
        redis_url=redis_url,
        data_dir=tmp_path / "data",
        device="cpu",
        clip_networks=LOOPBACK,
    )
    finetuning.set_up(settings)
    yield Annotated(label_studio, redis, settings, int(label_studio.make_project(CONFIG).id), [])
    assert finetuning._context is not None
    finetuning._context.client.close()
    finetuning._context = None


@pytest.fixture
def project(empty: Annotated, clips: Sequence[tuple[Path, NDArray[np.bool_]]]) -> Annotated:
    for path, mask in clips:
        empty.annotate(path, mask)
    return empty


def of(project: Annotated, name: str) -> Version:
    return resolve(name, project.settings.models_dir)


def test_a_version_is_made_that_holds_what_was_trained_and_nothing_else(project: Annotated) -> None:
    job = project.request(epochs=1)
    result = project.train(job)

    version = of(project, result.version)
    assert version.name == f"{EMBEDDED}-p{project.id}-{job.id.rpartition('-')[2]}"
    own = load_file(version.weights)
    assert {name.split(".")[1] for name in own} == {"projector", "adapters"}
    before, after = (load_version(each, torch.device("cpu")) for each in (resolve(EMBEDDED), version))
    for module in ("model", "image_encoder", "audio_encoder"):
        now = getattr(after, module).state_dict()
        for name, tensor in getattr(before, module).state_dict().items():
            assert tensor.equal(now[name]) != (f"{module}.{name}" in own), name
    assert version.card.parent == EMBEDDED
    assert version.card.calibration == resolve(EMBEDDED).card.calibration


def test_what_finds_things_by_their_names_learns_names(project: Annotated) -> None:
    result = project.train(project.request(base_version=SHIPPED[0]))
    version = of(project, result.version)
    assert version.card.names == ("dog",)
    assert {name.split(".")[0] for name in load_file(version.weights)} == {"names"}
    assert version.card.metrics is not None
    assert version.card.metrics.after is not None


def test_and_if_asked_for_what_to_add_to_the_prompts_of_names(project: Annotated) -> None:
    result = project.train(project.request(base_version=SHIPPED[0], epochs=1))
    version = of(project, result.version)
    learned = {name.split(".")[1] for name in load_file(version.weights) if name.startswith("model.")}
    assert learned == {"projector", "adapters"}
    assert load_version(version, torch.device("cpu")).model.says_something


def test_the_card_says_what_became_of_each_clip(project: Annotated, clips: Sequence[tuple[Path, Any]]) -> None:
    gone = project.annotate(*clips[0])
    project.server.sdk.tasks.update(id=str(gone), data={"video": "http://127.0.0.1:9/none.txt", "stills": ["a", "b"]})
    skipped = project.server.upload(project.id, clips[1][0])
    project.server.request("POST", f"/api/tasks/{skipped.id}/annotations", json={"result": [], "was_cancelled": True})
    with pytest.raises(Exception, match="cannot be fetched"):  # which may pass: it is not left out for that
        project.train(project.request(epochs=1))

    project.server.sdk.tasks.update(id=str(gone), data={"stills": ["a", "b"]})
    result = project.train(project.request(epochs=1))
    card = of(project, result.version).card.as_json()
    use = {clip["task"]: clip["use"] for clip in card["data"]["clips"]}
    assert set(use) == {*project.tasks, skipped.id}
    assert use[skipped.id] == use[gone] == "left out"
    reasons = {clip["task"]: clip.get("reason") for clip in card["data"]["clips"]}
    assert reasons[gone]
    assert reasons[skipped.id]
    assert list(use.values()).count("held out") == card["metrics"]["held_out_clips"] == 2
    assert card["metrics"]["agreement"] == {
        "regions_accepted": 0,
        "regions_changed": 0,
        "regions_added": 2 * CLIPS,
        "accepted": 0.0,
    }


def test_clips_of_which_a_proxy_says_no_are_asked_for_again(
    project: Annotated, clips: Sequence[tuple[Path, Any]], serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And left out when it goes on saying so."""
    monkeypatch.setattr("worker.jobs.annotated_clips.delay", lambda _: 0)
    server = serve()
    page: Answer = (200, {"Content-Type": "text/html"}, b"<html>")
    server.answers["/back.mp4"] = [(404, {}, b""), page, (403, {}, b""), (200, {}, clips[0][0].read_bytes())]
    for task, name in zip(project.tasks[:2], ("back", "gone"), strict=True):
        data = {"video": f"{server.url}/{name}.mp4", "stills": ["a", "b"]}
        project.server.sdk.tasks.update(id=str(task), data=data)
    card = of(project, project.train(project.request(epochs=1)).version).card.as_json()
    left_out = {clip["task"]: clip["reason"] for clip in card["data"]["clips"] if clip["use"] == "left out"}
    assert list(left_out) == [project.tasks[1]]
    assert "There is no clip at" in left_out[project.tasks[1]]


def test_with_too_few_clips_it_says_how_many_are_missing(
    empty: Annotated, clips: Sequence[tuple[Path, NDArray[np.bool_]]]
) -> None:
    for path, mask in clips[:3]:
        empty.annotate(path, mask)
    with pytest.raises(AV2TError, match=r"has 3 annotated clips .* annotate 2 more"):
        empty.train(empty.request())
    assert not empty.settings.models_dir.exists()


def test_a_label_that_the_model_did_not_know_is_learnt(
    empty: Annotated, clips: Sequence[tuple[Path, NDArray[np.bool_]]]
) -> None:
    for path, mask in clips:
        empty.annotate(path, mask, "sheet")
    version = of(empty, empty.train(empty.request(epochs=1)).version)
    assert version.names == ("sheet",)
    assert {name for name in load_file(version.weights) if name.startswith("names.")}
    predictor = Predictor.load(version.name, "cpu", models_dir=empty.settings.models_dir)
    with Clip(clips[0][0]) as clip:
        [first, *_] = predictor.predict(clip.windows())
    assert predictor.labels[-1] == "sheet"
    assert all(next(iter(thing.names)) == "sheet" for thing in first.objects)
    again = of(empty, empty.train(empty.request(epochs=1, base_version=version.name)).version)
    assert again.names == ("sheet",)


def test_what_was_interrupted_ends_as_if_it_had_not_been(project: Annotated, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of(project, project.train(project.request(epochs=3)).version)

    job = project.request(epochs=3, base_version=EMBEDDED)
    folder = project.settings.data_dir / "finetune" / str(project.id)

    with monkeypatch.context() as patch:
        patch.setattr(heartbeat, "cancelled", lambda: _steps(folder) == 2)
        with pytest.raises(Interrupted):
            project.train(job)
    again = of(project, project.train(job).version)

    assert again.name != whole.name
    assert again.card.as_json()["learning_curve"] == whole.card.as_json()["learning_curve"]
    tensors, expected = load_file(again.weights), load_file(whole.weights)
    assert tensors.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in tensors.items())
    assert not list(folder.glob(f"{EMBEDDED}-*"))


def test_killed_in_the_middle_it_ends_as_if_it_had_not_been(project: Annotated) -> None:
    whole = of(project, project.train(project.request(epochs=4)).version)

    job = project.request(epochs=4, base_version=EMBEDDED)
    folder = project.settings.data_dir / "finetune" / str(project.id)
    environment = {
        "LABEL_STUDIO_URL": project.settings.label_studio_url,
        "LABEL_STUDIO_API_KEY": project.settings.secret,
        "REDIS_URL": project.settings.redis_url,
        "AV2T_DATA_DIR": str(project.settings.data_dir),
        "AV2T_DEVICE": "cpu",
    }
    command = [*python_m_av2t(), "worker", "--queues", "train", "--burst"]
    with subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as worker:
        wait_until(lambda: _steps(folder) >= 2, 120, "the second step")
        [model] = model_processes(worker.pid)
        model.kill()
        steps = _steps(folder)
        _, errors = worker.communicate(timeout=180)
        assert worker.returncode == 0, errors
    assert steps < 4

    assert "the model's process died" in errors.lower()
    told = training(project.redis, job.id)
    assert told is not None
    assert told.state is State.DONE
    assert told.version
    again = of(project, told.version)
    assert again.card.as_json()["learning_curve"] == whole.card.as_json()["learning_curve"]
    expected = load_file(whole.weights)
    assert all(tensor.equal(expected[name]) for name, tensor in load_file(again.weights).items())


def _steps(folder: Path) -> int:
    """How many a training that runs has done."""
    return sum(log.read_text().count('"step"') for log in folder.glob(f"{EMBEDDED}-*/log.jsonl"))


def test_a_version_that_is_there_is_not_made_again(project: Annotated, monkeypatch: pytest.MonkeyPatch) -> None:
    job = project.request(epochs=1)
    first = project.train(job)
    monkeypatch.setattr(finetuning._FineTune, "_make", lambda *_: pytest.fail("it was made again"))
    assert project.train(job) == first


def test_a_better_version_becomes_the_projects_own_and_the_next_one_starts_from_it(project: Annotated) -> None:
    first = project.train(project.request(epochs=12))
    card = of(project, first.version).card.as_json()
    assert first.promoted is card["verdict"]["better"] is True, first.sentence
    models_dir = project.settings.models_dir
    assert current(models_dir, project.id) == first.version

    second = of(project, project.train(project.request(epochs=1)).version)
    assert second.card.parent == first.version
    assert second.name.startswith(f"{EMBEDDED}-p{project.id}-")
    learnt, measured = (
        {clip["sha256"] for clip in card["data"]["clips"] if clip["use"] == use} for use in ("training", "held out")
    )
    assert measured == {clip.sha256 for clip in second.card.clips if clip.use == "held out"}
    assert not learnt & measured


def test_where_all_clips_have_been_learnt_from_it_says_so(
    project: Annotated, clips: Sequence[tuple[Path, NDArray[np.bool_]]]
) -> None:
    first = of(project, project.train(project.request(epochs=1)).version)
    uses = {clip["task"]: clip["use"] for clip in first.card.as_json()["data"]["clips"]}
    for task in project.tasks[:CLIPS]:
        if uses[task] == "held out":
            project.server.sdk.tasks.delete(id=str(task))
    learnt = next(number for number, task in enumerate(project.tasks) if uses[task] == "training")
    project.annotate(*clips[learnt])
    with pytest.raises(AV2TError, match=r"None of project \d+'s 5 annotated clips can be held out"):
        project.train(project.request(base_version=first.name))


def test_what_was_held_out_for_a_version_that_is_not_used_stays_held_out(
    project: Annotated, clips: Sequence[tuple[Path, NDArray[np.bool_]]], tmp_path: Path
) -> None:
    first = of(project, project.train(project.request(epochs=1, base_version=EMBEDDED)).version)
    for seed in range(CLIPS, CLIPS + 9):
        project.annotate(tmp_path / f"{seed}.mp4", bright_square(tmp_path / f"{seed}.mp4", seed))
    second = of(project, project.train(project.request(epochs=1, base_version=EMBEDDED)).version)
    before, after = ({clip.sha256 for clip in each.card.clips if clip.use == "held out"} for each in (first, second))
    assert len(after) == 3
    assert before < after


def test_a_version_that_is_not_better_is_kept_and_not_used(project: Annotated) -> None:
    promote(project.settings.models_dir, project.id, EMBEDDED)
    result = project.train(project.request(epochs=1))
    assert result.promoted is False
    assert result.sentence
    assert current(project.settings.models_dir, project.id) == EMBEDDED
    assert of(project, result.version).card.as_json()["verdict"]["sentence"] == result.sentence


def test_progress_is_told(project: Annotated) -> None:
    job = project.request(epochs=2)
    project.train(job)
    told = training(project.redis, job.id)
    assert told is not None
    assert (told.stage, told.epoch, told.epochs) == ("judging", 2, 2)
    assert told.version
    assert told.version.startswith(EMBEDDED)
    assert (told.clips, told.held_out) == (CLIPS - 2, 2)
    assert told.loss is not None
    assert told.loss > 0


# With a model store: two machines, which are two folders


def on(project: Annotated, data_dir: Path) -> Annotated:
    """As another machine of the same store has it."""
    store = f"file://{project.settings.data_dir.parent / 'store'}"
    settings = project.settings.model_copy(update={"data_dir": data_dir, "models_url": store})
    assert finetuning._context is not None
    finetuning._context.settings = settings
    return replace(project, settings=settings)


def test_another_machine_predicts_with_what_one_has_made(
    project: Annotated, tmp_path: Path, clips: Sequence[tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    one = on(project, here)
    first = one.train(one.request(epochs=12))
    assert first.promoted, first.sentence

    other = on(project, there)
    monkeypatch.setattr(jobs, "_context", None)
    jobs.set_up(other.settings)
    assert jobs._context is not None
    task = int(project.server.upload(project.id, clips[0][0]).id)
    enqueue_preannotation(project.redis, project.id, [task], first.version)
    job = KnownJob.fetch(job_id(project.id, task, first.version), connection=project.redis, serializer="json")
    assert job.perform().outcome == "predicted"
    jobs._context.client.close()
    [prediction] = project.server.sdk.predictions.list(task=task)
    assert prediction.model_version == first.version
    assert of(other, first.version).weights.read_bytes() == of(one, first.version).weights.read_bytes()

    second = of(other, other.train(other.request(epochs=1)).version)
    assert second.card.parent == first.version


def test_a_push_that_fails_is_done_again_and_nothing_else(
    project: Annotated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = on(project, tmp_path / "here")
    job = one.request(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "push", _away)
        with pytest.raises(StoreAwayError) as away:
            one.train(job)
    assert not judge(away.value, "").final
    with monkeypatch.context() as patch:
        patch.setattr(finetuning._FineTune, "_make", lambda *_: pytest.fail("it was made again"))
        result = one.train(job)
        other = on(project, tmp_path / "there")
        assert other.train(job) == result  # which has it from the store
    assert of(other, result.version).in_store


def _away(*_: object) -> None:
    raise StoreAwayError("the model store cannot be reached")
