"""Images inside an archive: unpacked once, read in any order by threads and processes, or refused in a line."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from skin.data import images, npz
from skin.data.dataset import PlainBatches, SkinDiseaseDataset, make_loader
from skin.data.images import Preprocess
from skin.data.npz import NpzFile, npz_image_size, read_npz_image, unpack_in
from skin.utils.errors import UserError
from tests.conftest import ROOT

import numpy as np
import pytest

ROWS = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "a.npz", train_images=ROWS, val_images=ROWS[:2])
    return tmp_path / "a.npz"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, and nothing known of other tests' archives."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(npz, "_BLOCK_BYTES", 64)
    for name in (npz._FOLDER, npz._TEMPORARY):
        monkeypatch.setenv(name, "")  # so that what a test sets is taken back
        monkeypatch.delenv(name)
    npz._load.cache_clear()
    return tmp_path / "scratch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The cache folder, in which arrays are unpacked."""
    unpack_in(tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arrays that this process unpacks, as they are unpacked."""
    real, seen = npz._unpack, []

    def counting(archive: str, array: str, target: Path, reserve: bool) -> None:
        seen.append(array)
        real(archive, array, target, reserve)

    monkeypatch.setattr(npz, "_unpack", counting)
    return seen


def read(archive: Path, row: int) -> np.ndarray:
    return read_npz_image(f"{archive}::train_images/{row}")


def with_member(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    """An archive with one array, of which only a description and some bytes are there."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train_images.npy", member.getvalue() + data)
    return path


def test_an_array_is_unpacked_once_and_its_rows_are_read_in_any_order(
    archive: Path, folder: Path, unpacked: list[str]
) -> None:
    for row in (3, 0, 39, 38, 0, 7, 7):
        assert np.array_equal(read(archive, row), ROWS[row])
    read(archive, 0)[:] = 0
    assert np.array_equal(read(archive, 0), ROWS[0]), "a row is the caller's own"
    npz._load.cache_clear()  # as another process, later
    assert np.array_equal(read(archive, 5), ROWS[5])
    assert unpacked == ["train_images"]
    (file,) = folder.glob("*.npy")
    assert np.array_equal(np.load(file), ROWS)
    assert all(npz.UNPACKED.fullmatch(path.name) for path in folder.iterdir())
    assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(UserError, match="40 rows"):
        read(archive, 40)


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: bytes(200)])
def test_an_unpacked_file_that_was_damaged_is_made_again(
    damage: Callable[[bytes], bytes], archive: Path, folder: Path, unpacked: list[str]
) -> None:
    read(archive, 0)
    (file,) = folder.glob("*.npy")
    npz._load.cache_clear()
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(read(archive, 0), ROWS[0])
    assert len(unpacked) == 2


def test_the_size_comes_from_the_header_alone(archive: Path, unpacked: list[str]) -> None:
    assert npz_image_size(f"{archive}::train_images/39") == (5, 6)
    with pytest.raises(UserError, match="40 rows"):
        npz_image_size(f"{archive}::train_images/40")
    assert unpacked == []


