"""Tables of plain text: aligned as a terminal shows their letters, and never wider than it."""

from __future__ import annotations

from skin.utils.text_table import Numbers, cut, fitting, table

import pytest
from rich.cells import cell_len

NAMES = ["melanoma (mel)", "黑色素瘤", "ورم ميلانيني حميد"]
COLUMNS = [Numbers("train", ["7,010", "1", "20"], 0), Numbers("val", ["2", "3", "4"], 1)]


def test_numbers_stand_below_one_another_whatever_the_letters() -> None:
    assert table("class", NAMES, COLUMNS, None, indent=1) == [
        " class              train  val",
        " melanoma (mel)     7,010    2",
        " 黑色素瘤               1    3",
        " ورم ميلانيني حميد     20    4",
    ]


@pytest.mark.parametrize("width", [16, 20, 40, 60, 120])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_cut(width: int) -> None:
    lines = table("class", NAMES, COLUMNS, width, indent=8)
    assert all(cell_len(line) <= width for line in lines)
    assert [line.split()[-2 if "val" in lines[0] else -1] for line in lines] == ["train", "7,010", "1", "20"]


def test_the_column_of_the_highest_rank_goes_first_and_the_first_one_never() -> None:
    assert fitting([5, 5, 5], [0, 2, 1], 19) == [0, 1, 2]
    assert fitting([5, 5, 5], [0, 2, 1], 18) == [0, 2]
    assert fitting([5, 5, 5], [9, 2, 1], 3) == [0]


def test_a_name_is_cut_by_the_room_its_letters_take() -> None:
    assert cut("melanoma", 5) == "mela…"
    assert cut("黑色素瘤", 6) == "黑色 …"
    assert cut("df", 4) == "df  "
