"""Run a case in a process of its own, or under torchrun in several. Each process reports by a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from skin.bench.cases import Case
from skin.bench.columns import Round, Status, take
from skin.bench.measurement import TrainingLoop, fits, limit_host_memory, measure
from skin.training.options import Options
from skin.training.splits import Splits, read_splits
from skin.utils import known_errors, parallel
from skin.utils.errors import UserError, printable
from skin.utils.parallel import Topology
from skin.utils.signals import STOP_SIGNALS

SECONDS_TO_END, SECONDS_FOR_TORCHRUN = 5, 40  # torchrun gives its own processes 30 s before it kills them

MakeLoop = Callable[[Options, Topology, Splits], TrainingLoop]
_SIGKILL = 9  # `signal` of Windows does not have it


@dataclass(frozen=True)
class Result:
    """The end of one round of a case. A probe that fits is "ok" and has no round."""

    status: Status
    reason: str | None = None
    round: Round | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Result:
        found = content["round"]
        return cls(content["status"], content["reason"], None if found is None else Round(**found))


# ---- the process of the case ------------------------------------------------------------------------------------


def run_case(task: Path, loops: Mapping[str, MakeLoop]) -> int:
    """Measure the case in the JSON file `task` and write its result beside it; return the exit code.

    Rank 0 writes the measurement. A rank that fails writes the reason and ends: otherwise its peers would wait for
    it.
    """
    case = Case.from_json(json.loads(task.read_text(encoding="utf-8")))
    rank = int(os.environ.get("RANK", "0"))
    result, code = Result("ok"), 0
    try:
        result = Result("ok", round=_measured(case, loops))
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        result, code = _failed(case, error), 1
    if rank == 0 or code:
        _result_file(task, rank).write_text(json.dumps(result.to_json()), encoding="utf-8")
    return code


def _measured(case: Case, loops: Mapping[str, MakeLoop]) -> Round | None:
    settings = case.training_settings()
    splits = read_splits(settings)
    with parallel.setup(None if case.key.parallel == "ddp" else case.key.gpus) as topology:
        if case.probe:
            limit_host_memory()
        loop = loops[case.key.recipe](settings, topology, splits)
        if case.probe:
            fits(case, loop)
            return None
        return take(measure(case, loop))


def _failed(case: Case, error: Exception) -> Result:
    """Return the result of a case that an exception has ended."""
    if known_errors.is_out_of_memory(error):
        return Result("oom", f"out of memory at {case.key.batch_size} images a replica")
    reason = str(error) if isinstance(error, UserError) else _last_line(error)
    return Result("failed", printable(reason, limit=300))


def _last_line(error: Exception) -> str:
    """Return an exception as its traceback names it, without the further lines of a long text."""
    return "".join(traceback.format_exception_only(error)).partition("\n")[0]


def _result_file(task: Path, rank: int) -> Path:
    return task.with_suffix(f".{rank}.result")


# ---- the process of the benchmark -------------------------------------------------------------------------------


def run(case: Case, script: Path) -> Result:
    """Measure a case once by `script --case`. No process is left behind, however it ends.

    The text of a failed case on stderr goes to ours.
    """
    with tempfile.TemporaryDirectory(prefix="skin-benchmark-") as name:
        task, errors = Path(name) / "case.json", Path(name) / "stderr"
        task.write_text(json.dumps(case.to_json()), encoding="utf-8")
        ddp = case.key.parallel == "ddp"
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={case.key.gpus}"]
        command = [sys.executable, *(launcher if ddp else []), str(script), "--case", str(task)]
        process = None
        try:
            with signals_held(), open(errors, "wb") as stderr:
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
            code = process.wait()
        finally:
            if process is not None:
                with signals_held():
                    _end(process, by_torchrun=ddp)
        said = errors.read_text(encoding="utf-8", errors="replace")
        result = result_of(task, code, said, ranks=case.key.gpus if ddp else 1)
    if result.status == "failed":
        sys.stderr.write(said)
    return result


def result_of(task: Path, code: int, said: str, ranks: int) -> Result:
    """Return the result that the processes of a case have reported: its failure, or the measurement of rank 0.

    If several ranks failed, the reason of one that has only lost a peer comes last.

    Args:
        code: with which the process ended.
        said: its text on stderr; read only if a process could not report itself.
        ranks: processes of the case.
    """
    files = [file for file in (_result_file(task, rank) for rank in range(ranks)) if file.exists()]
    results = [Result.from_json(json.loads(file.read_text(encoding="utf-8"))) for file in files]
    failures = [result for result in results if result.status != "ok"]
    causes = [result for result in failures if not known_errors.is_about_peers(result.reason or "")]
    if causes or (code == 0 and results):
        return (causes or results)[0]
    if code == -_SIGKILL or "(SIGKILL)" in said:  # the latter is how torchrun tells of its processes
        return Result("oom", "killed by the system, most likely for lack of memory")
    if known_errors.is_out_of_memory(said):  # a C++ library has ended the process
        return Result("oom", "out of memory")
    return failures[0] if failures else Result("failed", f"ended with code {code}")


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let signals to stop wait until the block ends: otherwise a process that is just starting would be lost."""
    caught: list[int] = []
    before = [signal.signal(number, lambda n, frame: caught.append(n)) for number in STOP_SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(STOP_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])


def _end(process: subprocess.Popen[bytes], by_torchrun: bool) -> None:
    """End a case's process group: its loader processes may outlive the first one.

    Torchrun's processes have groups of their own, which it alone knows, so it must live to end them.
    Windows has no such groups: a loader process sees there that its parent is gone, and ends.
    """
    for force, patience in ((False, SECONDS_FOR_TORCHRUN if by_torchrun else SECONDS_TO_END), (True, None)):
        with contextlib.suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)
            else:
                process.kill() if force else process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if by_torchrun:
                return