def test_eight_threads_that_ask_at_once_unpack_once(archive: Path, folder: Path, unpacked: list[str]) -> None:
    together = threading.Barrier(8)

    def ask(thread: int) -> bool:
        together.wait(timeout=30)
        order = np.random.default_rng(thread).permutation(40)
        return all(np.array_equal(read(archive, row), ROWS[row]) for row in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert len(unpacked) == 1


def test_processes_that_ask_at_once_unpack_once_and_one_that_is_killed_hinders_none(
    archive: Path, folder: Path, unpacked: list[str]
) -> None:
    code = (
        "import os, signal, sys\nfrom skin.data import npz\nreal = npz.write_all\n"
        "def write(file, data):\n    real(file, data)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if sys.argv[2] == 'kill':\n    npz.write_all = write\n"
        "print(npz.read_npz_image(sys.argv[1] + '::train_images/0').sum())"
    )

    def start(what: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, archive, what], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    killed = start("kill")
    killed.communicate(timeout=60)
    assert (killed.returncode, list(folder.glob("*.npy"))) == (-signal.SIGKILL, [])
    others = [start("read") for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in others] == [f"{ROWS[0].sum()}\n"] * 3
    assert np.array_equal(read(archive, 0), ROWS[0])
    assert (len(list(folder.glob("*.npy"))), unpacked) == (1, [])
    assert all(npz.UNPACKED.fullmatch(path.name) for path in folder.iterdir()), "--clear knows what is left of it"


def test_without_a_cache_a_temporary_folder_is_shared_by_a_process_and_its_children_and_goes_with_it(
    archive: Path, tmp_path: Path
) -> None:
    code = (
        "import subprocess, sys, tempfile\nfrom pathlib import Path\nfrom skin.data import npz\n"
        "npz.read_npz_image(sys.argv[1] + '::train_images/0')\n"
        "if len(sys.argv) == 2:\n    subprocess.run([sys.executable, *sys.orig_argv[1:], 'again'], check=True)\n"
        "    print(len(list(Path(tempfile.gettempdir()).rglob('*.npy'))))"
    )
    command = [sys.executable, "-c", code, archive]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    said = subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=60, stdout=subprocess.PIPE).stdout
    assert said == b"1\n"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_cache_folder_that_cannot_be_written_gives_way_to_a_temporary_one(archive: Path, scratch: Path) -> None:
    unpack_in(archive / "cache")  # a file is in its way
    assert np.array_equal(read(archive, 3), ROWS[3])
    assert len(list(scratch.rglob("*.npy"))) == 1


def test_a_disk_with_little_to_spare_is_left_to_others_than_the_cache(
    archive: Path, folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "spare_bytes", lambda where: ROWS.nbytes - 1)
    assert np.array_equal(read(archive, 3), ROWS[3])
    assert (len(list(folder.glob("*.npy"))), len(list(scratch.rglob("*.npy")))) == (0, 1)


def full(*args: object, **keywords: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["mkdtemp", "write_all", "disk_usage"])
def test_a_disk_without_room_is_one_line(
    archive: Path, scratch: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 0)
    owner, stand_in = {
        "mkdtemp": (tempfile, full), "write_all": (npz, full), "disk_usage": (npz.shutil, lambda folder: usage)
    }[call]  # fmt: skip
    monkeypatch.setattr(owner, call, stand_in)
    for row in range(2):
        with pytest.raises(UserError, match=r"cannot (unpack|make) .*: No space left on device; set TMPDIR"):
            read(archive, row)
    assert [path for path in scratch.rglob("*") if path.suffix in (".npy", ".tmp")] == []


def test_a_disk_that_the_kernel_says_is_full(archive: Path) -> None:
    code = (
        "import resource, sys\nfrom skin.data import npz\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    npz.read_npz_image(sys.argv[1] + '::train_images/0')\n"
        "except npz.UserError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code, archive]
    said = subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True).stdout
    assert "cannot unpack 0.00 GiB in" in said
    assert said.count("\n") == 1


def test_an_archive_that_is_replaced_is_read_anew(archive: Path, folder: Path) -> None:
    assert np.array_equal(read(archive, 1), ROWS[1])
    np.savez(archive, train_images=ROWS[::-1])
    assert np.array_equal(read(archive, 1), ROWS[38])
    assert len(list(folder.glob("*.npy"))) == 1, "the new array takes the place of the old one"


def test_an_array_without_rows_is_one_without_rows(archive: Path) -> None:
    np.savez(archive, train_images=ROWS[:0])
    with pytest.raises(UserError, match="the array has 0 rows"):
        read(archive, 0)


