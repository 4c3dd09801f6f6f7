"""`av2t reproduce` with the embedded model on a composed data set: every row is trained and measured, once."""

import json
import re
from pathlib import Path

import pytest

from av2t.__main__ import main
from av2t_core.versions.version import resolve
from tests.av2t.test_cli import assert_refused, av2t
from tests.core.avsbench_sets import compose_set

RECIPE = ["--preset", "tiny", "--epochs", "1", "--batch", "3", "--lr", "1e-3", "--device", "cpu"]
MODELS = {f"table-tiny-{what}-ms3" for what in ("noadapter-mul", "mul", "clap", "clip")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 clips to train, 2 to validate, 2 to test."""
    return compose_set(tmp_path_factory.mktemp("data") / "ms3", "ms3", 10, shares=(60, 20, 20))


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def test_each_model_is_trained_once_and_stands_beside_what_was_published(
    root: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", "--ms3", str(root), *RECIPE]) == 0
    said = capsys.readouterr()
    assert {path.name for path in (data_dir / "models").iterdir()} == MODELS | {"parts"}
    assert said.err.count("epoch 1 of 1") == len(MODELS)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.out.splitlines() if "| MS3 |" in line]
    assert [(row[0], row[2]) for row in rows] == [
        ("tiny, no adapters", "64.47 / 0.704"),
        ("tiny, adapters", "69.65 / 0.777"),
        ("tiny, CLAP alone", "- / -"),
        ("tiny, CLIP alone", "- / -"),
        ("tiny, CLAP x CLIP", "69.65 / 0.777"),
    ]
    assert all(re.fullmatch(r"\d+\.\d\d / \d\.\d{3}", row[3]) for row in rows)
    # Nobody may take these numbers for the paper's.
    assert "is not AVSBench's MS3: to train, validate and test it has 6, 2 and 2 clips, not 296, 64 and 64" in said.out
    assert "tiny stands in the rows of SAM2" in said.out
    assert "The recipe is not the paper's: epochs 1, batch 3, lr 0.001." in said.out
    feature = {name: resolve(name, data_dir / "models").card.feature for name in MODELS}
    assert feature["table-tiny-clap-ms3"] == "clap"
    assert feature["table-tiny-clip-ms3"] == "clip"
    # What hears nothing cannot mind what is heard.
    clip = rows[3]
    assert clip[5] == clip[6]

    assert main(["reproduce", "--ms3", str(root), *RECIPE, "--json"]) == 0
    again = capsys.readouterr()
    assert "epoch" not in again.err
    records = json.loads(again.out)
    assert [record["what"] for record in records] == [row[0] for row in rows]
    assert records[0]["published"]["ms3"] == {"miou": 64.47, "f": 0.704}
    for record, row in zip(records, rows, strict=True):
        own = record["measured"]["own"]
        assert row[3] == f"{100 * own['miou']:.2f} / {own['f_reference']:.3f}"
        assert own["clips"] == 2

    # The same names for another recipe would mix two tables.
    assert main(["reproduce", "--ms3", str(root), *RECIPE, "--seed", "7"]) == 2
    assert "was trained by another recipe or on other data: choose another name" in capsys.readouterr().err


def test_mistakes_are_one_line_before_any_work(root: Path, data_dir: Path) -> None:
    assert_refused(av2t("reproduce"), "no data set was named: give --s4 ROOT, --ms3 ROOT or both")
    assert_refused(av2t("reproduce", "--ms3", root), "`av2t weights pull sam1-h --start` fetches them")
    assert_refused(av2t("reproduce", "--ms3", root, "--preset", "sam1-h", "--table", "2"), "no row of sam1-h")
    assert_refused(av2t("reproduce", "--s4", root, "--preset", "tiny"), "it looks like the layout ms3")
    assert not data_dir.exists()
