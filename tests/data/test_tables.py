"""Tables as spreadsheets and other programs leave them, and the columns and classes that the user names."""

from __future__ import annotations

from pathlib import Path

from skin.data import tables
from skin.data.encodings import code_page
from skin.data.index import Index
from skin.data.layouts import read_index
from skin.data.tables import header, read_table, row_number
from skin.utils.errors import UserError

import openpyxl
import pandas as pd
import pytest

RUSSIAN = ("меланома", "кератоз", "невус")
ROWS = "a,mel\nb,nv\nc,nv\n"


def labelled(folder: Path, content: str | bytes, *names: str, table: str = "labels.csv") -> Index:
    """Write a table and empty images (a.jpg, b.jpg, c.jpg), and read them."""
    data = folder / "photos"
    for name in names or ("a.jpg", "b.jpg", "c.jpg"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(name)
    (folder / table).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_index(data, labels=folder / table)


def labels_of(index: Index) -> dict[str, str]:
    return dict(zip(index.rows["image"], index.rows["label"], strict=True))


# ------------------------------------------------------------------------------------------ the form of a table


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffimage;label;\r\na;mel;\r\nb;nv;\r\nc;nv;\r\n;;\r\n;;\r\n",
        "image,label\na,mel\n\n,\nb,nv\n , \nc,nv\n",
        "image,label,site\na,mel\nb,nv,arm\nc,nv\n,,\n",  # lines shorter than the header
        "sep=;\r\nimage;label\r\na;mel\r\nb;nv\r\nc;nv\r\n",
        '"sep=,"\nimage,label\na,mel\nb,nv\nc,nv\n',
        "SEP=|\nimage|label\na|mel\nb|nv\nc|nv\n",
        ("\ufeffsep=\t\nimage\tlabel\na\tmel\nb\tnv\nc\tnv\n").encode("utf-16-le"),
        "image,label\na,mel,\nb,nv,\nc,nv,\n",  # lines longer than the header
        "image;label\na;mel\nb;nv;;\nc;'nv';; ;\n".replace("'", '"'),
        ",image,label\n0,a,mel\n1,b,nv\n2,c,nv\n",
        "Unnamed: 0,image,mel,nv\n0,a,1,0\n1,b,0,1\n2,c,0,1\n",
        ",image,mel,nv\n0,a,1.0,0.0\n1,b,0.0,1.0\n2,c,0.0,1.0\n",
        "index;image;mel;nv\n0;a;1,0;0,0\n1;b;0,0;1,0\n2;c;0,0;1,0\n",
        "image,age,sex,mel,nv\na,61,male,1,0\nb,7,,0,1\nc,,female,0,1\n",
        "image,fold,mel,nv\na,1,1,0\nb,2,0,1\nc,1,0,1\n",
    ],
)
def test_what_spreadsheets_add_is_no_part_of_the_table(tmp_path: Path, content: str | bytes) -> None:
    index = labelled(tmp_path, content)
    assert labels_of(index) == {"a": "mel", "b": "nv", "c": "nv"}
    assert not [name for name in index.rows.columns if "unnamed" in name.lower() or name == "index"]


def test_a_table_that_is_cut_within_a_letter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is cut short or damaged: save it again"):
        labelled(tmp_path, "image,label\na,mel\nb,nv\n".encode("utf-16")[:-1])


def test_zeros_in_front_and_quoted_cells_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,text\n007,"a, ""b""\nc"\n1.50,nan\n')
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"id": ["007", "1.50"], "text": ['a, "b"\nc', ""]}


