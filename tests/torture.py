"""Kill training runs, let them go on, and compare every bit with a run that nobody disturbed.

    python tests/torture.py        60 kills and more, 60 exceptions, the fuzzing; some twenty minutes on two cores
    python tests/torture.py --kills 6 --setups alone-2-off --commands 0 --endings 0 --fuzz 0

Each run is a process of its own that dies by a real SIGKILL: at a random step, between two writes of a
save, in the middle of a file, while the pixel cache fills, in the last calibration, or at any moment. It is
started again with --resume, and killed again, until it comes to its end. Then its weights, optimizer,
metrics.csv and best.pt must be those of the undisturbed run to the last bit, and no file may be left over.

Processes are forked from this one, which has torch loaded already, so that a start takes a tenth of a
second; a few runs go through the command line and torchrun, as a user's do.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import mmap
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"  # a sum in two threads would be another sum, and forks want no threads

import train  # noqa: E402
from skin.data import cache, demo  # noqa: E402
from skin.model import calibration, checkpoint  # noqa: E402
from skin.training import out_of_fold, run_folder, saver  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from tests import endings  # noqa: E402
from tests.fuzz import fuzz  # noqa: E402

import torch  # noqa: E402

MACHINE_COLUMNS = {"seconds", "images_per_second", "data_wait_seconds", "peak_memory_mib"}
RECIPE = [*endings.RECIPE, "--cache", "cache"]
PATIENCE = 120.0  # seconds until a run that neither ends nor dies is called a hang

# Where a process kills itself, and how often it may come there before: the n-th time is the last.
POINTS = {
    "step": 7,  # train_step, and so between saves
    "write": 2000,  # of torch.save, in the middle of a file
    "fsync": 24,  # a file is whole and has not its name yet
    "rename": 16,  # the name of last.pt or last-previous.pt is about to change
    "link": 8,
    "cache": 60,  # a file of the pixel cache is written, or is whole and has not its name yet
    "calibration": 1,
    "fold": 2,  # the next fold is about to begin
    "pool": 1,  # all are done, and their answers are put together
}
OF_FOLDS = ("fold", "pool")  # points that other runs do not come to


class Setup(NamedTuple):
    """How a run is run; `name` is such as alone-2-off."""

    processes: int
    workers: int
    amp: str
    parts: bool = False  # of the recipe `strong`, and those that it leaves out
    folds: int = 0  # 0 is one model

    @property
    def name(self) -> str:
        who = "alone" if self.processes == 1 else f"ranks{self.processes}"
        what = f"{'-parts' if self.parts else ''}{f'-folds{self.folds}' if self.folds else ''}"
        return f"{who}-{self.workers}-{self.amp}{what}"

    @property
    def options(self) -> list[str]:
        return ["--workers", str(self.workers), "--amp", self.amp, *(PARTS if self.parts else ())]


PARTS = ("--ema", "0.9", "--mixup", "0.4", "--cutmix", "1", "--label-smoothing", "0.1", "--cutout", "0.4",
         "--accumulate", "2", "--batch-size", "8", "--metadata", "age,sex,localization",
         "--class-weights", "logits")  # fmt: skip
SETUPS = [Setup(1, 0, "off"), Setup(1, 2, "off"), Setup(1, 0, "bf16"), Setup(1, 2, "fp16"),
          Setup(2, 0, "off"), Setup(2, 2, "bf16"), Setup(1, 0, "off", parts=True), Setup(2, 0, "off", parts=True),
          Setup(1, 0, "off", folds=2)]  # fmt: skip


# How a run that was killed goes on through the command line.
COMMANDS = ["moved data", "torchrun", "little shared memory", "torchrun, restarted"]


@dataclass(frozen=True)
class Settings:
    kills: int = option(60, "in all, over all setups")
    setups: str = option("all", "names of setups, with commas: " + ", ".join(s.name for s in SETUPS))
    commands: int = option(8, "runs through the command line: " + "; ".join(COMMANDS), metavar="N")
    counted: bool = option(False, "kill at counted points only, so that a busy machine changes nothing")
    endings: int = option(60, "exceptions that come up inside the scripts (tests/endings.py)", metavar="N")
    fuzz: float = option(1.0, "how much fuzzing: 1 is 10,000 images, 2,000 tables and 500 checkpoints", metavar="X")
    seed: int = option(0, "of where the kills fall")
    keep: Path | None = option(None, "work in this folder and leave it", metavar="DIR")


@dataclass
class Tally:
    """What has happened so far."""

    kills: dict[str, int] = field(default_factory=dict)  # by where they fell
    runs: int = 0
    survivors: int = 0  # processes whose peer was killed, and that ended by themselves
    most_steps_lost: int = 0

    @property
    def count(self) -> int:
        return sum(self.kills.values())


class Failure(AssertionError):
    """What must not happen has."""


# ---- a training process ---------------------------------------------------------------------------------


class Kill(NamedTuple):
    """Where a process is to die: at the `count`-th passage of `point`, alone or with its loader's processes."""

    point: str
    count: int
    whole_group: bool


