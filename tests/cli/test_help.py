"""`--help` and a mistyped option are answered at once: without torch, which takes seconds to import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import skin

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ["train.py", "evaluate.py", "predict.py", "benchmark.py", "app.py"]
HEAVY = {"torch", "numpy", "pandas", "PIL", "rich", "gradio", "matplotlib"}

# Run the script as `python SCRIPT WORDS` does, and add what it imported to stderr.
RUN = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *({HEAVY!r} & sys.modules.keys()), file=sys.stderr))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def answer(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv = {[str(ROOT / script), *words]!r}; sys.path.insert(0, {str(ROOT)!r})\n" + RUN
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_not_wait_for_torch(script: str) -> None:
    done = answer(script, "--help")
    assert (done.returncode, done.stderr) == (0, "imported:\n")
    assert done.stdout.startswith(f"usage: {script}")
    titles = re.findall(r"(?m)^\S.*:$", done.stdout)
    assert sorted(set(titles)) == sorted(titles), "each group of options has a title of its own"
    assert not re.search(r"\(default: (\(\)|\[\])?\)", done.stdout), "a default that is nothing is not said"


@pytest.mark.parametrize("script", SCRIPTS)
def test_version(script: str) -> None:
    done = answer(script, "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{script} {skin.__version__}\n", "imported:\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_package_that_is_missing_is_one_line(script: str) -> None:
    """`-S` leaves out all that pip has installed, as a Python does for which nothing was installed."""
    words = {"predict.py": ["a.png"], "train.py": ["--demo"]}.get(script, [])
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / script), *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: the package \w+ is not installed.*: run `.+`( first)?\n", done.stderr)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("words", [("--epoch", "3"), ("--no-such",)], ids=" ".join)
def test_neither_does_a_mistyped_option(script: str, words: tuple[str, ...]) -> None:
    done = answer(script, *words)
    error, imported = done.stderr.splitlines()
    assert (done.returncode, done.stdout, imported) == (2, "", "imported:")
    assert error.startswith("error: ")
    assert error.endswith(f"see {script} --help")


def test_nor_does_a_number_out_of_its_range() -> None:
    done = answer("predict.py", "a.png", "--top-k", "0")
    assert (done.returncode, done.stderr) == (2, "error: --top-k 0: at least one class must be shown\nimported:\n")
