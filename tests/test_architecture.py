"""The walls of the house: which wing of skin/ may import which, and no two modules each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "utils": "", "data": "utils", "model": "utils data", "evaluation": "utils data model",
    "training": "utils data model evaluation", "serving": "utils data model",
    "bench": "utils data model evaluation training",
}  # fmt: skip
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.glob("skin/*/**/*.py")}


def imports(source: str) -> set[str]:
    """Return the modules of ours that a source file imports, wherever in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {name for name in names if name in MODULES}


ARROWS = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__init__")])
def test_a_module_imports_what_its_wing_may(name: str) -> None:
    wing = name.split(".")[1]
    allowed = {wing, *MAY_IMPORT[wing].split()}
    assert {other for other in ARROWS[name] if other.split(".")[1] not in allowed} == set()


def test_no_module_comes_back_to_itself() -> None:
    def reached(name: str, path: tuple[str, ...] = ()) -> None:
        assert name not in path, " -> ".join([*path, name])
        for other in ARROWS[name]:
            if other not in done:
                reached(other, (*path, name))
        done.add(name)

    done: set[str] = set()
    for name in MODULES:
        reached(name)


def test_the_wings_are_those_of_the_rule_and_their_packages_are_empty() -> None:
    assert {name.split(".")[1] for name in MODULES} == set(MAY_IMPORT)
    assert {path.name for path in ROOT.glob("skin/*.py")} == {"__init__.py"}
    assert all(path.read_text() == "" for path in ROOT.glob("skin/*/**/__init__.py"))


def test_the_rule_sees_an_arrow_that_is_turned_round() -> None:
    assert imports("from skin.model import network, checkpoint\nimport os") >= {"skin.model.checkpoint"}
    assert imports("def f():\n    from skin.training.run import Run") == {"skin.training.run"}
    assert imports("from skin.data.readers import ham10000") >= {"skin.data.readers.ham10000"}
