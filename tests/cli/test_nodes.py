"""Two machines, played by two working folders with a home and a cache each, on the loopback.

Where torchrun itself matters, two of its agents meet there. Elsewhere the two processes are started as it would
start them, which is quicker.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from skin.data import demo
from skin.training import nodes
from skin.training.options import Options, common_options, read_options
from skin.utils import cli
from skin.utils.errors import UserError
from skin.utils.parallel import Topology
from tests import warm
from tests.conftest import ROOT
from tests.tiny import picture, write_checkpoint
from tests.torture import RECIPE, differences, outcome

import pytest
import torch
from PIL import Image

EPOCH = [*RECIPE, "--epochs", "1", "--batch-size", "8", "--workers", "0", "--amp", "off"]  # three steps of 16

# train.py whose second process dies in its second step, the first time.
DYING = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
import train
from skin.utils import cli

step, steps, died = train.train_step, 0, Path("died")

def dying(*arguments):
    global steps
    steps += 1
    if steps == 2 and os.environ["RANK"] == "1" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)

train.train_step = dying
cli.run(train.main)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo.write(tmp_path_factory.mktemp("nodes") / "data", images=70)


@pytest.fixture(scope="module")
def one_machine(data: Path) -> Path:
    """The run that two processes of one machine made, undisturbed."""
    folder = data.parent / "one"
    ended = together([folder, folder], [[*EPOCH, "--data", str(data), "--out", "run"]] * 2, nodes=1)
    assert [one.returncode for one in ended] == [0, 0], ended
    return folder / "run"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def finish(
    folders: Sequence[Path], commands: Sequence[Sequence[str]], environments: Sequence[dict[str, str]]
) -> list[subprocess.CompletedProcess[str]]:
    """Run a command in each folder, at the same time, to their ends."""
    running = []
    for folder, command, more in zip(folders, commands, environments, strict=True):
        (folder / "home").mkdir(parents=True, exist_ok=True)
        own = {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "home/cache"), "OMP_NUM_THREADS": "1"}
        running.append(
            warm.Popen(
                command, cwd=folder, env={**os.environ, **own, **more}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
            )
        )
    ended = []
    try:
        for process in running:
            out, err = process.communicate(timeout=200)
            ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in running:
            process.kill()
    return ended


def together(
    folders: Sequence[Path], options: Sequence[Sequence[str]], nodes: int = 2, script: Path = ROOT / "train.py"
) -> list[subprocess.CompletedProcess[str]]:
    """Two processes as torchrun starts them: on two machines, one each, or both on one."""
    shared = {
        "TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "GROUP_WORLD_SIZE": str(nodes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    ranks = [{**shared, "RANK": str(n), "LOCAL_RANK": str(n if nodes == 1 else 0)} for n in range(2)]
    return finish(folders, [[sys.executable, str(script), *words] for words in options], ranks)


def by_agents(
    folders: Sequence[Path], options: Sequence[Sequence[str]], *torchrun: str, script: Path = ROOT / "train.py"
) -> list[subprocess.CompletedProcess[str]]:
    """An agent of torchrun on each of two machines; the first has rank 0, since its address comes first."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *torchrun]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test"]
    commands = [
        [*launcher, "--local-addr", f"127.0.0.{number}", str(script), *words]
        for number, words in enumerate(options, start=1)
    ]
    return finish(folders, commands, [{}, {}])


def assert_same_bits(run: Path, expected: Path) -> None:
    """What two runs have learnt, and all their figures; not where their data lay."""
    found, wanted = outcome(run), outcome(expected)
    for one in (found, wanted):
        del one["best.pt"]["config"], one["last.pt"]["machine"]
    assert list(differences(found, wanted)) == []
    assert found["best.pt"]["calibration"]


def errors(process: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in process.stderr.splitlines() if line.startswith("error: ")]


