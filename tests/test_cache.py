"""The pixel cache: the same bytes as decoding, decoded once, whatever happens to its processes and its file."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from skin import cache as module
from skin.cache import PixelCache, list_caches
from skin.images import ImageError, Preprocess, read_image

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
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


def in_a_process(code: str, *args: object) -> subprocess.Popen[str]:
    """Run `code` with PREPROCESS, and `paths` and `folder` from `args`, in a Python of its own."""
    head = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom skin import cache as module\n"
        "from skin.cache import PixelCache\nfrom skin.images import Preprocess\n"
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
    assert (first.count, again.count, first.note, again.note) == (IMAGES, IMAGES, None, None)
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


def test_another_stored_size_is_another_cache(tmp_path: Path, paths: list[str]) -> None:
    for other in (PREPROCESS, replace(PREPROCESS, resize_size=41), replace(PREPROCESS, interpolation="bilinear")):
        cache = PixelCache.open(paths, other, tmp_path)
        np.testing.assert_array_equal(cache.read(0), read_image(paths[0], other))
        assert cache.count == 1
    assert len(list_caches(tmp_path)) == 3


def test_a_changed_file_is_decoded_again(tmp_path: Path, paths: list[str]) -> None:
    copy = tmp_path / "a.jpg"
    for source in paths[:2]:
        copy.write_bytes(Path(source).read_bytes())
        os.utime(copy, ns=(0, Path(source).stat().st_mtime_ns))
        cache = PixelCache.open([str(copy)], PREPROCESS, tmp_path / "cache")
        np.testing.assert_array_equal(cache.read(0), read_image(source, PREPROCESS))
    assert cache.count == 1
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


def test_a_cache_of_an_earlier_layout_is_made_anew_and_cleared_like_any(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert cache.file is not None
    old = tmp_path / "320-bicubic-0123456789abcdef.pixels"
    for file in (cache.file, old):  # the one under a name that is still asked for, the other that no run opens again
        content = cache.file.read_bytes()
        file.write_bytes(b"skinpix1" + content[8:])
    assert [entry.file for entry in list_caches(tmp_path)] == sorted([cache.file, old])
    decoded.clear()
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert decoded == paths


def test_an_unreadable_image_is_an_error_every_time_and_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    cache = PixelCache.open([str(tmp_path / "a.jpg")], PREPROCESS, tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError, match="empty file"):
            cache.read(0)
    assert (cache.count, cache.note) == (0, None)


def test_opening_touches_none_of_the_images(tmp_path: Path) -> None:
    """Not even asks whether they exist: 200,000 that do not are opened like ten."""
    cache = PixelCache.open([f"/nowhere/{i}.jpg" for i in range(200_000)], PREPROCESS, tmp_path)
    assert (cache.count, cache.note) == (0, None)
    assert PixelCache.open([], PREPROCESS, tmp_path).note is None
    (entry,) = [e for e in list_caches(tmp_path) if e.description["data"] == "/nowhere"]
    assert entry.size < 100_000, "the table takes no disk before it is used"


def test_build_fills_the_cache_in_several_processes_and_once(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    cache = PixelCache.open([*paths, str(broken)], PREPROCESS, tmp_path / "cache")
    assert cache.build(processes=2) == IMAGES
    assert_right(cache, stored)
    assert decoded == []
    assert cache.build(processes=1) == IMAGES
    assert decoded == [str(broken)]


def test_threads_pickles_and_forks_share_the_file(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    half = IMAGES // 2
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.read, [*range(half)] * 2))
    assert cache.count == half
    other = pickle.loads(pickle.dumps(cache))  # what the spawn method does
    cache.close()
    code = (
        "cache = PixelCache.open(paths, PREPROCESS, folder)\ncache.read(0)\n"
        "if (child := os.fork()) == 0:\n    [cache.read(i) for i in range(len(paths))]\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\nprint(cache.count)"
    )
    assert int(finish(in_a_process(code, tmp_path, *paths))) == IMAGES
    decoded.clear()
    assert_right(other, stored)
    assert_right(cache, stored)
    assert decoded == []


def test_two_processes_filling_at_once_keep_each_image_once(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    code = (
        "module.LOCK_SECONDS = 60\n"  # a busy machine may keep any of them waiting
        "cache = PixelCache.open(paths, PREPROCESS, folder)\nfor i in range(len(paths)):\n    cache.read(i)"
    )
    for process in [in_a_process(code, tmp_path, *order) for order in (paths, paths, paths[::-1])]:
        finish(process)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert cache.count == IMAGES
    assert cache.file is not None
    pixels = sum(image.nbytes for image in stored)
    assert cache.file.stat().st_size == 4096 + 64 * 2**16 + pixels
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
    """The fourth image is being added: before the header, the pixels (none, half), the slot, and after."""
    code = """
