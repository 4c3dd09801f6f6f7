"""Which model version a project is predicted with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from av2t_core import limits
from av2t_core.errors import AV2TError, WeightsError
from av2t_core.versions.pointers import promote
from av2t_core.versions.version import resolve
from tests.conftest import EMBEDDED
from worker.queue.projects import Project, all_known, forget, keep, known
from worker.queue.results import note_score, scores_of
from worker.settings import Settings

NAMES = ("mine-1", "tuned-1", "tuned-2")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """With versions to choose from; mine-1 is that of the settings."""
    settings = Settings.load(data_dir=tmp_path, model="mine-1")
    for name in NAMES:
        shutil.copytree(resolve(EMBEDDED).directory, settings.models_dir / name)
        card = settings.models_dir / name / "card.json"
        fields = json.loads(card.read_text())
        card.write_text(json.dumps({**fields, "parent": None if name == "mine-1" else "mine-1"}))
    return settings


def version(settings: Settings, chosen: str = "") -> str:
    return Project(id=3, label_config="<View/>", chosen=chosen).model_version(settings)


def test_what_is_chosen_in_label_studio_then_what_was_promoted_then_the_settings(settings: Settings) -> None:
    assert version(settings) == "mine-1"
    promote(settings.models_dir, 3, "tuned-1")
    promote(settings.models_dir, 4, "tuned-2")
    assert version(settings) == "tuned-1"
    assert version(settings, chosen="tuned-2") == "tuned-2"
    assert version(settings.model_copy(update={"model": "tiny"})) == "tuned-1"


@pytest.mark.parametrize("chosen", ["AV2T-SAM", "yolo-1", "tiny"])
def test_a_backends_title_or_the_version_of_another_model_is_no_choice(settings: Settings, chosen: str) -> None:
    promote(settings.models_dir, 3, "tuned-1")
    assert version(settings, chosen=chosen) == "tuned-1"


def test_a_promoted_version_that_is_gone_is_told_and_not_replaced(settings: Settings) -> None:
    promote(settings.models_dir, 3, "tuned-1")
    (settings.models_dir / "tuned-1/weights.safetensors").unlink()
    told = r"project 3 is to use tuned-1, which cannot be used: .* is missing; .*`av2t models promote NAME --project 3`"
    with pytest.raises(WeightsError, match=told):
        version(settings)
    shutil.rmtree(settings.models_dir / "tuned-1")
    with pytest.raises(WeightsError, match="which cannot be used: there is no model version 'tuned-1'"):
        version(settings)
    assert version(settings, chosen="tuned-2") == "tuned-2"


def test_no_torch_is_needed(settings: Settings) -> None:
    promote(settings.models_dir, 3, "tuned-1")
    code = (
        "import sys; from worker.queue.projects import Project; from worker.settings import Settings\n"
        "assert Project(id=3, label_config='').model_version(Settings.load(data_dir=sys.argv[1])) == 'tuned-1'\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(settings.data_dir)], check=True, timeout=60)


def test_scores_are_those_of_a_project_and_go_with_it(redis: Redis) -> None:
    keep(redis, Project(id=3, label_config="<View/>"))
    for task in range(2500):
        note_score(redis, 3, task, task / 2500)
    note_score(redis, 3, 1, 0.5)
    note_score(redis, 4, 1, 0.25)
    found = scores_of(redis, 3, range(1, 5000))
    assert (len(found), found[1], found[2499]) == (2499, 0.5, 0.9996)
    assert scores_of(redis, 4, [1, 2]) == {1: 0.25}
    forget(redis, 3)
    assert known(redis, 3) is None
    assert scores_of(redis, 3, [1]) == {}
    assert scores_of(redis, 3, []) == {}


def test_all_projects_together_have_a_bound(redis: Redis) -> None:
    """The status page reads all of them."""
    config = "x" * limits.LABEL_CONFIG
    for number in range(1, 32):
        keep(redis, Project(id=number, label_config=config))
    with pytest.raises(AV2TError, match=r"The label config of project 32 is \d+ characters too many"):
        keep(redis, Project(id=32, label_config=config))
    keep(redis, Project(id=32, label_config="<View/>"))
    keep(redis, Project(id=31, label_config=config))
    assert [each.id for each in all_known(redis)] == list(range(1, 33))
