"""Checkpoints: whole or not at all when written; read without running, believing or unpacking a stranger's file."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import resource
import signal
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from skin.model import calibration, checkpoint, tensorfile
from skin.model import network as networks
from skin.training import columns, run_folder, saver
from skin.training.options import MOST_EPOCHS
from skin.training.saver import Saver
from skin.utils import files
from skin.utils.errors import UserError
from skin.utils.files import WriteError
from tests.conftest import ROOT
from tests.tiny import FEATURES

import filelock
import numpy as np
import pytest
import torch

# ---- writing --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow over `size` bytes: a full disk at a place of our choosing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"t": torch.arange(3), "n": 1, "x": 0.5, "s": "é\n", "none": None, "list": [1, (True, "a")], 7: {"k": []}}
    checkpoint.save(state, tmp_path / "a.pt")
    loaded = checkpoint.load(tmp_path / "a.pt")
    assert loaded.pop("t").equal(state.pop("t"))  # type: ignore[attr-defined]
    assert loaded == state
    assert names(tmp_path) == ["a.pt"]


def test_a_disk_that_fills_up_at_any_byte_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save({"t": torch.zeros(300)}, path)
    before, size = path.read_bytes(), path.stat().st_size
    for limit in range(0, size, 97):
        with largest_file(limit), pytest.raises(WriteError, match=r"cannot write .*a\.pt: File too large; .* kept"):
            checkpoint.save({"t": torch.ones(300)}, path)
        assert path.read_bytes() == before
        assert names(tmp_path) == ["a.pt"]


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No such file or directory"):
        checkpoint.save({}, tmp_path / "gone" / "a.pt")


def test_the_file_before_is_kept_under_its_other_name(tmp_path: Path) -> None:
    for number in range(3):
        checkpoint.save({"n": number}, tmp_path / "last.pt", previous=tmp_path / "last-previous.pt")
    assert checkpoint.load(tmp_path / "last.pt") == {"n": 2}
    assert checkpoint.load(tmp_path / "last-previous.pt") == {"n": 1}
    assert names(tmp_path) == ["last-previous.pt", "last.pt"]


def test_a_kill_between_the_two_renames_leaves_nothing_behind_later(tmp_path: Path) -> None:
    """Then both names are of one file, and a rename from one to the other would do nothing."""
    checkpoint.save({"n": 0}, tmp_path / "last.pt")
    os.link(tmp_path / "last.pt", tmp_path / "last-previous.pt")
    checkpoint.save({"n": 1}, tmp_path / "last.pt", previous=tmp_path / "last-previous.pt")
    assert names(tmp_path) == ["last-previous.pt", "last.pt"]
    assert checkpoint.load(tmp_path / "last-previous.pt") == {"n": 0}


def test_it_is_kept_on_a_file_system_without_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*names: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for number in range(2):
        checkpoint.save({"n": number}, tmp_path / "last.pt", previous=tmp_path / "last-previous.pt")
    assert checkpoint.load(tmp_path / "last-previous.pt") == {"n": 0}


# ---- saving in a thread ---------------------------------------------------------------------------------

SOUND = {"weight": torch.ones(2)}


def state_of(number: int) -> dict[str, Any]:
    return {"model": {"weight": torch.full((4,), float(number))}, "number": number}


@pytest.fixture
def said() -> list[str]:
    return []


def test_what_changes_after_save_is_saved_as_it_was(tmp_path: Path, said: list[str]) -> None:
    state = state_of(1)
    with Saver(tmp_path, said.append) as keeper:
        keeper.save(state, {"best": 1}, [])
        state["model"]["weight"] += 1
        state["number"] = 2
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["number"] == 1
    assert loaded["model"]["weight"].tolist() == [1.0] * 4
    assert checkpoint.load(tmp_path / "best.pt") == {"best": 1}
    assert (tmp_path / "metrics.csv").exists()


def test_best_goes_first_and_metrics_last(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b))[1])
    with Saver(tmp_path, said.append) as keeper:
        keeper.save(state_of(1), {"best": 1}, [])
        keeper.save(state_of(2), None, [])
    assert order == ["best.pt", "last.pt", "metrics.csv", "last-previous.pt", "last.pt", "metrics.csv"]


def test_a_full_disk_at_last_pt_is_said_and_the_next_save_tries_again(tmp_path: Path, said: list[str]) -> None:
    with Saver(tmp_path, said.append) as keeper:
        keeper.save(state_of(1), None, [])
        keeper.wait()
        with largest_file(100):
            keeper.save(state_of(2), None, [])
            keeper.wait()
        assert keeper.unsaved
        assert len(said) == 1
        assert "last.pt: File too large" in said[0]
        assert "training goes on" in said[0]
        assert checkpoint.load(tmp_path / "last.pt")["number"] == 1
        keeper.save(state_of(3), None, [])
    assert not keeper.unsaved
    assert checkpoint.load(tmp_path / "last.pt")["number"] == 3


def test_a_full_disk_at_best_pt_stops_and_leaves_last_pt_before_it(tmp_path: Path, said: list[str]) -> None:
    keeper = Saver(tmp_path, said.append)
    keeper.save(state_of(1), None, [])
    keeper.wait()
    with largest_file(100):
        keeper.save(state_of(2), {"best": 2}, [])
        with pytest.raises(WriteError, match=r"best\.pt"):
            keeper.wait()
    assert checkpoint.load(tmp_path / "last.pt")["number"] == 1  # so that --resume comes by the best epoch again


def test_a_folder_that_is_removed_stops(tmp_path: Path, said: list[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    keeper = Saver(folder, said.append)
    folder.rmdir()
    keeper.save(state_of(1), None, [])
    with pytest.raises(UserError, match=r"run folder .* is gone"):
        keeper.wait()


def test_weights_that_are_not_finite_do_not_take_the_place_of_good_ones(tmp_path: Path, said: list[str]) -> None:
    keeper = Saver(tmp_path, said.append)
    keeper.save(state_of(1), None, [])
    keeper.save({"model": {"weight": torch.tensor([1.0, float("nan")])}}, None, [])
    with pytest.raises(UserError, match="no longer finite"):
        keeper.wait()
    assert checkpoint.load(tmp_path / "last.pt")["number"] == 1


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, said: list[str]) -> None:
    with pytest.raises(TypeError, match="plain values"):
        Saver(tmp_path, said.append).save({"model": {}, "path": tmp_path}, None, [])


def test_a_second_process_does_not_train_in_the_same_folder(tmp_path: Path) -> None:
    with run_folder.hold(tmp_path), pytest.raises(UserError, match="another process is training"):
        run_folder.hold(tmp_path).__enter__()
    with run_folder.hold(tmp_path):
        pass


def test_a_loaders_process_that_outlives_a_killed_run_does_not_hold_its_folder(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
from pathlib import Path
from skin.training.run_folder import hold
with hold(Path(sys.argv[1])):
    if (child := os.fork()) == 0:
        time.sleep(60)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    child = int(killed.stdout.readline())
    try:
        assert killed.wait(60) == -signal.SIGKILL
        with run_folder.hold(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        killed.stdout.close()


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()])
def test_a_file_system_without_locks_is_trained_on(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with run_folder.hold(tmp_path), run_folder.hold(tmp_path):
        pass


def test_the_room_that_checkpoints_need() -> None:
    """1,000 weights of 4 bytes: three files last.pt with two moments each, two files best.pt."""
    assert saver.bytes_needed(torch.nn.Linear(10, 100, bias=False)) == 3 * 12_000 + 2 * 4_000


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_and_a_full_share_of_one_are_said(number: int, tmp_path: Path) -> None:
    (tmp_path / "last.pt").touch()
    said = str(files.WriteError(tmp_path / "last.pt", OSError(number, os.strerror(number))))
    assert said == (
        f"cannot write {tmp_path}/last.pt: the disk, or your share of it, is full ({os.strerror(number)}); "
        "the file that was there is kept"
    )


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".last.pt.123.tmp").write_bytes(b"half")
    with run_folder.hold(tmp_path):
        assert names(tmp_path) == [run_folder.LOCK]


def test_the_newest_file_that_can_be_read_is_gone_on_from(tmp_path: Path) -> None:
    assert saver.newest(tmp_path)[0] is None
    for number in (1, 2):
        checkpoint.save({"n": number}, tmp_path / "last.pt", previous=tmp_path / "last-previous.pt")
    assert saver.newest(tmp_path) == ({"n": 2}, str(tmp_path / "last.pt"))
    content = bytearray((tmp_path / "last.pt").read_bytes())
    (tmp_path / "last.pt").write_bytes(content[:-9])
    state, source = saver.newest(tmp_path)
    assert state == {"n": 1}
    assert "going on from last-previous.pt" in source
    (tmp_path / "last.pt").unlink()
    assert saver.newest(tmp_path) == ({"n": 1}, str(tmp_path / "last-previous.pt"))
    (tmp_path / "last-previous.pt").write_bytes(b"")
    with pytest.raises(UserError, match="empty"):
        saver.newest(tmp_path)


# ---- reading what strangers send ------------------------------------------------------------------------


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


class _Asks:
    """Unpickled, it asks for a terabyte."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2**40,)


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/version", "3\n")
        for name, content in more.items():
            file.writestr(f"archive/{name}", content)
    return path


