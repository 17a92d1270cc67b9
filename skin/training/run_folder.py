"""Choose and make the run folder, and hold it against a second process that would train in it."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from skin import __version__
from skin.utils import files
from skin.utils.errors import UserError
from skin.utils.parallel import usable_gpus
from skin.utils.run_folders import BEST, CONFIG, LATEST

import torch

LOCK = ".lock"
_RESULTS = (BEST, "last.pt", "metrics.csv", "report.html", "model_card.md", "curves.png")  # once there is config.json


def new_folder(out: Path | None, model: str, checks: bool = False) -> Path:
    """Return the folder for a new run: `out`, or `runs/<time>-<model>` if that is None. `create` makes it.

    Args:
        checks: the data are checked and nothing is trained.

    Raises:
        UserError: it already holds a run, or files that a run would overwrite.
    """
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}"
    while out is None and folder.exists():
        folder = folder.with_name(folder.name + "-2")
    refuse_run(folder, checks)
    return folder


def refuse_run(folder: Path, checks: bool = False) -> None:
    """Raise `UserError` if `folder` already holds a run, or files of another origin that a run would overwrite."""
    if (folder / CONFIG).exists():
        raise UserError(
            f"{folder} already holds a run; go on with it by --resume {shlex.quote(str(folder))}, "
            "or choose another --out"
        )
    if not checks and (lost := next((name for name in _RESULTS if (folder / name).exists()), None)):
        raise UserError(
            f"{folder} holds {lost} and no config.json of a run: a run there would overwrite it; choose another --out"
        )


def create(folder: Path, own: bool = False) -> Path:
    """Make the run folder and return it.

    Args:
        own: the folder must be this run's alone: `-2` is added to a name that a run of the same second has taken.
            Otherwise a folder that is there already will do.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        while not _made(folder, own):
            folder = folder.with_name(folder.name + "-2")
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write the run folder {folder}: {error.strerror}; choose another --out") from error
    return folder


def _made(folder: Path, own: bool) -> bool:
    try:
        folder.mkdir(exist_ok=not own)
    except FileExistsError:
        if not own:  # a file stands in the way
            raise
        return False
    return True


def is_held(folder: Path) -> bool:
    """Return True if a process, this one or another, holds a run folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        held = files.lock(folder / LOCK)
    except TimeoutError:
        return True
    if held is not None:
        held.release()
    return False


@contextlib.contextmanager
def reading_own(folder: Path) -> Iterator[None]:
    """Say in the error of a file that the run wrote itself, and that is gone or damaged, what to do about that."""
    try:
        yield
    except UserError as error:
        again = "train again, into another --out"
        if (folder.parent / CONFIG).exists():  # a fold
            again = f"remove {folder} and train the fold again: --resume {shlex.quote(str(folder.parent))}"
        raise UserError(error.what, f"put it back from a copy, or {again}") from error


@contextlib.contextmanager
def hold(folder: Path, seconds: float = 0.0) -> Iterator[None]:
    """Hold a run folder against other processes, and remove what a killed one left half-written.

    Raises:
        UserError: another process has held it for `seconds`.
    """
    try:
        held = files.lock(folder / LOCK, seconds)
    except TimeoutError as error:
        raise UserError(f"another process is training in {folder}: stop it, or wait for its end") from error
    try:
        files.remove_leftovers(folder)
        yield
    finally:
        if held is not None:
            held.release()


def point_latest(folder: Path) -> None:
    """Point `runs/latest` at a run folder, if that is in `runs`."""
    if folder.parent.name == LATEST.parent.name:
        _point(folder.parent / LATEST.name, folder.name)


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        temporary.symlink_to(target)
        os.replace(temporary, link)
    except OSError:  # no links here, or a folder of that name: the newest run is then found by the times of files
        for path in (temporary, link):
            if path.is_symlink():  # an old link would still name another run
                with contextlib.suppress(OSError):
                    path.unlink()


class Environment(TypedDict):
    """The versions and the machine that a run was made with; environment.json."""

    skin: str
    python: str
    torch: str
    torchvision: str
    numpy: str
    opencv: str
    pillow: str
    cuda: str | None
    cudnn: int | None
    gpus: list[str]
    cpu: str
    cores: int | None
    threads: int
    platform: str
    git_commit: str | None


def environment() -> Environment:
    """Return the versions, device names and git commit of this run."""
    import cv2
    import numpy
    import PIL
    import torchvision

    return {
        "skin": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class is not a str to a checkpoint
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if usable_gpus() else None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(usable_gpus())],
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "git_commit": git_commit(),
    }


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Return the commit of this code, with "+changes" if files differ from it; None outside git."""
    here = Path(__file__).resolve().parent
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+changes" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
