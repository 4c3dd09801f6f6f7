"""The kinds of jobs: what a worker may run for whom, and with which arguments.

Who can write to Redis writes there what they like. So the name of a function stands for a kind of this table or for
nothing, and its arguments have the types of the kind. A further kind is one more line of the table.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from av2t_core.versions.names import NAME

PREANNOTATE = "av2t-preannotate"
TRAIN = "av2t-train"

Extra = Literal["mask-decoder"]
"""What can be trained beside the adapters and the projector, if it is asked for."""

MOST_EPOCHS = 1000

Id = Annotated[int, Field(ge=0, le=2**63 - 1)]  # as Label Studio's database has them
VersionName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]


class Arguments(BaseModel):
    """Of a job's function."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", protected_namespaces=())


class ToPreannotate(Arguments):
    project: Id
    task: Id
    model_version: VersionName


class ToTrain(Arguments):
    project: Id
    base_version: VersionName | None = None
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] | None = None
    also: list[Extra] = []


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Jobs of one function, which is imported when the first one runs, and one queue."""

    function: str
    queue: str
    arguments: type[Arguments]


KINDS = {
    "worker.jobs.preannotate": Kind(
        function="worker.jobs.preannotation.preannotate", queue=PREANNOTATE, arguments=ToPreannotate
    ),
    "worker.finetuning.finetune": Kind(function="worker.jobs.finetuning.finetune", queue=TRAIN, arguments=ToTrain),
}
