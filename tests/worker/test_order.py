"""The order in which Label Studio's stream brings tasks up, by what the worker's client writes; real Label Studio."""

from tests.conftest import EMBEDDED, LabelStudioServer
from tests.worker.conftest import client_of

CONFIG = """<View><Video name="video" value="$video"/>
<BrushLabels name="mask" toName="frames"><Label value="dog"/></BrushLabels>
<Image name="frames" valueList="$frames"/></View>"""


def test_what_the_model_is_least_sure_of_comes_first(label_studio: LabelStudioServer) -> None:
    project = int(label_studio.make_project(CONFIG).id)
    scores = [0.9, 0.15, 0.6, 0.3]
    tasks = label_studio.add_tasks(project, len(scores))
    with client_of(label_studio.url, label_studio.api_key) as client:
        for task, score in zip(tasks, scores, strict=True):
            client.create_prediction(task, EMBEDDED, score, [])
            # What another model says is not asked.
            client.create_prediction(task, "another", 1 - score, [])
    setting = {"sampling": "Uncertainty sampling", "model_version": EMBEDDED}
    label_studio.request("PATCH", f"/api/projects/{project}", json=setting)

    came = []
    for _ in tasks:
        task = int(label_studio.request("GET", f"/api/projects/{project}/next").json()["id"])
        came.append(task)
        label_studio.sdk.annotations.create(id=task, result=[])
    assert came == [task for _, task in sorted(zip(scores, tasks, strict=True))]