def archive_of(records: dict[str, bytes], path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records.items():
            file.writestr(name, content)
    return path


def saved(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def flipped(path: Path) -> Path:
    """One bit of a tensor is another."""
    content = bytearray(saved({"t": torch.zeros(1000)}, path).read_bytes())
    content[content.index(bytes(2000)) + 1000] ^= 1
    path.write_bytes(content)
    return path


def doubling(depth: int) -> list[Any]:
    """Small in the file, 2 to the power of `depth` values when walked through."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


class _OwnItems:
    """Unpickled, it is an OrderedDict whose `items` is no function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"items": "no function"}, None, iter([("a", 1)])


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a pickle that runs": (lambda p: saved({"a": _Runs(str(p.parent / "ran"))}, p), "mkdir, which is no tensor"),
    "the same, old format": (
        lambda p: (torch.save({"a": _Runs(str(p.parent / "ran"))}, p, _use_new_zipfile_serialization=False), p)[1],
        "not what torch.save writes",
    ),
    "a bare pickle": (lambda p: (p.write_bytes(pickle.dumps({"a": 1})), p)[1], "not what torch.save writes"),
    "protocol 4": (lambda p: archive(p, pickle.dumps({"a": 1}, 4)), "protocol 4"),
    "a terabyte by name": (lambda p: saved({"a": _Asks()}, p), "bytearray, which is no tensor"),
    "a tensor of stride 0": (lambda p: saved({"a": torch.zeros(1).expand(2**40)}, p), "larger than its data"),
    "a deflated record": (
        lambda p: archive(p, pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, **{"data/0": bytes(2**20)}),
        "compressed",
    ),
    "a record twice": (lambda p: archive(p, pickle.dumps({}, 2), **{"DATA.pkl": b"}."}), "doubled"),
    "a description in capitals": (lambda p: archive_of({"archive/DATA.PKL": pickle.dumps(_Asks(), 2)}, p), "tensor"),
    "a second description": (lambda p: archive(p, pickle.dumps({}, 2), **{"more.pkl": b"."}), "one description"),
    "no description": (lambda p: archive_of({"archive/version": b"3"}, p), "one description"),
    "an old pickle with an archive behind it": (
        lambda p: (p.write_bytes(pickle.dumps(_Asks(), 2) + saved({}, p).read_bytes()), p)[1],
        "not what torch.save writes",
    ),
    "nested without end": (lambda p: saved({"a": doubling(40)}, p), "nested too deep"),
    "many in few bytes": (lambda p: saved({"a": [doubling(13)] * 1000}, p), "too many values"),
    "a flipped bit": (flipped, "damaged"),
    "a list": (lambda p: saved([1], p), "holds a list"),
    "a set": (lambda p: saved({"a": {1}}, p), "no tensor"),
    "a huge number": (lambda p: saved({"a": 2**200}, p), "holds a int"),
    "a key that is a tuple": (lambda p: saved({(1, 2): 1}, p), "other keys"),
    "a sparse tensor": (lambda p: saved({"a": torch.eye(3).to_sparse()}, p), "no tensor"),
    "text": (lambda p: (p.write_text("hello"), p)[1], "not what torch.save writes"),
    "a pipe": (lambda p: (os.mkfifo(p), p)[1], "it is a pipe or a device"),
    "nothing": (lambda p: (p.write_bytes(b""), p)[1], "empty"),
    "a tail": (lambda p: (p.write_bytes(saved({}, p).read_bytes() + b"PK\5\6"), p)[1], "not what torch.save writes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[kind]
    with pytest.raises(UserError, match=reason) as caught:
        tensorfile.load(make(tmp_path / "a.pt"))
    assert "a.pt" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_every_cut_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    whole = saved({"t": torch.arange(20), "a": [1, 2]}, tmp_path / "a.pt").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        with pytest.raises(UserError):
            tensorfile.load(tmp_path / "b.pt")


def test_an_ordered_dict_does_not_bring_its_own_methods(tmp_path: Path) -> None:
    assert tensorfile.load(saved({"d": _OwnItems()}, tmp_path / "a.pt")) == {"d": {"a": 1}}


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        tensorfile.load(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="Is a directory"):
        tensorfile.load(tmp_path)


# ---- best.pt --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def best() -> dict[str, Any]:
    """What a best.pt of a B0 with three classes holds."""
    network = networks.build("efficientnet_b0", 3)
    places = {"means": torch.zeros(3, FEATURES), "directions": torch.zeros(2, FEATURES)}
    gaussians = {**places, "variances": [0.1, 0.2], "rest": 0.1}
    thresholds = {"thresholds": [0.1, 0.2, 0.3], "shared": [1]}
    return {
        "format_version": 1,
        "model": network.state_dict(),
        "classes": ["a", "b", "c"],
        "preprocess": networks.preprocess_for("efficientnet_b0", 64).to_dict(),
        "config": {"model": "efficientnet_b0", "data": None, "seed": 3},
        "metrics": {"epoch": 1, "val_macro_auc": float("nan")},
        "calibration": {
            "images": 9,
            "temperature": 1.5,
            "sets": {"90": thresholds, "95": thresholds},
            "unlike": {**gaussians, "threshold": float("inf")},
            "biases": [0.5, 0.0, -0.5],
            "cross_validation": {"temperature": 0.7, "biases": 0.6},
            "decision": "most probable",
            "mean_probabilities": [0.2, 0.3, 0.5],
            "answers": {
                "logits": torch.zeros(9, 3), "labels": torch.arange(9) % 3, "groups": torch.arange(9),
            },
        },
    }  # fmt: skip


def changed(state: dict[str, Any], *path: str, value: Any) -> dict[str, Any]:
    """A copy of nested dicts with another value at `path`; without it where the value is `KeyError`."""
    copy = dict(state)
    if len(path) > 1:
        copy[path[0]] = changed(state[path[0]], *path[1:], value=value)
    elif value is KeyError:
        del copy[path[0]]
    else:
        copy[path[0]] = value
    return copy


def test_a_sound_checkpoint_is_read(best: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(best, tmp_path / "best.pt")
    read = checkpoint.load_best(tmp_path / "best.pt")
    assert read.classes == ("a", "b", "c")
    assert read.model_name == "efficientnet_b0"
    assert not read.network.training
    assert read.network.state_dict()["features.0.0.weight"].equal(best["model"]["features.0.0.weight"])


UNSOUND: list[tuple[tuple[str, ...], Any, str]] = [
    (("format_version",), 2, "is of format version 2, and this program reads 1"),
    (("format_version",), "2", "not a best.pt of format version 1"),
    (("model",), [], "'model' is not a dict"),
    (("classes",), [], "different names"),
    (("classes",), ["a", "a", "b"], "different names"),
    (("classes",), ["a", "b", 3], "different names"),
    (("classes",), ["a", "b", "\ud800"], "different names"),
    (("classes",), ["a", "b"], "classifier.1.weight is not"),
    (("config", "model"), "resnet50", "unknown model 'resnet50'"),
    (("config", "model"), KeyError, "unknown model None"),
    (("config", "data"), 5, "config's 'data' is a int"),
    (("config", "seed"), True, "config's 'seed' is a bool"),
    (("metrics", "epoch"), "1", "'metrics' holds values that are not numbers"),
    (("preprocess", "std"), [0, 0, 0], "damaged checkpoint: the preprocessing's std must be above zero"),
    (("model", "features.0.0.weight"), KeyError, "features.0.0.weight is missing"),
    (("model", "extra"), torch.zeros(1), "extra is unknown"),
    (("model", "features.0.0.weight"), torch.zeros(32, 3, 3, 3).double(), "is not torch.float32"),
    (("model", "classifier.1.bias"), torch.tensor([0.0, float("inf"), 0.0]), "not finite"),
    (("model", "classifier.1.bias"), "text", "is not torch.float32"),
    (("calibration", "temperature"), 0.0, "calibration does not fit"),
    (("calibration", "temperature"), KeyError, "calibration does not fit"),
    (("calibration", "sets", "90", "thresholds"), [0.1], "calibration does not fit"),
    (("calibration", "sets", "90", "shared"), [7], "calibration does not fit"),
    (("calibration", "sets"), 3, "calibration does not fit"),
    (("calibration", "unlike", "means"), torch.zeros(3, 7), "calibration does not fit"),
    (("calibration", "unlike", "means"), [[0.0] * FEATURES], "calibration does not fit"),
    (("calibration", "unlike", "variances"), [0.1], "calibration does not fit"),
    (("calibration", "unlike", "rest"), float("nan"), "calibration does not fit"),
    (("calibration", "unlike", "threshold"), "far", "calibration does not fit"),
    (("calibration", "biases"), [0.5, 0.0], "calibration does not fit"),
    (("calibration", "biases"), [0.5, 0.0, float("nan")], "calibration does not fit"),
    (("calibration", "biases"), "abc", "calibration does not fit"),
    (("calibration", "cross_validation", "biases"), KeyError, "calibration does not fit"),
    (("calibration", "decision"), "the prettiest", "calibration does not fit"),
    (("calibration", "decision"), ["balanced"], "calibration does not fit"),
    (("calibration", "mean_probabilities"), [0.5, 0.5, 0.0], "calibration does not fit"),
    (("calibration", "answers", "logits"), torch.zeros(9, 4), "calibration does not fit"),
    (("calibration", "answers", "logits"), torch.full((9, 3), float("inf")), "calibration does not fit"),
    (("calibration", "answers", "labels"), torch.arange(9), "calibration does not fit"),
    (("calibration", "answers", "labels"), torch.zeros(9), "calibration does not fit"),
    (("calibration", "answers", "groups"), torch.arange(8), "calibration does not fit"),
    (("calibration", "answers", "groups"), KeyError, "calibration does not fit"),
]
NEWER = ("biases", "cross_validation", "decision", "mean_probabilities", "answers")


@pytest.mark.parametrize("lacking", [NEWER, *[(name,) for name in NEWER]])
def test_a_checkpoint_from_before_there_were_biases_is_read(
    lacking: tuple[str, ...], best: dict[str, Any], tmp_path: Path
) -> None:
    older = {name: value for name, value in best["calibration"].items() if name not in lacking}
    checkpoint.save({**best, "calibration": older}, tmp_path / "best.pt")
    found = calibration.probabilities_of(checkpoint.load_best(tmp_path / "best.pt").calibration, [[3.0, 0.0, 0.0]])
    biases = np.zeros(3) if "biases" in lacking else np.array([0.5, 0.0, -0.5])
    expected = np.exp(np.array([2.0, 0.0, 0.0]) + biases)
    np.testing.assert_allclose(found[0], expected / expected.sum())


@pytest.mark.parametrize(("path", "value", "reason"), UNSOUND)
def test_a_checkpoint_that_does_not_fit_its_model_is_refused(
    path: tuple[str, ...], value: Any, reason: str, best: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    state = changed(best, *path, value=value)
    monkeypatch.setattr(checkpoint, "load", lambda path: state)
    (tmp_path / "best.pt").touch()
    with pytest.raises(UserError, match=reason):
        checkpoint.load_best(tmp_path / "best.pt")


def test_no_checkpoint_says_how_to_train_one_and_a_folder_that_a_file_is_meant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*train\.py"):
        checkpoint.load_best(tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"is a folder; name a best\.pt"):
        checkpoint.load_best(tmp_path)
    (tmp_path / "best.pt").touch()
    with pytest.raises(UserError, match=r"(.*) is a folder; name the model in it, \1/best\.pt"):
        checkpoint.load_best(tmp_path)


def test_names_from_a_checkpoint_cannot_write_to_the_terminal(best: dict[str, Any], tmp_path: Path) -> None:
    checkpoint.save(changed(best, "config", "model", value="\x1b[2Jgone\nerror: fine"), tmp_path / "best.pt")
    with pytest.raises(UserError) as caught:
        checkpoint.load_best(tmp_path / "best.pt")
    assert str(caught.value).isprintable()


def test_the_reader_takes_what_the_writer_gives_through_a_buffer_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(SOUND, buffer)
    (tmp_path / "weights.pth").write_bytes(buffer.getvalue())
    assert tensorfile.load(tmp_path / "weights.pth")["weight"].tolist() == [1.0, 1.0]


def test_the_longest_run_of_the_largest_model_can_be_loaded(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = networks.build("efficientnet_b7", 100)
    number = torch.zeros(())
    moments = {"step": number, "exp_avg": number, "exp_avg_sq": number}
    state = {
        "model": dict.fromkeys(network.state_dict(), number),
        "optimizer": {n: dict(moments) for n, _ in enumerate(network.parameters())},
        "history": [dict.fromkeys(columns.NAMES, epoch + 0.1) for epoch in range(MOST_EPOCHS)],
    }
    checkpoint.save(state, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt")["history"] == state["history"]
