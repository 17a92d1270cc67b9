"""What a text advises to type can be typed: a path in it is quoted, for it may have a space or a quote."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("skin/**/*.py")]
# What stands before a path or a name of the user's own. At the beginning of a text it repeats what was typed.
NAMES = "data labels weights cache out resume checkpoint csv export explain label-column group-column ignore-class"
BEFORE_A_NAME = re.compile(rf"(?s).+(--({NAMES.replace(' ', '|')})[ =]|\.py )$")


def unquoted(source: str) -> Iterator[str]:
    """Yield what a source file puts behind an option or a script in its texts, and does not quote."""
    quoted = set(re.findall(r"(\w+) = shlex\.(?:quote|join)\(", source))
    for text in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)):
        before = ""
        for part in text.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
                continue
            assert isinstance(part, ast.FormattedValue)
            if BEFORE_A_NAME.match(before):
                name = ast.unparse(part.value)
                if name not in quoted and not name.startswith(("shlex.quote(", "shlex.join(")):
                    yield f"line {part.lineno}: {before[-30:]}{{{name}}}"
            before += "{}"


def test_names_in_commands_are_quoted() -> None:
    found = {path.name: list(unquoted(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_scan_sees_what_it_looks_for() -> None:
    assert list(unquoted("f'go on by --resume {folder}'")) == ["line 1: go on by --resume {folder}"]
    assert list(unquoted("f'--resume {folder}: an ensemble'")) == []
    assert list(unquoted("f'go on by --resume {shlex.quote(str(folder))}'")) == []
