"""`av2t doctor`: go through everything that has to be right, and say what to do about what is not."""

import platform
from collections.abc import Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple, get_args

import httpx
from redis import Redis
from redis.exceptions import RedisError

from av2t.console import report
from av2t.options import Count
from av2t.remedies import told
from av2t.signature import Arg
from av2t_core.errors import AV2TError
from av2t_core.labelstudio.label_config import parse_label_config
from av2t_core.model.presets import PRESETS
from av2t_core.text import one_line
from av2t_core.versions.version import resolve
from worker.client.label_studio import LabelStudioClient
from worker.client.projects import ProjectState, project_state
from worker.client.projects import version as label_studio_version
from worker.failures import TransientError
from worker.queue.connection import FullError, Memory, connect, reachable, redis_address
from worker.queue.projects import Project
from worker.queue.views import overview
from worker.settings import Settings

PACKAGES = ("torch", "sam2", "transformers", "open_clip_torch", "av", "redis", "rq")
MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}

State = Literal["ok", "note", "fail"]


class Finding(NamedTuple):
    """A note is worth knowing and stops nothing. `what`: if it is of something else than what was looked at."""

    state: State
    sentence: str
    what: str = ""


ok, note, fail = (partial(Finding, state) for state in get_args(State))


def doctor(
    *,
    project: Annotated[Count | None, Arg("look at this project, too", "N")] = None,
    json: Annotated[bool, Arg("print the findings as JSON")] = False,
) -> int:
    """Go through the settings, the packages, Redis, the workers, the model store, the model's weights, the GPU, the
    backend and Label Studio, and, with --project, through what that project needs. For each thing that is not as it
    must be it says what to do. Nothing is changed. Run it where the worker runs, with the worker's environment.

    examples:
      av2t doctor
      av2t doctor --project 3

    The exit status is 1 if something fails.
    """
    found = []
    for what, state, sentence in _examine(Settings.load(), project):
        found.append({"what": what, "state": state, "sentence": sentence})
        if not json:
            print(f"{MARKS[state]}  {what}: {one_line(sentence)}", flush=True)
    failed = sum(each["state"] == "fail" for each in found)
    summary = f"{failed} of {len(found)} failed" if failed else f"All {len(found)} are as they should be"
    report(found, ["", summary], json=json, indent=2)
    return 1 if failed else 0


def _examine(settings: Settings, project: int | None) -> Iterator[tuple[str, State, str]]:
    checks = {
        **{"packages": _packages(), "Redis": _redis(settings), "model store": _store(settings)},
        **{"model": _model(settings), "device": _device(settings), "backend": _backend(settings)},
        "Label Studio": _label_studio(settings, project),
    }
    for what, findings in checks.items():
        for state, sentence, own in _checked(findings):
            yield own or what, state, sentence


def _checked(findings: Iterator[Finding]) -> Iterator[Finding]:
    """An error that they end in is a finding, too."""
    try:
        yield from findings
    except (AV2TError, TransientError) as error:
        yield fail(f"{told(error).rstrip('.')}.")


def _packages() -> Iterator[Finding]:
    missing, there = [], [f"Python {platform.python_version()}", f"av2t-sam {version('av2t-sam')}"]
    for package in PACKAGES:
        try:
            there.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    yield ok(", ".join(there) + ".")
    if missing:
        yield note(
            f"{', '.join(missing)} are not installed; a worker needs them, a backend does not: install av2t-sam with"
            " its extras [model,embedded]."
        )


def _redis(settings: Settings) -> Iterator[Finding]:
    connection = connect(settings.redis_url, timeout=5)
    with reachable(connection):
        info = connection.info()
    yield ok(f"{redis_address(connection)} answers, version {info['redis_version']}.")
    if not info.get("aof_enabled") and not _config(connection, "save"):
        yield note("it keeps nothing on disk: what is queued is lost when it stops. Start it with --appendonly yes.")
    policy = _config(connection, "maxmemory-policy")
    if info.get("maxmemory") and policy != "noeviction":
        yield fail(f"its maxmemory-policy is {policy}, which may throw jobs away; set it to noeviction.")
    if Memory(used=info["used_memory"], most=info.get("maxmemory", 0)).full:
        yield fail(f"{FullError(connection)}.")
    if info.get("role") == "slave":
        yield fail("it is a replica and takes nothing that is written; set REDIS_URL to the server that it copies.")
    state = overview(connection)
    if number := len(state.workers):
        yield ok(f"workers that listen: {number}; tasks that wait: {state.queued}, that failed: {state.failed}.")
    else:
        start = "start one with `av2t worker`"
        yield fail(f"no worker listens, so nothing is done: {start}. Tasks that wait: {state.queued}.")


def _config(connection: Redis, name: str) -> str:
    """Of a server that does not tell, as hosted ones, nothing is held against it."""
    try:
        return str(connection.config_get(name).get(name, "unknown"))
    except RedisError:
        return "unknown"


def _store(settings: Settings) -> Iterator[Finding]:
    if settings.store:
        settings.store.check()
        settings.mirror().refresh()
        yield ok(f"{settings.store.url} answers, and can be written.")


