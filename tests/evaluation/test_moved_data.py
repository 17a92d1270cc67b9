"""The data of a run that have moved are known again at a new place, however the run read them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skin.data import split
from skin.data.layouts import read_index
from skin.evaluation import small, test_set
from skin.model.checkpoint import Checkpoint, load_best
from skin.utils.errors import UserError
from tests import tiny

import pytest
from PIL import Image

CLASSES = ("bcc", "mel", "nv")
IMAGES = 12  # of each class, two of each lesion


@dataclass(frozen=True)
class Moved:
    """A run whose data have moved: its model, and where the data and their table are now."""

    checkpoint: Checkpoint
    data: Path
    labels: Path | None


def write_images(folder: Path) -> Path:
    """Write a folder for each class, and beside them a table whose column `label` is not that of the diagnoses."""
    rows = []
    for number, name in enumerate(CLASSES * IMAGES):
        image = Path(name) / f"P{number // 6}{name}_{number}.png"
        (folder / image.parent).mkdir(parents=True, exist_ok=True)
        Image.fromarray(tiny.picture(number, 32, 32)).save(folder / image)
        rows.append((image, "nv" if number % 2 else "mel", name, f"P{number // 6}"))
    with (folder.parent / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "diagnosis", "pid"), *rows])
    return folder


@pytest.fixture
def moved(request: pytest.FixtureRequest, tmp_path: Path) -> Moved:
    """A run with the options that the test names; `labels` is True for one with the table."""
    options: dict[str, Any] = dict(request.param)
    before = tmp_path / "before"
    data = write_images(before / "images")
    labels = before / "table.csv" if options.pop("labels", False) else None
    index = read_index(data, labels=labels, **options)
    run = tmp_path / "run"
    run.mkdir()
    split.write_manifest(split.split_index(index, (0.5, 0.2, 0.3), seed=0), run / "split.csv")
    config = {"data": str(data), "labels": labels and str(labels), **options}
    best = tiny.write_checkpoint(run / "best.pt", index.classes, image_size=32, config=config)
    after = before.rename(tmp_path / "after")
    return Moved(load_best(best), after / "images", labels and after / "table.csv")


WITHOUT_A_CLASS = {"ignore_class": ["bcc"], "group_by": r"(P\d+)"}
BY_TABLE = {"labels": True, "label_column": "diagnosis", "group_column": "pid"}
runs = pytest.mark.parametrize("moved", [WITHOUT_A_CLASS, BY_TABLE], indirect=True)


@runs
def test_the_new_place_is_all_that_has_to_be_said(moved: Moved) -> None:
    with pytest.raises(UserError, match=r"is gone; say where it is now: --data DIR"):
        test_set.read(moved.checkpoint, None, None, "test")
    found = test_set.read(moved.checkpoint, moved.data, moved.labels, "test")
    manifest = split.read_manifest(moved.checkpoint.path.parent / "split.csv").query("split == 'test'")
    assert found.own
    assert found.warnings == ()
    assert found.rows[["image", "label", "group"]].values.tolist() == (
        manifest[["image", "label", "group"]].values.tolist()
    )


@runs
def test_a_small_file_is_judged_on_the_runs_own_validation_images(moved: Moved) -> None:
    manifest = split.read_manifest(moved.checkpoint.path.parent / "split.csv")
    images = small.images_of(moved.checkpoint, moved.data, moved.labels, print)
    assert len(images.validation) == (manifest["split"] == "val").sum()


@pytest.mark.parametrize("moved", [BY_TABLE], indirect=True)
def test_a_column_that_is_named_goes_before_the_runs(moved: Moved) -> None:
    found = test_set.read(moved.checkpoint, moved.data, moved.labels, "all", label_column="label")
    assert not found.own
    assert set(found.rows["label"]) == {"mel", "nv"}


@pytest.mark.parametrize("moved", [WITHOUT_A_CLASS], indirect=True)
def test_another_set_is_read_with_no_option_of_the_run(moved: Moved) -> None:
    new = moved.data / "nv" / "P90_new.png"
    Image.fromarray(tiny.picture(1000, 32, 32)).save(new)
    found = test_set.read(moved.checkpoint, moved.data, None, "all")
    assert not found.own
    assert len(found.rows) == 3 * IMAGES + 1
    assert "taken for another set" in " ".join(found.notes)
    assert "--ignore-class" not in " ".join(found.notes)


@pytest.mark.parametrize("moved", [{"group_by": r"(P\d+)"}], indirect=True)
@pytest.mark.parametrize("content", [b"\xff\xd8 no picture", None])
def test_only_images_that_could_not_be_read_may_be_there_besides(moved: Moved, content: bytes | None) -> None:
    moved.checkpoint.config["skip_bad_images"] = True
    new = moved.data / "nv" / "P90_new.png"
    new.write_bytes(content or (moved.data / "nv" / "P0nv_2.png").read_bytes())
    found = test_set.read(moved.checkpoint, moved.data, None, "test")
    assert found.own == (content is not None)
    assert new.name not in str(found.rows["image"].tolist()) or not found.own