real = module._write
for kill_at in range(8):
    if (child := os.fork()) == 0:
        cache = PixelCache.open(paths, PREPROCESS, folder / str(kill_at))
        for i in range(3):
            cache.read(i)
        calls = 0
        def write(fd, data, offset):
            global calls
            if calls == kill_at // 2:
                real(fd, bytes(data)[: len(data) // 2 * (kill_at % 2)], offset)
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            real(fd, data, offset)
        module._write = write
        cache.read(3)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""
    finish(in_a_process(code, tmp_path, *paths))
    for kill_at in range(8):
        decoded.clear()
        cache = PixelCache.open(paths, PREPROCESS, tmp_path / str(kill_at))
        assert_right(cache, stored)
        assert set(decoded).isdisjoint(paths[:3])
        decoded.clear()
        assert_right(cache, stored)
        assert decoded == []


@pytest.mark.parametrize("length", [0, 10, 4096, 4096 + 64 * 2**15, 4096 + 64 * 2**16 + 30_000])
@pytest.mark.parametrize("while_open", [False, True])
def test_a_file_that_was_cut_off_is_mended(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str], length: int, while_open: bool
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert cache.file is not None
    os.truncate(cache.file, length)
    if not while_open:
        cache = PixelCache.open(paths, PREPROCESS, tmp_path)
        said = {0: "None", 10: "was damaged"}.get(length, "was cut off")
        assert said in str(cache.note)
    assert_right(cache, stored)
    decoded.clear()
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert decoded == []


def test_flipped_bytes_anywhere_never_make_a_wrong_picture(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray]
) -> None:
    rng = np.random.default_rng(0)
    assert_right(cache := PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert cache.file is not None
    whole = np.fromfile(cache.file, np.uint8)
    used = np.flatnonzero(whole)
    for _ in range(20):
        broken = whole.copy()
        at = rng.choice(used, 50)
        broken[at] ^= rng.integers(1, 256, 50, dtype=np.uint8)
        broken[4096 + 64 * 2**16 + int(rng.integers(60_000)) :][:4096] = 0  # a page that never reached the disk
        broken.tofile(cache.file)
        assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)


def test_the_size_limit_stops_it_and_one_line_says_so(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], decoded: list[str]
) -> None:
    limit = 4096 + 64 * 2**16 + sum(image.nbytes for image in stored[:5])
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit)
    assert_right(cache, stored)
    line = "pixel cache: its size limit is reached; 5 images are kept, the others decoded every time"
    assert cache.note == line
    assert PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit).note is None, "nothing refused yet"
    decoded.clear()
    assert_right(cache, stored)
    assert decoded == paths[5:]
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)
    assert PixelCache.open(paths, PREPROCESS, tmp_path).count == IMAGES, "a later run without a limit goes on"


def test_the_limit_counts_the_other_caches_of_the_folder(tmp_path: Path, paths: list[str]) -> None:
    PixelCache.open(paths, replace(PREPROCESS, resize_size=39), tmp_path).read(0)
    (other,) = list_caches(tmp_path)
    limit = 4096 + 64 * 2**16 + other.size
    cache = PixelCache.open(paths, PREPROCESS, tmp_path, limit_bytes=limit)
    cache.read(0)
    assert cache.count == 0


