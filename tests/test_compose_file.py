"""docker-compose.yml, its override and the Dockerfile as files: there is no Docker where the tests run."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rq import SimpleWorker

from worker.queue.connection import connect
from worker.queue.job import open_queue
from worker.settings import Settings

ROOT = Path(__file__).parents[1]
OWN = ("backend", "worker")


class Reset:
    """Compose's `!reset`: the key of the file below is taken away."""


class Loader(yaml.SafeLoader):
    pass


Loader.add_constructor("!reset", lambda *_: Reset())


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.load((ROOT / name).read_text(), Loader)
    return content


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """As compose does with maps, which is all that our override has."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Reset):
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = merge(below.get(key, {}), value)
        else:
            merged[key] = value
    return merged


GPU = load("docker-compose.yml")
CPU = merge(GPU, load("docker-compose.cpu.yml"))
SERVICES: dict[str, dict[str, Any]] = GPU["services"]


@pytest.mark.parametrize("content", [GPU, CPU], ids=["gpu", "cpu"])
def test_schema(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "docker-compose.json"
    path.write_text(json.dumps(content))
    command = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_services() -> None:
    assert set(SERVICES) == {"label-studio", "redis", "backend", "worker"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_watched_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    # Label Studio's image writes beside its data.
    assert service.get("read_only") is (None if name == "label-studio" else True)
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


def test_redis_keeps_jobs_and_is_out_of_label_studios_reach() -> None:
    redis = SERVICES["redis"]
    assert redis["command"][redis["command"].index("--appendonly") + 1] == "yes"
    assert "queue:/data" in redis["volumes"]
    assert redis["networks"] == ["queue"]
    assert GPU["networks"]["queue"]["internal"] is True
    assert "queue" not in SERVICES["label-studio"]["networks"]
    assert "ports" not in redis


def test_worker_can_be_scaled() -> None:
    assert not {"container_name", "hostname", "ports"} & set(SERVICES["worker"])


def test_gpu_is_reserved_and_the_override_takes_it_away() -> None:
    [device] = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in CPU["services"]["worker"]
    assert CPU["services"]["worker"]["environment"]["AV2T_DEVICE"] == "cpu"


def test_label_studio_may_call_the_backend() -> None:
    environment = SERVICES["label-studio"]["environment"]
    assert environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert "ML_BLOCK_LOCAL_IP" not in environment
    assert set(SERVICES["label-studio"]["networks"]) & set(SERVICES["backend"]["networks"])


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_from_the_environment(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if re.search("(PASSWORD|USER_TOKEN|KEY|SECRET)$", variable):
            # Without a password of its own the backend is open to who reaches it, and says so.
            default = ":-" if variable == "AV2T_BACKEND_PASSWORD" else r":\?set it in \.env"
            assert re.fullmatch(rf"\$\{{[A-Z0-9_]+{default}\}}", value), variable
    assert "LABEL_STUDIO_API_KEY" not in SERVICES["backend"]["environment"]


@pytest.mark.parametrize("content", [GPU, CPU], ids=["gpu", "cpu"])
@pytest.mark.parametrize("variable", ["AV2T_BACKEND_USER", "AV2T_BACKEND_PASSWORD", "AV2T_BACKEND_HOSTS"])
def test_the_backend_is_told_whom_it_lets_in(content: dict[str, Any], variable: str) -> None:
    assert content["services"]["backend"]["environment"][variable] == f"${{{variable}:-}}"


def test_env_example_names_every_variable() -> None:
    used = set(re.findall(r"\$\{([A-Z_0-9]+)", (ROOT / "docker-compose.yml").read_text()))
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    example = dict(line.split("=", 1) for line in lines)
    assert set(example) == used
    assert example["LABEL_STUDIO_PASSWORD"] == example["LABEL_STUDIO_API_KEY"] == ""


@pytest.mark.parametrize("name", OWN)
def test_own_services_set_what_the_settings_read(name: str) -> None:
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    assert set(SERVICES[name]["environment"]) <= known


@pytest.mark.parametrize("name", OWN)
def test_image_is_a_stage_of_the_dockerfile(name: str) -> None:
    stages = (ROOT / "Dockerfile").read_text().split("\nFROM ")
    [stage] = [stage for stage in stages if stage.splitlines()[0].endswith(f" AS {name}")]
    [base] = [stage for stage in stages if stage.splitlines()[0].endswith(" AS base")]
    [built] = [stage for stage in stages if stage.splitlines()[0].endswith(f" AS {name}-environment")]
    assert SERVICES[name]["build"]["target"] == name
    assert stage.startswith("base AS ")
    assert "\nUSER av2t" in base
    assert built.count("uv sync --locked --no-dev") == 2
    assert built.count("--extra model") == (2 if name == "worker" else 0)


def test_image_is_built_from_named_files_only() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for line in lines:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def test_workers_health_check(redis_url: str) -> None:
    """The very script of the compose file: it fails without a worker on this host and passes with one."""
    command = [sys.executable, *SERVICES["worker"]["healthcheck"]["test"][2:]]
    assert subprocess.run(command, env={"REDIS_URL": redis_url}, cwd=ROOT).returncode == 1
    with connect(redis_url, timeout=5) as redis:
        worker = SimpleWorker([open_queue(redis)], connection=redis, serializer="json")
        worker.register_birth()
        assert subprocess.run(command, env={"REDIS_URL": redis_url}, cwd=ROOT).returncode == 0
