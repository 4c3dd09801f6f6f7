"""What Label Studio sends, checked where it enters. Only the fields that are used are checked."""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from av2t_core import limits
from av2t_core.errors import AV2TError
from av2t_core.text import sentence
from worker.queue.training import MOST_EPOCHS, Extra

LARGEST_ID = 2**63 - 1
Model = TypeVar("Model", bound=BaseModel)


def _writable(text: str) -> str:
    """JSON may hold halves of characters, which nothing can write down."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"character {error.start + 1} is half of one") from None
    return text


def _text(value: Any) -> Any:
    if not isinstance(value, str | None):
        raise ValueError("it must be text")
    return value


def _small(key: str) -> str:
    if project_id(key) > LARGEST_ID:
        raise ValueError(f"the number of a project is at most {LARGEST_ID}")
    return key


Id = Annotated[int, Field(strict=True, ge=1, le=LARGEST_ID)]
Text = Annotated[str, Field(strict=True), AfterValidator(_writable)]
Name = Annotated[Text, Field(max_length=limits.TITLE)]

# "3.1700000000": the project's id and the second of its creation. A script may leave the second out.
ProjectKey = Annotated[str, Field(strict=True, pattern=r"^[1-9][0-9]{0,18}(\.[0-9]{1,20})?$"), AfterValidator(_small)]


class BodyError(AV2TError):
    """A request's body is not what the protocol says; `field` is the first that is wrong."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field


class Setup(BaseModel):
    project: ProjectKey
    schema_: Text = Field(alias="schema")
    # A bad setting of Label Studio's own address must not disconnect it: it is ignored, with a remark.
    hostname: Annotated[Any, AfterValidator(_text)] = None


class Task(BaseModel):
    id: Id


class Predict(BaseModel):
    project: ProjectKey
    tasks: list[Task]
    label_config: Text | None = None
    params: dict[str, Any] | None = None


class Train(BaseModel):
    """Sent by scripts, not by Label Studio, so an unknown name is a mistake."""

    model_config = ConfigDict(extra="forbid")

    project: Id
    base_version: Name | None = None
    epochs: Annotated[int, Field(strict=True, ge=1, le=MOST_EPOCHS)] | None = None
    also: list[Extra] = []


class Versions(BaseModel):
    project: ProjectKey


class Webhook(BaseModel):
    action: Name


class Project(BaseModel):
    id: Id
    label_config: Text | None = None
    model_version: Text | None = None


class ConfiguredProject(Project):
    label_config: Text


class TasksCreated(BaseModel):
    tasks: list[Task]
    project: ConfiguredProject


class TasksDeleted(BaseModel):
    tasks: list[Task]


class ProjectUpdated(BaseModel):
    project: ConfiguredProject


class StartTraining(BaseModel):
    project: Project


# By the path of the request.
BODIES: dict[str, type[BaseModel]] = {
    "/setup": Setup,
    "/predict": Predict,
    "/train": Train,
    "/versions": Versions,
    "/webhook": Webhook,
}

# By the webhook's action.
Event = TasksCreated | TasksDeleted | ProjectUpdated | StartTraining
EVENTS: dict[str, type[Event]] = {
    "TASKS_CREATED": TasksCreated,
    "TASKS_DELETED": TasksDeleted,
    "PROJECT_UPDATED": ProjectUpdated,
    "START_TRAINING": StartTraining,
}


def check(path: str, body: object) -> None:
    """Raise BodyError if `body`, parsed JSON, is not what that path takes."""
    if not isinstance(body, dict):
        raise BodyError("body", "it must be a JSON object")
    _validated(BODIES[path], body)


def event(action: str, data: dict[str, Any]) -> Event | None:
    """None for an action that is acknowledged unread. BodyError."""
    return _validated(EVENTS[action], data) if action in EVENTS else None


def project_id(key: str) -> int:
    """The id in a checked ProjectKey."""
    return int(key.partition(".")[0])


def project_in(key: str) -> int:
    """The id in a ProjectKey that has not been checked. BodyError."""
    _validated(Versions, {"project": key})
    return project_id(key)


def _validated(model: type[Model], body: dict[str, Any]) -> Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        # A field that is too many may have a name of any length.
        raise BodyError(sentence(path.removeprefix(".")), first["msg"]) from None
