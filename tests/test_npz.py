"""Images inside an archive: loaded once, read in any order by threads and forked processes, or refused in a line."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from skin import images, npz
from skin.dataset import PlainBatches, SkinDiseaseDataset, make_loader
from skin.errors import UserError
from skin.images import Preprocess
from skin.npz import NpzFile, npz_image_size, read_npz_image

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
ROWS = np.random.default_rng(0).integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "a.npz", train_images=ROWS, val_images=ROWS[:2])
    return tmp_path / "a.npz"


@pytest.fixture
def large(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive whose arrays are too large for memory, and `scratch` for the temporary files."""
    monkeypatch.setattr(npz, "_KEEP_BYTES", 100)
    monkeypatch.setattr(npz, "_BLOCK_BYTES", 64)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return archive


def read(archive: Path, row: int) -> np.ndarray:
    return read_npz_image(f"{archive}::train_images/{row}")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def with_member(path: Path, header: dict[str, Any], data: bytes = b"") -> Path:
    """An archive with one array, of which only a description and some bytes are there."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("train_images.npy", member.getvalue() + data)
    return path


def test_a_large_array_is_inflated_once_and_its_rows_are_read_in_any_order(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert np.array_equal(read(large, 3), ROWS[3])
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)
    for row in (0, 39, 38, 0, 7, 7):
        assert np.array_equal(read(large, row), ROWS[row])
    assert read(large, 0).flags.writeable
    assert list((large.parent / "scratch").iterdir()) == [], "no file is left to remove"
    with pytest.raises(UserError, match="40 rows"):
        read(large, 40)


def test_the_size_comes_from_the_header_alone(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_inflated", None)
    assert npz_image_size(f"{large}::train_images/39") == (5, 6)
    with pytest.raises(UserError, match="40 rows"):
        npz_image_size(f"{large}::train_images/40")


@pytest.mark.parametrize("keep", [100, 2**20])
def test_eight_threads_that_ask_at_once_load_once(
    large: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_KEEP_BYTES", keep)
    real, loads, together = npz._array_header, [], threading.Barrier(8)

    def slow(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        loads.append(threading.get_ident())
        time.sleep(0.05)
        return real(file)

    def ask(thread: int) -> bool:
        together.wait(timeout=30)
        order = np.random.default_rng(thread).permutation(40)
        return all(np.array_equal(read(large, row), ROWS[row]) for row in order)

    monkeypatch.setattr(npz, "_array_header", slow)
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    assert len(loads) == 1


FORK = """
import os, sys, threading, time, zipfile
import numpy as np
from skin import npz
path, keep, when = sys.argv[1], int(sys.argv[2]), sys.argv[3]
npz._KEEP_BYTES = keep
def read(rows):
    return [npz.read_npz_image(f"{path}::train_images/{row}") for row in rows]
with np.load(path) as file:
    expected = file["train_images"]
real, loading = npz._array_header, threading.Event()
def slow(file):
    loading.set()
    time.sleep(0.3)
    return real(file)
npz._array_header = slow
thread = threading.Thread(target=read, args=([0],))
thread.start()
loading.wait()
if when == "after":
    thread.join()
children = []
for child in range(2):
    if (process := os.fork()) == 0:
        if when == "after":
            zipfile.ZipFile = None  # what the parent has is shared
        order = np.random.default_rng(child).permutation(40).tolist() * 20
        os._exit(0 if all(map(np.array_equal, read(order), expected[order])) else 1)
    children.append(process)
