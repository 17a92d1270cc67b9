"""Every process ends: after an exception anywhere, after a signal to a stalled run, with little shared memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from skin.data import demo
from skin.data.dataset import AHEAD, Feeding, feeding
from tests import endings, warm
from tests.endings import RECIPE, ROOT, Case

import pytest


@pytest.fixture(scope="module")
def prepared() -> Iterator[tuple[Path, Path, Path]]:
    with endings.prepared() as folders:
        yield folders


# ---- exceptions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        Case("train.py", 1, 1, "step", 3, "key"),
        Case("train.py", 1, 2, "save", 1, "disk"),
        Case("train.py", 2, 1, "forward", 6, "memory"),
        Case("evaluate.py", 1, 2, "report", 1, "letter"),
    ],
    ids=lambda case: case.name,
)
def test_whatever_comes_up_every_process_ends(
    case: Case, prepared: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The short form of `make torture`'s."""
    _, data, checkpoint = prepared
    assert endings.try_case(case, tmp_path, data, checkpoint, rank=case.processes - 1)


# ---- a stalled run --------------------------------------------------------------------------------------

STALL = """
import pathlib, sys, time
sys.path.insert(0, {root!r})
import train
from skin.utils import cli
from skin.data import dataset
stored = dataset.SkinDiseaseDataset.stored

def stalling(self, index):
    if pathlib.Path("last.pt").exists() or pathlib.Path("run/last.pt").exists():
        pathlib.Path("stalled").touch()
        time.sleep(1000)
    return stored(self, index)

import os
if os.environ.get("RANK", "0") == "0":
    dataset.SkinDiseaseDataset.stored = stalling
cli.run(train.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_ends_a_run_whose_loader_hangs(processes: int, tmp_path: Path) -> None:
    data = demo.write(tmp_path / "data", images=70)
    script = tmp_path / "stall.py"
    script.write_text(STALL.format(root=str(ROOT)))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    options = ["--data", str(data), "--out", "run", "--workers", "1", "--save-minutes", "0"]
    child = warm.Popen(
        [sys.executable, *(launcher if processes > 1 else []), str(script), *RECIPE, *options], cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    while not (tmp_path / "stalled").exists() and child.poll() is None:
        time.sleep(0.05)
    time.sleep(1)  # the main process comes to wait for what will not come
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=25)
    if processes == 1:
        assert child.returncode == 143, said
        assert "; saved. Go on with" in said
    else:  # torchrun has a code of its own
        assert "this process waited for a loader process for 8 s after the signal" in said
    assert subprocess.run(["pgrep", "-s", str(child.pid)], capture_output=True).stdout == b""


# ---- shared memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "batch", "room", "expected"),
    [
        (2, 8, None, (2, AHEAD)),
        (0, 8, 1, (0, AHEAD)),
        (2, 8, 1000, (2, AHEAD)),
        (2, 8, 64, (2, 2)),  # 57 bytes are seven batches: two in use, two ahead of each
        (2, 8, 36, (2, 1)),  # 32 are four
        (2, 8, 28, (1, 1)),
        (2, 8, 10, (0, AHEAD)),
    ],
)
def test_no_more_batches_are_made_ahead_than_shared_memory_holds(
    workers: int, batch: int, room: int | None, expected: tuple[int, int]
) -> None:
    found: Feeding = feeding(workers, batch, room)
    assert found[:2] == expected
    assert bool(found.note) == (found.workers < workers)


def test_a_gpu_has_one_batch_more_in_use() -> None:
    assert feeding(2, 8, 36, pin_memory=True)[:2] == (1, 1)


def mounts() -> bool:
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(sys.platform != "linux" or not mounts(), reason="this user may not mount a file system")
@pytest.mark.slow
@pytest.mark.parametrize(("kib", "workers"), [(820, 1), (150, 0)])
def test_a_run_with_little_shared_memory_trains(kib: int, workers: int, tmp_path: Path) -> None:
    """A batch takes 196 KiB; the locks of a loader with two processes take 56 beside them."""
    data = demo.write(tmp_path / "data", images=70)
    options = [*RECIPE, "--image-size", "64", "--epochs", "1", "--data", str(data), "--out", "run", "--cache", "off"]
    options += ["--workers", "2"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={kib}k tmpfs /dev/shm && exec "$@"', "sh",
         sys.executable, str(ROOT / "train.py"), *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{workers} loader workers" in done.stdout
    assert ("shared memory (/dev/shm) has room for" in done.stdout) == (workers < 2)


FILL = """
import contextlib, sys
sys.path.insert(0, {root!r})
import train
from skin.utils import cli
from torch.utils.data import dataloader

def filling(function):
    def first(*arguments, **keywords):
        with open("/dev/shm/full", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"0" * 4096)
        return function(*arguments, **keywords)
    return first

{place} = filling({place})
cli.run(train.main)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not mounts(), reason="this user may not mount a file system")
@pytest.mark.parametrize("place", ["train.train_step", "dataloader._MultiProcessingDataLoaderIter.__init__"])
def test_shared_memory_that_others_fill_is_one_line(place: str, tmp_path: Path) -> None:
    """What torch leaves half made, if there is no room for a lock, has nothing to say beside it."""
    data = demo.write(tmp_path / "data", images=70)
    script = tmp_path / "fill.py"
    script.write_text(FILL.format(root=str(ROOT), place=place))
    options = [*RECIPE, "--data", str(data), "--out", "run", "--workers", "1", "--cache", "off"]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=600k tmpfs /dev/shm && exec "$@"', "sh",
         sys.executable, str(script), *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line]
    assert len(errors) == 1, done.stderr
    assert "too little shared memory (/dev/shm): enlarge it, or use --workers 0" in errors[0]