def arm(kill: Kill, steps: mmap.mmap) -> None:
    """In a forked process: count the steps, and let the process die where `kill` says."""
    main, passed = os.getpid(), mmap.mmap(-1, 8)

    def pass_by(point: str) -> None:
        if point != kill.point:
            return
        passed[:] = (int.from_bytes(passed, "little") + 1).to_bytes(8, "little")
        if int.from_bytes(passed, "little") >= kill.count:
            os.killpg(main, signal.SIGKILL) if kill.whole_group else os.kill(main, signal.SIGKILL)

    def watch(owner: Any, name: str, point: str) -> None:
        function = getattr(owner, name)

        def watched(*args: Any, **keywords: Any) -> Any:
            pass_by("cache" if point == "rename" and os.fspath(args[1]).endswith(".pixels") else point)
            if point == "step":
                steps[:] = (int.from_bytes(steps, "little") + 1).to_bytes(8, "little")
            return function(*args, **keywords)

        setattr(owner, name, watched)

    watch(train, "train_step", "step")
    watch(checkpoint._Sink, "write", "write")
    watch(os, "fsync", "fsync")
    watch(os, "replace", "rename")
    watch(os, "link", "link")
    watch(cache, "write_all", "cache")
    watch(calibration, "fit", "calibration")
    watch(run_folder, "is_held", "fold")
    watch(out_of_fold, "write", "pool")


class Process(NamedTuple):
    pid: int
    output: Path


def start(work: Path, setup: Setup, kills: list[Kill | None], steps: mmap.mmap) -> list[Process]:
    """Fork a training run in the folder `work`, one process a rank; it goes on from what is there."""
    arguments = [*RECIPE, "--data", "../data", *setup.options]
    if (work / "run" / "config.json").exists():
        arguments = ["--resume", "run", "--workers", str(setup.workers)]
    else:
        arguments += ["--out", "run", *(["--folds", str(setup.folds)] if setup.folds else [])]
    arguments += ["--save-minutes", "0" if any(kills) else "10"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(setup.processes):
        output = work / f"output-{rank}.txt"
        pid = os.fork()
        if pid == 0:
            os.setsid()
            ranks = {"TORCHELASTIC_RUN_ID": "torture", "RANK": rank, "LOCAL_RANK": rank,
                     "WORLD_SIZE": setup.processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
            if setup.processes > 1:
                os.environ.update({key: str(value) for key, value in ranks.items()})
            _train(work, output, arguments, kills[rank], steps)
        processes.append(Process(pid, output))
    return processes


def _train(work: Path, output: Path, arguments: list[str], kill: Kill | None, steps: mmap.mmap) -> None:
    """The life of a forked process."""
    code = 70
    try:
        os.chdir(work)
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb"), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb"), line_buffering=True)
        sys.argv = ["train.py", *arguments]
        arm(kill or Kill("never", 1, False), steps)
        cli.run(lambda: train.main(arguments))
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        os._exit(code)


def end(processes: list[Process], after: float | None) -> list[int]:
    """Wait until all processes have ended, `after` seconds killing them; their exit codes, -9 where killed."""
    deadline = time.monotonic() + PATIENCE
    kill_at = None if after is None else time.monotonic() + after
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for process in processes:
            if process.pid not in codes:
                pid, status = os.waitpid(process.pid, os.WNOHANG)
                if pid:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        if kill_at is not None and time.monotonic() > kill_at:
            kill_at = None
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            raise Failure(f"hangs: {[p.output.read_text()[-500:] for p in processes]}")
        time.sleep(0.01)
    return [codes[process.pid] for process in processes]


# ---- what must be the same ------------------------------------------------------------------------------


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run leaves behind, but for what depends on the machine's pace."""
    if folds := folds_of(run):
        best = torch.load(run / saver.BEST, weights_only=True)
        whole = {name: best[name] for name in ("classes", "metrics", "calibration")}
        tables = {name: (run / name).read_text() for name in ("split.csv", "out_of_fold.csv", "label_review.csv")}
        names = sorted(file.name for file in run.iterdir())
        return {"best.pt": whole, **tables, "files": names, **{fold.name: outcome(fold) for fold in folds}}
    last, best = (torch.load(run / name, weights_only=True) for name in (saver.LAST, saver.BEST))
    for row in (best["metrics"], *last["progress"]["history"]):
        for column in MACHINE_COLUMNS:
            del row[column]
    with open(run / "metrics.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in MACHINE_COLUMNS} for row in csv.DictReader(file)]
    last["progress"].update(seconds=0.0, wait_seconds=0.0)
    # Saved every minute or never: that is asked for anew each time, and changes nothing.
    for config in (best["config"],):
        del config["save_minutes"]
        config["out"] = Path(config["out"]).name  # a fold's is absolute
    names = sorted(file.name for file in run.iterdir() if file.name not in (saver.PREVIOUS, "demo"))
    return {"last.pt": last, "best.pt": best, "metrics.csv": rows, "files": names}


def folds_of(run: Path) -> list[Path]:
    """The folders of a run's folds; none for a run of one model."""
    return sorted(run.glob("fold-*"))


def differences(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Where two outcomes differ, by so much as a bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        if not same or a.contiguous().numpy().tobytes() != b.contiguous().numpy().tobytes():
            yield name
    elif isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}, key=str):
            yield from differences(a.get(key), b.get(key), f"{name}/{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{name}/{number}")
    elif type(a) is not type(b) or repr(a) != repr(b):
        yield f"{name} ({a!r}, {b!r})"


