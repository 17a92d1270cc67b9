"""The split: stratified, no group on two sides, the same whatever the order of the rows."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from skin.data import split
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.split import (
    apply_manifest,
    assign,
    cut_folds,
    leaks,
    of_fold,
    parse_fractions,
    read_manifest,
    split_index,
    write_manifest,
)
from skin.utils.errors import UserError
from skin.utils.files import WriteError

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

RECIPE = (0.7, 0.2, 0.1)


def index_of(rows: list[tuple[str, str, str, str]]) -> Index:
    """An index of rows (image, label, group, split); no files are needed to split."""
    table = pd.DataFrame(rows, columns=["image", "label", "group", "split"])
    table.insert(1, "path", "/data/" + table["image"])
    return Index(Path("/data"), "labels table", table, tuple(sorted(set(table["label"]))), ())


def counts(labels: np.ndarray, parts: np.ndarray) -> dict[int, list[int]]:
    return {
        int(label): [int((parts[labels == label] == p).sum()) for p in ("train", "val", "test")]
        for label in set(labels)
    }


def test_single_images_are_dealt_to_the_last_image() -> None:
    labels = np.repeat([0, 1, 2], [1000, 100, 10])
    parts = assign(labels, np.arange(1110).astype(str), RECIPE, seed=0)
    assert counts(labels, parts) == {0: [700, 200, 100], 1: [70, 20, 10], 2: [7, 2, 1]}


def test_three_images_of_a_class_go_one_to_each_part() -> None:
    labels = np.repeat([0, 1], [3, 40])
    parts = assign(labels, np.arange(43).astype(str), RECIPE, seed=5)
    assert counts(labels, parts) == {0: [1, 1, 1], 1: [28, 8, 4]}


def test_large_and_small_groups_are_spread_alike() -> None:
    sizes = np.repeat([6, 3, 1], [50, 100, 300])
    groups = np.repeat(np.arange(450), sizes).astype(str)
    parts = assign(np.zeros(len(groups), dtype=int), groups, RECIPE, seed=1)
    for size in (6, 3, 1):
        of_size = parts[np.repeat(sizes, sizes) == size]
        assert abs((of_size == "train").mean() - 0.7) < 0.03
        assert abs((of_size == "test").mean() - 0.1) < 0.03


def test_a_part_of_fraction_zero_stays_empty() -> None:
    parts = assign(np.zeros(10, dtype=int), np.arange(10).astype(str), (0.8, 0.2, 0.0), seed=0)
    assert counts(np.zeros(10, dtype=int), parts) == {0: [8, 2, 0]}


def test_another_seed_is_another_split_of_the_same_sizes() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100).astype(str)
    one, other = (assign(labels, groups, RECIPE, seed=seed) for seed in (0, 1))
    assert counts(labels, one) == counts(labels, other)
    assert (one != other).sum() > 20


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Sets of up to four classes; a group has one to five images, and one in five groups several labels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    classes = draw(st.integers(2, 4))
    labels, groups = [], []
    for group in range(draw(st.integers(20, 120))):
        own = int(rng.integers(classes))
        for _ in range(int(rng.integers(1, 6))):
            labels.append(int(rng.integers(classes)) if group % 5 == 0 else own)
            groups.append(f"lesion {group}")
    return np.array(labels), np.array(groups)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sets(), st.integers(0, 1000))
def test_any_set_is_split_by_group_near_its_fractions_whatever_its_order(
    data: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, groups = data
    labels = np.unique(labels, return_inverse=True)[1]
    rarest = min(len(set(groups[labels == label])) for label in set(labels))
    if rarest < 8:
        return  # whether there is a split is the subject of other tests
    parts = assign(labels, groups, RECIPE, seed)
    for group in set(groups):
        assert len(set(parts[groups == group])) == 1
    for label in set(labels):
        total = (labels == label).sum()
        for part, fraction in zip(("train", "val", "test"), RECIPE, strict=True):
            held = (parts[labels == label] == part).sum()
            assert held >= 1
            assert abs(held - fraction * total) <= 5 + 1  # a group has five images at most
    order = np.random.default_rng(seed).permutation(len(labels))
    assert np.array_equal(assign(labels[order], groups[order], RECIPE, seed), parts[order])


def test_a_lesion_with_two_labels_stays_whole() -> None:
    labels = np.array([0, 1] * 3 + [0] * 20 + [1] * 20)
    groups = np.array(["both"] * 6 + [f"g{n}" for n in range(40)])
    parts = assign(labels, groups, RECIPE, seed=0)
    assert len(set(parts[:6])) == 1
    assert {label: sum(found) for label, found in counts(labels, parts).items()} == {0: 23, 1: 23}


def test_a_class_with_too_few_lesions_is_named() -> None:
    rows = [(f"i{n}", "nv", f"g{n}", "") for n in range(20)] + [(f"m{n}", "mel", f"h{n % 2}", "") for n in range(9)]
    with pytest.raises(UserError, match=r"class 'mel' has images of 2 lesions.* each of 3 splits .*--split"):
        split_index(index_of(rows), RECIPE, 0)
    two = split_index(index_of(rows), (0.8, 0.2, 0.0), 0)
    assert set(two["split"]) == {"train", "val"}


def test_one_class_only_is_refused() -> None:
    with pytest.raises(UserError, match=r"one class only \('nv'\)"):
        split_index(index_of([(f"i{n}", "nv", f"g{n}", "") for n in range(20)]), RECIPE, 0)


# --------------------------------------------------------------------------- folds


def split_rows(test: int = 4) -> pd.DataFrame:
    """Rows of two classes with lesions of one to three images; the first lesions are the test split."""
    rows = [
        (f"{label}-{n:02d}-{image}", label, f"{label}-{n}", "test" if n < test else ("val" if n % 3 else "train"))
        for label, lesions in (("mel", 19), ("nv", 64)) for n in range(lesions) for image in range(1 + n % 3)
    ]  # fmt: skip
    return index_of(rows).rows


def test_folds_are_of_like_size_in_each_class_and_no_lesion_is_in_two() -> None:
    rows = split_rows()
    fold = cut_folds(rows, ("mel", "nv"), 5, seed=0)
    assert ((fold == 0) == (rows["split"] == "test")).all()
    assert pd.Series(fold).groupby(rows["group"]).nunique().max() == 1
    for label, images in (("mel", 29), ("nv", 120)):  # 15 and 60 lesions of two images in the mean, beside the test's
        sizes = np.bincount(fold[rows["label"] == label], minlength=6)[1:]
        assert abs(sizes - images / 5).max() <= 1


def test_the_cut_depends_on_the_set_of_rows_and_the_seed_alone() -> None:
    rows = split_rows()
    fold = cut_folds(rows, ("mel", "nv"), 5, seed=3)
    order = np.random.default_rng(0).permutation(len(rows))
    assert np.array_equal(cut_folds(rows.iloc[order], ("mel", "nv"), 5, seed=3), fold[order])
    assert not np.array_equal(cut_folds(rows, ("mel", "nv"), 5, seed=4), fold)


def test_a_class_with_fewer_lesions_than_folds_is_named_with_its_number() -> None:
    named = r"--folds 16: class 'mel' has images of 15 lesions, .* use --folds 15 at most"
    with pytest.raises(UserError, match=named):
        cut_folds(split_rows(), ("mel", "nv"), 16, seed=0)
    assert set(cut_folds(split_rows(), ("mel", "nv"), 15, seed=0)) == set(range(16))


def test_two_patients_are_swapped_where_none_can_be_spared() -> None:
    """Only 0 and 2 on one side, 1 and 3 on the other, have every class on both."""
    labels = np.array([0, 1, 1, 1, 1, 2, 0, 2, 2])
    patients = np.array([0, 1, 2, 2, 2, 2, 3, 3, 3])
    for seed in range(5):
        parts = split.deal(labels, patients, (0.8, 0.2), seed)
        assert all(set(labels[parts == part]) == {0, 1, 2} for part in (0, 1))


def test_classes_that_share_lesions_may_leave_no_cut_though_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> NoReturn:
        raise split.TooFewGroups(1, 4, 4)

    monkeypatch.setattr(split, "deal", fail)
    with pytest.raises(UserError, match=r"--folds 4: no cut was found that has class 'nv' in each part, .* or fewer"):
        cut_folds(split_rows(), ("mel", "nv"), 4, seed=0)


def test_a_split_that_is_not_found_is_not_blamed_on_too_few_patients() -> None:
    """Each class has three, all of whom must be apart: of four, two are in the same part."""
    has = {"akiec": "pqr", "mel": "pqs", "nv": "prs"}
    rows = [(f"{label}-{patient}", label, patient, "") for label, patients in has.items() for patient in patients]
    said = r"no cut was found that has class '\w+' in each part, though images of it are of 3 .*; use another --seed"
    with pytest.raises(UserError, match=said):
        split_index(index_of(rows), RECIPE, 0)


def test_the_manifest_of_folds_gives_each_fold_its_own(tmp_path: Path) -> None:
    rows = split_rows()
    fold = cut_folds(rows, ("mel", "nv"), 3, seed=0)
    write_manifest(rows, tmp_path / "split.csv", fold)
    manifest = read_manifest(tmp_path / "split.csv")
    assert manifest["fold"].tolist() == fold.tolist()
    second = of_fold(manifest, 2)
    assert list(second.columns) == ["image", "label", "group", "split"]
    assert second["split"].tolist() == [("test", "train", "val", "train")[number] for number in fold]
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(text.replace(",0\n", ",none\n"))
    with pytest.raises(UserError, match="folds that are no numbers"):
        read_manifest(tmp_path / "split.csv")


# --------------------------------------------------------------------------- splits that the data bring


def brought(*splits: str, images: int = 20) -> Index:
    return index_of([
        (f"{split or 'open'}-{label}-{n:02d}", label, f"{split}-{label}-{n}", split)
        for split in splits for label in ("mel", "nv") for n in range(images)
    ])  # fmt: skip


def sizes(rows: pd.DataFrame) -> dict[str, int]:
    return rows["split"].value_counts().to_dict()


def test_a_whole_split_stays_as_it_is() -> None:
    index = brought("train", "val", "test")
    assert split_index(index, RECIPE, 0).equals(index.rows)


def test_what_is_lacking_is_cut_from_the_training_part() -> None:
    rows = split_index(brought("train", "test", images=90), RECIPE, 0)
    # 20 of every 70 + 20 training images of a class become the validation part.
    assert sizes(rows) == {"train": 140, "val": 40, "test": 180}
    assert (rows["split"] == "test").equals(rows["image"].str.startswith("test"))


def test_a_training_part_alone_is_split_in_three() -> None:
    assert sizes(split_index(brought("train", images=50), RECIPE, 0)) == {"train": 70, "val": 20, "test": 10}


def test_a_part_of_fraction_zero_is_not_cut() -> None:
    assert sizes(split_index(brought("train", "val"), (0.8, 0.2, 0.0), 0)) == {"train": 40, "val": 40}


def test_rows_without_a_split_follow_their_lesion_else_are_dealt() -> None:
    index = brought("train", "val", "test", "", images=10)
    follower = {"image": "z", "path": "/data/z", "label": "mel", "group": "test-mel-3", "split": ""}
    rows = pd.concat([index.rows, pd.DataFrame([follower])], ignore_index=True)
    done = split_index(Index(index.root, index.layout, rows, index.classes, ()), RECIPE, 0)
    assert done["split"].iloc[-1] == "test"
    assert sizes(done) == {"train": 20 + 14, "val": 20 + 4, "test": 20 + 2 + 1}


def test_a_split_without_a_training_part_is_refused() -> None:
    with pytest.raises(UserError, match=r"without a training split \(only test, val\)"):
        split_index(brought("val", "test"), RECIPE, 0)


# --------------------------------------------------------------------------------- leaks, the manifest


def test_leaks_name_what_stands_on_two_sides() -> None:
    sides = ["train", "test", "val", "val", "", "val"]
    rows = zip("abcdef", "xxxxxx", "gghhkk", sides, strict=True)
    index = index_of(list(rows))
    found = leaks(index.rows)
    assert [(leak.group, leak.splits, leak.images) for leak in found] == [("g", ("test", "train"), ("b", "a"))]
    assert str(found[0]) == "group g stands in 2 splits: b in test, a in train"


def test_the_manifest_comes_back_as_it_went(tmp_path: Path) -> None:
    index = index_of([("a,b", "nv", "g\n1", "train"), ('"c"', "NA", "é", "val"), (" d", "none", "007", "test")])
    write_manifest(index.rows, tmp_path / "split.csv")
    manifest = read_manifest(tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text(encoding="utf-8").splitlines()[0] == "image,label,group,split"
    assert manifest.to_numpy().tolist() == index.rows[["image", "label", "group", "split"]].to_numpy().tolist()
    assert apply_manifest(index.rows.assign(split=""), manifest, tmp_path).equals(index.rows)
    with pytest.raises(UserError, match=r"1 images of .* no longer in the data \(first: a,b\)"):
        apply_manifest(index.rows[1:], manifest, tmp_path)


def test_the_manifest_is_a_labels_table_whatever_its_classes_are_called(tmp_path: Path) -> None:
    rows = [(f"{label}.jpg", label, f"g {label}", "train") for label in ("N/A", "none", "null", "nv")]
    rows = [(image.replace("/", ""), *rest) for image, *rest in rows]
    for image, *_ in rows:
        (tmp_path / image).touch()
    write_manifest(index_of(rows).rows, tmp_path / "split.csv")
    assert read_manifest(tmp_path / "split.csv")["label"].tolist() == ["N/A", "none", "null", "nv"]
    again = read_index(tmp_path, labels=tmp_path / "split.csv").rows
    assert again[["image", "label", "group", "split"]].to_numpy().tolist() == [list(row) for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label\na,b\n", "has no column 'group'"),
        ("image,label,group,split\na,b,c,train\nd,b,c,val\na,b,c,train\n", "names the image 'a' twice"),
        ('image,label,group,split\n"a\nb",b,c,train\n"a\nb",b,c,val\n', "twice"),
        ("image,label,group,split\na,b,c,else\n", "has the split 'else', which is not train, val or test"),
        ("", "cannot be read as the split.csv"),
        ("\x00", "split.csv"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(content)
    with pytest.raises(UserError) as error:
        read_manifest(tmp_path / "split.csv")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("70/20/10", RECIPE), ("0.7/0.2/0.1", RECIPE), ("80/20/0", (0.8, 0.2, 0.0)), ("1/1/2", (0.25, 0.25, 0.5))],
)
def test_fractions_of_any_scale(text: str, expected: tuple[float, float, float]) -> None:
    assert parse_fractions(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "70/30", "70/20/10/0", "0/50/50", "a/b/c", "70/-20/50", "nan/1/1", "inf/1/1"])
def test_fractions_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="not three numbers"):
        parse_fractions(text)


@pytest.mark.real
def test_ham10000_is_split_within_two_images_or_two_points(real_data: Path) -> None:
    index = read_index(real_data / "ham10000")
    rows = split_index(index, RECIPE, 0)
    assert leaks(rows) == []
    for _, of_class in rows.groupby("label"):
        for part, fraction in zip(("train", "val", "test"), RECIPE, strict=True):
            held, total = (of_class["split"] == part).sum(), len(of_class)
            assert abs(held - fraction * total) <= max(2, 0.02 * total)


def test_the_manifest_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    rows = pd.DataFrame({"image": ["ä", 'b"'], "label": "nv", "group": "g", "split": "train", "path": "p"})
    write_manifest(rows, tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_bytes() == (
        'image,label,group,split\nä,nv,g,train\n"b""",nv,g,train\n'.encode()
    )
    with pytest.raises(WriteError, match=r"cannot write .*split\.csv"):
        write_manifest(rows, tmp_path / "no folder" / "split.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["split.csv"]
