"""label-studio-ml's views of Label Studio's protocol, in an application of their own for each backend.

All that is bent of the package is bent here. Its views ask a manager that is their module's global: here it hands on to
that of the application that answers. They are wrapped so that every error is status 500 with a traceback: here errors
reach the application's handlers. Their module takes two names from `label_studio_ml.model`, which imports torch where
it is installed, 12 s and 550 MB: a stand-in has them. Their logs for debugging would hold tokens. Its server, with
hooks and error handlers of its own, is unused.
"""

import logging
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

from flask import Flask, current_app
from label_studio_ml import exceptions
from werkzeug.local import LocalProxy

from backend import bodies
from backend.manager import Manager, ProjectModel
from worker.queue.queue import is_training

here = cast(Manager, LocalProxy(lambda: current_app.extensions["manager"]))
"""The manager of the application that answers."""


class _Manager:
    """What the views call, by the names and with the arguments that they use. They have been checked by `bodies`."""

    model_dir = None  # which POST /versions would tell every caller

    def fetch(self, project: str, schema: str, _reload: bool, *, hostname: str | None, **_: Any) -> ProjectModel:
        """Without the access_token, which is the legacy one and useless where that is off."""
        return here.set_up(bodies.project_id(project), schema, hostname or "")

    def predict(
        self, tasks: Sequence[dict[str, Any]], project: str, config: str | None, /, *_: Any, **__: Any
    ) -> tuple[list[list[Any]], ProjectModel]:
        """Positional, for the other parameters come from the body and may have any name. An empty list says "queued":
        Label Studio stores nothing for it and logs no error."""
        model = here.preannotate(bodies.project_id(project), [task["id"] for task in tasks], config)
        return [[] for _ in tasks], model

    def webhook(self, action: str, data: dict[str, Any]) -> dict[str, Any]:
        return here.webhook(action, bodies.event(action, data))

    def is_training(self, project: str | None) -> dict[str, bool]:
        chosen = None if project is None else bodies.project_in(project)
        return {"is_training": is_training(here.connection, chosen)}

    def _get_models_from_workdir(self, _project: str) -> list[str]:
        return here.versions()


_model = ModuleType("label_studio_ml.model")
vars(_model).update(LabelStudioMLManager=_Manager, LABEL_STUDIO_ML_BACKEND_V2_DEFAULT=False)
sys.modules[_model.__name__] = _model
exceptions.exception_handler = lambda view: view
from label_studio_ml import api  # noqa: E402

del sys.modules[_model.__name__]
api.logger.setLevel(logging.INFO)


def application(manager: Manager) -> Flask:
    """With the views that this project has none of its own for."""
    app = Flask(__name__, static_folder=None)
    app.extensions["manager"] = manager
    posts = {"/setup": api._setup, "/predict": api._predict, "/webhook": api.webhook, "/versions": api.get_version}
    for path, view in posts.items():
        app.add_url_rule(path, view_func=view, methods=["POST"])
    app.add_url_rule("/is_training", view_func=api._is_training)
    return app
