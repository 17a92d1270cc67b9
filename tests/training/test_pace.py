"""When a run ends, worked out by hand."""

from __future__ import annotations

from datetime import datetime

from skin.training.options import Options
from skin.training.pace import Work, in_words

import pytest

WORK = Work((100.0, 100.0, 100.0, 100.0), 20.0)  # an epoch is 120


def rows(*seconds: float) -> list[dict[str, int | float]]:
    return [{"seconds": value} for value in seconds]


def test_the_first_epoch_is_judged_by_its_own_steps() -> None:
    # A quarter of the steps, 25 of work, took 10 s. Left are 480 - 25.
    assert WORK.seconds_left([], share=0.25, elapsed=10.0) == pytest.approx(0.4 * 455)
    assert WORK.seconds_left([], share=0.25, elapsed=4.0) is None, "the first steps are slow"
    assert WORK.seconds_left([]) is None


def test_later_ones_by_the_last_three_epochs() -> None:
    assert WORK.seconds_left(rows(60.0)) == pytest.approx(3 * 60)
    # 12 + 24 + 36 s for 360 of work; left are half of the last epoch's steps, and its validation.
    assert WORK.seconds_left(rows(12.0, 24.0, 36.0), share=0.5, elapsed=1.0) == pytest.approx(0.2 * 70)
    longer = Work((100.0,) * 5, 0.0)
    assert longer.seconds_left(rows(900.0, 10.0, 10.0, 10.0)) == pytest.approx(10.0)


def test_at_the_end_nothing_is_left() -> None:
    assert WORK.seconds_left(rows(1.0, 1.0, 1.0, 1.0)) == 0


def test_small_views_of_the_first_epochs_count_for_less() -> None:
    options = Options(recipe="fast", epochs=3)
    # At 128 pixels `fast` has one epoch at 96; validation is a third of a training step.
    assert Work.of(options, 128, 1600, 300) == Work((900.0, 1600.0, 1600.0), 100.0)


def test_the_end_in_words() -> None:
    now = datetime(2026, 11, 26, 15, 20)
    assert in_words(12_000, now) == "3 h 20 min left, until about 18:40"
    assert in_words(36_000, now) == "10 h 0 min left, until about Fri 27 Nov 01:20"
