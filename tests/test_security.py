"""What SECURITY.md promises, looked for in the code itself and tried with hostile files."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skin.data.layouts import read_index
from skin.evaluation.model_card import write_model_card
from skin.model import network
from skin.utils.errors import UserError, printable

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted([*ROOT.glob("*.py"), *ROOT.glob("skin/**/*.py")])


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the scripts and in skin: where it stands, what is called, as in "torch.load", and the call."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{path.name}:{node.lineno}", ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> Any:
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def test_nothing_is_unpickled_evaluated_or_given_to_a_shell() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle", "torch.jit.load"}
    found = [f"{where} {name}" for where, name, _ in calls() if name in forbidden]
    modules = {"pickle", "shelve", "marshal", "dill", "joblib", "yaml", "cloudpickle"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}:{node.lineno} {name}" for name in names if name.split(".")[0] in modules]
    found += [f"{where} shell" for where, _, call in calls() if keyword(call, "shell")]
    assert found == []


def test_every_file_of_tensors_or_arrays_is_loaded_without_code() -> None:
    loads = [(where, name, call) for where, name, call in calls() if name in ("torch.load", "np.load", "numpy.load")]
    assert {name for _, name, _ in loads} >= {"torch.load", "np.load"}  # the search finds what there is
    arrays = ("allow_pickle", False)
    safe = {"torch.load": ("weights_only", True), "np.load": arrays, "numpy.load": arrays}
    assert [where for where, name, call in loads if keyword(call, safe[name][0]) is not safe[name][1]] == []
    assert [where.partition(":")[0] for where, name, _ in loads if name == "torch.load"] == ["tensorfile.py"]


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def test_weights_that_would_run_are_refused(tmp_path: Path) -> None:
    torch.save({"features.0.0.weight": _Runs(tmp_path / "ran")}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="no tensor"):
        network.load_weights(network.build("efficientnet_b0", 2), "efficientnet_b0", str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()


def test_arrays_that_would_run_are_refused(tmp_path: Path) -> None:
    objects = np.array([_Runs(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "dermamnist.npz", train_images=np.zeros((1, 4, 4, 3), np.uint8), train_labels=objects)
    with pytest.raises(UserError, match="pickled objects, which are never opened"):
        read_index(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["../outside.jpg", "{root}/outside.jpg", "images/../../outside.jpg", "link.jpg"])
def test_a_table_cannot_reach_out_of_the_data_folder(path: str, demo_folder: Path, tmp_path: Path) -> None:
    content = next(demo_folder.rglob("*.jpg")).read_bytes()
    (tmp_path / "data" / "images").mkdir(parents=True)
    for file in ("outside.jpg", "data/images/a.jpg", "data/images/b.jpg"):
        (tmp_path / file).write_bytes(content)
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    hostile = path.format(root=tmp_path)
    (tmp_path / "labels.csv").write_text(f"image,label\na.jpg,mel\nb.jpg,nv\n{hostile},mel\n")
    try:
        index = read_index(tmp_path / "data", labels=tmp_path / "labels.csv", allow_missing=True)
    except UserError:
        return
    assert sorted(Path(path).name for path in index.rows["path"]) == ["a.jpg", "b.jpg"]


def test_a_message_is_one_line_that_no_terminal_obeys() -> None:
    hostile = "a\x1b]0;title\x07\x1b[2J\r\nerror: fine\u202e\u2028\ud800"
    assert printable(hostile) == "a\\x1b]0;title\\x07\\x1b[2J\\r\\nerror: fine\\u202e\\u2028\\ud800"
    assert str(UserError(hostile)).isprintable()


def test_class_names_do_not_write_html_into_the_model_card(tmp_path: Path) -> None:
    config = {"model": "efficientnet_b0", "data": "/x/<img src=y>", "resolved": {}}
    row = {"epoch": 1, "val_accuracy": 0.5, "val_balanced_accuracy": 0.5, "val_macro_auc": 0.5}
    try:
        write_model_card(tmp_path / "card.md", config, ["<script>alert(1)</script>", "a|b"], row)
    except KeyError as missing:
        pytest.fail(f"the card needs {missing} of the config")
    assert "<script" not in (tmp_path / "card.md").read_text()
    assert "<img" not in (tmp_path / "card.md").read_text()
