"""On a system without what only Unix has, and where workers start by spawn: train, evaluate and predict."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

from skin.utils.files import safe_name
from tests.conftest import SMALL_NETWORK

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Goes before any Python process of the test. Libraries decide by `sys.platform` what they may use, so they are
# imported first (a loader's process needs few); what is taken away afterwards is missed by our own modules alone.
PRELUDE = """
import os, shutil, signal, sys
if not sys.argv[0].endswith("resource_tracker"):
    import cv2, multiprocessing, numpy, PIL.Image, torch, torch.utils.data, torch.multiprocessing
    import multiprocessing.popen_spawn_posix, multiprocessing.resource_sharer, subprocess
    if "--multiprocessing-fork" not in sys.orig_argv:
        import filelock, imagehash, matplotlib.pyplot, pandas, rich.console, rich.progress, rich.table
        import scipy.stats, sklearn.metrics, torchvision
    statvfs = os.statvfs
    def disk_usage(path):  # the standard library's own asks Windows for this
        disk = statvfs(path)
        total, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
        return shutil._ntuple_diskusage(total, total - free, free)
    shutil.disk_usage = disk_usage
    for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
        sys.modules[name] = None  # importing it raises ImportError
    for module, names in (
        (os, ("fork", "forkpty", "register_at_fork", "sched_getaffinity", "pread", "pwrite", "preadv", "pwritev",
              "statvfs", "fstatvfs", "posix_fallocate", "killpg", "getuid", "geteuid", "sysconf", "setsid")),
        (signal, ("SIGHUP", "SIGUSR1", "SIGUSR2")),
    ):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    multiprocessing.set_start_method("spawn", force=True)
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """The environment of a process on such a system."""
    (tmp_path / "prelude").mkdir()
    network = (SMALL_NETWORK / "sitecustomize.py").read_text()
    (tmp_path / "prelude" / "sitecustomize.py").write_text(network + PRELUDE)
    return {
        **os.environ, "PYTHONPATH": str(tmp_path / "prelude"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }  # fmt: skip


@pytest.mark.slow
def test_the_prelude_takes_away_what_it_says(elsewhere: dict[str, str]) -> None:
    code = "import os, signal, multiprocessing as m; print(hasattr(os, 'fork'), m.get_start_method()); import fcntl"
    done = subprocess.run([sys.executable, "-c", code], env=elsewhere, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False spawn\n", done.stderr
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_is_trained_evaluated_and_asked(elsewhere: dict[str, str], tmp_path: Path) -> None:
    def python(*command: str) -> str:
        command = (sys.executable, *command)
        done = subprocess.run(command, cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=240)
        said = [line for line in done.stderr.splitlines() if not line.startswith("model run/best.pt: ")]
        assert (done.returncode, said) == (0, [])
        return done.stdout

    train, evaluate, predict = (str(ROOT / f"{name}.py") for name in ("train", "evaluate", "predict"))
    path = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    python("-c", f"{path}; from skin.data import demo; demo.write(demo.Path('demo'), 70)")
    small = ("--model", "efficientnet_b0", "--weights", "none", "--image-size", "32", "--batch-size", "16")
    said = python(train, "--data", "demo", *small, "--epochs", "1", "--workers", "1", "--out", "run")
    assert "best validation" in said
    assert "pixel cache" not in said, "the cache has nothing to complain of"
    assert len(list((tmp_path / "cache" / "skin").glob("*/??/*.pixels"))) > 50
    assert "the report is in" in python(evaluate, "--checkpoint", "run/best.pt", "--workers", "1")
    image = str(next((tmp_path / "demo").rglob("*.jpg")))
    assert python(predict, "--checkpoint", "run/best.pt", image, "--json").count("\n") == 1


UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty"}


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.py"), *ROOT.glob("skin/**/*.py")]), ids=lambda path: path.name)
def test_no_module_imports_what_only_unix_has(path: Path) -> None:
    """At the top of a module, that is: a function may, if it goes on without."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    assert not found & UNIX


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("ISIC_0000001.jpg", "ISIC_0000001.jpg"),
        ("Ärzte (1).PNG", "Ärzte (1).PNG"),
        (".hidden", ".hidden"),
        ("..", "._"),
        ("a:b?.jpg", "a_b_.jpg"),
        ("ends.", "ends_"),
        ("ends ", "ends_"),
        ("nul", "_nul"),
        ("AUX.tar.gz", "_AUX.tar.gz"),
        ("com1.png", "_com1.png"),
        ("com10.png", "com10.png"),
        ("console.png", "console.png"),
        ("line\nbreak\x00", "line_break_"),
    ],
)
def test_a_file_name_that_every_system_takes(name: str, safe: str) -> None:
    assert safe_name(name) == safe