def test_a_quote_that_never_ends_is_no_long_cell(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a table"):
        labelled(tmp_path, 'image,label\na,mel\nb,"nv\nc,nv\n')


@pytest.mark.parametrize(("start", "row"), [("", 3), ("sep=,\n", 4), ("\n", 4)])
def test_a_row_of_more_cells_than_columns_is_named(tmp_path: Path, start: str, row: int) -> None:
    table = f"{start}image,label\na,mel\nb,%s\nc,nv\n"
    said = rf"cannot be read as a table: row {row} has 3 cells, and the header 2; put cells that hold a ',' in quotes"
    with pytest.raises(UserError, match=said):
        labelled(tmp_path, table % "Melanoma, NOS")
    assert labelled(tmp_path, table % '"Melanoma, NOS"').classes == ("Melanoma, NOS", "mel", "nv")


def test_a_workbook_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (("image", "label"), ("a", "mel"), ("b", "nv"), ("c", "nv")):
        book.worksheets[0].append(row)
    book.save(tmp_path / "labels.xlsx")
    with pytest.raises(UserError, match=r"labels.xlsx is an Excel workbook .*: save the sheet as CSV in UTF-8"):
        labelled(tmp_path, (tmp_path / "labels.xlsx").read_bytes(), table="labels.xlsx")


@pytest.mark.parametrize("ending", [".jpg", ""])
def test_a_table_without_a_header_loses_no_image(tmp_path: Path, ending: str) -> None:
    rows = f"a{ending},mel\nb{ending},nv\nc{ending},nv\n"
    with pytest.raises(UserError, match=f"has no header, but the row a{ending},mel: put the row image,label above"):
        labelled(tmp_path, rows)
    assert len(labelled(tmp_path, f"image,label\n{rows}").rows) == 3


@pytest.mark.parametrize(
    ("content", "row"),
    [
        ("image,label,split\na,mel,train\nb,nv,x\n", 3),
        ("sep=,\nimage,label,split\na,mel,train\nb,nv,x\n", 4),
        ("image,label,split\na,mel,train\n,,\n\nb,nv,x\n", 5),
    ],
)
def test_a_message_counts_rows_as_the_file_does(tmp_path: Path, content: str, row: int) -> None:
    with pytest.raises(UserError, match=rf"row {row}: the split 'x'"):
        labelled(tmp_path, content)
    assert row_number(tmp_path / "labels.csv", 1) == row


def test_a_one_hot_mark_that_is_none_is_named_by_the_row_of_the_file(tmp_path: Path) -> None:
    head = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
    (tmp_path / "I1.jpg").touch()
    (tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv").write_text(f"sep=,\n\n{head}I1,0.4,0,0,0,0,0,0\n")
    with pytest.raises(UserError, match=r"row 4, column MEL: '0\.4'"):
        read_index(tmp_path)


@pytest.mark.parametrize("numbers", [("0", "0.0", "1"), ("0,0", "0", "1"), ("1", "0.0", "1.0"), ("1.0", "0", "1,00")])
def test_one_number_in_several_spellings_is_one_class(tmp_path: Path, numbers: tuple[str, ...]) -> None:
    rows = "".join(f"{image};{label};{label}\n" for image, label in zip("abc", numbers, strict=True))
    index = labelled(tmp_path, f"image;label;group\n{rows}")
    assert list(labels_of(index).values()) == [number[0] for number in numbers]
    assert index.rows["group"].tolist() == [number[0] for number in numbers]


def test_numbers_in_one_spelling_stay_and_names_are_no_numbers(tmp_path: Path) -> None:
    assert labelled(tmp_path, "image,label\na,0.0\nb,1.0\nc,1.0\n").classes == ("0.0", "1.0")
    assert labelled(tmp_path, "image,label\na,1.5\nb,1.50\nc,01.0\n").classes == ("01.0", "1.5", "1.50")


# ---------------------------------------------------------------------------------------------------- code pages


@pytest.mark.parametrize(
    ("page", "words", "name"),
    [
        ("cp1251", RUSSIAN, "Windows-1251"),
        ("cp1251", ("злокачественное", "доброкачественное", "Невус"), "Windows-1251"),
        ("gbk", ("黑色素瘤", "痣", "基底细胞癌"), "GBK"),
        ("big5", ("黑色素瘤", "痣", "基底細胞癌"), "Big5"),
        ("cp932", ("メラノーマ", "母斑", "基底細胞癌"), "Shift-JIS"),
        ("cp949", ("흑색종", "모반", "기저세포암"), "EUC-KR"),
        ("cp1252", ("mélanome", "nævus", "kératose séborrhéique"), "Windows-1252"),
        ("cp1252", ("Melanom", "Nävus", "Gefäßläsion"), "Windows-1252"),
        ("cp1250", ("czerniak", "znamię", "łagodne"), "Windows-1250"),
        ("cp1253", ("μελάνωμα", "σπίλος", "μελάνωμα"), "Windows-1253"),
        ("mac_roman", ("nävus", "mélanome", "kératose"), "Mac Roman"),
    ],
)
def test_a_code_page_is_told_from_the_words_and_said(
    tmp_path: Path, page: str, words: tuple[str, ...], name: str
) -> None:
    rows = "".join(f"{image},{word}\n" for image, word in zip("abc", words, strict=True))
    index = labelled(tmp_path, f"image,label\n{rows}".encode(page))
    assert labels_of(index) == dict(zip("abc", words, strict=True))
    assert f"labels.csv is not UTF-8: read as {name} ('" in index.notes[-1]


@pytest.mark.parametrize(
    ("page", "words"),
    [("gbk", ("良性", "恶性")), ("cp932", ("悪性", "良性")), ("cp1254", ("kötü huylu", "iyi huylu"))],
)
def test_words_that_several_code_pages_explain_are_refused_and_utf_8_is_asked_for(
    tmp_path: Path, page: str, words: tuple[str, ...]
) -> None:
    table = "image,label\n" + "".join(f"{image},{word}\n" for image, word in zip("ab", words, strict=False))
    with pytest.raises(UserError, match="save it again as CSV in UTF-8"):
        labelled(tmp_path, table.encode(page))
    assert len(labelled(tmp_path, table).classes) == 2


@pytest.mark.parametrize("text", ["35 °C", "it’s", "±5 µm", "Clínic", "Sjögren"])
def test_a_few_western_letters_and_signs_need_no_more_words(text: str) -> None:
    assert code_page(f"image,label,site\na,mel,{text}\nb,nv,arm\n".encode("cp1252")) == "cp1252"


def test_the_tables_of_other_layouts_are_read_in_their_code_page_too(tmp_path: Path) -> None:
    table = "image_id,dx,lesion_id\na,меланома,1\nb,невус,2\nc,кератоз,3\n"
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "HAM10000_metadata.csv").write_bytes(table.encode("cp1251"))
    index = read_index(tmp_path)
    assert index.classes == tuple(sorted(RUSSIAN))
    assert any("Windows-1251" in note for note in index.notes)


def test_a_code_page_is_said_wherever_its_first_letter_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_PART_BYTES", 8)
    path = tmp_path / "labels.csv"
    path.write_bytes("image,label\na,mel\nb,nævus\n".encode("cp1252"))
    assert ["Windows-1252" in note for note in tables.encoding_note(path)] == [True]
    path.write_text("image,label\na,mel\nb,nævus\n", encoding="utf-8")
    assert tables.encoding_note(path) == []


def test_two_unicode_forms_of_a_name_are_one(tmp_path: Path) -> None:
    table = "image,lab\u0065\u0301l,label\na,x,na\u0308vus\nb,y,n\u00e4vus\nc,z,mel\n"
    index = labelled(tmp_path, table)
    assert index.classes == ("mel", "n\u00e4vus")
    assert "lab\u00e9l" in index.rows
    assert header(tmp_path / "labels.csv")[1] == "lab\u00e9l"


# --------------------------------------------------------------------------------------------------------- paths


def test_absolute_paths_of_the_data_folder_are_relative_to_it(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    table = f"image,label\n{root}/a.jpg,mel\n{root}/sub/b.jpg,nv\nc,nv\n"
    index = labelled(tmp_path, table, "a.jpg", "sub/b.jpg", "c.jpg")
    assert labels_of(index) == {"a.jpg": "mel", "sub/b.jpg": "nv", "c": "nv"}
    assert not any("another place" in note for note in index.notes)

    (tmp_path / "link").symlink_to(root)
    (tmp_path / "labels.csv").write_text(f"image,label\n{tmp_path}/link/a.jpg,mel\nb,nv\nc,nv\n")
    assert labels_of(read_index(root, labels=tmp_path / "labels.csv"))["a.jpg"] == "mel"


@pytest.mark.parametrize(
    ("paths", "files"),
    [
        (("/kaggle/input/ham/images/a.jpg", "/kaggle/input/ham/images/b.jpg"), ("a.jpg", "b.jpg")),
        (("D:\\skin\\mel\\1.jpg", "D:\\skin\\nv\\1.jpg"), ("mel/1.jpg", "nv/1.jpg")),
        (("/x/part_1/a.jpg", "/x/part_2/b.jpg"), ("images/a.jpg", "images/b.jpg")),  # the names differ
        (("photos/a.jpg", "photos/sub/b.jpg"), ("a.jpg", "sub/b.jpg")),  # from the folder above
        (("https://x.org/i/a.jpg", "https://x.org/i/b.jpg"), ("sub/a.jpg", "sub/b.jpg")),
    ],
)
def test_paths_of_another_place_are_matched_by_their_ends(
    tmp_path: Path, paths: tuple[str, str], files: tuple[str, str]
) -> None:
    index = labelled(tmp_path, f"image,label\n{paths[0]},mel\n{paths[1]},nv\n", *files)
    found = {Path(row.path).relative_to(index.root).as_posix(): row.label for row in index.rows.itertuples()}
    assert found == {files[0]: "mel", files[1]: "nv"}
    said = f"labels.csv has paths of another place: images are matched by the ends of their paths ({paths[0]}"
    assert any(note.replace("\\", "/").startswith(said.replace("\\", "/")) for note in index.notes) == (
        paths[0][0] in "/Dh"
    )


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("9.0", "100.0"), ("9.jpg", "100.jpg")),  # a spreadsheet's
        (("9", "100"), ("0009.jpg", "0100.jpg")),
        (("0", "100.0"), ("000.jpg", "100.jpg")),
        (("IM_A", "im_b.JPG"), ("sub/im_a.jpg", "sub/IM_B.jpg")),
        (("old/set/sub/A.jpg", "old/set/sub/B.jpg"), ("sub/a.jpg", "sub/b.jpg")),
        (("pics/a", "pics/b"), ("a.jpg", "b.jpg")),
        (("9", "100"), ("0009.jpg", "0100.jpg", "0200.jpg")),
    ],
)
def test_names_that_a_spreadsheet_has_changed_are_those_of_the_files(
    tmp_path: Path, names: tuple[str, str], files: tuple[str, ...]
) -> None:
    index = labelled(tmp_path, f"image,label\n{names[0]},mel\n{names[1]},nv\n", *files)
    found = {Path(row.path).relative_to(index.root).as_posix(): row.label for row in index.rows.itertuples()}
    assert found == {files[0]: "mel", files[1]: "nv"}
    said = f"labels.csv names images otherwise than their files are called: '{names[0]}' is taken for {files[0]}"
    assert said in index.notes


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (("1", "2"), ("im001.jpg", "im002.jpg")),
        (("1.0", "2.0"), ("01.jpg", "001.jpg", "2.jpg")),  # two files
        (("1.0", "01"), ("1.jpg", "2.jpg")),  # one file
        (("pics/a.jpg", "pics/b.jpg"), ("images/a.jpg", "images/b.jpg")),
        (("1.png", "2.png"), ("01.JPG", "02.JPG", "01.bmp")),
    ],
)
def test_names_that_are_no_files_are_shown_beside_one(
    tmp_path: Path, names: tuple[str, str], files: tuple[str, ...]
) -> None:
    said = rf"the folder lacks \(first: {names[0]}\); its files have names such as {min(files)}: use these names"
    with pytest.raises(UserError, match=said):
        labelled(tmp_path, f"image,label\n{names[0]},mel\n{names[1]},nv\n", *files)
    assert len(labelled(tmp_path, f"image,label\n{files[0]},mel\n{files[1]},nv\n", *files).rows) == 2


