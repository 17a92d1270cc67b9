"""Two processes that train together: one works for long, and then falls silent."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tests import warm
from tests.conftest import ROOT

import pytest

SCRIPT = """
import datetime, os, signal, threading
from skin.utils import cli, parallel, signs_of_life
signs_of_life.SECONDS_BETWEEN = signs_of_life.SECONDS_TO_END = 0.01
given = threading.Semaphore(0)
all_reduce = signs_of_life.dist.all_reduce
def counted(*arguments, **keywords):
    all_reduce(*arguments, **keywords)
    if threading.current_thread() is not threading.main_thread():
        given.release()
signs_of_life.dist.all_reduce = counted

def main():
    with parallel.setup(0) as topology:
        if topology.is_main:
            for _ in range(20):  # at work, while the other waits for it and hears that it is
                given.acquire()
        print(topology.from_main("at work"), flush=True)
        topology.barrier()
        more = signs_of_life.SignsOfLife(datetime.timedelta(seconds=1))  # beside those of ten minutes
        if topology.is_main:
            os.kill(os.getpid(), signal.SIGSTOP)
        topology.from_main("silent")
        more.leave("")
cli.run(main)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no SIGSTOP on Windows")
def test_a_process_that_is_stopped_is_not_waited_for_as_long_as_one_that_works(tmp_path: Path) -> None:
    script = tmp_path / "silent.py"
    script.write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    processes = [
        warm.Popen(
            [sys.executable, str(script)], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        said, errors = processes[1].communicate(timeout=60)
    finally:
        processes[0].kill()
        processes[0].communicate()
    assert said == "at work\n"
    line = "another of the training processes has not answered in time, so this one stops"
    assert (processes[1].returncode, errors) == (2, f"error: {line}\n")
