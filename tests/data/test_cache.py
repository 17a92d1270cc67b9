"""The pixel cache: the same bytes as decoding, decoded once, whatever happens to its processes and its files."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from skin.data import cache as module
from skin.data.cache import PixelCache, list_caches
from skin.data.images import ImageError, Preprocess, read_image
from skin.utils import files
from tests.conftest import ROOT

import numpy as np
import pytest

PREPROCESS = Preprocess(32, 40, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
IMAGES = 24


@pytest.fixture(scope="module")
def paths(demo_folder: Path) -> list[str]:
    return sorted(map(str, demo_folder.rglob("*.jpg")))[:IMAGES]


@pytest.fixture(scope="module")
def stored(paths: list[str]) -> list[np.ndarray]:
    return [read_image(path, PREPROCESS) for path in paths]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that this process decodes, as they are decoded."""
    seen: list[str] = []

    def counting(path: str, preprocess: Preprocess) -> np.ndarray:
        seen.append(path)
        return read_image(path, preprocess)

    monkeypatch.setattr(module, "read_image", counting)
    return seen


def assert_right(cache: PixelCache, stored: list[np.ndarray]) -> None:
    for index, expected in enumerate(stored):
        np.testing.assert_array_equal(cache.read(index), expected)


def kept(folder: Path) -> list[Path]:
    """The files of the stored images in a cache folder."""
    return sorted(folder.glob("*/??/*.pixels"))


def in_a_process(code: str, *args: object) -> subprocess.Popen[str]:
    """Run `code` with PREPROCESS, and `paths` and `folder` from `args`, in a Python of its own."""
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom skin.data import cache as module\n"
        "from skin.data.cache import PixelCache\nfrom skin.data.images import Preprocess\n"
        f"PREPROCESS = {PREPROCESS!r}\nfolder, paths = Path(sys.argv[1]), sys.argv[2:]\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, args)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return output


