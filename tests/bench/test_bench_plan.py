"""What --plan makes of its measurements: forecasts worked out by hand, verdicts in rigged cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from skin.bench import forecast, machine, plan
from skin.bench.forecast import Trace
from skin.bench.options import BenchmarkOptions, read_options
from skin.bench.work import KeptForBackward, Work, work_of
from skin.data import demo
from skin.model.network import preprocess_for
from skin.training.options import Options
from skin.training.splits import read_splits
from skin.utils.errors import UserError

import pytest
import torch
from torch import nn
from torchvision.models import get_model_weights

pytestmark = pytest.mark.usefixtures("published")

# Two cores that train: 10 images/s, decoding a tenth of a step's time, reading the cache a hundredth.
CPU = Trace(
    on_gpu=False, cores=2, threads=2, workers=1, image_size=224, batch_size=32, train_images=1000, val_images=200,
    decode=0.010, cached=0.001, cache="on", kept_now=0.0, kept_later=1.0, cache_gib=1.5, step=0.1, forward=0.03,
    larger_step=None, slowdown=1.0, could_use_amp=False, peak_mib=1000.0, memory_mib=10_000.0,
)  # fmt: skip
GPU = replace(CPU, on_gpu=True, cores=8, threads=8, workers=8, step=0.004, forward=0.001)


def test_a_cpu_adds_the_loaders_share_of_its_cores_to_the_steps() -> None:
    """First 1000 (0.1 + 0.010 / 2) + 200 (0.03 + 0.010 / 2) s, then with 0.001; at the end 200 forward passes."""
    first, later, run = forecast.forecast(CPU, epochs=3)
    assert first == pytest.approx(105 + 7)
    assert later == pytest.approx(100.5 + 6.1)
    assert run == pytest.approx(112 + 2 * 106.6 + 6)


def test_a_gpu_waits_for_the_slower_of_steps_and_loader() -> None:
    """First the loader's 0.010 s for each of 1200 images, then 0.004 s for 1000 and 0.001 for 200."""
    first, later, _ = forecast.forecast(GPU, epochs=3)
    assert first == pytest.approx(12)
    assert later == pytest.approx(4.2)


def test_a_slowdown_that_was_measured_goes_on() -> None:
    assert forecast.forecast(replace(CPU, slowdown=1.5), 3).epoch == pytest.approx(1.5 * 106.6)


def test_steps_that_were_held_up_while_they_were_timed_take_what_training_takes() -> None:
    slow = plan.fed_by_its_loader(CPU, fed=0.1005 * 1.2, kept=1.0)
    assert (slow.step, slow.slowdown) == (0.1, pytest.approx(1.2))
    held_up = plan.fed_by_its_loader(replace(CPU, larger_step=0.07), fed=0.08, kept=1.0)
    assert (held_up.step, held_up.forward, held_up.slowdown) == (0.08, pytest.approx(0.024), 1.0)
    assert held_up.larger_step == 0.07
    overlapped = plan.fed_by_its_loader(CPU, fed=0.1001, kept=1.0)
    assert (overlapped.step, overlapped.slowdown) == (0.1, 1.0)


@pytest.mark.parametrize(
    ("workers", "threads", "load", "seconds"),
    [
        (0, 2, 0.02, 0.12),  # the training process decodes, too
        (1, 2, 0.02, 0.11),  # half of each of two cores
        (1, 1, 0.02, 0.10),  # on the core that the steps leave idle
        (2, 1, 0.08, 0.13),  # 0.16 s of a core, of which 0.1 are idle; the rest on two
        (1, 2, 0.30, 0.30),  # the steps wait
    ],
)
def test_steps_and_loader_share_the_cores(workers: int, threads: int, load: float, seconds: float) -> None:
    trace = replace(CPU, workers=workers, threads=threads)
    assert forecast.together(0.1, load, trace) == pytest.approx(seconds)


