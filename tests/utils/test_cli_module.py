"""One way to declare options and one way to end, for every script."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from skin.utils import cli
from skin.utils.cli import option
from skin.utils.errors import UserError
from tests.conftest import ROOT

import pytest


@dataclass(frozen=True)
class Example:
    epochs: int = option(20, "how often", group="training", metavar="N")
    lr: float = option(1e-4, "how fast", group="training")
    patience: int = option(0, "how long", group="training")
    check: bool = option(False, "look only", group="data")
    data: Path | None = option(None, "where 100% of it is", group="data")
    amp: str = option("auto", "how exactly", group="machine", choices=("auto", "off"))
    run: Path | None = option(None, "which", group="machine", nargs="?", const=Path("latest"))
    images: tuple[str, ...] = option((), "what", group="data", positional=True, nargs="*")


def parse(*argv: str, **defaults: object) -> Example:
    return cli.parse(Example, "An example.", argv, defaults)


def test_defaults_and_values_of_every_type() -> None:
    assert parse() == Example()
    given = parse("--epochs", "3", "--lr", "1e-3", "--check", "--data", "a b", "--amp", "off", "x.png", "y.png")
    assert given == Example(3, 1e-3, 0, True, Path("a b"), "off", None, ("x.png", "y.png"))
    assert parse("--run").run == Path("latest")
    assert parse("--run", "r").run == Path("r")


def test_a_path_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell leaves `~` as it is in `--out=~/r`."""
    monkeypatch.setenv("HOME", "/home/of/mine")
    assert parse("--data=~/r").data == Path("/home/of/mine/r")
    assert parse("--run", "~").run == Path("/home/of/mine")
    assert parse("--data=a~/r").data == Path("a~/r")


def test_other_defaults_come_before_the_classs_and_after_the_command_line() -> None:
    assert parse(epochs=5, lr=0.5) == Example(5, 0.5)
    assert parse("--epochs", "7", epochs=5).epochs == 7


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--lr"], "argument --lr: expected one argument"),
        (["--amp", "fp8"], "argument --amp: invalid choice: 'fp8'"),
        (["--epoch", "3"], "unrecognized arguments: --epoch"),  # no abbreviations: they break when an option is added
        (["--check=yes"], "argument --check: ignored explicit argument 'yes'"),
    ],
)
def test_a_wrong_option_is_one_line_that_points_at_the_help(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert message in str(error.value)
    assert str(error.value).endswith("--help")
    assert "\n" not in str(error.value)


def test_help_is_grouped_says_defaults_and_fits_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as ended:
        parse("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.endswith(":")][1:] == ["training:", "data:", "machine:"]
    assert "how often (default: 20)" in text
    assert "how long (default: 0)" in text
    assert "where 100% of it is\n" in text
    assert max(map(len, text.splitlines())) <= 60


def test_settings_as_json() -> None:
    plain = cli.plain(Example(data=Path("a/b"), images=("x", "y")))
    assert json.loads(json.dumps(plain)) == {
        "epochs": 20, "lr": 1e-4, "patience": 0, "check": False, "data": "a/b", "amp": "auto", "run": None,
        "images": ["x", "y"],
    }  # fmt: skip


def ending(body: str) -> subprocess.CompletedProcess[str]:
    """A process that runs `def main(): <body>` as a script does. No torch: it starts in a blink."""
    imports = "import os, signal, sys\nfrom skin.utils import cli\nfrom skin.utils.errors import UserError"
    code = f"{imports}\ndef main():\n    {body}\ncli.run(main)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("return None", 0, ""),
        ("return 1", 1, ""),
        ("raise UserError('no\\nsuch \\x1b[31mthing')", 2, "error: no\\nsuch \\x1b[31mthing\n"),
        ("raise KeyboardInterrupt", 130, ""),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, ""),
        ("os.kill(os.getpid(), signal.SIGTERM); signal.pause()", 143, ""),
        ("raise BrokenPipeError", 141, ""),
        ("open('/nowhere/x')", 2, "error: No such file or directory: /nowhere/x\n"),
    ],
)
def test_how_a_script_ends(body: str, code: int, stderr: str) -> None:
    ended = ending(body)
    assert (ended.returncode, ended.stderr) == (code, stderr)


def test_a_bug_is_not_hidden() -> None:
    ended = ending("raise ZeroDivisionError('ours')")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from skin.utils import cli\ncli.run(lambda: [print('x' * 1000) for _ in range(10_000)] and None)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


def test_ctrl_c_while_packages_are_imported_is_no_error() -> None:
    with pytest.raises(SystemExit) as left:
        cli._say_what_is_missing(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert left.value.code == 130


def test_a_library_that_finds_no_room_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = ImportError("libtorch_cuda.so: failed to map segment from shared object")
    with pytest.raises(SystemExit) as left:
        cli._say_what_is_missing(ImportError, error, None)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this machine, or a limit such as ulimit -v, leaves too little memory to load")
    assert "(libtorch_cuda.so): end what else uses it, or raise the limit\n" in said