@pytest.mark.parametrize(
    ("paths", "files"),
    [
        (("/x/mel/1.jpg", "/x/nv/1.jpg"), ("1.jpg", "2.jpg")),  # one name for two images
        (("/x/mel/1.jpg", "/x/nv/1.jpg"), ("a/1.jpg", "b/1.jpg")),
        (("/x/1.jpg", "/x/2.jpg"), ("3.jpg", "4.jpg")),
        (("/x/1.jpg", "/x/2.jpg"), ("a/1.jpg", "b/1.jpg")),  # two different files have the name
        (("test/1.jpg", "test/2.jpg"), ("train/1.jpg", "train/2.jpg")),
    ],
)
def test_paths_whose_ends_could_mean_several_images_or_none_are_refused(
    tmp_path: Path, paths: tuple[str, str], files: tuple[str, str]
) -> None:
    with pytest.raises(UserError, match=r"outside the data folder|the folder lacks|could be"):
        labelled(tmp_path, f"image,label\n{paths[0]},mel\n{paths[1]},nv\n", *files)


# ------------------------------------------------------------------------------- columns and classes that are named


def test_the_columns_that_were_taken_are_said_if_others_could_be_meant(tmp_path: Path) -> None:
    table = "image,diagnosis,target,patient_id,set\na,mel,1,p,train\nb,nv,0,q,val\nc,nv,0,q,val\n"
    index = labelled(tmp_path, table)
    assert index.classes == ("mel", "nv")
    assert index.notes == (
        "labels.csv: the label is the column diagnosis (not target; --label-column NAME takes another), "
        "the group is the column patient_id, the split is the column set",
    )
    assert labelled(tmp_path, "image,label,group,split\na,mel,p,train\nb,nv,q,val\nc,nv,q,val\n").notes == ()


