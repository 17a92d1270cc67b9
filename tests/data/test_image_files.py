import io
import itertools
import os
import sys
from collections import Counter
from pathlib import Path

from skin.data import image_files
from skin.data.image_files import image_blocks, image_paths, unread_formats
from skin.utils.errors import UserError

import pytest


def names(*given: str | Path, null: bool = False) -> list[str]:
    return list(image_paths([str(name) for name in given], fail, null))


def fail(name: str, reason: str) -> None:
    raise AssertionError(f"{name}: {reason}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """b.jpg, A.PNG, notes.txt, .hidden.jpg, .thumbs/t.jpg, sub/c.tiff, sub/deep/d.webp, empty/."""
    for name in ("b.jpg", "A.PNG", "notes.txt", ".hidden.jpg", ".thumbs/t.jpg", "sub/c.tiff", "sub/deep/d.webp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_folder_gives_its_images_and_those_below_sorted(folder: Path) -> None:
    expected = ["A.PNG", "b.jpg", "sub/c.tiff", "sub/deep/d.webp"]
    assert names(folder) == [str(folder / name) for name in expected]


def test_overlays_are_no_images_of_a_folder_unless_they_are_named(folder: Path) -> None:
    overlay = folder / "b.jpg.cam.png"
    overlay.touch()
    assert str(overlay) not in names(folder)
    assert names(overlay) == [str(overlay)]


def test_what_a_folder_has_in_other_formats_is_counted(folder: Path) -> None:
    for name in ("c.jpe", "d.avif", "sub/e.AVIF", "sub/f.jp2"):
        (folder / name).touch()
    others: Counter[str] = Counter()
    found = list(itertools.chain.from_iterable(image_blocks([str(folder)], fail, passed_over=others)))
    assert str(folder / "c.jpe") in found
    assert others == {".avif": 2, ".jp2": 1, ".txt": 1}
    assert unread_formats(others) == "2 files .avif, 1 file .jp2"


def test_files_are_given_as_they_are_named_in_the_order_named(folder: Path) -> None:
    given = [str(folder / "notes.txt"), "-dash.jpg", str(folder / "b.jpg"), "no such file"]
    assert names(*given) == given


def test_links_are_followed_but_never_round_in_a_circle(folder: Path) -> None:
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "link.jpg").symlink_to(folder / "b.jpg")
    assert [Path(name).name for name in names(folder)] == ["A.PNG", "b.jpg", "link.jpg", "c.tiff", "d.webp"]


def test_a_link_to_itself_is_named_and_no_other_file_is_lost(folder: Path) -> None:
    (folder / "loop.jpg").symlink_to("loop.jpg")
    assert [Path(name).name for name in names(folder)] == ["A.PNG", "b.jpg", "loop.jpg", "c.tiff", "d.webp"]


def test_patterns_are_matched_where_no_such_file_exists(folder: Path) -> None:
    assert names(folder / "*.jpg") == [str(folder / "b.jpg")]
    assert names(folder / "**" / "*.webp") == [str(folder / "sub/deep/d.webp")]
    (folder / "[1].jpg").touch()
    assert names(folder / "[1].jpg") == [str(folder / "[1].jpg")]


def test_a_pattern_without_a_match_and_a_locked_folder_are_reported(folder: Path) -> None:
    reported: list[tuple[str, str]] = []

    def report(name: str, reason: str) -> None:
        reported.append((name, reason))

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    assert list(image_paths([str(folder / "*.xyz")], report)) == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        assert list(image_paths([str(folder)], report)) == []
    assert reported == [
        (str(folder / "*.xyz"), "no file matches this pattern"), (str(folder), "Permission denied")
    ]  # fmt: skip


def test_a_folder_larger_than_a_block_is_sorted_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "SORTED_BLOCK", 3)
    for number in range(8):
        (tmp_path / f"{number}.jpg").touch()
    found = names(tmp_path)
    assert sorted(found) == [str(tmp_path / f"{number}.jpg") for number in range(8)]
    assert all(found[i : i + 3] == sorted(found[i : i + 3]) for i in (0, 3, 6))


def on_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


@pytest.mark.parametrize("content", [b"a b.jpg\n\xff.png\n", b"a b.jpg\r\n\r\n\xff.png"])
def test_stdin_is_a_list_of_names_of_any_bytes(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    on_stdin(monkeypatch, content)
    assert names("first.jpg", "-") == ["first.jpg", "a b.jpg", os.fsdecode(b"\xff.png")]


def test_names_with_newlines_come_through_when_nul_ends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    on_stdin(monkeypatch, b"two\nlines.jpg\0b.jpg\r\0")
    assert names("-", null=True) == ["two\nlines.jpg", "b.jpg\r"]


def test_a_long_list_arrives_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [f"{number:06d}.jpg" for number in range(20_000)]  # more than two reads
    on_stdin(monkeypatch, "\n".join(listed).encode())
    assert names("-") == listed


def test_what_is_no_list_and_a_closed_stdin_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    on_stdin(monkeypatch, b"\x89PNG" * 50_000)
    with pytest.raises(UserError, match="no such list"):
        names("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="closed"):
        names("-")