def test_an_image_is_decoded_once_and_comes_back_as_it_was(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    first = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(first, stored)
    assert_right(first, stored)
    assert decoded == paths
    again = PixelCache.open(list(reversed(paths)), replace(PREPROCESS, image_size=8), tmp_path)
    assert_right(again, stored[::-1])
    assert decoded == paths, "another order, image size, mean or std needs no other stored image"
    assert (len(kept(tmp_path)), first.note, again.note) == (IMAGES, None, None)
    mine = again.read(0)
    mine[:] = 0
    np.testing.assert_array_equal(again.read(0), stored[-1])


def test_paths_as_bytes_are_the_same_paths(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    decoded.clear()
    assert_right(PixelCache.open(np.array([os.fsencode(path) for path in paths]), PREPROCESS, tmp_path), stored)
    assert decoded == []


def test_it_tells_how_many_of_its_images_it_keeps(tmp_path: Path, paths: list[str]) -> None:
    """Two are read; one of their files is then another one."""
    copies = [shutil.copy(path, tmp_path) for path in paths[:3]]
    cache = PixelCache.open(copies, PREPROCESS, tmp_path / "cache")
    assert cache.kept() == 0
    cache.read(0)
    cache.read(2)
    assert cache.kept() == 2
    shutil.copy(paths[3], copies[2])
    assert PixelCache.open(copies, PREPROCESS, tmp_path / "cache").kept() == 1


def test_another_stored_size_is_another_cache(tmp_path: Path, paths: list[str]) -> None:
    for other in (PREPROCESS, replace(PREPROCESS, resize_size=41), replace(PREPROCESS, interpolation="bilinear")):
        cache = PixelCache.open(paths, other, tmp_path)
        np.testing.assert_array_equal(cache.read(0), read_image(paths[0], other))
    assert [(entry.what, entry.files) for entry in list_caches(tmp_path)] == [
        ("40 px bicubic", 1), ("40 px bilinear", 1), ("41 px bicubic", 1)
    ]  # fmt: skip


def test_a_changed_file_is_decoded_again(tmp_path: Path, paths: list[str]) -> None:
    copy = tmp_path / "a.jpg"
    for source in paths[:2]:
        copy.write_bytes(Path(source).read_bytes())
        os.utime(copy, ns=(0, Path(source).stat().st_mtime_ns))
        cache = PixelCache.open([str(copy)], PREPROCESS, tmp_path / "cache")
        np.testing.assert_array_equal(cache.read(0), read_image(source, PREPROCESS))
    assert len(kept(tmp_path / "cache")) == 1, "its pixels take the place of those before"
    copy.unlink()
    np.testing.assert_array_equal(cache.read(0), read_image(paths[1], PREPROCESS))
    with pytest.raises(ImageError, match="No such file"):
        PixelCache.open([str(copy)], PREPROCESS, tmp_path / "cache").read(0)


def swap(one: Path, other: Path) -> None:
    """Exchange the names of two files, some ticks of the kernel's clock after they were made."""
    time.sleep(0.02)
    one.rename(one.with_suffix(".tmp"))
    other.rename(one)
    one.with_suffix(".tmp").rename(other)


def test_files_of_one_size_and_time_that_swap_names_are_decoded_again(tmp_path: Path, paths: list[str]) -> None:
    contents = [Path(path).read_bytes() for path in paths[:2]]
    files = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content.ljust(max(map(len, contents)), b"\0"))  # a decoder stops where the image ends
        os.utime(file, ns=(0, 10**18))
    before = PixelCache.open([*map(str, files)], PREPROCESS, tmp_path / "cache")
    assert not np.array_equal(before.read(0), before.read(1))
    swap(*files)
    cache = PixelCache.open([*map(str, files)], PREPROCESS, tmp_path / "cache")
    assert_right(cache, [read_image(path, PREPROCESS) for path in (paths[1], paths[0])])


def test_pixels_of_other_code_are_not_served(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    decoded.clear()
    monkeypatch.setattr(module, "PIXELS_VERSION", module.PIXELS_VERSION + 1)
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert decoded == paths
    assert len(list_caches(tmp_path)) == 2


def test_an_unreadable_image_is_an_error_every_time_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    cache = PixelCache.open([str(tmp_path / "a.jpg")], PREPROCESS, tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError, match="empty file"):
            cache.read(0)
    assert (kept(tmp_path), cache.note) == ([], None)


def test_opening_touches_none_of_the_images(tmp_path: Path) -> None:
    """Not even asks whether they exist: 200,000 that do not are opened like ten."""
    cache = PixelCache.open([f"/nowhere/{i}.jpg" for i in range(200_000)], PREPROCESS, tmp_path)
    assert cache.note is None
    assert PixelCache.open([], PREPROCESS, tmp_path).note is None
    (entry,) = list_caches(tmp_path)
    assert (entry.files, entry.size, list(entry.path.iterdir())) == (0, 0, [])


def test_build_fills_the_cache_in_several_processes_and_once(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    cache = PixelCache.open([*paths, str(broken)], PREPROCESS, tmp_path / "cache")
    cache.build(processes=2)
    assert len(kept(tmp_path / "cache")) == IMAGES
    assert_right(cache, stored)
    assert decoded == []
    cache.build(processes=1)
    assert decoded == [str(broken)]


def test_threads_pickles_and_forks_share_the_file(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    half = IMAGES // 2
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.read, [*range(half)] * 2))
    assert len(kept(tmp_path)) == half
    other = pickle.loads(pickle.dumps(cache))  # what the spawn method does
    code = (
        "cache = PixelCache.open(paths, PREPROCESS, folder)\ncache.read(0)\n"
        "if (child := os.fork()) == 0:\n    [cache.read(i) for i in range(len(paths))]\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0"
    )
    finish(in_a_process(code, tmp_path, *paths))
    assert len(kept(tmp_path)) == IMAGES
    decoded.clear()
    assert_right(other, stored)
    assert_right(cache, stored)
    assert decoded == []


def test_two_processes_filling_at_once_keep_each_image_once(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    code = (
        "cache = PixelCache.open(paths, PREPROCESS, folder)\nfor i in range(len(paths)):\n    cache.read(i)"
    )
    for process in [in_a_process(code, tmp_path, *order) for order in (paths, paths, paths[::-1])]:
        finish(process)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == kept(tmp_path)
    assert len(kept(tmp_path)) == IMAGES
    assert_right(cache, stored)


def test_killed_while_filling_keeps_what_was_finished(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    code = (
        "cache = PixelCache.open(paths, PREPROCESS, folder)\n"
        "for i in range(len(paths)):\n    cache.read(i)\n    print(i, flush=True)"
    )
    process = in_a_process(code, tmp_path, *paths)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "9\n":
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert set(decoded).isdisjoint(paths[:10])


def test_killed_at_any_write_the_cache_stays_right(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    """The fourth image is being added: before the header, the pixels (none, half), the new name, and after."""
    code = """
write_all, replace = module.write_all, os.replace
def end():
    os.kill(os.getpid(), signal.SIGKILL)
for kill_at in range(6):
    if (child := os.fork()) == 0:
        cache = PixelCache.open(paths, PREPROCESS, folder / str(kill_at))
        for i in range(3):
            cache.read(i)
        calls = 0
        def write(file, data):
            global calls
            if calls == kill_at // 2:
                file.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2 * (kill_at % 2)])
                end()
            calls += 1
            write_all(file, data)
        module.write_all = write
        os.replace = lambda *names: end() if kill_at == 4 else replace(*names)
        cache.read(3)
        end()
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""
    finish(in_a_process(code, tmp_path, *paths))
    for kill_at in range(6):
        decoded.clear()
        folder = tmp_path / str(kill_at)
        assert len(list(folder.glob("*/??/*.tmp"))) == (kill_at < 5)
        cache = PixelCache.open(paths, PREPROCESS, folder)
        assert_right(cache, stored)
        assert decoded == (paths[3:] if kill_at < 5 else paths[4:])
        decoded.clear()
        assert_right(cache, stored)
        assert decoded == []


@pytest.mark.parametrize("length", [0, 10, 48, 4096, 5000])
@pytest.mark.parametrize("while_open", [False, True])
def test_a_file_that_was_cut_off_is_made_again(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str], length: int, while_open: bool
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    os.truncate(kept(tmp_path)[5], length)
    if not while_open:
        cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    decoded.clear()
    assert_right(cache, stored)
    assert len(decoded) == 1
    assert_right(cache, stored)
    assert len(decoded) == 1


def test_flipped_bytes_anywhere_never_make_a_wrong_picture(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    assert_right(PixelCache.open(paths[:1], PREPROCESS, tmp_path), stored[:1])
    (file,) = kept(tmp_path)
    whole = np.fromfile(file, np.uint8)
    for number in range(200):
        broken = whole.copy()
        at = rng.integers(0, module._HEADER_SIZE if number % 2 else len(whole), 1 + number % 5)
        broken[at] ^= rng.integers(1, 256, len(at), dtype=np.uint8)
        if number % 10 == 0:
            broken[int(rng.integers(len(whole) - 4096)) :][:4096] = 0  # a page that never reached the disk
        broken.tofile(file)
        assert_right(PixelCache.open(paths[:1], PREPROCESS, tmp_path), stored[:1])


def test_pixels_under_the_name_of_another_image_are_not_served(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    first, *others = kept(tmp_path)
    for other in others:
        shutil.copyfile(first, other)
    assert_right(cache, stored)


def test_a_cache_that_is_cleared_during_a_run_is_filled_again(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    module.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert_right(cache, stored)
    assert (len(kept(tmp_path)), cache.note) == (IMAGES, None)


def size_of(image: np.ndarray) -> int:
    """The size of the file in which an image is kept."""
    return module._HEADER_SIZE + image.nbytes


def test_the_size_limit_stops_it_and_one_line_says_so(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    limit = sum(map(size_of, stored[:5]))
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit)
    assert_right(cache, stored)
    line = "pixel cache: its size limit is reached; images that it has not kept are decoded every time"
    assert cache.note == line
    assert len(kept(tmp_path)) == 5
    assert PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit).note is None, "nothing refused yet"
    decoded.clear()
    assert_right(cache, stored)
    assert decoded == paths[5:]
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert len(kept(tmp_path)) == IMAGES, "a later run without a limit goes on"


def test_the_limit_counts_the_other_caches_of_the_folder(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    PixelCache.open(paths, replace(PREPROCESS, resize_size=39), tmp_path).read(0)
    (tmp_path / "1a2b.pixels").write_bytes(b"skinpix2" + bytes(10_000))  # of an earlier layout
    (tmp_path / f"{'0' * 16}-{'1' * 16}.npy").write_bytes(bytes(10_000))  # an unpacked array
    others = sum(entry.size for entry in list_caches(tmp_path))
    assert others > 20_000
    for limit, count in ((others + size_of(stored[0]) - 1, 1), (others + size_of(stored[0]), 2)):
        PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit).read(0)
        assert len(kept(tmp_path)) == count


def test_processes_that_fill_at_once_keep_to_the_limit_together(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    limit = sum(map(size_of, stored[:12]))
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit)
    workers = [pickle.loads(pickle.dumps(cache)) for _ in range(3)]
    for index in range(IMAGES):
        workers[index % 3].read(index)
    largest = max(map(size_of, stored))
    assert limit - largest < sum(file.stat().st_size for file in kept(tmp_path)) <= limit + 3 * largest
    assert "its size limit is reached" in str(cache.note), "said by the one that opened it, and has read nothing"


def test_what_is_there_is_estimated_if_there_is_much(tmp_path: Path) -> None:
    """2,560 files of 10 bytes, ten in each sub-folder."""
    for folder in module._FOLDERS:
        (tmp_path / "40-bicubic-00000000" / folder).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "40-bicubic-00000000" / folder / f"{number}.pixels").write_bytes(bytes(10))
    for sample in (None, 100, 1000):
        (entry,) = list_caches(tmp_path, sample)
        assert (entry.files, entry.size) == (2560, 25_600)


@pytest.mark.parametrize("limit", [2**62, 0])
def test_limits_without_measure_are_limits(tmp_path: Path, paths: list[str], limit: int) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit)
    cache.read(0)
    assert len(kept(tmp_path)) == (limit > 0)


def disk(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    """Let the disk have `total` bytes, of which `free` are free."""
    usage = shutil._ntuple_diskusage(total, total - free, free)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)


@pytest.mark.parametrize(
    ("total", "free", "reserve", "count"),
    [
        (10**12, 2 * 2**30, 0, 0),  # 2 GiB of a large disk are left alone
        (10**12, 2 * 2**30 + 10**6, 0, 1),
        (10**8, 5 * 10**6, 0, 0),  # a twentieth of a small one
        (10**8, 5 * 10**6 + 10**6, 0, 1),
        (10**8, 5 * 10**6 + 10**6, 10**6, 0),  # and what the caller needs beside it
        (10**8, 5 * 10**6 + 10**6, 9 * 10**5, 1),
    ],
)
def test_a_nearly_full_disk_is_left_alone(
    tmp_path: Path, paths: list[str], total: int, free: int, reserve: int, count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    disk(monkeypatch, total, free)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, reserve_bytes=reserve)
    cache.read(0)
    assert len(kept(tmp_path)) == count
    assert (cache.note is None) == (count > 0)
    if not count:
        assert "the disk is nearly full" in str(cache.note)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_in_the_middle_of_an_image(
    number: int, tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 30_000  # the first images, and a part of one more

    def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
        nonlocal room
        room -= file.write(memoryview(data).cast("B")[:room])
        if room == 0:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "write_all", write_all)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert 0 < len(kept(tmp_path)) < IMAGES
    assert list(tmp_path.rglob("*.tmp")) == []
    assert "the disk is nearly full" in str(cache.note)
    assert "the disk is nearly full" in str(pickle.loads(pickle.dumps(cache)).note), "another process hears of it"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", folder], capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_small_disk_keeps_the_room_that_its_caller_needs(
    small_disk: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    needed = 4 * 2**20 - 100_000 - 4 * 2**20 // 20  # 100 kB are left for the cache
    cache = PixelCache.open(paths, PREPROCESS, small_disk, reserve_bytes=needed)
    assert_right(cache, stored)
    assert 1 < len(kept(small_disk)) < IMAGES
    assert "the disk is nearly full" in str(cache.note)
    (small_disk / "best.pt").write_bytes(bytes(needed))


def test_a_disk_that_is_full_before_is_read(small_disk: Path, paths: list[str], stored: list[np.ndarray]) -> None:
    PixelCache.open(paths, PREPROCESS, small_disk).read(0)
    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
        while True:
            other.write(bytes(4096))
    cache = PixelCache.open(paths, PREPROCESS, small_disk)
    assert_right(cache, stored)
    assert len(kept(small_disk)) == 1
    assert "the disk is nearly full" in str(cache.note)


def test_a_real_write_error_is_survived(tmp_path: Path, paths: list[str], stored: list[np.ndarray]) -> None:
    """The kernel itself refuses to let the file grow (RLIMIT_FSIZE)."""
    code = """
import resource
import numpy as np
from skin.data.images import read_image
room = 1000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
cache = PixelCache.open(paths, PREPROCESS, folder)
for i, path in enumerate(paths):
    assert np.array_equal(cache.read(i), read_image(path, PREPROCESS))
print(cache.note)
"""
    assert "pixel cache: it cannot be written" in finish(in_a_process(code, tmp_path, *paths))
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to write. (Permissions do not stop root, whom CI often is.)"""

    def refusing(*args: object, **keywords: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(module, "written_aside", refusing)
    monkeypatch.setattr(Path, "mkdir", refusing)
    monkeypatch.setattr(Path, "touch", refusing)


def test_a_read_only_cache_is_read(
    tmp_path: Path,
    paths: list[str],
    stored: list[np.ndarray],
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    for index in range(4):
        cache.read(index)
    read_only(monkeypatch)
    decoded.clear()
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert decoded == paths[4:]
    assert "is read-only; what it lacks is decoded every time" in str(cache.note)


def test_a_folder_that_cannot_be_written_means_decoding(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    in_the_way = PixelCache.open(paths, PREPROCESS, tmp_path / "file" / "cache")
    read_only(monkeypatch)
    no_right = PixelCache.open(paths, PREPROCESS, tmp_path)
    for cache, reason in ((in_the_way, "Not a directory"), (no_right, "Read-only file system")):
        assert_right(cache, stored)
        assert kept(tmp_path) == []
        assert str(cache.note).endswith(f": {reason}; images are decoded every time")
        assert str(cache.note).count("\n") == 0


def test_all_that_is_made_is_for_its_user_alone(tmp_path: Path, paths: list[str]) -> None:
    folder = tmp_path / "made" / "cache"
    PixelCache.open(paths, PREPROCESS, folder).read(0)
    (file,) = kept(folder)
    assert [path.stat().st_mode & 0o777 for path in (folder, file.parent.parent, file.parent)] == [0o700] * 3


def test_the_command_shows_and_clears_what_is_ours(tmp_path: Path, paths: list[str]) -> None:
    folder = tmp_path / "xdg" / "skin"
    PixelCache.open(paths, PREPROCESS, folder).read(0)
    (folder / "notes.txt").write_text("mine")
    (folder / "other.pixels").write_text("not a cache")
    (folder / "40-bicubic").mkdir()
    (folder / "earlier.pixels").write_bytes(b"skinpix1")
    (folder / "0123.hashes.npz").write_text("")
    (folder / f"{'0' * 16}-{'1' * 16}.npy.lock").write_text("")

    def command(*args: str) -> str:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")}
        return subprocess.run(
            [sys.executable, "-m", "skin.data.cache", *args],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    shown = command()
    assert "1 files  40 px bicubic" in shown
    assert "1 files  earlier layout" in shown
    assert "3 caches, " in shown
    assert "removed" in command("--clear")
    assert sorted(p.name for p in folder.iterdir()) == ["40-bicubic", "notes.txt", "other.pixels"]
    assert "0 caches, 0.0 MiB kept" in command()