def read(folder: Path, **options: object) -> Index:
    return read_index(folder / "photos", labels=folder / "labels.csv", **options)  # type: ignore[arg-type]


def test_a_named_column_holds_the_labels_or_the_groups(tmp_path: Path) -> None:
    labelled(tmp_path, "image,label,Fine Label,group,clinic\na,x,mel,1,p\nb,y,nv,2,q\nc,y,nv,3,q\n")
    index = read(tmp_path, label_column="fine_label", group_column="clinic")
    assert labels_of(index) == {"a": "mel", "b": "nv", "c": "nv"}
    assert index.rows["group"].tolist() == ["p", "q", "q"]
    for option in ("label_column", "group_column"):
        columns = "image, label, Fine Label, group, clinic"
        with pytest.raises(UserError, match=rf"has no such column; its columns are: {columns}$"):
            read(tmp_path, **{option: "dx"})


@pytest.mark.parametrize(
    ("head", "rows", "note"),
    [
        ("image_id,filename", ["0,1.jpg", "1,2.jpg", "2,0.jpg"], "filename (not image_id)"),  # numbers of the rows
        ("image,filename", [f"https://x.org/{n},{n % 3}.jpg" for n in (1, 2, 3)], "filename (not image)"),
        ("image,filename", ["https://x.org/a.jpg,1.jpg", "//x/b.jpg,2.jpg", ",0.jpg"], "filename (not image)"),
        ("image,id", ["1,9", "2,8", "0,7"], ""),
        ("image,path", ["1,photos/1.jpg", "2,photos/2.jpg", "0,photos/0.jpg"], ""),
        ("image,file", ["1.jpg,2.jpg", "2.jpg,0.jpg", "0.jpg,1.jpg"], "image (not file)"),
        ("ID,Photo", ["0,1.jpg", "1,2.jpg", "2,0.jpg"], "Photo (not ID)"),
        ("id,image_file", ["7,1.jpg", "8,2.jpg", "9,0.jpg"], "image_file (not id)"),
        ("id,mask_file", ["1,2.jpg", "2,0.jpg", "0,1.jpg"], ""),
        ("id,age", ["1,2", "2,2", "0,1"], ""),
        ("image,similar", ["1,2.jpg", "2,1.jpg", "0,1.jpg"], "image (not similar)"),
        ("image,crop", ["1,2.jpg", "2,0.jpg", "0,1.jpg"], "image (not crop)"),
        ("image_id,dermoscopic", ["1,2.jpg", "2,", "0,1.jpg"], "image_id (not dermoscopic)"),
    ],
)  # fmt: skip
def test_the_images_are_the_column_that_names_files(tmp_path: Path, head: str, rows: list[str], note: str) -> None:
    lines = [f"{row},{label}\n" for row, label in zip(rows, ("mel", "nv", "bcc"), strict=True)]
    index = labelled(tmp_path, f"{head},label\n{''.join(lines)}", "0.jpg", "1.jpg", "2.jpg")
    assert {Path(row.path).stem: row.label for row in index.rows.itertuples()} == {"1": "mel", "2": "nv", "0": "bcc"}
    assert index.notes == ((f"labels.csv: the images are the column {note}",) if note else ())