def test_a_nearly_full_disk_is_left_alone(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_free_bytes", lambda fd: 100)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert cache.count == 0
    assert "the disk is nearly full" in str(cache.note)


def test_a_disk_that_fills_up_in_the_middle_of_an_image(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    room = 4096 + 64 * 2**16 + 30_000  # the pixels of the first images, and a part of one more

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: room - offset], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert 0 < cache.count < IMAGES
    assert "the disk is nearly full" in str(cache.note)


def test_a_real_write_error_is_survived(tmp_path: Path, paths: list[str], stored: list[np.ndarray]) -> None:
    """The kernel itself refuses to let the file grow (RLIMIT_FSIZE)."""
    code = """
import resource
import numpy as np
from skin.images import read_image
room = 4096 + 64 * 2**16 + 30_000
resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
cache = PixelCache.open(paths, PREPROCESS, folder)
for i, path in enumerate(paths):
    assert np.array_equal(cache.read(i), read_image(path, PREPROCESS))
print(cache.note)
"""
    assert "pixel cache: it cannot be written" in finish(in_a_process(code, tmp_path, *paths))
    assert_right(PixelCache.open(paths, PREPROCESS, tmp_path), stored)


def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse to open for writing. (Permissions do not stop root, whom CI often is.)"""
    real: Callable[..., int] = os.open

    def refusing(path: object, flags: int, *args: object, **keywords: object) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *args, **keywords)

    monkeypatch.setattr(os, "open", refusing)


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
        assert (cache.file, cache.count) == (None, 0)
        assert str(cache.note).endswith(f": {reason}; images are decoded every time")
        assert str(cache.note).count("\n") == 0


def test_a_process_that_sits_on_the_lock_holds_up_nobody(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    cache.read(0)
    assert cache.file is not None
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.01)
    with cache.file.open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert_right(cache, stored)
        late = PixelCache.open(paths, PREPROCESS, tmp_path)
        assert_right(late, stored)
        assert "another process does not let go of it" in str(late.note)
    assert cache.count == 1
    assert "a process waited 0.01 s for its turn to add an image" in str(cache.note)


def test_a_process_that_had_to_wait_too_long_stops_nobody_but_itself(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky = PixelCache.open(paths, PREPROCESS, tmp_path)
    other = pickle.loads(pickle.dumps(unlucky))  # as another worker of the run has it
    assert unlucky.file is not None
    with monkeypatch.context() as patch, unlucky.file.open("r+b") as holder:
        patch.setattr(module, "LOCK_SECONDS", 0.01)
        fcntl.flock(holder, fcntl.LOCK_EX)
        unlucky.read(0)
    unlucky.read(1)
    assert unlucky.count == 0
    assert_right(other, stored)
    assert other.count == IMAGES
    assert "24 images are kept so far" in str(other.note)
    assert PixelCache.open(paths, PREPROCESS, tmp_path).note is None, "a later run has had no such trouble yet"


def test_a_table_that_is_full_means_decoding(
    tmp_path: Path, paths: list[str], stored: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROBES", 0)  # no slot is ever free
    cache = PixelCache.open(paths, PREPROCESS, tmp_path)
    assert_right(cache, stored)
    assert "its table is full" in str(cache.note)


def test_the_command_shows_and_clears_what_is_ours(tmp_path: Path, paths: list[str]) -> None:
    folder = tmp_path / "xdg" / "skin"
    PixelCache.open(paths, PREPROCESS, folder).read(0)
    (folder / "notes.txt").write_text("mine")
    (folder / "other.pixels").write_text("not a cache")

    def command(*args: str) -> str:
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "xdg")}
        return subprocess.run(
            [sys.executable, "-m", "skin.cache", *args],
            cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    shown = command()
    assert str(Path(paths[0]).parent) in shown
    assert "1 images  40 px bicubic" in shown
    assert "1 caches, " in shown
    assert "removed" in command("--clear")
    assert sorted(p.name for p in folder.iterdir()) == ["notes.txt", "other.pixels"]
    assert "0 caches, 0.0 MiB kept" in command()