def steps_saved(run: Path) -> int:
    """How many steps of the run would not be lost now."""
    if folds := folds_of(run):
        return sum(map(steps_saved, folds))
    state, _ = saver.newest(run)
    progress = state["progress"] if state else {"epoch": 0, "step": 0, "steps": 0}
    return int(progress["epoch"] * progress["steps"] + progress["step"])


# ---- the torture ----------------------------------------------------------------------------------------


def undisturbed(folder: Path, setup: Setup) -> dict[str, Any]:
    """The outcome of a run that nobody kills, and that saves nothing within its epochs."""
    work = folder / f"{setup.name}-undisturbed"
    if not work.exists():
        work.mkdir()
        codes = end(start(work, setup, [None] * setup.processes, mmap.mmap(-1, 8)), None)
        if any(codes):
            raise Failure(f"{setup.name}: {codes}: {(work / 'output-0.txt').read_text()}")
    return outcome(work / "run")


def torment(folder: Path, setup: Setup, kills: int, draw: random.Random, tally: Tally, counted: bool) -> None:
    """Runs of a setup that are killed again and again, until there were `kills` kills more.

    Args:
        counted: kill at none but the `POINTS`, not at any moment of the clock.

    Raises:
        Failure: a bit differs, a file is left over, a step is lost, a message is missing, a process hangs.
    """
    expected, before, number = undisturbed(folder, setup), tally.count, 0
    points = [point for point in POINTS if setup.folds or point not in OF_FOLDS]
    where = [*points, "step", "step"] if counted else [*points, "anywhen", "step", "step"]
    while (left := before + kills - tally.count) > 0:
        work = folder / f"{setup.name}-{number}"
        work.mkdir()
        points = [draw.choice(where) for _ in range(min(left, draw.randint(3, 8)))]
        killed_run(work, setup, points, draw, tally)
        compare(expected, outcome(work / "run"), work)
        number += 1


def compare(expected: dict[str, Any], found: dict[str, Any], work: Path) -> None:
    """Raise `Failure` where the run in `work` has not come to the expected outcome."""
    if names := list(differences(expected, found)):
        raise Failure(f"{work}: differs from the undisturbed run in {', '.join(names[:5])}")


def killed_run(work: Path, setup: Setup, points: list[str], draw: random.Random, tally: Tally) -> None:
    """Take a run to its end through a kill at each of `points`, as far as it passes by there."""
    steps = mmap.mmap(-1, 8)
    groups: list[int] = []
    for point in [*points, None]:
        kills: list[Kill | None] = [None] * setup.processes
        victim = draw.randrange(setup.processes)
        if point is not None:
            # A save goes on in the first process alone, and the last calibration too.
            victim = victim if point in ("step", "cache") else 0
            kills[victim] = Kill(point, 1 + draw.randrange(POINTS.get(point, 1)), draw.random() < 0.5)
        after = draw.uniform(0.2, 4.0) if point == "anywhen" else None
        processes = start(work, setup, kills, steps)
        codes = end(processes, after)
        groups += [process.pid for process in processes]
        tally.runs += 1
        texts = [process.output.read_text() for process in processes]
        if any("Traceback" in text for text in texts):
            raise Failure(f"{work}: a traceback: {texts}")
        begun = int.from_bytes(steps, "little") // setup.processes
        if -signal.SIGKILL in codes:
            tally.kills[str(point)] = tally.kills.get(str(point), 0) + 1
            _look_at_survivors(work, codes, texts, tally)
            # Every step is saved. The one under way is lost, and the one before it while its file is written.
            saved = steps_saved(work / "run")
            if begun - saved > 2:
                raise Failure(f"{work}: {begun} steps were begun and {saved} are saved")
            tally.most_steps_lost = max(tally.most_steps_lost, begun - saved)
            steps[:] = (saved * setup.processes).to_bytes(8, "little")
        elif any(codes):
            raise Failure(f"{work}: exit codes {codes}: {texts}")
        elif point is not None:
            continue  # it came to its end before it came there
    _wait_for_groups(groups)
    leftovers = [file.name for file in (work / "run").rglob("*.tmp")]
    if leftovers:
        raise Failure(f"{work}: left over: {leftovers}")


