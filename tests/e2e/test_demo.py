"""`av2t up --demo` from the outside."""

from av2t.options import DEMO_CLIPS
from tests.e2e.conftest import RunningDemo
from tests.up import Up


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
