"""Gets Label Studio into an environment of its own and runs it there.

Label Studio pins versions of redis, rq and numpy that do not fit this project's, so the two never share an environment.
The whole of its environment is pinned with hashes in label_studio_server.requirements.txt.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from av2t.stack.process import Process
from av2t_core.errors import AV2TError
from av2t_core.files import atomic_file, locked

VERSION = "1.23.2"
REQUIREMENTS = Path(__file__).with_name("label_studio_server.requirements.txt")

_ENVIRONMENT = {
    # Nothing leaves the machine.
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    # A backend on 127.0.0.1 is refused otherwise. ML_BLOCK_LOCAL_IP=false would not be enough: the webhook would
    # still be refused, and the project would be left half connected.
    "USE_DEFAULT_BANNED_SUBNETS": "false",
    # The worker's key has to be known before the server has ever run, and only a legacy token can be chosen.
    "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
}

_REASONS = {
    "No space left": "the disk is full, and it takes 1 GB",
    "Failed to fetch|error sending request|network was disabled": "its packages could not be downloaded; connect this"
    " machine to the internet and run this again",
    "Hash mismatch": "a package is not the one that was checked; if a package mirror is configured, it changes what it"
    " serves",
}
"""What a person can do, by what the installer says."""
_UNKNOWN = "run this again, and if it fails again report it with the lines below"


@dataclass(frozen=True, kw_only=True)
class Account:
    """The person who is made when a database is new: how to log in, and the key of the API."""

    email: str
    password: str
    api_key: str


def environment_in(data_dir: Path) -> Path:
    return data_dir / f"label-studio-{VERSION}"


def is_installed(environment: Path) -> bool:
    """Whether `environment` holds exactly label_studio_server.requirements.txt."""
    stamp, identity = _stamp(environment)
    return stamp.is_file() and stamp.read_text() == identity


def install(environment: Path, log: Path) -> None:
    """Make `environment` hold exactly label_studio_server.requirements.txt. AV2TError if that fails.

    Safe to interrupt and to run twice at the same time. `log` gets what the installer says.
    """
    # Where it really is, for its programs name their interpreter by its path.
    environment = environment.resolve()
    environment.parent.mkdir(parents=True, exist_ok=True)
    path = environment.with_name(environment.name + ".lock")
    try:
        lock = locked(path)
    except OSError as error:
        raise AV2TError(f"{path}: cannot be written ({error.strerror})") from None
    with lock:
        if is_installed(environment):
            return
        _uv(["venv", "--clear", "--no-python-downloads", "--python", sys.executable, str(environment)], log)
        python = ["--python", str(environment / "bin" / "python")]
        # Five packages come as sources; what builds them is pinned too.
        pinned = ["--require-hashes", "--build-constraints", str(REQUIREMENTS), str(REQUIREMENTS)]
        _uv(["pip", "sync", *python, *pinned], log)
        # Written last: an environment without it, or with another, is not finished.
        stamp, identity = _stamp(environment)
        stamp.write_text(identity)


def start(environment: Path, data_dir: Path, port: int, account: Account, log: Path) -> Process:
    """Start the server on 127.0.0.1:`port`; its data is kept in `data_dir`. It is ready when it `answers`."""
    data_dir.mkdir(parents=True, exist_ok=True)
    return Process(
        "Label Studio",
        [
            *(str(environment.absolute() / "bin" / "label-studio"), "start", "--no-browser"),
            *("--internal-host", "127.0.0.1", "--port", str(port), "--data-dir", str(data_dir.absolute())),
        ],
        log=log,
        environment={
            **_ENVIRONMENT,
            "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir.absolute()),
            "LABEL_STUDIO_USERNAME": account.email,
            "LABEL_STUDIO_PASSWORD": account.password,
            "LABEL_STUDIO_USER_TOKEN": account.api_key,
        },
    )


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def account(path: Path) -> Account:
    """The account kept in the file `path`, which only its owner can read; made there the first time."""
    if path.is_file():
        try:
            return Account(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise AV2TError(
                f"{path} does not hold an account; restore it, or remove the folder {path.parent} to start from nothing"
            ) from None
    made = Account(email="demo@example.com", password=secrets.token_urlsafe(9), api_key=secrets.token_hex(20))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(asdict(made)) + "\n")
    return made


def _stamp(environment: Path) -> tuple[Path, str]:
    """The file that a finished environment has, and what it holds."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    # With its own place, for an environment that was moved does not run.
    identity = f"{sha256(REQUIREMENTS.read_bytes()).hexdigest()} {python} {environment.resolve()}\n"
    return environment / "av2t-requirements", identity


def _uv(arguments: list[str], log: Path) -> None:
    try:
        from uv import find_uv_bin
    except ImportError:
        raise AV2TError(
            "uv, which installs Label Studio, is not there; install av2t-sam[embedded], or use a Label Studio that "
            "already runs, with --no-label-studio"
        ) from None
    uv = Process("The installer of Label Studio", [find_uv_bin(), *arguments], log=log)
    try:
        code = uv.wait()
    finally:
        uv.stop()
    if code != 0:
        said = uv.log_tail(40)
        reason = next((reason for pattern, reason in _REASONS.items() if re.search(pattern, said)), _UNKNOWN)
        raise AV2TError(f"Label Studio was not installed: {reason}; the end of {log}:\n{uv.log_tail()}")
