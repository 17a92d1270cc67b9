"""Which run is the newest, with links and without, and which folders are our own."""

from __future__ import annotations

import json
import os
from pathlib import Path

from skin.data.layouts import read_index
from skin.training import run_folder
from skin.utils import run_folders
from skin.utils.run_folders import KIND, is_ours, newest_model, newest_run
from tests.tiny import picture

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, began: int, model: int | None = None) -> Path:
    """A run in `runs`: when it began, and when its best.pt was written, in seconds of 1970."""
    folder = Path("runs") / name
    folder.mkdir(parents=True)
    for file, written in (("config.json", began), ("best.pt", model)):
        if written is not None:
            (folder / file).write_text("{}")
            os.utime(folder / file, (written, written))
    return folder


def test_without_any_run_the_name_is_the_links() -> None:
    assert newest_model() == Path("runs/latest/best.pt")
    assert newest_run() == Path("runs/latest")


def test_the_link_says_which_model_is_the_newest() -> None:
    old = run("old", began=1, model=9)
    run("new", began=2, model=3)
    run_folder.point_latest(old)
    assert newest_model() == Path("runs/old/best.pt")  # under the run's own name


def test_a_link_to_a_run_without_a_model_gives_way_to_the_newest_that_has_one() -> None:
    run("first", began=1, model=2)
    run("second", began=3, model=4)
    run_folder.point_latest(run("third", began=5))
    assert newest_model() == Path("runs/second/best.pt")
    assert newest_run() == Path("runs/third")


def test_a_link_that_leads_nowhere_is_none() -> None:
    run("first", began=1, model=2)
    Path("runs/latest").symlink_to("gone")
    assert newest_model() == Path("runs/first/best.pt")
    assert newest_run() == Path("runs/first")


def test_a_real_folder_named_latest_is_a_run_like_any_other() -> None:
    run("latest", began=1, model=2)
    run("new", began=3, model=4)
    assert newest_model() == Path("runs/new/best.pt")
    assert newest_run() == Path("runs/new")
    os.utime("runs/latest/best.pt", (5, 5))
    assert newest_model() == Path("runs/latest/best.pt")


def test_a_copy_of_a_run_is_called_by_the_runs_own_name() -> None:
    run("a", began=1, model=2)
    run("latest", began=1, model=2)
    assert newest_model() == Path("runs/a/best.pt")


def test_where_links_cannot_be_made_an_old_one_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder.point_latest(run("old", began=1, model=2))

    def refuse(self: Path, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run_folder.point_latest(run("new", began=3, model=4))
    assert sorted(path.name for path in Path("runs").iterdir()) == ["new", "old"]
    assert newest_model() == Path("runs/new/best.pt")


# ---- our own folders inside a data folder --------------------------------------------------------------

CHECK = dict.fromkeys(("ok", "root", "layout", "exact_duplicates", "near_duplicates", "leaks"))


@pytest.mark.parametrize(
    ("files", "ours"),
    [
        ({"config.json": {"resolved": {}}, "split.csv": {}}, True),
        ({"config.json": {"resolved": {}}}, False),
        ({"config.json": {"model": "x"}, "split.csv": {}}, False),  # somebody else's
        ({"config.json": [], "split.csv": {}}, False),
        ({"report.json": {"kind": KIND}}, True),
        ({"report.json": {"kind": "another program's"}}, False),
        ({"check.json": CHECK}, True),
        ({"check.json": {"ok": True}}, False),
        ({}, False),
    ],
)
def test_our_folders_are_known_by_what_their_files_hold(files: dict[str, object], ours: bool) -> None:
    for name, content in files.items():
        Path(name).write_text(json.dumps(content))
    assert is_ours(Path(), files) is ours


def test_a_file_of_our_name_that_is_no_json_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("report.json").write_bytes(b"\xff{")
    assert not is_ours(Path(), ["report.json"])
    Path("report.json").write_text(json.dumps({"kind": KIND}))
    monkeypatch.setattr(run_folders, "_JSON_LIMIT", 3)  # a file of gigabytes is not read
    assert not is_ours(Path(), ["report.json"])


def class_folders(root: Path) -> None:
    for label in ("mel", "nv"):
        draw(root / label / "a.png")


def draw(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(len(str(path)))).save(path)


def test_runs_reports_and_checks_inside_the_data_folder_are_no_classes(working_folder: Path) -> None:
    data = working_folder / "data"
    class_folders(data)
    alone = read_index(data)
    for name, file, content in (("runs/a", "config.json", {"resolved": {}}), ("runs/b-check", "check.json", CHECK),
                                ("mine/report", "report.json", {"kind": KIND})):  # fmt: skip
        draw(data / name / "picture.png")
        draw(data / name / "demo" / "nv" / "drawn.png")
        (data / name / file).write_text(json.dumps(content))
    (data / "runs/a/split.csv").write_text("image,label,group,split\n")
    (data / "runs" / "latest").symlink_to("a")
    found = read_index(data)
    assert found.rows.equals(alone.rows)
    assert found.classes == ("mel", "nv")
    assert found.notes == (
        "passed over 3 folders that runs, reports or checks were written to (first: mine/report)",
    )


def test_a_folder_named_runs_with_images_of_its_own_stays_a_class(working_folder: Path) -> None:
    class_folders(working_folder / "data")
    draw(working_folder / "data" / "runs" / "a.png")
    assert read_index(working_folder / "data").classes == ("mel", "nv", "runs")
