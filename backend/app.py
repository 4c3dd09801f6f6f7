"""The backend's application: the views beside label-studio-ml's, and the checks, headers and errors of all of them."""

import logging
import re
from dataclasses import asdict
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, jsonify, redirect, request
from redis import Redis
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, NotFound
from werkzeug.wrappers import Response as BaseResponse

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError
from av2t_core.text import sentence
from av2t_core.versions.pointers import promote, rollback
from backend import bodies, frame, status
from backend.bodies import BodyError
from backend.door import status_line
from backend.frame import here
from backend.manager import Manager, UnknownProjectError
from worker.queue.connection import QueueError, check
from worker.queue.projects import reconcile_soon
from worker.queue.queue import retry_failed, retry_job, stop_job
from worker.queue.results import sheet
from worker.queue.views import training
from worker.settings import Settings

log = logging.getLogger(__name__)

views = Blueprint("views", __name__)
buttons = Blueprint("buttons", __name__)
"""Of the status page. All else that is posted is the protocol's JSON."""


def create_app(settings: Settings, connection: Redis) -> Flask:
    """The WSGI application.

    Who calls, and how large a body is, has been looked at before: by `backend.door`.
    Raises AV2TError if the model version that the settings name does not exist.
    """
    manager = Manager(connection, settings)
    manager.current_version()
    app = frame.application(manager)
    app.register_blueprint(views)
    app.register_blueprint(buttons)
    return app


@views.before_app_request
def check_body() -> None:
    if request.method != "POST" or request.endpoint is None or request.blueprint == buttons.name:
        return
    data = request.get_data()
    if data.count(b"[") + data.count(b"{") > limits.BODY_PARTS:
        raise BodyError("body", f"it has more than {limits.BODY_PARTS} objects and lists: send fewer tasks at once")
    try:
        body = request.get_json()
    except (BadRequest, RecursionError):
        raise BodyError("body", "it is not valid JSON") from None
    bodies.check(request.path, body)


@buttons.before_request
def check_own_page() -> None:
    """A browser says from which page a form comes, and no page can make it say otherwise.

    Another site's page in the browser of who may press these buttons must not press them; Forbidden if it tries.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
    if not (site == "same-origin" if site else urlsplit(origin).netloc == request.host):
        raise Forbidden("this is for the buttons of the status page")


@views.after_app_request
def forbid_everything_active(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


@views.get("/health")
def health() -> Response:
    """Label Studio calls this before everything else, waits one second, and shows "Disconnected" for an error."""
    check(here.connection)
    return jsonify({"status": "UP", "redis": "UP", "model_version": here.current_version()})


@views.get("/metrics")
def metrics() -> Response:
    return Response(status.metrics(here), content_type=status.METRICS_TYPE)


@views.get("/versions")
def versions() -> Response:
    """Label Studio asks with GET, which the frame refuses with a 405 that is shown as an error."""
    return jsonify({"versions": here.versions()})


@views.post("/train")
def train() -> tuple[Response, int]:
    job, new = here.train(**request.get_json())
    return jsonify({"job": job, "status": "queued"}), HTTPStatus.ACCEPTED if new else HTTPStatus.OK


@views.get("/train/<job>")
def training_state(job: str) -> Response:
    found = training(here.connection, job)
    if found is None:
        raise NotFound(f"there is no training {job}, or it ended more than 30 days ago")
    return jsonify(status.plain(asdict(found)))


@views.get("/status.json")
def status_json() -> Response:
    return jsonify(status.snapshot(here))


@views.get("/")
@views.get("/status")
def status_page() -> str:
    return status.page(status.snapshot(here))


@views.get("/sheet")
def contact_sheet() -> Response:
    jpeg = sheet(here.connection, request.args.get("id", ""))
    if jpeg is None:
        raise NotFound("no contact sheet is kept of that task: only those of the last ones are")
    return Response(jpeg, content_type="image/jpeg")


@buttons.post("/<any(retry, 'retry-all', stop, use, 'take-back', 'predict-anew'):button>")
def press(button: str) -> BaseResponse:
    """`id` of the form is a job's for `retry` and `stop`, a project's for the last two, and PROJECT/NAME for `use`: the
    version NAME is what the project predicts with from now on."""
    id, settings, connection = request.form.get("id", ""), here.settings, here.connection
    match button:
        case "retry":
            retry_job(connection, id)
        case "retry-all":
            retry_failed(connection)
        case "stop":
            stop_job(connection, id)
        case "use":
            project, _, name = id.partition("/")
            promote(settings.models_dir, _project(project), name, settings.store)
        case "take-back":
            rollback(settings.models_dir, _project(id), settings.store)
        case "predict-anew":
            reconcile_soon(connection, _project(id))
    if button in {"use", "take-back"}:
        # A worker, which has the key, makes Label Studio ask for the version, and queues what is to be predicted.
        reconcile_soon(connection)
    return redirect("./", HTTPStatus.SEE_OTHER)


def _project(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,18}", text):
        raise BodyError("id", f"{text[:100]!r} is no number of a project")
    return int(text)


def _refusal(code: int, message: str, **more: Any) -> Response:
    shown = sentence(message)
    response = jsonify({"error": shown, **more})
    response.status = status_line(code, shown)
    return response


@views.app_errorhandler(AV2TError)
def refused(error: AV2TError) -> Response:
    match error:
        case BodyError():
            return _refusal(HTTPStatus.BAD_REQUEST, str(error), field=error.field)
        case UnknownProjectError():
            return _refusal(HTTPStatus.NOT_FOUND, str(error))
        case QueueError():
            log.error("%s", error)
            return _refusal(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        case _:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, told(error))


@views.app_errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    return _refusal(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, f"{request.path[:100]}: {error.description}")


@views.app_errorhandler(Exception)
def bug(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "An error in the backend; its log has the details")
