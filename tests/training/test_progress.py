"""How far a run has come: running totals, the best epoch, patience, and the way through a checkpoint."""

from __future__ import annotations

import io
import math
from typing import Any

from skin.training.columns import NAMES
from skin.training.progress import Progress
from skin.training.records import StepDone, StepRecord
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import pytest
import torch

CPU = torch.device("cpu")
ALONE = Topology(CPU)


def done(step: int, *values: float, wait_seconds: float = 0.0) -> StepDone:
    """A step with the values of a `StepRecord`; the gradients' norm is 1 if it is left out."""
    record = StepRecord(*(torch.tensor(float(value)) for value in (*values, 1.0)[: len(StepRecord._fields)]))
    return StepDone(step, record, torch.zeros(0), wait_seconds)


def in_epoch(*records: tuple[float, ...], steps: int = 4) -> Progress:
    """A progress with the given records of the first steps of an epoch."""
    progress = Progress(higher_is_better=True)
    progress.begin_epoch(steps, CPU)
    for number, record in enumerate(records, 1):
        progress.take(done(number, *record))
    return progress


def test_an_epochs_loss_is_all_numerators_over_all_weights() -> None:
    totals = in_epoch((6.0, 2.0, 1, 4), (1.0, 8.0, 3, 4)).totals(ALONE)
    assert (totals.loss, totals.accuracy, totals.images) == (0.7, 0.5, 8)  # the mean of means is 1.56


def test_totals_are_added_up_in_float64() -> None:
    assert in_epoch((2.0**24, 1.0, 0, 1), (1.0, 0.0, 0, 1), (1.0, 0.0, 0, 1)).totals(ALONE).loss == 2**24 + 2


def test_the_norm_of_the_gradients_is_a_mean_over_the_steps_that_were_taken() -> None:
    skipping = in_epoch((1, 1, 1, 1, 2.0), (1, 1, 1, 1, math.inf), (1, 1, 1, 1, 5.0), (1, 1, 1, 1, math.nan))
    totals = skipping.totals(ALONE)
    assert (totals.grad_norm, totals.skipped) == (3.5, 2)
    skipping.end_epoch({}, 0.5, totals.skipped)
    assert skipping.skipped == 2
    assert math.isnan(in_epoch((1, 1, 1, 1, math.inf)).totals(ALONE).grad_norm)


def test_records_from_before_an_interruption_are_kept() -> None:
    progress = in_epoch((6.0, 2.0, 1, 4), (1.0, 8.0, 3, 4))
    progress.begin_epoch(4, CPU)
    assert progress.fields().loss_sum.tolist() == [6.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_step_with_a_loss_that_is_no_number(bad: float) -> None:
    assert in_epoch((1.0, 1, 1, 1), (bad, 1, 1, 1), (bad, 1, 1, 1)).first_bad_step() == 1
    assert in_epoch((1.0, 1, 1, 1)).first_bad_step() is None


def ended(values: list[float], higher: bool) -> tuple[list[bool], Progress]:
    progress = Progress(higher)
    return [progress.end_epoch({"epoch": n}, value) for n, value in enumerate(values, 1)], progress


@pytest.mark.parametrize(
    ("values", "higher", "best", "epoch"),
    [
        ([0.5, 0.7, 0.7, 0.6], True, [True, True, False, False], 2),  # of equals the first
        ([0.9, 1.1, 0.8], False, [True, False, True], 3),
        ([0.0], True, [True], 1),  # the first is the best so far, however poor
        ([math.nan, math.nan], True, [True, True], 2),  # nothing to choose by: the newest has learnt longest
        ([math.nan, 0.1, math.nan, 0.2], True, [True, True, False, True], 4),  # any number is better than none
        ([math.nan, 9.0, math.nan, 8.0], False, [True, True, False, True], 4),
    ],
)
def test_the_best_epoch(values: list[float], higher: bool, best: list[bool], epoch: int) -> None:
    told, progress = ended(values, higher)
    assert told == best
    assert progress.best_epoch == epoch
    assert progress.epoch == len(values)


def test_the_end_of_an_epoch_begins_the_next_at_its_first_step() -> None:
    progress = in_epoch((1.0, 1, 1, 1))
    progress.seconds, progress.wait_seconds = 9.0, 2.0
    progress.end_epoch({}, 0.5)
    assert (progress.step, progress.seconds, progress.wait_seconds) == (0, 0.0, 0.0)


def test_patience_counts_epochs_without_a_better_one() -> None:
    _, progress = ended([0.5, 0.6, 0.6, 0.6], True)
    assert not progress.out_of_patience(3)
    assert progress.out_of_patience(2)
    assert not progress.out_of_patience(0)


def row(epoch: int) -> dict[str, float]:
    return {name: epoch if name == "epoch" else 0.25 for name in NAMES}


def test_it_comes_back_from_a_file_as_it_went() -> None:
    progress = in_epoch((6.0, 2.0, 1, 4), (1.0, 8.0, 3, 4))
    progress.end_epoch(row(1), 0.75)
    progress.begin_epoch(4, CPU)
    progress.take(done(1, 3.0, 1.0, 2.0, 4.0, wait_seconds=0.5))
    progress.tick()
    file = io.BytesIO()
    torch.save(progress.state(ALONE), file)
    file.seek(0)

    again = Progress(True)
    again.load_state(torch.load(file, weights_only=True), ALONE, steps=4)
    again.begin_epoch(4, CPU)
    assert again.totals(ALONE) == (3.0, 0.5, 4, 1.0, 0)
    expected, found = progress.state(ALONE), again.state(ALONE)
    assert torch.equal(expected.pop("records"), found.pop("records"))
    assert found == expected


@pytest.mark.parametrize("name", ["format_version", "epoch", "step", "records", "best_value", "history"])
def test_a_state_without_a_part_is_refused(name: str) -> None:
    state = Progress(True).state(ALONE)
    del state[name]
    with pytest.raises(UserError):
        Progress(True).load_state(state, ALONE, steps=4)


def test_an_epoch_that_an_earlier_version_began_goes_on_without_the_norms_of_its_steps() -> None:
    progress = in_epoch((6.0, 2.0, 1, 4, math.inf), (1.0, 8.0, 3, 4))
    state: dict[str, Any] = {**progress.state(ALONE), "taken": 2}
    state["records"] = state["records"][:, :, :4]
    del state["skipped"]
    again = Progress(True)
    again.load_state(state, ALONE, steps=4)
    again.begin_epoch(4, CPU)
    again.take(done(3, 1.0, 1.0, 1, 4, 7.0))
    assert again.totals(ALONE) == (8 / 11, 5 / 12, 12, 7.0, 0)


def test_the_records_of_two_processes_are_added_up_for_one_but_for_the_norms_which_are_the_same() -> None:
    progress = in_epoch((6.0, 2.0, 1, 4, 3.0))
    state: dict[str, Any] = {**progress.state(ALONE)}
    state["records"] = state["records"].repeat(2, 1, 1)
    again = Progress(True)
    again.load_state(state, ALONE, steps=4)
    assert again.records.tolist() == [[12.0, 4.0, 2.0, 8.0, 3.0]]
