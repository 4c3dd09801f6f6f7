"""What somebody who uses the model alone finds at its door."""

import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import av2t_core
from av2t.options import DEMO_CLIPS

EXAMPLE = dedent((av2t_core.__doc__ or "").partition("\n\n")[2])


def run(code: str, folder: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_example_runs(tmp_path: Path) -> None:
    shutil.copy(DEMO_CLIPS / "cat.mp4", tmp_path / "clip.mp4")
    assert " s: cat, " in run(EXAMPLE, tmp_path)


def test_all_that_is_promised_is_there_and_nothing_is_loaded_for_it(tmp_path: Path) -> None:
    assert all(getattr(av2t_core, name).__name__ == name for name in av2t_core.__all__)
    loaded = "import sys, av2t_core; print('torch' in sys.modules, 'av' in sys.modules)"
    assert run(loaded, tmp_path) == "False False\n"