@pytest.mark.parametrize(
    ("ids", "other"),
    [
        ("123", "age"), ("123", "patient_id"), ("123", "Patient No"), ("123", "lesion_id"), ("123", "group"),
        ("321", "age"), ("321", "order"),  # no numbers of the rows
    ],
)  # fmt: skip
def test_other_numbers_beside_the_images_do_not_matter(tmp_path: Path, ids: str, other: str) -> None:
    rows = [f"{image},{number},{label}\n" for image, number, label in zip(ids, "231", "mno", strict=True)]
    index = labelled(tmp_path, f"id,{other},label\n{''.join(rows)}", "1.jpg", "2.jpg", "3.jpg")
    assert labels_of(index) == dict(zip(ids, "mno", strict=True))


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ("id,Photo", ["0,1", "1,2", "2,0"]),
        ("ID,Photo,Second", ["0,1.jpg,2.jpg", "1,2.jpg,0.jpg", "2,0.jpg,1.jpg"]),
        ("id,next", ["a,b.jpg", "b,c.jpg", "c,a.jpg"]),
        ("ID,photo", ["0,1.jpg", "1,2.jpg", "2,gone.jpg"]),
    ],
)
def test_two_columns_that_may_name_the_images_are_not_guessed(tmp_path: Path, head: str, rows: list[str]) -> None:
    one, other, *_ = columns = head.split(",")[-2:]
    content = "\n".join(f"{row},{label}" for row, label in zip((head, *rows), ("label", "m", "n", "n"), strict=True))
    names = sorted(f"{row.split(',')[0]}.jpg" for row in rows)
    message = f"columns {one} and {other} name different images: rename the one that is meant to 'image'"
    with pytest.raises(UserError, match=message):
        labelled(tmp_path, content, *names)
    for column in columns:
        (tmp_path / "labels.csv").write_text(content.replace(column, "image", 1))
        images = [row.split(",")[head.split(",").index(column)] for row in rows]
        labels = {image: label for image, label in zip(images, "mnn", strict=True) if "gone" not in image}
        assert labels_of(read(tmp_path, allow_missing=True)) == labels


@pytest.mark.parametrize("last", ["malignant", "disease", "target", "category", "class"])
@pytest.mark.parametrize("marks", ["1,0,0 0,1,0 0,0,1", "1.0,0.0,0.0 0.0,1.0,0.0 0.0,0.0,1.0"])
def test_a_one_hot_column_may_be_called_like_one_of_labels(tmp_path: Path, last: str, marks: str) -> None:
    rows = "".join(f"{name},{row},{age},1,\n" for name, row, age in zip("abc", marks.split(), "567", strict=True))
    index = labelled(tmp_path, f"image,normal,benign,{last},age,hair,note\n{rows}")
    assert labels_of(index) == {"a": "normal", "b": "benign", "c": last}
    assert list(index.rows.columns[5:]) == ["age", "hair", "note"]
    said = f"the labels are the one-hot columns normal, benign, {last}; --label-column {last} takes that one alone"
    assert index.notes == (f"labels.csv: {said}",)


