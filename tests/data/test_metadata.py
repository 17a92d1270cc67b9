"""What is known beside the pixels, as numbers; what of it is hidden in training; columns that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from skin.data.dataset import EpochBatches, Metadata, PlainBatches, RandomViews, SkinDiseaseDataset, make_loader
from skin.data.images import Preprocess
from skin.data.metadata import Column, Encoder, check_names, fit, join
from skin.utils.errors import UserError

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

AGE, SEX = Column("age", (), 50.0, 10.0), Column("sex", ("female", "male"))
BOTH = Encoder((AGE, SEX))
PLAIN = Preprocess(8, 8, "bilinear", (0.5,) * 3, (0.5,) * 3)


def rows(**columns: list[Any]) -> pd.DataFrame:
    labels = columns.pop("label", ["mel", "nv"] * (len(next(iter(columns.values()))) // 2))
    names = [f"i{n}" for n in range(len(labels))]
    return pd.DataFrame({"image": names, "label": labels, "group": names} | columns)


def test_an_encoder_is_fitted_on_the_rows_it_is_given() -> None:
    found = fit(("age", "sex"), rows(age=[40.0, 60.0, math.nan, 50.0], sex=["male", "", "female", "male"]))
    assert [column.name for column in found.columns] == ["age", "sex"]
    age, sex = found.columns
    assert age.mean == 50
    assert age.deviation == pytest.approx(math.sqrt(200 / 3))  # of 40, 60 and 50
    assert sex.categories == ("female", "male")


def test_a_number_has_a_value_and_a_flag_and_a_category_has_a_place() -> None:
    ages, sexes = [70.0, None, "45", math.nan, "old"], ["male", "Female ", "", "other", None]
    found = BOTH.encode({"age": ages, "sex": sexes}, 5)
    assert found.dtype == np.float32
    assert found.tolist() == [
        [2.0, 0, 0, 1],
        [0.0, 1, 1, 0],
        [-0.5, 0, 0, 0],
        [0.0, 1, 0, 0],  # neither an age nor a sex that is known
        [0.0, 1, 0, 0],
    ]


@pytest.mark.parametrize("word", [None, "", " ", math.nan, "unknown", "Not recorded", "NA", "null", "nan", "?"])
def test_a_word_for_nothing_is_nothing(word: object) -> None:
    assert BOTH.encode({"age": [word], "sex": [word]}, 1).tolist() == [[0, 1, 0, 0]]
    assert BOTH.problems({"age": word, "sex": word}) == []


def test_a_column_that_a_table_lacks_is_missing_for_all() -> None:
    assert BOTH.encode({"sex": ["male", "female"]}, 2).tolist() == [[0, 1, 0, 1], [0, 1, 1, 0]]
    assert BOTH.missing.tolist() == [0, 1, 0, 0]


def test_a_column_is_found_whatever_the_case_of_its_name() -> None:
    assert BOTH.encode({"Age": [60.0], "SEX": ["male"]}, 1).tolist() == [[1, 0, 0, 1]]
    for names in (("AGE", "age"), ("age", "AGE")):  # its own name counts first
        ages = {name: [70.0 if name == "age" else 60.0] for name in names}
        assert BOTH.encode(ages, 1).tolist() == [[2, 0, 0, 0]]
    assert BOTH.problems({"Age": 60, "Sex": "x"}) == ["Sex=x counts as missing: the model knows female, male"]


@pytest.mark.parametrize(("value", "expected"), [("1e300", 10), (-1e300, -10), ("inf", 0), (10**400, 0)])
def test_no_number_is_too_large(value: object, expected: float) -> None:
    assert BOTH.encode({"age": [value]}, 1)[0, 0] == expected


def test_words_are_a_category_once_whatever_their_case() -> None:
    found = fit(("site",), rows(site=["Back", "back", "lower  extremity", "Face", "not recorded", "back"]))
    assert found.columns[0].categories == ("Back", "Face", "lower extremity")
    assert found.encode({"site": ["BACK", "lower extremity"]}, 2).tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(("sign", "other"), [("-", "+"), ("--", "++"), ("missing", "present")])
def test_the_opposite_of_a_finding_is_a_value(sign: str, other: str) -> None:
    found = fit(("finding",), rows(finding=[sign, other, other, sign, "unknown", ""]))
    assert set(found.columns[0].categories) == {sign, other}
    assert found.problems({"finding": sign}) == []


def test_a_model_that_knows_a_word_for_nothing_as_a_category_goes_on_to_do_so() -> None:
    older = Encoder((Column("site", ("back", "not recorded")),))
    assert older.encode({"site": ["Not recorded", "unknown", "?"]}, 3).tolist() == [[0, 1], [0, 0], [0, 0]]
    assert older.problems({"site": "missing"}) == []


def test_a_negative_number_is_no_word_for_nothing() -> None:
    assert fit(("change",), rows(change=["-1", "-9", "3", "-1"])).columns[0].least == -9


def test_a_column_of_numbers_and_one_word_is_of_categories() -> None:
    found = fit(("size",), rows(size=["1", "2", "large", "2"]))
    assert found.columns[0].categories == ("1", "2", "large")


def test_a_comma_may_stand_for_the_decimal_point_but_not_where_it_may_part_thousands() -> None:
    (size,) = fit(("size",), rows(size=["7,5", "8.5", "12,0", "12"])).columns
    assert (size.categories, size.mean) == ((), 10.0)
    assert AGE.encode(["55,0", "-45,00", "1,234", "1,2,3"]).tolist() == [[0.5, 0], [-9.5, 0], [0, 1], [0, 1]]


def test_numbers_that_are_all_the_same_are_no_division_by_zero() -> None:
    assert fit(("age",), rows(age=[50.1] * 6)).encode({"age": [51.1]}, 1).tolist() == [[1, 0]]


def test_an_encoder_comes_back_from_plain_data() -> None:
    assert Encoder.from_list(json.loads(json.dumps(BOTH.to_list()))) == BOTH


@pytest.mark.parametrize(
    "damage",
    [
        {"deviation": 0.0}, {"deviation": math.nan}, {"mean": "1"}, {"name": ""}, {"name": 3},
        {"categories": ["a", "A"]}, {"categories": [1]}, {"categories": None},
        {"least": 1.0}, {"least": 2.0, "most": 1.0}, {"least": math.nan, "most": 1.0},
    ],
)  # fmt: skip
def test_a_damaged_encoder_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError, KeyError)):
        Encoder.from_list([BOTH.to_list()[0] | damage])  # type: ignore[operator]
    with pytest.raises((TypeError, ValueError, KeyError)):
        Encoder.from_list([{}])
    with pytest.raises(ValueError, match="no columns"):
        Encoder.from_list([])


def test_several_encoders_give_their_numbers_one_after_another() -> None:
    joined = join([BOTH, None, Encoder((Column("sex", ("male", "other")),))])
    assert joined is not None
    assert joined.encode({"age": [60], "sex": ["male"]}, 1).tolist() == [[1, 0, 0, 1, 1, 0]]
    assert joined.names == ["age", "sex"]
    assert joined.fields == {"age": [], "sex": ["female", "male", "other"]}
    assert joined.problems({"sex": "other"}) == []  # one of the two knows it
    assert join([None]) is None


def test_what_counts_as_missing_though_it_was_given_is_told() -> None:
    assert BOTH.problems({"age": "old", "sex": "x", "site": "back"}) == [
        "age=old counts as missing: it is not a number",
        "sex=x counts as missing: the model knows female, male",
        "site=back counts as missing: the model uses age, sex",
    ]


def test_a_number_unlike_those_in_training_is_told_and_used() -> None:
    fitted = fit(("age",), rows(age=[20, 85, None, 40]))
    assert Encoder.from_list(json.loads(json.dumps(fitted.to_list()))) == fitted
    assert fitted.problems({"age": 20}) == fitted.problems({"age": "85.0"}) == fitted.problems({"age": None}) == []
    for age in (-5, 450):
        (line,) = fitted.problems({"age": age})
        assert line == f"age={age} is used, but the model has learned from 20 to 85 alone"
        assert fitted.encode({"age": [age]}, 1)[0, 1] == 0  # it is not missing
    wider = join([fitted, fit(("age",), rows(age=[0, 500]))])
    assert wider is not None
    assert wider.problems({"age": 450}) == []  # one of the two has seen such


def test_the_share_that_is_known() -> None:
    encoded = BOTH.encode({"age": [50, None, 50, 50], "sex": ["male", "x", "", "female"]}, 4)
    assert BOTH.known(encoded) == {"age": 0.75, "sex": 0.5}


# ---- columns that are refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dx", "it tells the class"), ("Outcome", "it tells the class"), ("diagnosis_1", "it tells the class"),
        ("dx_type", "it tells the class"), ("label", "it tells the class"),
        ("benign_malignant", "it tells the class"), ("iddx_1", "it tells the class"),
        ("group", "it tells whose an image is"), ("lesion_id", "it tells whose an image is"),
        ("PatientenNr", "it tells whose an image is"), ("case number", "it tells whose an image is"),
        ("image", "the data have no such column; they have age, sex"),
        ("weight", "the data have no such column; they have age, sex"),
    ],
)  # fmt: skip
def test_a_name_that_is_of_no_use_is_refused(name: str, reason: str) -> None:
    columns = ["image", "path", "label", "group", "split", "lesion_id", "dx_type", "age", "sex", "Outcome"]
    with pytest.raises(UserError, match=f"--metadata {name}: {reason}"):
        check_names([name], [c for c in columns if c != "Outcome" or name == "Outcome"], "Outcome")


def test_columns_with_such_words_in_their_middle_may_be_used() -> None:
    names = ["age_group", "sex", "width", "has_piercing", "classification_site"]
    check_names(names, [*names, "group"])


def test_data_without_any_column_say_so() -> None:
    with pytest.raises(UserError, match="--metadata age: the data have no such column; they have none that can be"):
        check_names(["age"], ["image", "path", "label", "group", "split"])


def test_a_column_of_a_thousand_values_is_refused() -> None:
    words = [f"word {n % 1000}" for n in range(4000)]
    labels = [f"class {n // 7 % 3}" for n in range(4000)]
    message = "--metadata note: it has 1,000 different values, and at most 50 can be used; name a column of numbers"
    with pytest.raises(UserError, match=message):
        fit(("note",), rows(note=words, label=labels))


@pytest.mark.parametrize(
    "values",
    [
        ["a", "b", "b", "b", "a", "c", "c", ""],  # each word has one class
        [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0],  # a target
        ["x", "y"] * 4,
    ],
)
def test_a_column_that_gives_the_class_away_is_refused(values: list[Any]) -> None:
    labels = ["mel", "nv", "nv", "nv", "mel", "bcc", "bcc", "nv"] if values[0] == "a" else ["mel", "nv"] * 4
    with pytest.raises(UserError, match="--metadata found: each value goes with one class"):
        fit(("found",), rows(found=values, label=labels))


def test_a_column_without_a_value_is_refused() -> None:
    with pytest.raises(UserError, match="--metadata age: no image of the training split has a value: leave it out"):
        fit(("age",), rows(age=["", "unknown", "", ""]))


def test_a_column_of_numbers_with_a_slip_names_it() -> None:
    """As categories, an age of 57 that training did not have would count as missing."""
    ages = [20 + n % 60 for n in range(99)]
    for slip in ("25y", "inf", "1e200"):
        message = f"--metadata age: 1 of 100 values are no numbers, such as '{slip}': correct them, or leave"
        with pytest.raises(UserError, match=message):
            fit(("age",), rows(age=[*ages, slip]))
    assert fit(("grade",), rows(grade=["1", "2", "3"] * 33 + ["3a"])).columns[0].categories == ("1", "2", "3", "3a")


def test_tiny_numbers_are_no_division_by_zero() -> None:
    (size,) = fit(("size",), rows(size=[1e-200, 2e-200, 3e-200, 3e-200])).columns
    assert size.deviation == 1.0


def test_names_are_found_in_any_case_and_once() -> None:
    check_names(["AGE", "Sex"], ["image", "age", "sex"])
    found = fit(("AGE", "age"), rows(age=[40, 50, 60, 60]))
    assert [column.name for column in found.columns] == ["age"]


def test_a_column_of_names_is_refused() -> None:
    for name in ("patient", "Patient Name", "lesion_number", "filename", "name"):
        with pytest.raises(UserError, match=f"--metadata {name}: it tells whose"):
            check_names([name], [name])
    check_names(["lesion_size", "patient_age", "site_name"], ["lesion_size", "patient_age", "site_name"])
    who = [f"Mrs {n // 2}" for n in range(40)]
    with pytest.raises(UserError, match="--metadata who: each patient, lesion or image has a word of its own"):
        fit(("who",), rows(who=who, group=[n // 2 for n in range(40)], label=["mel", "mel", "nv", "bcc"] * 10))


# ---- batches --------------------------------------------------------------------------------------------


def dataset(folder: Path, images: int = 40) -> SkinDiseaseDataset:
    path = folder / "grey.png"
    if not path.exists():
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(path)
    known = BOTH.encode({"age": np.linspace(30, 69, images), "sex": ["female", "male"] * (images // 2)}, images)
    return SkinDiseaseDataset(
        [str(path)] * images, np.arange(images) % 2, PLAIN, RandomViews(seed=5), metadata=Metadata(BOTH, known)
    )


def an_epoch(data: SkinDiseaseDataset, workers: int, epoch: int = 0, first_step: int = 0) -> torch.Tensor:
    batches = EpochBatches(data.labels, 8, seed=5)
    batches.set_epoch(epoch, first_step)
    found = torch.zeros(len(data), BOTH.width)
    for batch in make_loader(data, batches, workers):
        assert batch.metadata is not None
        assert torch.equal(batch.metadata[:, 1], torch.from_numpy(BOTH.missing).expand(len(batch.indices), -1))
        found[batch.indices] = batch.metadata[:, 0]
    return found


def test_what_is_hidden_is_a_function_of_seed_epoch_and_image(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    whole = an_epoch(data, workers=0)
    assert torch.equal(an_epoch(data, workers=2), whole)
    rest = an_epoch(data, workers=0, first_step=2)
    seen = rest.any(1)
    assert int(seen.sum()) == 24  # of five batches of eight
    assert torch.equal(rest[seen], whole[seen])
    assert not torch.equal(an_epoch(data, workers=0, epoch=1), whole)


def test_nothing_is_hidden_from_validation(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    (batch,) = make_loader(data, PlainBatches(len(data), 40), workers=0)
    assert data.metadata is not None
    assert torch.equal(batch.metadata, torch.from_numpy(data.metadata.rows))


def test_values_are_hidden_as_if_they_were_missing() -> None:
    draws = np.array([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1], [0.1, 0.1]])
    whole = BOTH.encode({"age": [60] * 4, "sex": ["male"] * 4}, 4)
    told = BOTH.partly(whole, draws)
    assert told[:, 0].tolist() == [[1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert told[:, 1].tolist() == [[0, 1, 0, 0]] * 4
    assert whole.tolist() == [[1, 0, 0, 1]] * 4


def test_a_batch_takes_room_for_its_metadata(tmp_path: Path) -> None:
    data = dataset(tmp_path)
    # Images of 192 bytes, two numbers of 8 and metadata of 32 bytes each, in whole pages.
    assert data.batch_bytes(1000) == (47 + 4 + 8) * 4096
