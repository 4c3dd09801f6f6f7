from pathlib import Path

from tests.conftest import LabelStudioServer

CONFIG = """<View>
  <Video name="video" value="$video" framerate="$fps" sync="audio" height="260"/>
  <Audio name="audio" value="$video" sync="video" height="60"/>
  <BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
  <Image name="frames" valueList="$frames"/>
</View>"""


def test_an_uploaded_clip_becomes_a_task_of_the_video_s_key(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"not decoded by the server")
    project = label_studio.make_project(CONFIG)
    task = label_studio.upload(project.id, clip)
    assert task.data["video"].endswith("clip.mp4")
