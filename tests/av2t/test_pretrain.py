"""`av2t pretrain` as a user runs it; what its stages learn is tested beside them."""

from pathlib import Path

from tests.av2t.test_cli import assert_refused, av2t
from tests.conftest import EMBEDDED
from tests.core.avsbench_sets import CUTOUTS


def test_a_version_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine-held-out").mkdir()
    refused = av2t("pretrain", tmp_path, "--cutouts", CUTOUTS, "--name", "mine")
    assert_refused(refused, f"{tmp_path / 'mine-held-out'} exists; a model version is never changed, choose another")


def test_a_version_learns_on_from_its_own_classes_alone(tmp_path: Path) -> None:
    refused = av2t("pretrain", tmp_path / "out", "--cutouts", CUTOUTS, "--name", "mine", "--start", EMBEDDED)
    assert_refused(refused, f"{EMBEDDED} cannot learn on from {CUTOUTS}: it knows 51 classes, which are not the 8")
    assert not (tmp_path / "out").exists()


def test_an_unknown_start_is_refused(tmp_path: Path) -> None:
    refused = av2t("pretrain", tmp_path / "out", "--cutouts", CUTOUTS, "--name", "mine", "--start", "huge-9")
    assert_refused(refused, "there is no model version 'huge-9'")
