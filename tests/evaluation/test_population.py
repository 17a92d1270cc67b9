from pathlib import Path

from skin.data.layouts import read_index
from skin.evaluation.population import describe

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def data(folder: Path) -> Path:
    """Seven rows: five of two patients, one without an image, one without a class; and an image that no row names."""
    folder.mkdir()
    lines = ["image,label,patient_id,lesion_id,split,age,gender,anatom_site_general,fitzpatrick_scale"]
    values = [
        "p,L1,train,30,f,arm,2", "p,L1,train,30,f,arm,2", "p,L2,train,30,f,leg,2", "q,L3,test,51,M,leg,",
        "q,L3,test,,M,,4",
    ]  # fmt: skip
    for n, row in enumerate(values):
        lines.append(f"i{n},{'mel' if n % 2 else 'nv'},{row}")
        Image.fromarray(np.full((8, 8, 3), 20 * n, np.uint8)).save(folder / f"i{n}.png")
    lines += ["i9,nv,r,L4,test,1,f,arm,1", "i5,,r,L4,test,1,f,arm,1"]
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save(folder / "i5.png")
    Image.fromarray(np.full((8, 8, 3), 201, np.uint8)).save(folder / "stray.png")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_every_image_that_came_in_is_used_or_left_out_for_a_reason(tmp_path: Path) -> None:
    index = read_index(data(tmp_path / "set"), labels=tmp_path / "set/labels.csv", allow_missing=True)
    part = index.rows[index.rows["split"] == "test"]
    flow = describe(index, index.rows, part, unknown=1).flow
    assert flow.found == 8
    assert sorted(it.images for it in flow.left_out) == [1, 1, 1]
    reasons = "; ".join(it.reason for it in flow.left_out)
    assert "without a class" in reasons
    assert "that the folder lacks" in reasons
    assert "does not name" in reasons
    assert (flow.used.images, flow.evaluated.images, flow.unknown_class) == (5, 2, 1)
    assert {name: amount.images for name, amount in flow.splits.items()} == {"train": 3, "test": 2}
    assert flow.found - sum(it.images for it in flow.left_out) == flow.used.images


def rows(**columns: object) -> pd.DataFrame:
    images = [f"i{n}" for n in range(len(next(iter(columns.values()))))]  # type: ignore[arg-type]
    return pd.DataFrame({"image": images, "label": "nv", "group": images, "split": ""} | columns)


class Data:
    left_out: dict[str, int] = {}  # noqa: RUF012
    columns = {"group": "patient_id"}  # noqa: RUF012

    def __init__(self, table: pd.DataFrame) -> None:
        self.rows = table


def test_an_image_of_no_known_lesion_is_a_lesion_of_its_own() -> None:
    table = rows(label=["nv"] * 4, lesion_id=["a", "a", "", ""])
    assert describe(Data(table), table, table, unknown=0).flow.used.lesions == 3  # type: ignore[arg-type]


def test_table_1_has_what_a_hand_counts() -> None:
    table = rows(
        group=["p", "p", "q", "q"], lesion_id=["a", "b", "c", "c"], split=["train", "train", "test", "test"],
        age_approx=[30.0, 50.0, np.nan, 40.0], gender=["f", "m", "m", ""], label=["nv", "mel", "nv", "nv"],
        fitzpatrick_scale=[1.0, 2.0, 2.0, np.nan],
    )  # fmt: skip
    found = describe(Data(table), table, table[2:], unknown=0)  # type: ignore[arg-type]
    assert found.flow.groups_are == "patients"
    assert (found.columns["train"].images, found.columns["train"].groups, found.columns["train"].lesions) == (2, 1, 2)
    of = {it.title: it for it in found.characteristics}
    assert of["Class"].values == {"mel": {"train": 1, "test": 0}, "nv": {"train": 1, "test": 2}}
    assert of["Sex"].values == {
        "f": {"train": 1, "test": 0}, "m": {"train": 1, "test": 1}, "not recorded": {"train": 0, "test": 1},
    }  # fmt: skip
    assert of["Skin type"].values == {
        "1": {"train": 1, "test": 0}, "2": {"train": 1, "test": 1}, "not recorded": {"train": 0, "test": 1},
    }  # fmt: skip
    assert of["Age"].numbers is not None
    train = of["Age"].numbers["train"]
    assert (train.mean, train.sd, train.median) == (40, pytest.approx(200**0.5), 40)
    assert (of["Age"].numbers["test"].mean, of["Age"].numbers["test"].not_recorded) == (40, 1)
    assert "Site" not in of


def test_another_set_stands_beside_the_runs_splits_under_its_own_column_names() -> None:
    of_run = rows(split=["train", "val"], sex=["male", "female"], age=[30.0, 40.0])
    other = rows(age_approx=[70.0], site=["arm"])
    found = describe(Data(other), other, other, 0, of_run)  # type: ignore[arg-type]
    assert list(found.columns) == ["evaluated", "train", "val"]
    of = {it.title: it for it in found.characteristics}
    assert of["Age"].numbers is not None
    assert [numbers.mean for numbers in of["Age"].numbers.values()] == [70, 30, 40]
    assert of["Age"].column == "age_approx, age"
    assert of["Sex"].values is not None
    assert of["Sex"].values["not recorded"] == {"evaluated": 1, "train": 0, "val": 0}
    assert found.flow.splits == {}
