import re
import stat
from pathlib import Path

import pytest

from av2t.stack import label_studio_server as studio
from av2t_core.errors import AV2TError
from tests.conftest import LabelStudioServer


def test_the_requirements_pin_the_version_and_every_package_s_hash() -> None:
    pins = re.findall(r"^(\S+?)==\S+(.*?)(?=^\S|\Z)", studio.REQUIREMENTS.read_text(), re.MULTILINE | re.DOTALL)
    assert f"label-studio=={studio.VERSION} " in studio.REQUIREMENTS.read_text()
    assert len(pins) > 100
    assert [name for name, rest in pins if "--hash=sha256:" not in rest] == []


def test_the_account_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    made = studio.account(path)
    assert studio.account(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert studio.account(tmp_path / "another.json").api_key != made.api_key


@pytest.mark.parametrize("content", ["", "[]", '{"email": "a@example.com"}'])
def test_a_damaged_account_is_told_with_the_remedy(tmp_path: Path, content: str) -> None:
    (tmp_path / "account.json").write_text(content)
    with pytest.raises(AV2TError, match=r"account\.json does not hold an account; restore it, or remove"):
        studio.account(tmp_path / "account.json")


def test_without_the_internet_the_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(AV2TError, match=r"packages could not be downloaded; connect this machine to the internet"):
        studio.install(tmp_path / "environment", tmp_path / "install.log")
    assert not studio.is_installed(tmp_path / "environment")


def test_the_account_can_log_in_and_its_key_works(label_studio: LabelStudioServer) -> None:
    assert label_studio.sdk.users.whoami().email == label_studio.email
