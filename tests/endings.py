"""Let exceptions come up at random places of the scripts, and see every process of theirs end within seconds.

    python tests/endings.py --count 60

Each script runs as a user's does, alone or as two processes under torchrun, with 0 to 2 loader processes, and an
exception comes up somewhere inside it (tests/injected.py): a mistake of ours, a fault of cuDNN, a full disk, Ctrl-C.
Ten seconds later nothing of it may be alive, and no half-written file may be left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from skin.data import demo  # noqa: E402
from skin.utils import cli  # noqa: E402
from skin.utils.cli import option  # noqa: E402
from tests import warm  # noqa: E402
from tests.injected import KINDS, POINTS  # noqa: E402

RECIPE = [
    *("--model", "efficientnet_b0", "--weights", "none", "--image-size", "32", "--batch-size", "16"),
    *("--epochs", "2", "--lr", "0.002", "--gpus", "0"),
]
SECONDS_TO_END = 10.0  # from the exception to the end of the last process
SECONDS_TO_COME = 120.0  # to the exception, or to the script's end without it


class Case(NamedTuple):
    """One run of a script, and where in it which exception comes up."""

    script: str
    processes: int
    workers: int
    point: str
    count: int
    kind: str

    @property
    def name(self) -> str:
        where = f"{self.point} {self.count}: {self.kind}"
        return f"{self.script}, {self.processes} processes, {self.workers} workers, {where}"


class Failure(AssertionError):
    """A process lives on, or something is left over."""


@dataclass(frozen=True)
class Settings:
    count: int = option(60, "exceptions", metavar="N")
    seed: int = option(0, "of where they come up")


def draw_cases(count: int, draw: random.Random) -> list[Case]:
    """Draw cases, half of them of train.py, every third as two processes."""
    cases = []
    for number in range(count):
        script = ("train.py", "evaluate.py", "train.py", "predict.py")[number % 4]
        processes = 2 if script != "predict.py" and number % 3 == 0 else 1
        point = draw.choice(list(POINTS[script]))
        workers = draw.choice((0, 1, 2))
        if point == "begin":
            workers = max(1, workers)
        kind = draw.choice(list(KINDS))
        cases.append(Case(script, processes, workers, point, 1 + draw.randrange(POINTS[script][point][1]), kind))
    return cases


def command(case: Case, data: Path, checkpoint: Path, work: Path) -> list[str]:
    """Return the command line of a case."""
    if case.script == "train.py":
        options = [*RECIPE, "--data", str(data), "--out", "run", "--save-minutes", "0"]
        options += ["--workers", str(case.workers)]
    elif case.script == "evaluate.py":
        options = ["--checkpoint", str(checkpoint), "--workers", str(case.workers), "--out", "report", "--gpus", "0"]
    else:
        options = ["--checkpoint", str(checkpoint), str(data)]
    start = [str(ROOT / "tests" / "injected.py"), case.point, str(case.count), case.kind, str(work), case.script]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.processes}"]
    return [sys.executable, *(launcher if case.processes > 1 else []), *start, *options]


def try_case(case: Case, work: Path, data: Path, checkpoint: Path, rank: int = 0) -> bool:
    """Run a case in the empty folder `work`; return whether the exception came up before the script's end.

    Raises:
        Failure: a process is alive ten seconds after the exception, the exit code says that all is well, or a
            half-written file is left.
    """
    temporary = work / "tmp"
    temporary.mkdir()
    environment = {
        **os.environ, "SKIN_INJECT_RANK": str(rank), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary),
        "XDG_CACHE_HOME": str(work / "cache"), "MPLCONFIGDIR": str(work / "matplotlib"),
    }  # fmt: skip
    with open(work / "output", "wb") as output:
        child = warm.Popen(
            command(case, data, checkpoint, work), cwd=work, env=environment, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for_the_end(case, child, work)
        finally:
            for pid in processes_in(work):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.wait()
    text = (work / "output").read_text(errors="replace")
    raised, left = _time_in(work / "raised"), _time_in(work / "left")
    if left and child.returncode == 0:
        raise Failure(f"{case.name}: exit code 0 after an exception:\n{text}")
    if raised and left and left - raised > SECONDS_TO_END:
        raise Failure(f"{case.name}: it took {left - raised:.1f} s from where it came up out of the script:\n{text}")
    over = [file for file in work.rglob("*") if file.name.endswith(".tmp")]
    over += [file for file in temporary.iterdir() if not file.name.startswith(("torchelastic_", "torchinductor_"))]
    if over:
        raise Failure(f"{case.name}: left over: {', '.join(map(str, over))}\n{text}")
    return bool(raised)


def _wait_for_the_end(case: Case, child: subprocess.Popen[bytes], work: Path) -> None:
    begin, ended = time.time(), None
    # On a busy machine the child may not yet have come to its folder.
    while (alive := processes_in(work)) or child.poll() is None:
        if child.poll() is not None:
            ended = ended or time.time()
        since = _time_in(work / "left") or ended or begin + SECONDS_TO_COME
        if time.time() - since > SECONDS_TO_END:
            names = ", ".join(f"{pid} {_command_line(pid)}" for pid in alive)
            raise Failure(f"{case.name}: still alive: {names}\n{(work / 'output').read_text(errors='replace')}")
        time.sleep(0.1)
    child.wait(SECONDS_TO_END)


def _time_in(file: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError):  # not there, or not yet whole
        return float(file.read_text())
    return None


def processes_in(folder: Path) -> list[int]:
    """Return the processes (but zombies) whose working folder is `folder`: those of a case."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder.resolve():
                    found.append(int(entry.name))
    return found


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "(gone)"


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Path, Path, Path]]:
    """Give a folder to work in, a small data set and a run's checkpoint."""
    with tempfile.TemporaryDirectory(prefix="endings-") as name:
        folder = Path(name)
        data = demo.write(folder / "data", images=70)
        options = [*RECIPE, "--epochs", "1", "--data", str(data), "--out", "run", "--workers", "0"]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
        warm.run([sys.executable, str(ROOT / "train.py"), *options], cwd=folder, env=environment).check_returncode()
        yield folder, data, folder / "run" / "best.pt"


def torment(count: int, seed: int) -> str:
    """Try `count` cases in which an exception came up; return a line that tells of them.

    Raises:
        Failure: see `try_case`.
    """
    draw, came = random.Random(seed), 0
    with prepared() as (folder, data, checkpoint), ThreadPoolExecutor(2) as pool:

        def attempt(number: int, case: Case) -> bool:
            work = folder / f"case-{number}"
            work.mkdir()
            return try_case(case, work, data, checkpoint, rank=number % case.processes)

        number = 0
        while came < count:
            cases = draw_cases(count - came, draw)
            came += sum(pool.map(attempt, range(number, number + len(cases)), cases))
            number += len(cases)
    return f"{came} exceptions in {number} runs: every process ended within {SECONDS_TO_END:g} s, nothing left over"


def main() -> int:
    settings = cli.parse(Settings, __doc__)
    print(torment(settings.count, settings.seed))
    return 0


if __name__ == "__main__":
    cli.run(main)
