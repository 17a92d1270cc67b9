"""The run folder: where everything about one training run stands, under names that other scripts rely on."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from skin.utils.errors import UserError
from skin.utils.files import write_atomically
from skin.utils.parallel import usable_gpus
from skin.utils.run_folders import CONFIG, LATEST

import torch

COLUMNS = (
    "epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy",
    "val_macro_auc", "seconds", "images_per_second", "data_wait_seconds", "peak_memory_mib",
)  # fmt: skip


def new_folder(out: Path | None, model: str) -> Path:
    """The folder that a new run asks for, `runs/<time>-<model>` where `out` is None; `create` makes it.

    Raises:
        UserError: it already holds a run.
    """
    folder = out or Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{model}"
    while out is None and folder.exists():
        folder = folder.with_name(folder.name + "-2")
    refuse_run(folder)
    return folder


def refuse_run(folder: Path) -> None:
    """Raise `UserError` where `folder` already holds a run."""
    if (folder / CONFIG).exists():
        raise UserError(f"{folder} already holds a run; go on with it by --resume {folder}, or choose another --out")


def create(folder: Path, own: bool = False) -> Path:
    """Make the run folder; it is given back.

    Args:
        own: it must be this run's alone: where the name has been taken meanwhile, by a run that began in the
            same second, `-2` is added to it. Else a folder that is there already will do.

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


def point_latest(folder: Path) -> None:
    """Point `runs/latest` at a run folder that stands in `runs`."""
    if folder.parent.name == LATEST.parent.name:
        _point(folder.parent / LATEST.name, folder.name)


def _point(link: Path, target: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        temporary.symlink_to(target)
        os.replace(temporary, link)
    except OSError:  # no links on this file system, or a folder of that name: the times of files tell the newest
        for path in (temporary, link):
            if path.is_symlink():  # an old link must not go on naming another run
                with contextlib.suppress(OSError):
                    path.unlink()


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """metrics.csv: a row an epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, **{k: f"{v:.6g}" for k, v in row.items() if isinstance(v, float)}} for row in rows)
    write_atomically(text.getvalue().encode(), path)


def epoch_line(row: dict[str, Any], epochs: int, memory: object, skipped_steps: int, best: bool) -> str:
    """A row of metrics.csv as the one line that a person reads."""
    return (
        f"epoch {row['epoch']:2}/{epochs}"
        f"  loss {row['train_loss']:.4f} val {row['val_loss']:.4f}"
        f"  accuracy {row['train_accuracy']:.4f} val {row['val_accuracy']:.4f}"
        f"  balanced {row['val_balanced_accuracy']:.4f}  AUC {row['val_macro_auc']:.4f}"
        f"  {row['seconds']:.0f} s  {row['images_per_second']:.1f} images/s"
        f"  wait {row['data_wait_seconds']:.1f} s  {memory}"
        + (f"  {skipped_steps} steps skipped so far" if skipped_steps else "")
        + ("  best" if best else "")
    )


def environment() -> dict[str, Any]:
    """What this run runs on: versions, device names, the project's git commit."""
    import cv2
    import numpy
    import PIL
    import torchvision

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own class is no str to a checkpoint
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
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError, IndexError):
        return Path("/proc/cpuinfo").read_text().split("model name")[1].split(":")[1].split("\n")[0].strip()
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """The commit of the code that runs, with "+changes" where files differ from it; None outside git."""
    here = Path(__file__).resolve().parent
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return run("rev-parse", "HEAD") + ("+changes" if run("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