# ---- training -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_agents_without_a_shared_folder(data: Path, one_machine: Path, tmp_path: Path) -> None:
    """The second machine keeps its copy elsewhere, and no file of the run."""
    folders = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(data, folders[1] / "copy")
    ended = by_agents(folders, [[*EPOCH, "--data", str(data), "--out", "run"], [*EPOCH, "--data", "copy"]])
    assert [one.returncode for one in ended] == [0, 0], ended
    assert_same_bits(folders[0] / "run", one_machine)
    assert {path.name for path in folders[1].iterdir()} == {"home", "copy", "cache"}
    assert f"run     run on {socket.gethostname()}\n" in ended[0].stdout
    assert ended[1].stdout == ""


@pytest.mark.slow
def test_a_run_goes_on_where_only_the_first_machine_has_its_folder(
    data: Path, one_machine: Path, tmp_path: Path
) -> None:
    """To the same bits from within an epoch: each process's BatchNorm statistics come back."""
    folders, script = [tmp_path / "first", tmp_path / "second"], tmp_path / "dying.py"
    script.write_text(DYING)
    begin = [*EPOCH, "--data", str(data), "--out", "run", "--save-minutes", "0"]
    ended = together(folders, [begin, begin], script=script)
    assert [one.returncode for one in ended] == [2, -9], ended
    assert "another of the training processes has ended" in errors(ended[0])[0]
    last = torch.load(folders[0] / "run" / "last.pt", weights_only=True)
    assert (last["progress"]["step"], len(last["statistics"])) == (1, 2)
    assert not torch.equal(*last["statistics"])

    ended = together(folders, [["--resume", "run", "--workers", "0"]] * 2)
    assert [one.returncode for one in ended] == [0, 0], ended
    assert "0 epochs and 1 steps are done" in ended[0].stdout
    assert_same_bits(folders[0] / "run", one_machine)
    assert not (folders[1] / "run").exists()


def test_a_machine_that_does_not_see_the_demo_set_draws_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    drawn: list[Path] = []
    monkeypatch.setattr(demo, "write", drawn.append)
    (tmp_path / "run" / "demo").mkdir(parents=True)
    seen, unseen = (Options(demo=True, data=tmp_path / run / "demo") for run in ("run", "elsewhere"))
    assert nodes._folder(seen, draw=True) == tmp_path / "run" / "demo"
    assert nodes._folder(unseen, draw=False) == tmp_path / "skin" / "demo"
    assert drawn == []
    nodes._folder(unseen, draw=True)
    assert drawn == [tmp_path / "skin" / "demo"]


# ---- restarts -------------------------------------------------------------------------------------------


