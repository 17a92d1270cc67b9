"""Replicas of folders with HEIC, DICOM and HDF5 files (see the fixture `cases`)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from skin.data import audit, cache
from skin.data.folder import Folder
from skin.data.images import Preprocess, read_header, read_image
from skin.data.layouts import read_index
from tests import tiny

import numpy as np
import pytest

pytestmark = pytest.mark.real
WHOLE = Preprocess(150, 150, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SECRETS = ("TEST^PRIVATE", "PRIVATE", "SECRET0", "SECRET1", "SECRET2", "SECRET3", "19700101")


def test_heic_files_count_like_any_other(cases: Path) -> None:
    index = read_index(cases / "faults" / "heic")
    assert index.rows.groupby("label").size().to_dict() == {"mel": 14, "nv": 14}
    assert sum(path.endswith(".HEIC") for path in index.rows["path"]) == 12
    report = audit.check(index, (0.7, 0.2, 0.1), 0)
    assert report.unreadable == []
    assert report.formats == {"JPEG": 16, "HEIF": 12}


def test_dicom_pictures_are_read_and_their_tags_are_not(cases: Path, tmp_path: Path) -> None:
    paths = sorted(str(path) for path in (cases / "faults" / "dicom").iterdir())
    kept = cache.PixelCache.open(paths, WHOLE, tmp_path / "cache")
    for number, path in enumerate(paths):
        assert read_header(path) == (200, 150, "DICOM")
        stored = kept.read(number)
        assert stored.shape == (150, 200, 3)
        assert stored.std() > 5
        assert any(secret.encode() in Path(path).read_bytes() for secret in SECRETS)
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert written
    assert not [file for file in written for secret in SECRETS if secret.encode() in file.read_bytes()]


def test_no_output_of_predict_tells_of_a_patient(
    cases: Path, tmp_path: Path, run_script: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    trained = tiny.write_checkpoint(tmp_path / "best.pt", image_size=32)
    folder = tmp_path / "dicom"
    shutil.copytree(cases / "faults" / "dicom", folder)
    folder.chmod(0o755)
    broken = folder / "broken.dcm"
    broken.write_bytes((folder / "ISIC_0026140.dcm").read_bytes()[:2000])
    done = run_script("predict.py", folder, "--checkpoint", trained, "--json", "--csv", "a.csv", "--explain", "why")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum("error" not in answer for answer in answers) == 4
    assert done.returncode == 1
    assert "broken.dcm" in done.stderr
    texts = [done.stdout.encode(), done.stderr.encode()]
    texts += [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file() and folder not in file.parents]
    assert not [text[:200] for text in texts for secret in SECRETS if secret.encode() in text]


def test_the_hdf5_file_of_isic_2024_holds_the_pictures_of_its_folder(cases: Path, tmp_path: Path) -> None:
    source = cases / "layouts" / "isic2024_kaggle"
    shutil.copy(source / "train-image.hdf5", tmp_path)
    folder = Folder(tmp_path)
    files = sorted((source / "train-image" / "image").iterdir())
    assert len(folder.images) == len(files)
    for file in files:
        member = folder.find(file.name)
        assert member is not None
        np.testing.assert_array_equal(read_image(f"{tmp_path}/{member}", WHOLE), read_image(file, WHOLE))
