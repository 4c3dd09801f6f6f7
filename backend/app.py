"""The ML-backend protocol over HTTP: label-studio-ml's routes, with a manager, checks and error answers of ours."""

import logging
import re
from dataclasses import asdict
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, jsonify, redirect, request
from redis import Redis
from rq.exceptions import NoSuchJobError
from werkzeug.exceptions import BadRequest, Forbidden, HTTPException, NotFound
from werkzeug.wrappers import Response as BaseResponse

from av2t.remedies import told
from av2t_core import limits
from av2t_core.errors import AV2TError
from av2t_core.text import sentence
from av2t_core.versions.pointers import promote, rollback
from backend import bodies, status
from backend.bodies import BodyError
from backend.door import status_line
from backend.frame import api
from backend.manager import Manager, UnknownProjectError
from backend.metrics import CONTENT_TYPE, exposition
from worker.queue.connection import QueueError, check
from worker.queue.projects import reconcile_soon
from worker.queue.queue import retry_job, stop_job
from worker.queue.results import sheet
from worker.queue.trainings import training
from worker.settings import Settings

log = logging.getLogger(__name__)

# label_studio_ml.api logs whole headers and bodies for debugging, and the body of /setup holds a token.
api.logger.setLevel(logging.INFO)

server: Flask = api._server
# Logging or not, these two read each body and each answer whole before anything else does.
server.before_request_funcs[None].remove(api.log_request_info)
server.after_request_funcs[None].remove(api.log_response_info)


def create_app(settings: Settings, connection: Redis) -> Flask:
    """The WSGI application. There is one in a process, for the frame's server is a module's global.

    Who calls, and how large a body is, has been looked at before: by `backend.door`.
    Raises AV2TError if the model version that the settings name does not exist.
    """

    api._manager = Manager(connection, settings)
    api._manager.current_version()
    server.config["SETTINGS"] = settings
    server.config["REDIS"] = connection
    server.config["MANAGER"] = api._manager
    return server


# The page's own; all else that is posted is the protocol's JSON.
BUTTONS = {"retry", "stop", "use", "take_back", "predict_anew"}


@server.before_request
def check_request() -> None:
    if request.endpoint in BUTTONS:
        _check_own_page()
    elif request.method == "POST" and request.endpoint:
        data = request.get_data()
        if data.count(b"[") + data.count(b"{") > limits.BODY_PARTS:
            raise BodyError("body", f"it has more than {limits.BODY_PARTS} objects and lists: send fewer tasks at once")
        try:
            body = request.get_json()
        except (BadRequest, RecursionError):
            raise BodyError("body", "it is not valid JSON") from None
        bodies.check(request.endpoint, body)


def _check_own_page() -> None:
    """A browser says from which page a form comes, and no page can make it say otherwise.

    Another site's page in the browser of who may press these buttons must not press them; Forbidden if it tries.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin", "")
    if not (site == "same-origin" if site else urlsplit(origin).netloc == request.host):
        raise Forbidden("this is for the buttons of the status page")


@server.after_request
def forbid_everything_active(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


def health() -> tuple[Response, int] | str:
    """Label Studio calls this before everything else, waits one second, and shows "Disconnected" for an error."""
    if request.path == "/":  # the frame's view is the same for both
        return status_page()
    check(server.config["REDIS"])
    return jsonify({"status": "UP", "redis": "UP", "model_version": api._manager.current_version()}), HTTPStatus.OK


def metrics() -> Response:
    exposed = exposition(server.config["REDIS"], api._manager.current_version())
    return Response(exposed, content_type=CONTENT_TYPE)


def train() -> tuple[Response, int]:
    job, new = api._manager.train(**request.get_json())
    return jsonify({"job": job, "status": "queued"}), HTTPStatus.ACCEPTED if new else HTTPStatus.OK


# The frame's own answer UP whatever happens, answer nothing, and take annotations with the call.
server.view_functions |= {"health": health, "metrics": metrics, "_train": train}


@server.get("/versions")
def versions() -> Response:
    """Label Studio asks with GET, which the frame refuses with a 405 that is shown as an error."""
    return jsonify({"versions": api._manager.versions()})


@server.get("/train/<job>")
def training_state(job: str) -> Response:
    found = training(server.config["REDIS"], job)
    if found is None:
        raise NotFound(f"there is no training {job}, or it ended more than 30 days ago")
    return jsonify(status.plain(asdict(found)))


@server.get("/status.json")
def status_json() -> Response:
    return jsonify(_snapshot())


@server.get("/status")
def status_page() -> str:
    return status.page(_snapshot())


@server.get("/sheet")
def contact_sheet() -> Response:
    jpeg = sheet(server.config["REDIS"], request.args.get("id", ""))
    if jpeg is None:
        raise NotFound("no contact sheet is kept of that task: only those of the last ones are")
    return Response(jpeg, content_type="image/jpeg")


@server.post("/retry")
def retry() -> BaseResponse:
    retry_job(server.config["REDIS"], request.form.get("id", ""))
    return redirect("./", HTTPStatus.SEE_OTHER)


@server.post("/stop")
def stop() -> BaseResponse:
    stop_job(server.config["REDIS"], request.form.get("id", ""))
    return redirect("./", HTTPStatus.SEE_OTHER)


@server.post("/use")
def use() -> BaseResponse:
    """What the project PROJECT in "PROJECT/NAME" predicts with from now on."""
    project, _, name = request.form.get("id", "").partition("/")
    settings: Settings = server.config["SETTINGS"]
    promote(settings.models_dir, _project(project), name, settings.store)
    return _done(None)


@server.post("/take-back")
def take_back() -> BaseResponse:
    settings: Settings = server.config["SETTINGS"]
    rollback(settings.models_dir, _project(request.form.get("id", "")), settings.store)
    return _done(None)


@server.post("/predict-anew")
def predict_anew() -> BaseResponse:
    return _done(_project(request.form.get("id", "")))


def _project(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,18}", text):
        raise BodyError("id", f"{text[:100]!r} is no number of a project")
    return int(text)


def _done(repredict: int | None) -> BaseResponse:
    """A worker, which has the key, makes Label Studio ask for the version, and queues what is to be predicted."""
    reconcile_soon(server.config["REDIS"], repredict)
    return redirect("./", HTTPStatus.SEE_OTHER)


def _snapshot() -> dict[str, Any]:
    return status.snapshot(server.config["REDIS"], api._manager, server.config["SETTINGS"])


def _answer(code: int, said: str, **more: Any) -> Response:
    told = sentence(said)
    response = jsonify({"error": told, **more})
    response.status = status_line(code, told)
    return response


@server.errorhandler(AV2TError)
def refused(error: AV2TError) -> Response:
    match error:
        case BodyError():
            return _answer(HTTPStatus.BAD_REQUEST, str(error), field=error.field)
        case UnknownProjectError():
            return _answer(HTTPStatus.NOT_FOUND, str(error))
        case QueueError():
            log.error("%s", error)
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        case _:
            return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, told(error))


@server.errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    return _answer(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, f"{request.path[:100]}: {error.description}")


def bug(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _answer(HTTPStatus.INTERNAL_SERVER_ERROR, "An error in the backend; its log has the details")


# The last four have handlers in the frame, which answer with the exception's text and nothing in the log.
for kind in (Exception, AssertionError, FileNotFoundError, IndexError, NoSuchJobError):
    server.register_error_handler(kind, bug)