def restarted(data: Path, folders: Sequence[Path], script: Path, *options: str) -> None:
    """Two agents whose second process is killed once; they start all again by themselves."""
    script.write_text(DYING)
    begin = [*EPOCH, "--data", str(data), "--save-minutes", "0", *options]
    ended = by_agents(folders, [begin, begin], "--max-restarts", "2", script=script)
    assert [one.returncode for one in ended] == [0, 0], ended
    assert (folders[1] / "died").exists()
    assert "0 epochs and 1 steps are done" in ended[0].stdout


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_with_resume_auto(data: Path, one_machine: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    restarted(data, folders, tmp_path / "dying.py", "--out", "run", "--resume", "auto")
    assert_same_bits(folders[0] / "run", one_machine)


# ---- machines that do not agree -------------------------------------------------------------------------


def test_other_data_on_the_second_machine(data: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    copy = shutil.copytree(data, folders[1] / "copy")
    images = sorted(path for path in copy.rglob("*.jpg"))
    assert len(images) == 70
    images[3].unlink()
    images[5].write_bytes(b"another picture")
    ended = together(folders, [[*EPOCH, "--data", str(data), "--out", "run"], [*EPOCH, "--data", "copy"]])
    assert [one.returncode for one in ended] == [2, 2]
    line = (
        f"error: process 1 on {socket.gethostname()}: of 70 images of the first machine 1 are not here and 1 are "
        f"other files (first: {images[3]}); give every machine the same data, by its own --data"
    )
    assert [errors(one) for one in ended] == [[line], [line]]
    assert not (folders[0] / "run").exists()


def test_an_option_that_the_second_machine_alone_has_wrong(data: Path, tmp_path: Path) -> None:
    folders, options = [tmp_path / "first", tmp_path / "second"], [*EPOCH, "--data", str(data), "--out", "run"]
    ended = together(folders, [options, [*options, "--eopchs", "2"]])
    assert [one.returncode for one in ended] == [2, 2]
    line = f"error: process 1 on {socket.gethostname()}: unrecognized arguments: --eopchs 2; see train.py --help"
    assert [errors(one) for one in ended] == [[line], [line]]
    assert not (folders[0] / "run").exists()


def common(rank: int, *command_lines: str) -> Options:
    """What the process `rank` goes by, of as many as there are command lines."""
    topology = Topology(torch.device("cpu"), rank=rank, world=len(command_lines))
    given = [cli.parse(Options, None, line.split()) for line in command_lines]
    with pytest.MonkeyPatch.context() as patch:
        found = [(given[0], read_options(None, command_lines[0].split())), *((one, None) for one in given[1:])]
        patch.setattr(Topology, "together", lambda self, make: found)
        return common_options(None, command_lines[rank].split(), topology)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("--data d", "--data d --gpus 0", "--gpus is 0 in process 1 and left out in process 0"),
        ("--data d --amp off", "--data d", "--amp is auto in process 1 and off in process 0: start all "),
        ("--demo", "--demo --resume run", "--resume is given in process 1 and left out in process 0"),
    ],
)
def test_machines_that_were_started_with_other_options(first: str, second: str, message: str) -> None:
    for rank in (0, 1):
        with pytest.raises(UserError, match=message):
            common(rank, first, second)


def test_what_belongs_to_a_machine_is_its_own() -> None:
    """The rest is rank 0's, which has read the run's config.json or the defaults of --demo."""
    lines = "--data a --workers 2 --out one", "--data b --cache off --out two", ""
    assert common(0, *lines) == read_options(None, lines[0].split())
    second = common(1, *lines)
    assert (second.data, second.workers, second.cache, second.out) == (Path("b").resolve(), 2, "off", Path("one"))
    assert common(2, *lines) == common(0, *lines)
    assert common(1, "--demo", "--demo --workers 3").epochs == 24


# ---- predict.py under torchrun --------------------------------------------------------------------------


def test_processes_share_the_files_and_write_one_table(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "best.pt")
    (tmp_path / "photos").mkdir()
    for number in range(7):
        Image.fromarray(picture(number)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "5.png").write_bytes(b"no picture")
    names = "".join(f"photos/{number}.png\n" for number in range(7))
    common = [str(ROOT / "predict.py"), "-", "--checkpoint", str(checkpoint), "--amp", "off", "--json"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    tables = {}
    for way, start in (("alone", []), ("shared", launcher)):
        command = [sys.executable, *start, *common, "--csv", f"{way}.csv", "--explain", way]
        done = warm.run(command, input=names, cwd=tmp_path, env=environment, timeout=200)
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("cannot read photos/5.png") == 1
        assert [json.loads(line)["image"] for line in done.stdout.splitlines()] == names.split()
        with open(tmp_path / f"{way}.csv", newline="") as file:
            tables[way] = list(csv.DictReader(file))
        assert len(list((tmp_path / way).rglob("*.cam.png"))) == 6
    for one, other in zip(tables["alone"], tables["shared"], strict=True):
        for column, value in one.items():
            if value[:2] in ("0.", "1."):  # batches of other images round otherwise
                assert float(other[column]) == pytest.approx(float(value), abs=1e-5)
            else:
                assert other[column] == value.replace("alone/", "shared/")


def test_shares_are_neighbours_and_leave_nobody_out() -> None:
    import predict

    names = iter("abcde")
    assert predict.next_shares(names, 2) == [["a", "b", "c"], ["d", "e"]]
    assert predict.next_shares(names, 2) == []
    assert predict.next_shares(iter("a"), 2) == [["a"], []]