@pytest.mark.parametrize("other", ["no_family_history", "excluded", "left in place"])
def test_a_column_of_labels_and_its_complement_are_named(tmp_path: Path, other: str) -> None:
    index = labelled(tmp_path, f"image,malignant,{other}\na,1,0\nb,0,1\nc,0,1\n")
    assert index.classes == tuple(sorted(("malignant", other)))
    said = f"the labels are the one-hot columns malignant, {other}; --label-column malignant takes that one alone"
    assert index.notes == (f"labels.csv: {said}",)
    assert read(tmp_path, label_column="malignant").classes == ("0", "1")


@pytest.mark.parametrize(
    ("head", "rows", "classes"),
    [
        ("malignant,hair", ("1,1", "0,0", "0,1"), ("0", "1")),  # an attribute beside it
        ("label,control,old", ("1,0,0", "0,1,0", "0,0,1"), ("0", "1")),  # named as the manual has it
        ("malignant,melanoma,sk", ("1,1,0", "0,0,1", "0,0,0"), ("0", "1")),
    ],
)
def test_a_column_of_ones_and_zeros_may_be_the_labels(
    tmp_path: Path, head: str, rows: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    lines = "".join(f"{name},{row}\n" for name, row in zip("abc", rows, strict=True))
    assert labelled(tmp_path, f"image,{head}\n{lines}").classes == classes


def test_a_row_without_a_mark_makes_no_other_reading_of_the_rest(tmp_path: Path) -> None:
    marks = ["0,0,0", *["1,0,0", "0,1,0", "0,0,1"] * 4]
    rows = "".join(f"i{n},{row}\n" for n, row in enumerate(marks))
    with pytest.raises(UserError, match=r"rows that mark no class: 1, several: 0 \(first: i0\): over 1 %"):
        labelled(tmp_path, f"image,normal,benign,malignant\n{rows}", *(f"i{n}.jpg" for n in range(len(marks))))
    assert read(tmp_path, allow_missing=True).classes == ("benign", "malignant", "normal")
    assert read(tmp_path, label_column="malignant").classes == ("0", "1")


def test_marks_that_can_be_read_in_two_ways_ask_for_the_column(tmp_path: Path) -> None:
    table = "image,normal,benign,malignant,target\na,1,0,0,0\nb,0,1,0,0\nc,0,0,1,1\n"
    with pytest.raises(UserError, match=r"benign, malignant or .*, target: name the column of labels: --label-c"):
        labelled(tmp_path, table)
    assert read(tmp_path, label_column="target").classes == ("0", "1")


@pytest.mark.parametrize("patient", ["PatientID", "Patient ID", "patientId", "subject_id", "Subject", "person_id"])
@pytest.mark.parametrize("lesion", ["lesion_id", "LesionID"])
def test_patients_and_lesions_are_joined_however_their_columns_are_written(
    tmp_path: Path, patient: str, lesion: str
) -> None:
    index = labelled(tmp_path, f"ImageName,label,{patient},{lesion}\na,mel,p,1\nb,nv,p,2\nc,nv,q,3\n")
    assert index.rows["group"].tolist() == ["p", "p", "q"]
    assert index.rows[["patient_id", "lesion_id"]].to_numpy().tolist() == [["p", "1"], ["p", "2"], ["q", "3"]]
    assert index.notes == (f"labels.csv: the group is the column {patient} with {lesion}",)


PATIENTS = [
    "participant_id", "Patient No", "Patient No.", "pid", "patient_nr", "PatientNumber", "PatientenID", "Pat.-Nr.",
    "MRN", "Patient name", "N° patient", "patient_code", "Patients", "id_paciente", "ID del paziente",
    "anon_patient_id", "Proband",
]  # fmt: skip


@pytest.mark.parametrize("patient", PATIENTS)
def test_patients_are_known_by_any_name_of_their_column(tmp_path: Path, patient: str) -> None:
    index = labelled(tmp_path, f"image,label,lesion_id,{patient}\na,mel,1,p\nb,nv,2,p\nc,nv,3,q\n")
    assert index.rows["group"].tolist() == ["p", "p", "q"]
    assert index.rows["patient_id"].tolist() == ["p", "p", "q"]
    assert labelled(tmp_path, f"image,label,{patient}\na,mel,p\nb,nv,p\nc,nv,q\n").rows["group"][1] == "p"
    index = labelled(tmp_path, f"image,label,case_id,{patient}\na,mel,1,p\nb,nv,2,p\nc,nv,3,q\n")
    assert index.rows["patient_id"].tolist() == ["p", "p", "q"]
    index = labelled(tmp_path, f"image,label,{patient},patient_id\na,mel,1,p\nb,nv,1,p\nc,nv,3,q\n")
    assert index.rows["patient_id"].tolist() == ["p", "p", "q"]


@pytest.mark.parametrize(
    "other", ["patient_age", "patient sex", "n_patients", "Patient history", "number_of_patients", "pt", "inpatient"]
)
def test_what_is_told_of_patients_is_no_patient(tmp_path: Path, other: str) -> None:
    index = labelled(tmp_path, f"image,label,lesion_id,{other}\na,mel,1,p\nb,nv,2,p\nc,nv,3,q\n")
    assert index.rows["group"].tolist() == ["1", "2", "3"]


@pytest.mark.parametrize("patient", ["patient_id", *PATIENTS])
def test_a_table_of_one_patient_has_one_group(tmp_path: Path, patient: str) -> None:
    assert labelled(tmp_path, f"image,label,{patient}\na,mel,p\nb,nv,p\n").rows["group"].tolist() == ["p", "p"]


def test_all_columns_of_patients_are_joined_but_for_the_subject_of_a_set(tmp_path: Path) -> None:
    rows = "a,mel,p,1,skin\nb,nv,,1,skin\nc,nv,q,2,skin\n"
    index = labelled(tmp_path, f"image,label,patient_id,subject_id,subject\n{rows}")
    assert index.rows["group"].tolist() == ["p", "p", "q"]
    assert index.rows["subject"].tolist() == ["skin"] * 3


def test_other_columns_of_patients_join_none_that_the_usual_one_parts(tmp_path: Path) -> None:
    rows = [f"{n},{'mn'[n % 2]},{n % 3},M. {n % 2},P{n // 2}\n" for n in range(8)]  # namesakes
    head = "image,label,patient_no,Patient name,patient_id\n"
    index = labelled(tmp_path, head + "".join(rows), *(f"{n}.jpg" for n in range(8)))
    assert index.rows["group"].tolist() == [f"P{n // 2}" for n in range(8)]
    assert "the group is the column patient_id (not patient_no, Patient name; --group-column" in index.notes[0]
    rows[0] = rows[0].replace("P0", "")
    index = labelled(tmp_path, head + "".join(rows), *(f"{n}.jpg" for n in range(8)))
    assert index.rows["group"].nunique() == 1


NUMBERED = [f"{n},{('mel', 'nv')[n // 2 % 2]},P{n // 4},{n // 2 % 2 + 1}" for n in range(12)]  # lesions 1, 2 of each


@pytest.mark.parametrize("lesions", ["1 2", "1 1"])
@pytest.mark.parametrize("layout", ["labels table", "class folders", "Hugging Face"])
def test_lesions_that_are_numbered_anew_for_each_patient_join_no_patients(
    tmp_path: Path, layout: str, lesions: str
) -> None:
    one, two = lesions.split()
    rows = [row[:-1] + (one if row.endswith("1") else two) for row in NUMBERED]
    above = [f"{row.split(',')[1]}/" if layout == "class folders" else "" for row in rows]
    names = [f"{folder}{n}.jpg" for n, folder in enumerate(above)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    name = "metadata.csv" if layout == "Hugging Face" else "labels.csv"
    lines = [f"{name},{row.partition(',')[2]}" for name, row in zip(names, rows, strict=True)]
    (tmp_path / name).write_text("\n".join(["file_name,label,patient_id,lesion_id", *lines]))
    index = read_index(tmp_path, labels=tmp_path / name if layout == "labels table" else None)
    assert layout in index.layout
    assert index.rows["group"].nunique() == 3


def test_no_usual_column_of_labels_asks_for_its_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its columns are: image, kind; name one: --label-column NAME"):
        labelled(tmp_path, "image,kind\na,mel\nb,nv\nc,nv\n")
    assert read(tmp_path, label_column="kind").classes == ("mel", "nv")


def archive(folder: Path) -> Path:
    """A download of the ISIC Archive: four images, three levels of diagnosis, a site."""
    head = "isic_id,diagnosis_1,diagnosis_2,diagnosis_3,patient_id,site\n"
    nevus = "Benign,Melanocytic,Nevus"
    rows = ("Malignant,Melanocytic,Melanoma", nevus, nevus, "Benign,Vascular,")
    text = "".join(f"ISIC_{n},{row},P{n},S{n % 2}\n" for n, row in enumerate(rows))
    (folder / "metadata.csv").write_text(head + text)
    for n in range(4):
        (folder / f"ISIC_{n}.jpg").touch()
    return folder


def test_a_column_can_be_named_in_the_tables_of_any_layout(tmp_path: Path) -> None:
    index = read_index(archive(tmp_path), label_column="diagnosis_1", group_column="site")
    assert index.layout == "ISIC Archive"
    assert list(labels_of(index).values()) == ["Malignant", "Benign", "Benign", "Benign"]
    assert index.rows["group"].tolist() == ["S0", "S1", "S0", "S1"]
    assert index.notes[0] == "the label is the column diagnosis_1 of metadata.csv"
    assert index.notes[-1] == "the group is the column site of metadata.csv"
    with pytest.raises(UserError, match=r"--label-column dx: no table .* metadata.csv: isic_id, diagnosis_1"):
        read_index(tmp_path, label_column="dx")


def test_groups_of_class_folders_may_stand_in_a_table_beside_them(tmp_path: Path) -> None:
    for name in ("mel/1.jpg", "nv/2.jpg", "nv/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"--group-column person: .* holds no table"):
        read_index(tmp_path, group_column="person")
    (tmp_path / "people.csv").write_text("file,person\n1.jpg,p\n2.jpg,q\n3.jpg,q\n")
    index = read_index(tmp_path, group_column="person")
    assert (index.layout, index.rows["group"].tolist()) == ("class folders", ["p", "q", "q"])
    (tmp_path / "people.csv").write_text("file,person\n1.jpg,p\n1.jpg,q\n3.jpg,q\n")
    with pytest.raises(UserError, match=r"people.csv give the image mel/1.jpg two values"):
        read_index(tmp_path, group_column="person")


@pytest.mark.parametrize("names", [("nv", "bcc"), ("nv,bcc",), ("nv, bcc",)])
def test_ignored_classes_are_left_out_and_counted(tmp_path: Path, names: tuple[str, ...]) -> None:
    labelled(tmp_path, "image,label\na,mel\nb,nv\nc,bcc\nd,df\n", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    index = read(tmp_path, ignore_class=names)
    assert labels_of(index) == {"a": "mel", "d": "df"}
    assert index.notes == ("--ignore-class leaves out 2 images of nv, bcc",)  # and not: images without a row
    assert index.left_out == {index.notes[0]: 2}
    assert index.unnamed == ()


def test_a_class_with_a_comma_in_its_name_can_be_ignored_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path, 'image,label\na,"Melanoma, NOS"\nb,nv\nc,df\n')
    assert read(tmp_path, ignore_class=("Melanoma, NOS",)).classes == ("df", "nv")
    with pytest.raises(UserError, match=r"--ignore-class scc: .* there are: Melanoma, NOS, df, nv"):
        read(tmp_path, ignore_class=("scc",))


def test_an_image_of_an_ignored_class_and_another_is_refused(tmp_path: Path) -> None:
    labelled(tmp_path, "image,label\na,mel\nb,df\n", "a.jpg", "b.jpg")
    (tmp_path / "labels.csv").write_text("image,label\na,mel\na,nv\nb,df\n")
    with pytest.raises(UserError, match="gives the image a a class of --ignore-class and another one"):
        read(tmp_path, ignore_class=("nv",))
    kept = read_index(tmp_path, labels=tmp_path / "labels.csv", ignore_class=("nv",), keep_going=True)
    assert len(kept.faults) == 1


@pytest.mark.parametrize("word", ["unknown", "?", "-", "NA"])
def test_a_class_that_is_called_like_a_missing_one_is_said(tmp_path: Path, word: str) -> None:
    labelled(tmp_path, f"image,label\na,{word}\nb,mel\nc,other\n", "a.jpg", "b.jpg", "c.jpg")
    (note,) = read(tmp_path).notes
    assert f"'{word}' is the class of 1 row; where none is known, leave the cell empty" in note


@pytest.mark.parametrize("healthy", ["no lesion", "No_Lesion"])
def test_healthy_skin_is_no_unknown_class(tmp_path: Path, healthy: str) -> None:
    index = labelled(tmp_path, f"image,label,group\na,{healthy},g\nb,mel,h\n", "a.jpg", "b.jpg")
    assert (index.classes, index.notes) == (tuple(sorted(("mel", healthy))), ())
    for name in (f"{healthy}/a.jpg", "mel/b.jpg"):
        (tmp_path / "folders" / name).parent.mkdir(parents=True)
        (tmp_path / "folders" / name).write_text(name)
    assert not read_index(tmp_path / "folders").notes


def test_a_name_in_quotes_may_have_commas(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"image";"label";"site (head, neck, trunk, limb)"\na;mel;head\n')
    table = read_table(tmp_path / "t.csv")
    assert table.to_dict("list") == {"image": ["a"], "label": ["mel"], "site (head, neck, trunk, limb)": ["head"]}


def test_a_table_of_many_columns_is_the_same_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({f"c{n}": [f"{n}", "" if n else "x", f"{n}.50"] for n in range(60)})
    frame.to_csv(tmp_path / "wide.csv", index=False)
    assert read_table(tmp_path / "wide.csv").to_dict("list") == frame.to_dict("list")