thread.join()
order = np.random.default_rng(9).permutation(40).tolist() * 20
assert all(map(np.array_equal, read(order), expected[order]))
assert [os.waitpid(process, 0)[1] for process in children] == [0, 0]
"""


@pytest.mark.parametrize("when", ["after", "while it is"])
@pytest.mark.parametrize("keep", [100, 2**20])
def test_processes_forked_after_loading_share_it_and_one_forked_meanwhile_does_not_wait_for_ever(
    archive: Path, keep: int, when: str
) -> None:
    subprocess.run([sys.executable, "-c", FORK, archive, str(keep), when], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("call", ["TemporaryFile", "posix_fallocate"])
def test_a_disk_without_room_is_one_line(large: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = descriptors()
    monkeypatch.setattr(tempfile if call == "TemporaryFile" else os, call, full)
    for row in range(2):
        with pytest.raises(UserError, match=r"no room to unpack .* GiB in .*: No space left on device; set TMPDIR"):
            read(large, row)
    assert descriptors() == before


def test_a_disk_that_the_kernel_says_is_full(archive: Path) -> None:
    code = (
        "import resource, sys\nfrom skin import npz\nnpz._KEEP_BYTES = 100\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n    npz.read_npz_image(sys.argv[1] + '::train_images/0')\n"
        "except npz.UserError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code, archive]
    said = subprocess.run(command, cwd=ROOT, check=True, timeout=60, capture_output=True, text=True).stdout
    assert "no room to unpack" in said
    assert said.count("\n") == 1


def test_a_temporary_file_goes_with_what_was_read_from_it(large: Path) -> None:
    npz._load.cache_clear()  # of what other tests have left
    before = descriptors()
    read(large, 0)
    assert descriptors() == before + 1
    npz._load.cache_clear()
    assert descriptors() == before


def test_an_archive_that_is_replaced_is_read_anew(archive: Path) -> None:
    assert np.array_equal(read(archive, 1), ROWS[1])
    np.savez(archive, train_images=ROWS[::-1])
    assert np.array_equal(read(archive, 1), ROWS[38])


@pytest.mark.parametrize("shape", [(1, 10_000, 5_001), (1, 10_000, 5_001, 3), (1, 5_000, 5_000, 7)])
def test_a_row_beyond_the_pixel_limit_is_refused_by_the_header(
    tmp_path: Path, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert npz.PIXEL_LIMIT == images.PIXEL_LIMIT
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


@pytest.mark.parametrize("keep", [100, 2**40])
@pytest.mark.parametrize("shape", [(60, 6, 5, 3), (-40, 6, 5, 3), (2**40, 6, 5, 3)])
def test_an_array_that_is_not_what_its_header_says_is_refused(
    tmp_path: Path, shape: tuple[int, ...], keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "_KEEP_BYTES", keep)
    monkeypatch.setattr(os, "posix_fallocate", None)  # no room is asked for
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    archive = with_member(tmp_path / "a.npz", header, ROWS.tobytes())
    with pytest.raises(UserError, match=r"cannot be read as an \.npz archive"):
        NpzFile(archive)
    with pytest.raises(UserError, match="cannot read the image"):
        read(archive, 0)


def test_a_damaged_array_is_inflated_once_and_not_for_each_of_its_images(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(1).integers(0, 256, (20, 50, 50, 3), dtype=np.uint8)
    np.savez_compressed(large, train_images=rows)
    with zipfile.ZipFile(large) as file:
        info = file.getinfo("train_images.npy")
    content = bytearray(large.read_bytes())
    content[info.header_offset + info.compress_size - 40] ^= 0xFF
    large.write_bytes(content)
    before, real, loads = descriptors(), npz._inflated, []
    monkeypatch.setattr(npz, "_inflated", lambda file, size: (loads.append(size), real(file, size))[1])
    for row in range(3):
        with pytest.raises(UserError, match=f"cannot read the image .*train_images/{row}: "):
            read(large, row)
    assert (len(loads), descriptors()) == (1, before)


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
    monkeypatch.setattr(npz, "_KEEP_BYTES", 100)
    paths = [f"{archive}::train_images/{row}" for row in range(40)]
    dataset = SkinDiseaseDataset(paths, np.zeros(40), Preprocess(4, 4, "bilinear", (0.5,) * 3, (0.5,) * 3))
    loader = make_loader(dataset, PlainBatches(40, 8), workers=1)
    monkeypatch.setattr(zipfile.ZipExtFile, "read", None)  # in the processes, too
    assert sum(len(batch.images) for batch in loader if not batch.error) == 40