def test_another_size_costs_its_step_and_its_pixels() -> None:
    found = forecast.scaled(CPU, image_size=448, step=0.4)
    assert (found.step, found.forward, found.image_size) == (0.4, pytest.approx(0.12), 448)
    assert (found.cached, found.decode) == (pytest.approx(0.004), pytest.approx(0.013))


@pytest.mark.parametrize(
    ("trace", "limit", "first_remedy", "epoch"),
    [
        # Slow loader: 0.05 s an image, and nothing is kept. From the cache the steps would be the limit.
        (replace(GPU, decode=0.05, cache="off", kept_later=0.0), "data", "--cache auto", 4.2),
        # A full cache: a fifth of the images are kept.
        (replace(GPU, decode=0.05, kept_later=0.2), "data", "--cache DIR on a disk with 1.5 GiB to spare", 4.2),
        # Arrays of pixels and no loader process: 0.004 + 0.010 s, and 0.001 + 0.010; eight share the loader's part.
        (replace(GPU, workers=0, cached=0.01, cache="none"), "data", "--workers 8", 4.25),
        # One thread of eight cores: at best an eighth of 1000 * 0.1 + 200 * 0.03 s, and an eighth of the loader's.
        (replace(CPU, cores=8, threads=1), "threads", "OMP_NUM_THREADS=8", 13.4),
        # Batch 1: four images a step take a quarter of the time each.
        (replace(CPU, batch_size=1, larger_step=0.025), "compute", "--batch-size 4", 25.5 + 1.6),
        # Nothing is wrong: (160 / 224)² of the pixels is all there is to gain.
        (replace(CPU, cached=1e-9, decode=1e-9), "compute", "--image-size 160", 106 * (160 / 224) ** 2),
    ],
    ids=["slow loader", "full cache", "no workers", "one thread", "batch 1", "compute"],
)
def test_the_limit_is_named_and_what_would_help_most_comes_first(
    trace: Trace, limit: str, first_remedy: str, epoch: float
) -> None:
    found = forecast.verdict(trace)
    assert found.limit == limit
    assert found.remedies[0].what.startswith(first_remedy)
    assert found.remedies[0].epoch == pytest.approx(epoch, rel=0.01)


def test_a_full_memory_is_the_limit_whatever_else_is_slow() -> None:
    found = forecast.verdict(replace(GPU, decode=0.05, kept_later=0.0, peak_mib=9_500.0))
    assert found.limit == "memory"
    assert found.remedies == (("--batch-size 16, or a smaller --image-size or --model", None),)


def test_amp_is_advised_where_it_would_work() -> None:
    assert forecast.verdict(replace(GPU, could_use_amp=True)).remedies[-1].what.startswith("--amp auto")
    assert not any("--amp" in remedy.what for remedy in forecast.verdict(GPU).remedies)


def test_the_advice_is_of_options_that_train_py_has(capsys: pytest.CaptureFixture[str]) -> None:
    import train

    with pytest.raises(SystemExit):
        train.main(["--help"])
    help = capsys.readouterr().out
    for trace in (replace(GPU, workers=0, cache="off", kept_later=0.0, larger_step=0.001, could_use_amp=True), CPU):
        for remedy in forecast.verdict(trace).remedies:
            option = remedy.what.split()[0].rstrip(":,")
            assert option in help or option.startswith("OMP_NUM_THREADS")


def test_the_words_say_times_limit_and_help() -> None:
    lines = forecast.sentences(replace(GPU, decode=0.05, kept_later=0.2), epochs=20)
    assert lines[0] == "16 min for 20 epochs, 48 s an epoch; 60 s for the first, which decodes the images"
    assert lines[1] == "limited by data: the loader alone gives 25 images/s, the steps alone take 250.0"
    assert lines[2].endswith("this one has too little room (about 4 s an epoch)")
    stolen = forecast.sentences(replace(GPU, stolen_cores=0.5), epochs=20)[-1]
    assert stolen.startswith("the host of this virtual machine took 0.50 cores away meanwhile")


