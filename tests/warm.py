"""Start the scripts without waiting for their imports.

Most of a tiny run is the import of torch and its like: some five seconds of a core. One process imports them, and
nothing of ours, and forks for each script that a test starts. The script is a process of its own, with its own
environment, files, signals and end. What the interpreter or a library reads as it starts (`PYTHON...`,
`OMP_NUM_THREADS`) is the forking process's, though, and so is what `/proc` tells of it. A test of that uses
`subprocess` itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
IMPORTS = (
    "skin", "torch", "torch._dynamo", "torch.distributed", "torchvision.models", "sklearn.metrics", "scipy.stats",
    "pandas", "cv2", "PIL.Image", "matplotlib.pyplot", "rich.console", "rich.progress", "jinja2", "filelock",
)  # fmt: skip
LAUNCHER = ("-m", "torch.distributed.run")
SERVER = "SKIN_TEST_SERVER"  # the variable with the address, for torchrun's processes
_GIVEN = (
    "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell",
    "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals", "gid", "gids", "uid",
    "umask", "start_new_session", "process_group",
)  # fmt: skip  # of Popen._execute_child

_cold = subprocess.Popen  # whatever a test replaces it with


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen([sys.executable, script, *words], ...)`, but for the time that the imports take."""

    def _execute_child(self, args: list[str], *others: Any) -> None:  # type: ignore[override]
        given = dict(zip(_GIVEN, others, strict=True))
        words = [os.fspath(word) for word in args if word != "-u"]
        if words[0] != sys.executable or given["preexec_fn"]:
            raise ValueError(f"not a script of Python's: {args}")
        ends = ("p2cread", "c2pwrite", "errwrite")
        request = {
            "words": words[1:],
            "folder": os.fspath(given["cwd"] or Path.cwd()),
            "session": given["start_new_session"],
            "environment": {**(given["env"] or os.environ), SERVER: server()},
        }
        self._line = _connected(server())
        files = [standard if given[end] == -1 else given[end] for standard, end in enumerate(ends)]
        socket.send_fds(self._line, [json.dumps(request).encode() + b"\n"], files)
        self._answers = self._line.makefile()
        self.pid = int(self._answers.readline())
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _GIVEN[9:15]))  # type: ignore[attr-defined]

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and select.select([self._line], [], [], 0)[0]:
            self._end()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._end()
        return self.returncode

    def _end(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(int(self._answers.readline() or signal.SIGKILL))
        self._answers.close()
        self._line.close()


def run(
    command: list[str], *, input: str | None = None, timeout: float | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end as `subprocess.run(command, capture_output=True, text=True)` does."""
    files = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE}
    files |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, text=True, **files, **how) as process:
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@functools.cache
def server() -> str:
    """Start the process that forks, once, without waiting for it; return the address of its socket."""
    if SERVER in os.environ:
        return os.environ[SERVER]
    folder = tempfile.mkdtemp(prefix="warm-")
    address = f"{folder}/socket"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = _cold([sys.executable, __file__, address], env=environment)
    atexit.register(shutil.rmtree, folder)
    atexit.register(process.kill)
    return address


def _connected(address: str) -> socket.socket:
    """Connect to the process that forks, as soon as it has imported all."""
    line, deadline = socket.socket(socket.AF_UNIX), time.monotonic() + 120
    while True:
        try:
            line.connect(address)
            return line
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _serve(address: str) -> list[str]:
    """Fork for each request; return, in the forked process, the command line of its script."""
    sys.path.insert(0, str(ROOT))
    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()  # or each fork would copy and search all that was imported, when it ends
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies: nobody asks how the go-betweens end
        while True:
            line, _ = listening.accept()
            if os.fork() == 0:
                break
            line.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, files, _, _ = socket.recv_fds(line, 1 << 20, 3)
    while not content.endswith(b"\n"):
        content += line.recv(1 << 20)
    if script := os.fork():
        for file in files:
            os.close(file)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the test is over
            line.sendall(f"{script}\n".encode())
            line.sendall(f"{os.waitpid(script, 0)[1]}\n".encode())
        os._exit(0)
    line.close()
    return _become(json.loads(content), files)


def _become(request: dict[str, Any], files: list[int]) -> list[str]:
    if request["session"]:
        os.setsid()
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    buffering = 1 if os.isatty(1) else -1
    sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", buffering, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    return request["words"]


def main() -> None:
    words = _serve(sys.argv[1])
    if tuple(words[:2]) == LAUNCHER:
        subprocess.Popen = Popen  # type: ignore[misc]  # for the processes that it starts in its turn
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path[0:2] = [str(Path(words[0]).resolve().parent)]
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    main()
