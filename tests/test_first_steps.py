"""What a newcomer types first: make, pip, docker. Each needs the network, so what they would do is looked at."""

from __future__ import annotations

import ast
import fnmatch
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from tests.conftest import ROOT

import pytest

SCRIPTS = ["train.py", "evaluate.py", "predict.py", "benchmark.py", "app.py"]
OPTIONAL = {"openpyxl", "pyarrow"}  # the reader of a file that needs one says so
COME_WITH = {"markupsafe": "jinja2", "starlette": "gradio"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def would_do(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make -n WORDS` before anything is set up, with nothing but `tmp_path/bin` on the PATH."""
    command = [str(shutil.which("make")), "-n", "-C", str(ROOT), f"VENV={tmp_path}/env", *words]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": f"{tmp_path}/bin"}, timeout=60)


def pythons(tmp_path: Path, **versions: str) -> None:
    """Put interpreters on the PATH: the one of the tests, an old one, or a name that does not run."""
    (tmp_path / "bin").mkdir()
    for name, kind in versions.items():
        code = {"ours": f'exec {sys.executable} "$@"', "old": "exit 1", "dead": "echo no such version; exit 127"}
        file = tmp_path / "bin" / name.replace("_", ".")
        file.write_text(f"#!/bin/sh\n{code[kind]}\n")
        file.chmod(0o755)


@pytest.mark.parametrize(
    ("versions", "words", "taken"),
    [
        ({"python3_11": "ours", "python3": "ours"}, (), "python3.11"),
        ({"python3_11": "dead", "python3_13": "ours", "python3": "ours"}, (), "python3.13"),
        ({"python3": "ours"}, (), "python3"),
        ({"python3_11": "ours", "mine": "ours"}, ("PYTHON=mine",), "mine"),
    ],
)
def test_make_takes_the_first_python_that_will_do(
    tmp_path: Path, versions: dict[str, str], words: tuple[str, ...], taken: str
) -> None:
    pythons(tmp_path, **versions)
    done = would_do(tmp_path, "demo", *words)
    assert f"{taken} -m venv {tmp_path}/env\n" in done.stdout


@pytest.mark.parametrize("words", [(), ("PYTHON=python3",), ("PYTHON=/no/such/python",)], ids=" ".join)
def test_make_without_a_python_that_will_do_is_one_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    pythons(tmp_path, python3="old")
    done = would_do(tmp_path, "demo", *words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert "Python 3.11 or later" in line
    assert "make PYTHON=" in line


def test_users_need_not_install_what_tests_need(tmp_path: Path) -> None:
    pythons(tmp_path, python3="ours")
    installed = {goal: re.findall(r"-r (\S+)", would_do(tmp_path, goal).stdout) for goal in ("demo", "test", "lint")}
    both = ["requirements.txt", "requirements-dev.txt"]
    assert installed == {"demo": both[:1], "test": both, "lint": both}


def test_requirements_name_every_package_that_the_scripts_import() -> None:
    trees = [ast.parse(path.read_bytes()) for path in (*ROOT.glob("*.py"), *ROOT.glob("skin/**/*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {path.stem for path in ROOT.iterdir()} | OPTIONAL | COME_WITH.keys()
    imported = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - others
    listed = {name.lower() for name in re.findall(r"^([\w-]+)[=><~]", text("requirements.txt"), re.MULTILINE)}
    found = packages_distributions()
    missing = {name for name in imported if not {it.lower().replace("_", "-") for it in found[name]} & listed}
    assert missing == set()


def test_pytorch_without_cuda_comes_from_the_same_place_everywhere() -> None:
    addresses = {name: set(re.findall(r"https://download\.pytorch\.org/[\w/]+", text(name)))
                 for name in ("README.md", "Makefile", "Dockerfile")}  # fmt: skip
    assert set(map(frozenset, addresses.values())) == {frozenset({"https://download.pytorch.org/whl/cpu"})}


def test_the_picture_that_the_readme_predicts_on_windows_is_in_the_demo_set(demo_folder: Path) -> None:
    (typed,) = re.findall(r"predict\.py (runs\\\S+)", text("README.md"))
    run, demo, *inside = typed.split("\\")[1:]
    assert (run, demo) == ("demo", "demo")
    assert demo_folder.joinpath(*inside).is_file()


# ---- Dockerfile ----------------------------------------------------------------------------------------


def copied() -> set[str]:
    lines = re.findall(r"^COPY (.+) \S+$", text("Dockerfile"), re.MULTILINE)
    return {word.rstrip("/") for line in lines for word in line.split()}


def test_the_image_has_the_scripts_and_what_they_import() -> None:
    assert copied() == {"requirements.txt", "skin", *SCRIPTS}
    assert all((ROOT / name).exists() for name in copied())


def test_docker_is_sent_what_the_image_copies_and_little_else() -> None:
    patterns = [line for line in text(".dockerignore").splitlines() if line and not line.startswith("#")]
    sent = set()
    for name in (path.name for path in ROOT.iterdir()):
        for pattern in patterns:  # the last that matches decides
            if fnmatch.fnmatch(name, pattern.removeprefix("!")):
                (sent.add if pattern.startswith("!") else sent.discard)(name)
    assert sent == copied()


def test_the_readme_passes_the_arguments_that_the_image_takes() -> None:
    taken = set(re.findall(r"^ARG (\w+)", text("Dockerfile"), re.MULTILINE))
    passed = re.findall(r"--build-arg (\w+)=(\w+)", text("README.md"))
    assert {name for name, _ in passed} == taken
    for _, value in passed:
        assert re.search(rf"^ +{value}\) ", text("Dockerfile"), re.MULTILINE)


def test_the_image_runs_as_a_user_who_is_not_root_and_opens_the_page() -> None:
    lines = text("Dockerfile").splitlines()
    assert lines.index("USER 1000") < lines.index('CMD ["app.py", "--host", "0.0.0.0"]')
    entry = re.search(r'^ENTRYPOINT \["sh", "-c", "(.+)"\]$', text("Dockerfile"), re.MULTILINE)
    assert entry is not None
    command = entry[1].replace('\\"', '"').replace("exec python", f"exec {sys.executable}")
    words = ["sh", "-c", command.replace("/opt/skin", str(ROOT)), "app.py", "--host", "a b"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --host a b: ")