@pytest.mark.parametrize("step", [0.002, 0.004, 0.008])
@pytest.mark.parametrize("load", [0.002, 0.004, 0.008])
def test_a_forecast_is_within_15_percent_of_an_epoch_batch_by_batch(step: float, load: float) -> None:
    """Nine epochs of a GPU with eight loader processes: faster, as fast and slower than the steps."""
    trace = replace(GPU, step=step, cached=load, train_images=7000, val_images=0)
    batch = trace.batch_size
    assert forecast.forecast(trace, 3).epoch == pytest.approx(
        epoch_of_batches(7000 // batch, trace.workers, load * trace.workers * batch, step * batch), rel=0.15
    )


def epoch_of_batches(batches: int, workers: int, making: float, step: float, ahead: int = 4) -> float:
    """Return the seconds of an epoch in which each worker makes a batch in `making` seconds, `ahead` at most."""
    made, taken = [0.0] * batches, [0.0] * batches
    for number in range(batches):
        free = made[number - workers] if number >= workers else 0.0
        wanted = taken[number - workers * ahead] if number >= workers * ahead else 0.0
        made[number] = max(free, wanted) + making
        taken[number] = max(made[number], taken[number - 1] + step if number else 0.0)
    return taken[-1] + step


def test_a_busy_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    monkeypatch.setattr("os.getloadavg", lambda: (1.9, 8.0, 8.0))
    assert machine.busy_cores() is None
    monkeypatch.setattr("os.getloadavg", lambda: (2.5, 0.0, 0.0))
    assert machine.busy_cores() == (
        "other programs are at work (load 2.5 on 4 cores): times will change as they come and go"
    )


# ---- measuring --------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that stands still; the fixture is what moves it."""
    now = 100.0

    def move(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.perf_counter", lambda: now)
    return move


def test_a_loader_is_timed_from_the_first_batch_of_its_last_process(clock: Callable[[float], None]) -> None:
    """Two processes start for 5 s; then a batch of eight comes every 0.4 s, until 3 s are full."""

    def stream() -> Iterator[None]:
        for seconds in (5.0, 0.1, *[0.4] * 100):
            clock(seconds)
            yield

    seconds, batches = plan._loader_seconds(stream(), workers=2, most=None)
    assert seconds == pytest.approx(0.4 / 8)
    assert batches == 2 + 8


def test_a_set_of_fewer_batches_than_processes_is_timed_from_the_start(clock: Callable[[float], None]) -> None:
    """One batch of eight in 4 s, by one of two processes."""

    def stream() -> Iterator[None]:
        clock(4.0)
        yield

    assert plan._loader_seconds(stream(), workers=2, most=None) == (0.5, 1)


def test_another_model_is_worked_out_from_what_is_known() -> None:
    """Twice the multiplications, four times what is kept; 16 bytes per weight are apart from that."""
    mib = 2**20
    known, other = Work(1.0, 10 * mib, 50.0), Work(2.0, 20 * mib, 200.0)
    found = plan.worked_out(plan._Cost(0.1, 700 + 160 + 1000), known, other, base_mib=700)
    assert found == (pytest.approx(0.2), pytest.approx(700 + 320 + 4000))


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b3"])
def test_work_is_what_torchvision_publishes(name: str) -> None:
    official = get_model_weights(name).DEFAULT
    found = work_of(name, official.transforms().crop_size[0], classes=1000)
    assert found.gmacs == pytest.approx(official.meta["_ops"], abs=0.002)
    assert found.parameters == official.meta["num_params"]


def test_what_autograd_keeps_is_counted_without_the_weights() -> None:
    """Eight numbers of the input, six of the output of ReLU; two layers that keep the same tensor count it once."""
    network = nn.Linear(4, 3, bias=False)
    with KeptForBackward(network) as kept:
        (network(torch.ones(2, 4)).relu()).sum().backward()
    assert kept.mib * 2**20 == 4 * (8 + 6)


def test_a_cache_has_room_for_a_share_of_all_images_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --data a few images are generated, and the run that is planned has many more."""
    demo.write(tmp_path / "data", images=70)
    options = Options(data=tmp_path / "data", cache=str(tmp_path / "cache"), image_size=32)
    splits = read_splits(options)
    preprocess = preprocess_for(options.model, 32)

    monkeypatch.setattr(plan, "spare_bytes", lambda folder: 10_000)
    first = plan._cache_of(options, splits, preprocess, images=10)
    other = plan._cache_of(options, splits, preprocess, images=100)
    assert 0 < other.later < first.later < 1
    assert first.later == pytest.approx(10_000 / first.all_bytes)
    assert (other.later, other.all_bytes) == (pytest.approx(first.later / 10), pytest.approx(10 * first.all_bytes))


# ---- options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plan", "--infer"], "--plan and --infer measure different things; choose one"),
        (["--plan", "--epochs", "0"], "--epochs 0: must be 1 or more"),
        (["--plan", "--price-per-hour", "-1"], "--price-per-hour -1: must be 0 or more, such as 2.5"),
        (["--plan", "--price-per-hour", "nan"], "--price-per-hour nan: must be 0 or more"),
        (["--price-per-hour", "-2"], "--price-per-hour -2: must be 0 or more, such as 2.5"),
        (["--infer", "--price-per-hour", "1"], "--price-per-hour is for training and --plan, not for --infer"),
        (["--plan", "--plot", "p.png"], "--plot is for training and --infer, not for --plan: leave it out"),
        (["--plan", "--checkpoint", "best.pt"], "--checkpoint is for --infer"),
        (["--infer", "--data", "."], "--infer --data needs a trained model"),
        (["--infer", "--compare", "old.json"], "--compare is for training, not for --infer"),
        (["--infer", "--workers", "2"], "--workers is for training and --plan, not for --infer: leave it out"),
        (["--plan", "--steps", "3"], "--steps is for training and --infer and --input, not for --plan: leave it out"),
        (["--input", "--gpus", "4"], "--gpus is for training and --plan and --infer, not for --input: leave it out"),
        (["--epochs", "5"], "--epochs is for --plan, not for training: leave it out"),
        (["--find-batch", "--epochs", "5"], "--epochs is for --plan, not for training: leave it out"),
        (["--infer", "--checkpoint", "b.pt", "--model", "efficientnet_b7"], "--model is for random weights"),
        (["--infer", "--checkpoint", "b.pt", "--image-size", "64"], "--image-size is for random weights"),
        (["--labels", "table.csv"], "--labels table.csv: needs the images that it labels, --data DIR"),
        (["--steps", "1" + 20 * "0"], "--steps 1" + 20 * "0" + ": must be 1,000,000 or less"),
        (["--json", "a.out", "--csv", "./a.out"], "--csv a.out: is the file of --json; name another one"),
        (["--compare", "a.json", "--json", "a.json"], "--json a.json: is the file of --compare; name another one"),
        (["--csv", "/dev/null"], "--csv /dev/null: is a pipe or a device; name a file in a folder of yours"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_options("", options)


def test_a_link_is_kept_and_its_file_written(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "there.json")
    assert read_options("", ["--json", str(tmp_path / "link.json")]).json == tmp_path / "there.json"


def test_generated_images_fill_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """70 % of them are trained on."""
    needed = [plan.images_needed(BenchmarkOptions(batch_size=size)) for size in (None, 512, 50_000)]
    assert needed == [plan.GENERATED, 768, plan.IMAGES]
    monkeypatch.setattr(plan.parallel, "usable_gpus", lambda: 8)
    assert plan.images_needed(BenchmarkOptions(batch_size=64)) == 768


def test_the_cost_is_that_of_the_whole_run() -> None:
    """331.2 s at 36 an hour; see the first test."""
    row = plan._row(CPU, BenchmarkOptions(epochs=3, price_per_hour=36.0), "efficientnet_b0", "measured", 1.0)
    assert row.cost == pytest.approx(3.312)