@pytest.mark.parametrize("shape", [(1, 10_000, 5_001), (1, 10_000, 5_001, 3), (1, 5_000, 5_000, 7)])
def test_a_row_beyond_the_pixel_limit_is_refused_by_the_header(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert npz.PIXEL_LIMIT < images.PIXEL_LIMIT
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    archive = with_member(tmp_path / "a.npz", header)
    monkeypatch.setattr(npz, "_exactly", None)
    for ask in (read_npz_image, npz_image_size):
        with pytest.raises(UserError, match="more than the 50,000,000 pixels"):
            ask(f"{archive}::train_images/0")


def test_an_index_of_such_rows_is_refused_and_one_at_the_limit_is_not(tmp_path: Path) -> None:
    for name, width in (("sound", 5_000), ("large", 5_001)):
        np.savez_compressed(tmp_path / f"{name}.npz", train_images=np.zeros((1, 10_000, width), np.uint8))
    assert NpzFile(tmp_path / "sound.npz").image_count("train_images") == 1
    with pytest.raises(UserError, match=r"train_images has images \[10000, 5001\], of more than the 50,000,000"):
        NpzFile(tmp_path / "large.npz").image_count("train_images")


@pytest.mark.parametrize(("at", "value"), [(6, 1), (8, 12), (8, 14), (8, 99)])
def test_encrypted_and_oddly_compressed_archives_are_damaged_ones(archive: Path, at: int, value: int) -> None:
    """`at` is where a member's own header says that it is encrypted, or how compressed; the index has it, too."""
    content = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", at), (b"PK\x01\x02", at + 2)):
        start = content.find(mark)
        while start >= 0:
            content[start + offset] = value
            start = content.find(mark, start + 4)
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be read as an \.npz archive"):
        NpzFile(archive)
    with pytest.raises(UserError, match="cannot read the image"):
        read(archive, 0)


@pytest.mark.parametrize("shape", [(60, 6, 5, 3), (-40, 6, 5, 3), (2**40, 6, 5, 3)])
def test_an_array_that_is_not_what_its_header_says_is_refused(
    tmp_path: Path, shape: tuple[int, ...], unpacked: list[str]
) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    archive = with_member(tmp_path / "a.npz", header, ROWS.tobytes())
    with pytest.raises(UserError, match=r"cannot be read as an \.npz archive"):
        NpzFile(archive)
    with pytest.raises(UserError, match="cannot read the image"):
        read(archive, 0)
    assert unpacked == [], "no room is asked for"


def test_a_damaged_array_is_inflated_once_and_not_for_each_of_its_images(
    archive: Path, folder: Path, unpacked: list[str]
) -> None:
    rows = np.random.default_rng(1).integers(0, 256, (20, 50, 50, 3), dtype=np.uint8)
    np.savez_compressed(archive, train_images=rows)
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("train_images.npy")
    content = bytearray(archive.read_bytes())
    content[info.header_offset + info.compress_size - 40] ^= 0xFF
    archive.write_bytes(content)
    for row in range(3):
        with pytest.raises(UserError, match=f"cannot read the image .*train_images/{row}: "):
            read(archive, row)
    assert len(unpacked) == 1
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []


def test_a_description_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A few kilobytes of zip may hold one."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("train_images.npy", b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 10_000)
    with pytest.raises(UserError, match="the description of an array is too long"):
        NpzFile(tmp_path / "a.npz")


def test_a_description_of_the_second_version_is_read(tmp_path: Path) -> None:
    member = io.BytesIO()
    np.lib.format.write_array(member, ROWS, version=(2, 0))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("train_images.npy", member.getvalue())
    assert np.array_equal(read(tmp_path / "a.npz", 5), ROWS[5])


def test_the_loaders_processes_share_what_is_unpacked(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{archive}::train_images/{row}" for row in range(40)]
    dataset = SkinDiseaseDataset(paths, np.zeros(40), Preprocess(4, 4, "bilinear", (0.5,) * 3, (0.5,) * 3))
    loader = make_loader(dataset, PlainBatches(40, 8), workers=1)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)  # in the processes, too
    assert sum(len(batch.images) for batch in loader if not batch.error) == 40
