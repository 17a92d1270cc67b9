"""The demo set: the layout, the numbers, the same bytes every time, and whole or not there."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from skin.data import demo
from skin.utils.errors import UserError
from tests.conftest import ROOT

import numpy as np
import pytest
from PIL import Image

CLASSES = {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "HAM10000_metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_folder_is_a_ham10000_download(demo_folder: Path) -> None:
    rows = rows_of(demo_folder)
    assert list(rows[0]) == ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    assert {row["dx"] for row in rows} == CLASSES
    parts = [sorted((demo_folder / f"HAM10000_images_part_{n}").iterdir()) for n in (1, 2)]
    assert [len(part) for part in parts] == [80, 80]
    assert sorted(row["image_id"] for row in rows) == sorted(p.stem for part in parts for p in part)
    with Image.open(parts[0][0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (300, 225))


@pytest.mark.parametrize("images", [70, 160, 700, 2000])
def test_every_class_has_enough_lesions_and_nevi_are_the_most(images: int) -> None:
    lesions = demo._lesions(images, seed=3)
    views = {dx: [lesion.views for lesion in lesions if lesion.dx == dx] for dx in CLASSES}
    assert sum(map(sum, views.values())) == images
    assert min(len(v) for v in views.values()) >= 6
    assert max(CLASSES, key=lambda dx: sum(views[dx])) == "nv"
    assert any(v > 1 for v in views["nv"]), "some lesions are seen more than once"


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, demo_folder: Path) -> None:
    small, again, other = (
        digests(demo.write(tmp_path / name, images=70, seed=seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert small == again
    name = "HAM10000_images_part_1/ISIC_0000000.jpg"
    assert small[name] != other[name]
    assert len(set(digests(demo_folder).values())) == 162, "160 pictures, the table and the marker all differ"


def test_a_complete_folder_is_used_again_and_other_arguments_replace_it(tmp_path: Path) -> None:
    folder = demo.write(tmp_path / "set", images=70)
    picture = folder / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    written = picture.stat().st_mtime_ns
    assert demo.write(folder, images=70) == folder
    assert picture.stat().st_mtime_ns == written
    demo.write(folder, images=72)
    assert len(rows_of(folder)) == 72
    assert [p.name for p in tmp_path.iterdir()] == ["set"], "nothing is left beside it"


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds other files"):
        demo.write(tmp_path, images=70)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


@pytest.mark.parametrize(("images", "seed"), [(69, 0), (0, 0), (70, -1)])
def test_too_few_images_or_a_negative_seed_is_refused(tmp_path: Path, images: int, seed: int) -> None:
    with pytest.raises(UserError, match="at least 70 images"):
        demo.write(tmp_path / "set", images=images, seed=seed)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the demo set to"):
        demo.write(tmp_path / "file" / "set", images=70)


def test_a_killed_write_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    code = "import sys; from skin.data import demo; demo.write(demo.Path(sys.argv[1]), images=3000)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "set")], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.jpg")) and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "set").exists()
    demo.write(tmp_path / "set", images=70)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert len(list((tmp_path / "set").rglob("*.jpg"))) == 70


def test_classes_can_be_learnt_and_are_not_told_apart_by_a_glance(demo_folder: Path) -> None:
    """Nearest class centre on the lesion's colour against the skin's: better than chance (1/7), not perfect."""
    rows = rows_of(demo_folder)
    paths = {p.stem: p for p in demo_folder.rglob("*.jpg")}
    seen = []
    for row in rows:
        with Image.open(paths[row["image_id"]]) as image:
            pixels = np.asarray(image).astype(np.float64)
        lesion, skin = pixels[82:142, 110:190].reshape(-1, 3), pixels[20:205, 20:280].reshape(-1, 3)
        seen.append([*(lesion.mean(0) - np.median(skin, axis=0)), *lesion.std(0), *skin.std(0)])
    x = np.array(seen)
    x = (x - x.mean(0)) / x.std(0)
    y = np.array([row["dx"] for row in rows])
    held_out = np.array([int(row["lesion_id"][-7:]) % 2 == 0 for row in rows])
    classes = sorted(CLASSES)
    centres = np.stack([x[~held_out & (y == c)].mean(0) for c in classes])
    distances = ((x[held_out][:, None] - centres[None]) ** 2).sum(-1)
    predicted = np.array(classes)[distances.argmin(1)]
    recalls = [np.mean(predicted[y[held_out] == c] == c) for c in classes]
    assert 0.2 < np.mean(recalls) < 0.8
