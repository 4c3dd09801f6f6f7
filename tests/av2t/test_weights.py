"""`av2t weights` against a hub that answers as the real one does, with the presets at the size of micro models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from av2t.__main__ import main
from av2t_core.model.av2t_sam import AV2TSam
from av2t_core.versions.checkpoint import load_version
from av2t_core.versions.version import resolve
from tests import micro_published as published
from tests.conftest import wait_until
from tests.core.clips import Sound, at_rate, tone, write_clip
from tests.hub_server import COMMIT, Hub, point_at, running_hub

TOKEN = "hf_secret"
CHECKPOINT = "avt_mul_adapter_evf_sam2_ms3_best.pth"
CLIP = "open_clip_model.safetensors"
PARTS = ["clip-vit-b-32", "evf-sam2", "ms-clap-2023-captions"]


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str


Av2t = Callable[..., Said]


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    published.install(monkeypatch)
    monkeypatch.setenv("AV2T_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return tmp_path / "data" / "models"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as running:
        running.repositories |= {name: dict(files) for name, files in published.repositories().items()}
        point_at(running.endpoint, monkeypatch)
        yield running


@pytest.fixture
def av2t(capsys: pytest.CaptureFixture[str]) -> Av2t:
    """The command in this process; a process of its own would import torch every time."""

    def run(*arguments: object) -> Said:
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return Said(status, out, err)

    return run


def refused(said: Said) -> str:
    """The sentence after notes, if there are any."""
    assert said.status == 2
    *notes, sentence = said.err.splitlines()
    assert sentence.startswith("av2t: error: ")
    assert not any(note.startswith("av2t: error: ") for note in notes)
    return sentence


def parts(models_dir: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[0] for path in (models_dir / "parts").iterdir())


def fetched(hub: Hub) -> list[str]:
    """The files whose bytes were asked for."""
    paths = [r.path.partition("?")[0] for r in hub.requests if r.method == "GET" and r.path.startswith("/bytes/")]
    return [path.rpartition("/")[2] for path in paths]


def model_of(models_dir: Path, name: str) -> AV2TSam:
    return load_version(resolve(name, models_dir), torch.device("cpu")).model


def same(model: AV2TSam, state: dict[str, Tensor]) -> bool:
    ours = model.from_checkpoint(state)
    return all(torch.equal(tensor, ours[key]) for key, tensor in model.state_dict().items())


# pull


def test_a_pulled_model_predicts(hub: Hub, av2t: Av2t, models_dir: Path, tmp_path: Path) -> None:
    said = av2t("weights", "pull", "sam2-l")
    assert said.status == 0, said.err
    assert f"sam2-l-ms3 is in {models_dir}" in said.out
    assert f"av2t: converting {CHECKPOINT} of Kyungbok/AV2T-SAM\n" in said.err
    assert fetched(hub) == [CLIP, "CLAP_weights_2023.pth", "merges.txt", CHECKPOINT]
    assert sorted(path.name for path in models_dir.iterdir()) == [".lock", "downloads", "parts", "sam2-l-ms3"]
    assert not list((models_dir / "downloads").iterdir())
    assert parts(models_dir) == PARTS
    card = json.loads((models_dir / "sam2-l-ms3" / "card.json").read_text())
    assert card["source"] == {
        "command": "av2t weights pull sam2-l --feature mul --dataset ms3",
        "repository": "Kyungbok/AV2T-SAM",
        "revision": COMMIT,
        "file": CHECKPOINT,
    }
    own = load_file(models_dir / "sam2-l-ms3" / "weights.safetensors")
    model = model_of(models_dir, "sam2-l")
    assert all(model.is_trained(key.removeprefix("model.")) for key in own)
    assert same(model, published.av2t_sam())

    clip = write_clip(tmp_path / "clip.mp4", at_rate(5, 2), sounds=[Sound(samples=tone(2))])
    said = av2t("predict", clip, "--out", tmp_path / "out", "--model", "sam2-l", "--json", "--no-overlay")
    assert said.status == 0, said.err
    assert json.loads(said.out)["model_version"] == "sam2-l-ms3"


def test_what_is_there_is_not_fetched_again(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    av2t("weights", "pull", "sam2-l")
    hub.requests.clear()
    said = av2t("weights", "pull", "sam2-l")
    assert (said.status, said.out) == (0, f"sam2-l-ms3 is in {models_dir} already\n")
    assert not hub.requests

    said = av2t("weights", "pull", "sam2-l", "--dataset", "s4")
    assert said.status == 0, said.err
    assert fetched(hub) == ["avt_mul_adapter_evf_sam2_s4_best.pth"]
    assert parts(models_dir) == PARTS
    assert same(model_of(models_dir, "sam2-l-s4"), published.av2t_sam(seed=1))


def test_another_row_of_the_table(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    assert av2t("weights", "pull", "sam2-l-noadapter", "--dataset", "s4").status == 0
    assert same(model_of(models_dir, "sam2-l-noadapter"), published.av2t_sam("sam2-l-noadapter"))
    assert "holds no file named like …_clap_evf_sam2_ms3_best.pth" in refused(
        av2t("weights", "pull", "sam2-l-noadapter", "--feature", "clap")
    )


@pytest.mark.parametrize("lost", ["part", "weights"])
def test_what_was_lost_is_got_again(hub: Hub, av2t: Av2t, models_dir: Path, lost: str) -> None:
    av2t("weights", "pull", "sam2-l")
    [part] = (models_dir / "parts").glob("evf-sam2-*")
    (part if lost == "part" else models_dir / "sam2-l-ms3" / "weights.safetensors").unlink()
    hub.requests.clear()
    said = av2t("weights", "pull", "sam2-l")
    assert said.status == 0
    assert "sam2-l-ms3 lacks files, and is made again" in said.err
    assert fetched(hub) == [CHECKPOINT]
    assert part.exists()
    assert same(model_of(models_dir, "sam2-l"), published.av2t_sam())


def test_a_damaged_part_is_got_again(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    av2t("weights", "pull", "sam2-l")
    [part] = (models_dir / "parts").glob("ms-clap-2023-*")
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + b"\x01")
    hub.requests.clear()
    assert av2t("weights", "pull", "sam2-l", "--dataset", "s4").status == 0
    assert "CLAP_weights_2023.pth" in fetched(hub)
    assert part.read_bytes() == whole


def test_what_an_interrupted_conversion_left_goes(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    (models_dir / "parts").mkdir(parents=True)
    (models_dir / "parts" / ".ms-clap-2023-captions.part").write_bytes(b"half")
    (models_dir / "parts" / ".tmpq2Xy").write_bytes(b"half")
    assert av2t("weights", "pull", "sam2-l").status == 0
    assert parts(models_dir) == PARTS


def test_evf_sam_alone_is_a_start(hub: Hub, av2t: Av2t, models_dir: Path, tmp_path: Path) -> None:
    said = av2t("weights", "pull", "sam2-l", "--start")
    assert said.status == 0, said.err
    assert f"sam2-l-start is in {models_dir}" in said.out
    assert "from which a model can be trained" in said.out
    assert parts(models_dir) == PARTS
    version = resolve("sam2-l-start", models_dir)
    assert version.card.start is True
    stored = load_file(version.weights) | load_file(next((models_dir / "parts").glob("evf-sam2-*")))
    assert not any(key.startswith(("model.projector.", "model.adapters.")) for key in stored)
    state = {f"model.{key}": tensor for key, tensor in published.evf_sam().items()}
    model = AV2TSam(published.SAM2)
    expected = model.from_checkpoint(state, absent=("projector.", "adapters."))
    assert {key.removeprefix("model.") for key in stored} == set(expected)
    assert all(torch.equal(tensor, expected[key.removeprefix("model.")]) for key, tensor in stored.items())

    clip = write_clip(tmp_path / "clip.mp4", at_rate(5, 1))
    for name, words in (("sam2-l-start", "EVF-SAM alone"), ("sam2-l", "the weights of sam2-l are not in")):
        sentence = refused(av2t("predict", clip, "--out", tmp_path / "out", "--model", name))
        assert words in sentence
        assert "`av2t weights pull sam2-l`" in sentence


def test_a_checkpoint_of_another_width_is_refused_by_name(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    sentence = refused(av2t("weights", "pull", "sam2-l-laion"))
    assert "no model of sam2-l-laion is known to be published: `av2t weights pull sam2-l-laion --start`" in sentence
    assert not hub.requests
    sentence = refused(av2t("weights", "pull", "sam2-l-laion", "--file", CHECKPOINT))
    assert f"{CHECKPOINT} of Kyungbok/AV2T-SAM does not fit the preset sam2-l-laion" in sentence
    assert "was trained on sound embeddings of 1024, laion-clap gives 512: use preset sam2-l" in sentence
    # With which it is not fetched again.
    hub.requests.clear()
    assert av2t("weights", "pull", "sam2-l").status == 0
    assert fetched(hub) == ["CLAP_weights_2023.pth", "merges.txt"]


def test_another_list_of_files_is_told_before_anything_is_fetched(hub: Hub, av2t: Av2t) -> None:
    files = hub.repositories[published.AUTHORS]
    files["last.pth"] = files.pop(CHECKPOINT)
    sentence = refused(av2t("weights", "pull", "sam2-l"))
    assert "holds no file named like …_mul_adapter_evf_sam2_ms3_best.pth; it holds README.md, avt_" in sentence
    assert not fetched(hub)
    assert "holds no missing.pth; it holds README.md, " in refused(
        av2t("weights", "pull", "sam2-l", "--file", "missing.pth")
    )
    assert av2t("weights", "pull", "sam2-l", "--file", "last.pth").status == 0


def test_a_named_file_says_what_it_is(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    name = "avt_mul_adapter_evf_sam2_s4_best.pth"
    assert "--dataset ms3 contradicts the checkpoint's name, which says s4" in refused(
        av2t("weights", "pull", "sam2-l", "--file", name, "--dataset", "ms3")
    )
    assert av2t("weights", "pull", "sam2-l", "--file", name).status == 0
    assert resolve("sam2-l", models_dir).name == "sam2-l-s4"
    assert resolve("sam2-l", models_dir).card.source["command"].endswith(f"--dataset s4 --file {name}")


def test_a_file_that_is_something_else_is_refused(hub: Hub, av2t: Av2t) -> None:
    files = hub.repositories[published.AUTHORS]
    files[CHECKPOINT] = published.pickled(published.evf_sam())
    assert f"{CHECKPOINT} of Kyungbok/AV2T-SAM is evf-sam, and not av2t-sam" in refused(
        av2t("weights", "pull", "sam2-l")
    )


def test_merges_that_are_none_are_told(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    merges = published.merges()
    hub.repositories[published.GPT2]["merges.txt"] = merges.replace(b"\nt h\n", b"\nt hh\n")
    assert "av2t: error: merges.txt of openai-community/gpt2, line 2: 't hh' is not two tokens" in refused(
        av2t("weights", "pull", "sam2-l")
    )
    hub.repositories[published.GPT2]["merges.txt"] = merges
    hub.requests.clear()
    assert av2t("weights", "pull", "sam2-l").status == 0
    assert fetched(hub) == ["merges.txt", CHECKPOINT]


def test_a_start_has_no_feature(hub: Hub, av2t: Av2t) -> None:
    assert "--start is EVF-SAM" in refused(av2t("weights", "pull", "sam2-l", "--start", "--feature", "clap"))


def test_a_file_without_a_hash_is_not_trusted(hub: Hub, av2t: Av2t) -> None:
    hub.repositories[published.AUTHORS]["weights.json"] = b"{}"
    hub.unhashed.add("weights.json")
    sentence = refused(av2t("weights", "pull", "sam2-l", "--file", "weights.json"))
    assert "the hub knows no checksum of weights.json in Kyungbok/AV2T-SAM" in sentence


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "GatedRepo", "Kyungbok/AV2T-SAM is gated: accept its terms at http"),
        (401, "RepoNotFound", "has no repository Kyungbok/AV2T-SAM, or only for those who may see it"),
        (500, "", "answers 500 for Kyungbok/AV2T-SAM"),
    ],
)
def test_a_refusing_hub(hub: Hub, av2t: Av2t, status: int, code: str, words: str) -> None:
    hub.refused[f"/api/models/{published.AUTHORS}"] = (status, code)
    assert words in refused(av2t("weights", "pull", "sam2-l"))
    assert not fetched(hub)


def test_no_hub_at_all(hub: Hub, av2t: Av2t, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    sentence = refused(av2t("weights", "pull", "sam2-l"))
    assert "http://127.0.0.1:9 cannot be reached" in sentence
    assert "…_mul_adapter_evf_sam2_ms3_best.pth of Kyungbok/AV2T-SAM, " in sentence
    assert "CLAP_weights_2023.pth of microsoft/msclap and merges.txt of openai-community/gpt2 from else" in sentence
    assert "`av2t weights import sam2-l FILE…`" in sentence


def test_ctrl_c_and_on(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    with pulling(hub, models_dir) as process:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.endswith("av2t: what was fetched is kept: the same command goes on with it\nav2t: stopped\n")
    hub.go_on.set()
    hub.requests.clear()
    said = av2t("weights", "pull", "sam2-l")
    assert said.status == 0, said.err
    assert (fetched(hub)[0], hub.ranges[0]) == (CLIP, f"bytes={STALL}-")
    assert same(model_of(models_dir, "sam2-l"), published.av2t_sam())


def test_one_at_a_time_and_on_after_its_death(hub: Hub, av2t: Av2t, models_dir: Path) -> None:
    with pulling(hub, models_dir) as process:
        assert f"weights are pulled or imported into {models_dir} already" in refused(av2t("weights", "pull", "sam2-l"))
        process.kill()
        process.communicate(timeout=60)
    hub.go_on.set()
    hub.requests.clear()
    assert av2t("weights", "pull", "sam2-l").status == 0
    assert (fetched(hub)[0], hub.ranges[0]) == (CLIP, f"bytes={STALL}-")


def test_too_small_a_disk_is_seen_before(hub: Hub, av2t: Av2t, tmp_path: Path) -> None:
    disk = tmp_path / "data"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        sentence = refused(av2t("weights", "pull", "sam2-l"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "sam2-l-ms3, fetched and converted, needs 75 MB in" in sentence
    assert "where 21 MB are free: make room; or set AV2T_DATA_DIR" in sentence
    assert not fetched(hub)


STALL = 200_000  # bytes


@contextmanager
def pulling(hub: Hub, models_dir: Path) -> Iterator[subprocess.Popen[str]]:
    """`av2t weights pull sam2-l` as a process, which has got STALL bytes of its first file and waits for more."""
    hub.stalled[CLIP] = STALL
    # A shell may have started the tests with Ctrl-C switched off, which a process inherits.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from av2t.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "weights", "pull", "sam2-l"]
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint}

    def half_there() -> bool:
        return any(path.stat().st_size == STALL for path in (models_dir / "downloads").glob("*.part"))

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            wait_until(lambda: half_there() or process.poll() is not None, what="half a file")
            assert process.poll() is None
            yield process
        finally:
            process.kill()
