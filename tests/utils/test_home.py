"""A user without a home folder, as containers have them, and paths that begin with one."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

from skin.data import cache
from skin.data.images import Preprocess
from skin.utils.errors import UserError
from skin.utils.home import home, user_path
from tests import tiny, warm
from tests.torture import ROOT

import pytest
from PIL import Image

PREPROCESS = Preprocess(32, 32, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# `getpwuid` answers as where a container runs under a number that its list of users lacks.
HOMELESS = """
import os, pwd, runpy, sys
def unknown(user):
    raise KeyError(user)
pwd.getpwuid = unknown
os.environ.pop("HOME", None)
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_a_path_begins_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert home() == Path("/home/of/mine")
    assert user_path("~/r") == Path("/home/of/mine/r")
    assert user_path("a/~/r") == Path("a/~/r")


@pytest.mark.usefixtures("homeless")
def test_a_home_that_nobody_knows_is_one_line() -> None:
    assert home() is None
    with pytest.raises(UserError, match="~/r: the home folder ~ is not known here; write the path without it"):
        user_path("~/r")


def test_the_home_of_a_user_that_is_none() -> None:
    with pytest.raises(UserError, match="the home folder ~nobody-of-that-name is not known here"):
        user_path("~nobody-of-that-name/r")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_is_off_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(tiny.picture(0)).save("a.png")
    opened = cache.PixelCache.open([str(tmp_path / "a.png")], PREPROCESS)
    assert opened.read(0).shape[2] == 3
    assert opened.note == cache.NO_HOME
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]  # no folder named `~`
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache.default_folder() == Path("/elsewhere/skin")


def run(folder: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A script of ours in `folder`, under a user without a home and without an entry."""
    taken = {"HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in taken}
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    (temporary / "homeless.py").write_text(HOMELESS)
    command = [sys.executable, str(temporary / "homeless.py"), str(ROOT / script), *words]
    ended = warm.run(command, cwd=folder, timeout=240, env={**environment, "TMPDIR": str(temporary)})
    left = [path.name for path in temporary.iterdir() if path.name.startswith("skin-home-")]
    assert left == []
    return ended


@pytest.mark.slow
def test_the_scripts_work_without_a_home(demo_folder: Path, tmp_path: Path) -> None:
    options = ("--model", "efficientnet_b0", "--weights", "none", "--image-size", "32", "--batch-size", "16",
               "--gpus", "0", "--epochs", "1", "--workers", "1", "--out", "run")  # fmt: skip
    trained = run(tmp_path, "train.py", "--data", str(demo_folder), *options)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert f"note: {cache.NO_HOME}" in trained.stdout
    evaluated = run(tmp_path, "evaluate.py", "--checkpoint", "run/best.pt", "--gpus", "0", "--rounds", "10")
    assert evaluated.returncode == 0, evaluated.stderr
    assert evaluated.stderr.count("\n") == 1  # the model
    image = str(next(demo_folder.rglob("*.jpg")))
    predicted = run(tmp_path, "predict.py", "--checkpoint", "run/best.pt", image)
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "temporary"]