def _wait_for_groups(groups: list[int]) -> None:
    """Loader processes whose training process was killed end by themselves; torch has them look every 5 s."""
    deadline = time.monotonic() + 30
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(group, 0)
                time.sleep(0.05)
            raise Failure(f"process group {group} has outlived its training process")


def _look_at_survivors(work: Path, codes: list[int], texts: list[str], tally: Tally) -> None:
    for code, text in zip(codes, texts, strict=True):
        if code == -signal.SIGKILL:
            continue
        state, _ = saver.newest(work / "run")
        if code == 0 and not text and state and state["progress"]["epoch"] == 2:
            continue  # it had done its part, and left the last calibration to the first process
        tally.survivors += 1
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if code != 2 or len(errors) != 1 or "another of the training processes" not in errors[0]:
            raise Failure(f"{work}: a process whose peer was killed ends with {code}: {text}")


def command_run(folder: Path, number: int, draw: random.Random, tally: Tally) -> None:
    """The same through the command line: killed once, then left to go on where and as `COMMANDS` says."""
    kind = COMMANDS[number % len(COMMANDS)]
    setup = SETUPS[4] if kind.startswith("torchrun") else SETUPS[1]
    work = folder / f"command-{number}"
    work.mkdir()
    shutil.copytree(folder / "data", work / "data")
    train_py = str(ROOT / "train.py")
    launcher = [sys.executable] if setup.processes == 1 else [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    ]  # fmt: skip
    launcher += ["--max-restarts", "2"] if kind == "torchrun, restarted" else []
    if kind == "little shared memory":
        mount = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
        launcher = ["unshare", "-m", "sh", "-c", mount, "sh", *launcher]
    options = [*setup.options, "--save-minutes", "0"]
    first = [*launcher, train_py, *RECIPE, "--data", "data", *options, "--out", "run", "--resume", "auto"]
    child = subprocess.Popen(first, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wanted = work / "run" / draw.choice([saver.LAST, saver.PREVIOUS, saver.BEST])
    deadline = time.monotonic() + PATIENCE
    while not wanted.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    victim = child.pid if setup.processes == 1 else _children(child.pid)[draw.randrange(2)]
    os.kill(victim, signal.SIGKILL)
    _, errors = child.communicate(timeout=PATIENCE)
    tally.kills[kind] = tally.kills.get(kind, 0) + 1
    tally.runs += 1
    if (child.returncode == 0) != (kind == "torchrun, restarted"):
        raise Failure(f"{work}: {kind}: exit code {child.returncode}: {errors}")
    if child.returncode:
        where = ["--data", "moved"] if kind == "moved data" else []
        if where:
            (work / "data").rename(work / "moved")
        again = [*launcher, train_py, "--resume", "run", *where, *options[:2]]
        done = subprocess.run(again, cwd=work, capture_output=True, text=True, timeout=PATIENCE)
        tally.runs += 1
        if done.returncode:
            raise Failure(f"{work}: {done.stdout}{done.stderr}")
    expected, found = (copy.deepcopy(o) for o in (undisturbed(folder, setup), outcome(work / "run")))
    for one in (expected, found):
        del one["best.pt"]["config"]  # which says where the data lie, and how often it was begun
    compare(expected, found, work)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    chosen = [s for s in SETUPS if settings.setups == "all" or s.name in settings.setups.split(",")]
    draw, tally, start_time = random.Random(settings.seed), Tally(), time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = settings.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="torture-")))
        demo.write(folder / "data", images=70)
        for number, setup in enumerate(chosen):
            share = settings.kills // len(chosen) + (number < settings.kills % len(chosen))
            torment(folder, setup, share, draw, tally, settings.counted)
            print(f"{setup.name:18} {share} kills and more, no bit differs", flush=True)
        for number in range(settings.commands):
            command_run(folder, number, draw, tally)
    if settings.endings:
        print(endings.torment(settings.endings, settings.seed), flush=True)
    if settings.fuzz:
        print(fuzz(*(round(settings.fuzz * count) for count in (10_000, 2_000, 500)), settings.seed), flush=True)
    print(
        f"{tally.count} kills in {tally.runs} runs ("
        + ", ".join(f"{point} {count}" for point, count in sorted(tally.kills.items()))
        + f"): 0 bits differ, 0 files left over, at most {tally.most_steps_lost} steps done again; "
        f"{tally.survivors} processes outlived a killed peer and said so; {time.monotonic() - start_time:.0f} s"
    )
    return 0


if __name__ == "__main__":
    cli.run(main)
