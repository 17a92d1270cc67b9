"""The notebook runs from its first cell to its last, and what it shows was made by such a run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

from skin.bench.options import BenchmarkOptions
from skin.evaluation.options import EvaluateOptions
from skin.training.options import Options
from skin.utils import cli
from tests.conftest import ROOT

import nbformat
import pytest
from nbclient import NotebookClient

PATH = ROOT / "notebooks" / "skin_disease.ipynb"
MOST_BYTES = 600_000
TINY = """
TRAIN = ["--model", "efficientnet_b0", "--weights", "none", "--image-size", 32, "--epochs", 2, "--workers", 0]
BENCHMARK = ["--model", "efficientnet_b0", "--image-size", 32, "--batch-size", 4, "--recipes", "ours", "--amp", "off",
             "--rounds", 1, "--steps", 1]
"""


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(PATH, as_version=4)


def sources(notebook: Any) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_every_option_in_the_notebook_is_one_of_the_scripts(notebook: Any) -> None:
    text = "\n".join(source for source in sources(notebook) if "git" not in source and "pip" not in source)
    known = {field.name for kind in (Options, EvaluateOptions, BenchmarkOptions) for field in cli.options(kind)}
    used = {name.replace("-", "_") for name in re.findall(r'"--([a-z-]+)"', text)}
    assert {"data", "check", "resume", "checkpoint", "steps"} <= used <= known


def test_the_code_is_cloned_if_it_is_not_beside_the_notebook(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = (source for source in sources(notebook) if '"clone"' in source)
    there = tmp_path / "there"
    there.mkdir()
    (there / "train.py").touch()
    git = ["git", "-C", str(there), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "code"]):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(AssertionError, match="say in REPOSITORY"):
        exec(source, {"REPOSITORY": ""})
    for _ in range(2):  # the second time it is there
        cell: dict[str, Any] = {"REPOSITORY": str(there)}
        exec(source, cell)
        assert cell["CODE"] == Path("skin-disease")
        assert Path("skin-disease/train.py").is_file()


def test_the_outputs_are_small_whole_and_of_no_machine(notebook: Any) -> None:
    assert PATH.stat().st_size < MOST_BYTES
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == list(
        range(1, len(sources(notebook)) + 1)
    )
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    text = "\n".join(str(output) for output in outputs(notebook))
    assert str(ROOT) not in text
    assert re.findall(r"(?:/home|/root|/tmp|/Users|[A-Z]:\\)[\w/.-]*", text) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_from_the_first_cell_to_the_last(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "skin-disease").symlink_to(ROOT)
    settings = next(n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    notebook.cells.insert(settings + 1, nbformat.v4.new_code_cell(TINY))
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(shown) == 4  # curves, confusion matrix, mistakes, Grad-CAM
    assert "best.pt" in str(notebook.cells[-1].outputs)