def _model(settings: Settings) -> Iterator[Finding]:
    found = resolve(settings.model, settings.models_dir)
    found.check()
    whole = all(path.is_file() for path, _ in found.files)
    if whole:
        found.verify()
    weights = "are whole" if whole else "come from the store when wanted"
    yield ok(f"{found.name}, of the preset {found.card.preset}; its weights {weights}.")
    if remark := found.caution:
        yield note(f"{remark}.")


def _device(settings: Settings) -> Iterator[Finding]:
    if find_spec("torch") is None:
        yield note("torch is not installed, so no worker can run here.")
        return
    import torch  # seconds

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    preset = resolve(settings.model, settings.models_dir).card.preset
    if gpus:
        yield ok(f"AV2T_DEVICE is {settings.device}; torch sees {', '.join(gpus)}.")
    elif settings.device.startswith("cuda"):
        yield fail(f"AV2T_DEVICE is {settings.device} and torch sees no GPU; set it to auto or install the driver.")
    elif PRESETS[preset].embedded:
        yield ok(f"no GPU, which {preset} does not need.")
    else:
        yield note(f"torch sees no GPU: {preset} takes seconds for each keyframe on a CPU.")


def _backend(settings: Settings) -> Iterator[Finding]:
    host = "127.0.0.1" if settings.backend_host in ("0.0.0.0", "::") else settings.backend_host  # noqa: S104
    url = f"http://{host}:{settings.backend_port}"
    try:
        response = httpx.get(f"{url}/health", timeout=5)
        answer: dict[str, Any] = response.json()
    except (httpx.HTTPError, ValueError):
        yield note(f"no backend answers at {url}; it may run on another machine, else start `av2t backend`.")
        return
    if response.is_error:
        yield fail(f"{url} answers {response.status_code}: {answer.get('error', 'no reason given')}.")
        return
    own = resolve(settings.model, settings.models_dir).name
    if answer.get("model_version") == own:
        yield ok(f"{url} answers and offers {own}.")
    else:
        yield fail(
            f"{url} offers {answer.get('model_version')}, and a worker with these settings would use {own}: give both"
            " the same AV2T_MODEL and AV2T_DATA_DIR."
        )


def _label_studio(settings: Settings, project: int | None) -> Iterator[Finding]:
    with LabelStudioClient(settings) as client:
        owner, release, kind = client.check(), label_studio_version(client.api), client.api.key_kind
        yield ok(f"{settings.label_studio_url} answers, version {release}, and takes the {kind} of {owner}.")
        if project is not None:
            for found in _checked(_project(settings, client, project)):
                yield found._replace(what=f"project {project}")


def _project(settings: Settings, client: LabelStudioClient, project: int) -> Iterator[Finding]:
    state = project_state(client.api, project)
    targets = parse_label_config(state.label_config)
    held = ", ".join(f'{control.tag.name} "{control.name}"' for control in targets.controls)
    yield ok(f'"{state.title}" has a place for what sounds: {held}.')
    yield from _connection(state, secured=settings.backend_password is not None)
    own = Project(id=project, label_config=state.label_config, chosen=state.chosen).model_version(settings)
    if state.model_version == own:
        yield ok(f"annotators are shown the predictions of {own}{', to which it is pinned' if state.pinned else ''}.")
    else:
        yield fail(
            f"annotators are shown the predictions of {state.model_version or 'no model version'}, and the worker makes"
            f" those of {own}: choose the backend, or {own}, in the project's Settings > Predictions."
        )
    if state.by_uncertainty and not state.pinned:
        yield note(
            "its Uncertainty sampling is a random order, for no model version is chosen in its Settings > Predictions:"
            f" choose {own} there, in place of the backend."
        )
    if not state.shows_predictions:
        yield fail("it does not show predictions: switch them on in the project's Settings > Annotation.")
    first = next(client.tasks(project), None)
    if first is None:
        yield note("it has no task yet.")
        return
    client.probe(client.task(first.id).clip_url(targets.video), first.id)
    yield ok(f"the clip of task {first.id} can be fetched.")


def _connection(state: ProjectState, *, secured: bool) -> Iterator[Finding]:
    if not state.backends:
        yield note(
            "no ML backend is connected, so tasks are pre-annotated by `av2t submit` alone; connect this project's in"
            " Settings > Model."
        )
    for backend in state.backends:
        if not backend.connected:
            yield fail(
                f"Label Studio cannot use the backend {backend.url} ({backend.error_message or 'it does not say why'})."
                " If the address is right, seen from Label Studio's machine, and a private one: start Label Studio with"
                " ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."
            )
        elif backend.webhook is None:
            yield fail(
                f"Label Studio does not tell the backend {backend.url} of new tasks: its webhook is missing or switched"
                " off. Remove the backend in Settings > Model and connect it again; if that does not help, start Label"
                " Studio with SSRF_PROTECTION_ENABLED=false."
            )
        elif secured and not backend.webhook.authorized:
            yield fail(
                f"Label Studio's webhook to {backend.url} does not say who it is, so new tasks are refused: in Settings"
                " > Webhooks give it the header Authorization, with the value Basic and then AV2T_BACKEND_USER, a colon"
                " and AV2T_BACKEND_PASSWORD in base64."
            )
        else:
            yield ok(f"Label Studio reaches the backend {backend.url} and tells it of new tasks.")
