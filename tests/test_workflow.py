"""The workflow of a public CI, as far as it can be checked without one: it has not run yet."""

import subprocess
import sys

import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def test_it_is_a_workflow_and_runs_what_everybody_runs() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    checked = subprocess.run(check, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["test"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    # As pyproject.toml and the Makefile have it.
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
