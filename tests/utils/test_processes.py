"""A script's process and what it started are gone within seconds of its end, come what may."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skin.utils import processes
from tests.endings import ROOT

import pytest

BEGIN = f"""
import multiprocessing, signal, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from skin.utils import cli, processes, signals
from skin.utils.errors import UserError

signals.SECONDS_TO_STOP = processes.SECONDS_TO_END = 1.0

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
"""


def run(body: str, number: int | None = None) -> tuple[int, str]:
    """Run a script whose `main` has that body, and send it a signal once it has said "ready"; its code and stderr."""
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    child = subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN}\ndef main():\n{lines}\ncli.run(main)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    if number is not None:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
    _, errors = child.communicate(timeout=20)  # also waits for children, which hold the pipe open
    return child.returncode, errors


@pytest.mark.parametrize(
    ("what", "code"),
    [("raise KeyError('lesion')", 1), ("raise UserError('no data')", 2), ("return 3", 3), ("pass", 0),
     ("raise KeyboardInterrupt", 130), ("sys.exit(4)", 4)],
)  # fmt: skip
def test_a_child_that_ignores_sigterm_does_not_keep_a_script_alive(what: str, code: int) -> None:
    found, errors = run(
        f"child = multiprocessing.get_context('fork').Process(target=stubborn, daemon=True)\nchild.start()\n{what}"
    )
    assert found == code
    assert ("Traceback" in errors) == (code == 1)


def test_neither_does_a_thread_that_hangs() -> None:
    assert run("threading.Thread(target=time.sleep, args=(1000,)).start()\nraise UserError('no data')")[0] == 2


@pytest.mark.parametrize("code", [0, 2])
def test_a_process_that_leaves_in_the_midst_of_a_group_runs_no_exit_function(code: int) -> None:
    """Such as by --help under torchrun: a library's exit function would wait for peers that go on, or are gone."""
    group = "dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)"
    said = "atexit.register(print, 'exit function', file=sys.stderr)"
    assert run(f"import atexit\nimport torch.distributed as dist\n{said}\n{group}\nsys.exit({code})") == (code, "")


def test_a_letter_that_the_output_cannot_take_is_written_as_its_number() -> None:
    script = f"{BEGIN}\ndef main():\n    print('nävus')\n    raise UserError('große Datei')\ncli.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONIOENCODING": "ascii"}
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "n\\xe4vus\n", "error: gro\\xdfe Datei\n")


STORE = """
import datetime
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(hours=1))
threading.Timer(0.5, print, ("ready",), {"flush": True}).start()  # once it waits
"""


def test_a_signal_ends_a_process_that_waits_in_c() -> None:
    """No handler of Python's runs there."""
    code, errors = run(STORE + "store.get('nobody sets it')", signal.SIGTERM)
    assert code == 143
    assert errors == "error: stopped, though this process did not end for 1 s after the signal\n"


def test_a_process_may_take_its_time_for_its_own_work_but_not_for_another() -> None:
    keep = "signal.signal(signal.SIGTERM, lambda *_: None)\nprint('ready', flush=True)\n"
    own = "with signals.patience():\n    time.sleep(3)\nreturn 7"
    wait = "with signals.patience(), signals.waiting('a peer'):\n    time.sleep(1000)\nreturn 7"
    assert run(keep + own, signal.SIGTERM)[0] == 7
    code, errors = run(keep + wait, signal.SIGTERM)
    assert (code, errors) == (143, "error: stopped, though this process waited for a peer for 1 s after the signal\n")


@pytest.mark.parametrize(("depth", "inside"), [(1, True), (12, False)])
def test_sockets_of_children_have_a_name_that_the_system_takes(depth: int, inside: bool) -> None:
    """A queue's TMPDIR may be long; a batch that finds no socket is lost, and waited for in vain."""
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder = Path(root, *["deeper"] * depth)
        folder.mkdir(parents=True)
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from skin.utils import processes\n"
            "from multiprocessing import util\n"
            "processes.prepare_children()\n"
            "print(util.get_temp_dir())"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={"TMPDIR": str(folder)}, check=True
        )
        assert Path(done.stdout.strip()).is_relative_to(folder) == inside
        assert len(done.stdout) < 60 + len("/pymp-12345678")
        assert list(folder.iterdir()) == []


def test_spawned_processes_ignore_ctrl_c_and_end_with_their_block() -> None:
    def ended_early() -> None:
        with processes.spawned(2, int) as executor:
            asked = [executor.submit(signal.getsignal, signal.SIGINT) for _ in range(4)]
            assert [future.result() for future in asked] == [signal.SIG_IGN] * 4
            executor.submit(time.sleep, 1000)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ended_early()
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
