"""The columns of the benchmark, one list for JSON, CSV, table and --compare, and the rows that they make."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Literal, TypedDict

from skin.bench.cases import Key
from skin.bench.measurement import GpuReading, Measurement, MemoryReading
from skin.bench.work import Work, numbers_moved, work_of

import numpy as np

JOULES_PER_KWH = 3.6e6
Value = float | int | str | bool | None
Status = Literal["ok", "skipped", "oom", "failed"]


@dataclass(frozen=True)
class Round:
    """The results of one round of a case: the metrics and conditions of `COLUMNS` by name, and memory."""

    values: dict[str, Value]
    memory: MemoryReading


class Spread(TypedDict):
    """Range and standard deviation over those rounds that have the metric; None if there are too few."""

    low: float | None
    high: float | None
    std: float | None


def number(value: Value) -> float | None:
    """Return a column's value if it is a number."""
    return value if isinstance(value, (int, float)) else None


def spread_of(values: Sequence[float | None]) -> Spread:
    """Return the spread of a metric over the rounds."""
    known = _known(values)
    std = statistics.stdev(known) if len(known) > 1 else None
    return {"low": min(known, default=None), "high": max(known, default=None), "std": std}


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


@dataclass(frozen=True)
class Row:
    """One case and the results of its rounds."""

    key: Key
    device: str
    status: Status
    reason: str | None = None
    largest_batch_size: int | None = None  # that --find-batch has found
    rounds: list[Round] = field(default_factory=list)

    def samples(self, name: str) -> list[float | None]:
        """Return a metric's value in each round."""
        return [number(found.values.get(name)) for found in self.rounds]

    def mean(self, name: str) -> float | None:
        """Return a metric's mean over the rounds."""
        known = _known(self.samples(name))
        return statistics.fmean(known) if known else None

    @property
    def rss(self) -> list[float | None]:
        """The process's peak RSS in MiB in each round."""
        return [found.memory["rss_mib"] for found in self.rounds]

    @property
    def rss_mib(self) -> float | None:
        return max(_known(self.rss), default=None)

    @property
    def gpu_samples(self) -> list[dict[str, list[float | None]]]:
        """Each GPU's readings in each round, by the names of `GPU_COLUMNS`."""
        by_gpu = zip(*(found.memory["gpus"] for found in self.rounds), strict=True)
        return [{name: [reading.get(name) for reading in readings] for name in GPU_COLUMNS} for readings in by_gpu]

    @property
    def gpus(self) -> list[GpuReading]:
        """Each GPU's reading over the rounds: the highest peaks, the mean activity."""
        return [
            {name: combine(known) if (known := _known(gpu[name])) else None for name, combine in GPU_COLUMNS.items()}
            for gpu in self.gpu_samples
        ]

    def highest(self, name: str) -> float | None:
        """Return the highest of the GPUs' readings."""
        return max(_known([gpu[name] for gpu in self.gpus]), default=None)

    @property
    def peak_mib(self) -> float | None:
        """The fullest GPU's peak allocation, or the process's RSS on a CPU: memory is compared by it."""
        return self.highest("allocated_mib") if self.gpus else self.rss_mib

    def to_json(self, rows: Sequence[Row]) -> dict[str, Any]:
        """Return the row, one of `rows`, as an entry of the JSON's `cells`."""
        samples: dict[str, Any] = {}
        spread: dict[str, Any] = {}
        if self.rounds:
            samples = {column.name: self.samples(column.name) for column in COLUMNS if column.metric}
            samples["rss_mib"] = self.rss
            spread = {name: spread_of(values) for name, values in samples.items()}
            samples["gpus"] = self.gpu_samples
            spread["gpus"] = [{name: spread_of(v) for name, v in gpu.items()} for gpu in self.gpu_samples]
        return {
            **{column.name: column.value(self, rows) for column in COLUMNS if not column.csv_only},
            "memory": {"gpus": self.gpus, "rss_mib": self.rss_mib}, "spread": spread, "samples": samples,
        }  # fmt: skip

    @classmethod
    def from_json(cls, cell: dict[str, Any]) -> Row:
        """Return the row that `to_json` has written: its rounds are in its samples."""
        samples, rounds = cell["samples"], []
        for i in range(cell["rounds"]):
            values = {c.name: cell.get(c.name) for c in COLUMNS if c.condition}
            values |= {c.name: samples[c.name][i] for c in COLUMNS if c.metric and c.name in samples}
            gpus = [{name: gpu[name][i] for name in GPU_COLUMNS if name in gpu} for gpu in samples["gpus"]]
            rounds.append(Round(values, {"gpus": gpus, "rss_mib": samples["rss_mib"][i]}))
        key = Key(**{each.name: cell[each.name] for each in fields(Key)})
        return cls(key, cell["device"], cell["status"], cell["reason"], cell["largest_batch_size"], rounds)


def find(rows: Sequence[Row], key: Key, any_batch: bool) -> Row | None:
    """Return the row of the case `key`. A batch size that was searched for does not count (`any_batch`)."""
    for row in rows:
        if (replace(row.key, batch_size=key.batch_size) if any_batch else row.key) == key:
            return row
    return None


@dataclass(frozen=True)
class Ratio:
    """The comparison of a row with another one of the same report."""

    of: str  # the column that is compared
    base: Callable[[Key], Key | None]  # the other row's key; None if there is nothing to compare with
    share: Callable[[Key], int] = lambda key: 1  # by which the ratio is divided

    def base_row(self, row: Row, rows: Sequence[Row]) -> Row | None:
        """Return the row that `row` is compared with, if it was measured."""
        key = self.base(row.key)
        found = None if key is None else find(rows, key, row.largest_batch_size is not None)
        return found if found is not None and found.rounds else None

    def value(self, row: Row, rows: Sequence[Row]) -> float | None:
        """Return the ratio; None if either of both is unknown."""
        base, value_of = self.base_row(row, rows), column(self.of).value
        top, bottom = number(value_of(row, rows)), number(value_of(base, rows)) if base else None
        return top / bottom / self.share(row.key) if top and bottom else None


@dataclass(frozen=True)
class Comparison:
    """The words of --compare for the change of a column."""

    unit: str
    more: str  # the verdict on a change beyond the spread
    less: str
    machines: Literal["same", "other", "any"]  # it is compared only between reports of these
    tolerance: float | None = None  # a relative change that counts as none; None is the spread over the rounds
    quiet: bool = False  # says nothing within the spread


@dataclass(frozen=True)
class Column:
    """A column of the CSV and a key of each of the JSON's `cells`; with a heading, a column of the table, too.

    Exactly one of the first four functions gives its value.
    """

    name: str
    of_row: Callable[[Row], Value] | None = None  # read off the row
    condition: Callable[[Measurement], Value] | None = None  # of a measurement, alike in all rounds
    metric: Callable[[Measurement], float | None] | None = None  # of a round; the row has the mean and the spread
    ratio: Ratio | None = None  # to another row
    heading: str = ""
    show: Callable[[Any], str] = str  # in the table
    show_spread: bool = False
    second: bool = False  # in the second table, on where a step goes
    note: str = ""  # a line of text below the table, with {} for the value
    compare: Comparison | None = None
    csv_only: bool = False  # the JSON has it in `memory` or `spread`

    def value(self, row: Row, rows: Sequence[Row]) -> Value:
        """Return the column's value in `row`, one of `rows`; None if it has none."""
        if self.of_row is not None:
            return self.of_row(row)
        if not row.rounds:
            return None
        if self.condition is not None:
            return row.rounds[0].values.get(self.name)
        return row.mean(self.name) if self.ratio is None else self.ratio.value(row, rows)


def take(measurement: Measurement) -> Round:
    """Compute the metrics and conditions of one round."""
    computed = [(c.name, c.condition or c.metric) for c in COLUMNS]
    return Round({name: compute(measurement) for name, compute in computed if compute}, measurement.memory)


def three_digits(value: float) -> str:
    """Return a positive number with the digits that matter: 1,234 or 123 or 12.3 or 1.23."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def _percentile(percent: float) -> Callable[[Measurement], float]:
    return lambda m: float(np.percentile(m.fed.step_ms, percent))


def _of_gpus(name: str) -> Callable[[Row], Value]:
    return lambda row: row.highest(name)


def _amp_off(key: Key) -> Key | None:
    return replace(key, amp="off") if key.amp == "on" else None


def _plain(key: Key) -> Key | None:
    """Return the case of the plain loop to compare with: float32, and DataParallel on several GPUs."""
    parallel = "dp" if key.gpus > 1 else "single"
    return None if key.recipe == "plain" else replace(key, recipe="plain", amp="off", parallel=parallel)


def _one_gpu(key: Key) -> Key | None:
    return replace(key, gpus=1, parallel="single") if key.gpus > 1 else None


def _work(row: Row) -> Work:
    return work_of(row.key.model, row.key.image_size)


def _tflops(row: Row) -> float | None:
    """Return the arithmetic of the bare step, in 10^12 a second: its way back takes twice the forward pass."""
    speed = row.mean("step_images_per_second")
    return None if speed is None else speed * 3 * 2 * _work(row).gmacs / 1000


def _gigabytes(row: Row) -> float | None:
    """Return the least memory traffic of the bare step, in 10^9 bytes a second (see `work.numbers_moved`)."""
    speed = row.mean("step_images_per_second")
    if speed is None:
        return None
    width = 2 if row.rounds[0].values["precision"] in ("float16", "bfloat16") else 4
    return speed * width * numbers_moved(row.key.model, row.key.image_size) / 1e9


def _share(reached: Callable[[Row], float | None], peak: str) -> Callable[[Row], float | None]:
    """Return the share of a peak, measured on one device, that all devices of a row reach together."""

    def share(row: Row) -> float | None:
        most, found = row.mean(peak), reached(row)
        return None if not most or found is None else found / (most * row.key.replicas)

    return share


def _phase(name: str) -> Callable[[Measurement], float | None]:
    return lambda m: getattr(m.phases, name, None)


def _cost(hours: Callable[[Measurement], float]) -> Callable[[Measurement], float | None]:
    """Return what something costs that takes so many hours."""
    return lambda m: None if m.case.price_per_hour is None else m.case.price_per_hour * hours(m)


GPU_COLUMNS: dict[str, Callable[[Sequence[float]], float]] = {  # of each GPU, and how rounds are combined
    "allocated_mib": max, "reserved_mib": max, "nvml_used_mib": max,
    "utilisation_percent": statistics.fmean, "power_watts": statistics.fmean,
}  # fmt: skip

COLUMNS: tuple[Column, ...] = (
    *(Column(each.name, attrgetter(f"key.{each.name}")) for each in fields(Key)),
    Column("device", attrgetter("device")),
    Column("status", attrgetter("status")),
    Column("reason", attrgetter("reason")),
    Column("rounds", lambda row: len(row.rounds)),
    Column("gmacs", lambda row: _work(row).gmacs),  # of a forward pass of an image
    Column("parameters", lambda row: _work(row).parameters),
    # How it was measured
    Column("precision", condition=lambda m: m.precision),
    Column("whole_epoch", condition=lambda m: m.case.whole_epoch),
    Column("workers", condition=lambda m: m.workers),
    Column("cached", condition=lambda m: m.cached),
    # How fast
    Column("images_per_second", metric=lambda m: m.fed.images_per_second, heading="images/s", show=three_digits,
           show_spread=True, compare=Comparison("images/s", "FASTER", "SLOWER", "same")),
    Column("images_per_second_std", lambda row: spread_of(row.samples("images_per_second"))["std"], csv_only=True),
    Column("speedup_over_plain", ratio=Ratio("images_per_second", _plain), heading="×plain", show="{:.2f}".format,
           compare=Comparison("times the plain recipe", "FASTER", "SLOWER", "other")),
    Column("step_images_per_second", metric=lambda m: m.bare.images_per_second, heading="ceiling",
           show=three_digits),
    Column("end_to_end_share", metric=lambda m: m.fed.images_per_second / m.bare.images_per_second,
           heading="reached", show="{:.0%}".format),
    Column("data_wait_share", metric=lambda m: m.fed.wait_seconds / m.fed.seconds, heading="wait",
           show="{:.0%}".format),
    Column("step_ms_median", metric=_percentile(50), heading="step ms", show="{:,.0f}".format),
    Column("step_ms_p95", metric=_percentile(95), heading="p95", show="{:,.0f}".format),
    Column("epoch_seconds", metric=lambda m: m.epoch_seconds, heading="epoch s", show=three_digits),
    Column("first_step_seconds", metric=lambda m: m.first_step_seconds),
    Column("stolen_cores", metric=lambda m: m.stolen_cores),
    # Where a step goes, and how near it comes to what the device can do
    Column("data_ms", metric=lambda m: 1000 * m.fed.wait_seconds / len(m.fed.step_ms), heading="data",
           show="{:,.0f}".format, second=True),
    Column("forward_ms", metric=_phase("forward"), heading="forward", show="{:,.0f}".format, second=True),
    Column("backward_ms", metric=_phase("backward"), heading="backward", show="{:,.0f}".format, second=True),
    Column("optimizer_ms", metric=_phase("optimizer"), heading="optimizer", show="{:,.0f}".format, second=True),
    Column("step_tflops", lambda row: _tflops(row), heading="TFLOP/s", show="{:.3g}".format, second=True),
    Column("matrix_tflops", metric=lambda m: None if m.peaks.flops is None else m.peaks.flops / 1e12),
    Column("matrix_share", _share(_tflops, "matrix_tflops"), heading="of peak", show="{:.0%}".format, second=True),
    Column("step_gigabytes_per_second", lambda row: _gigabytes(row), heading="GB/s", show=three_digits, second=True),
    Column("copy_gigabytes_per_second", metric=lambda m: None if m.peaks.bytes is None else m.peaks.bytes / 1e9),
    Column("copy_share", _share(_gigabytes, "copy_gigabytes_per_second"), heading="of copy", show="{:.0%}".format,
           second=True),
    Column("epoch_cost", metric=_cost(lambda m: m.epoch_seconds / 3600), note="cost {:.3g} an epoch"),
    Column("cost_per_1000_images", metric=_cost(lambda m: 1000 / m.fed.images_per_second / 3600),
           note="{:.3g} per 1,000 images"),
    Column("joules_per_image", metric=lambda m: None if m.fed_joules is None else m.fed_joules / m.fed.images,
           note="{:.2f} J an image"),
    Column("epoch_kwh", metric=lambda m: None if m.fed_joules is None
           else m.fed_joules / m.fed.images * m.train_images / JOULES_PER_KWH, note="{:.2g} kWh an epoch"),
    Column("scaling_efficiency", ratio=Ratio("images_per_second", _one_gpu, lambda key: key.gpus),
           note="{:.0%} of linear scaling"),
    Column("amp_speedup", ratio=Ratio("images_per_second", _amp_off), note="{:.2f} times the speed of amp off"),
    Column("amp_memory_ratio", ratio=Ratio("peak_mib", _amp_off), note="{:.2f} of its memory"),
    Column("loss", metric=lambda m: m.fed.loss, note="last loss {:.3f}"),
    # How much memory
    Column("peak_mib", attrgetter("peak_mib"), heading="GiB", show=lambda mib: three_digits(mib / 1024),
           compare=Comparison("MiB of peak memory", "MORE", "LESS", "any", tolerance=0.05, quiet=True)),
    Column("largest_batch_size", attrgetter("largest_batch_size")),
    Column("rss_mib", attrgetter("rss_mib"), csv_only=True),
    *(Column(f"gpu_{name}", _of_gpus(name), csv_only=True) for name in GPU_COLUMNS),
)  # fmt: skip


def column(name: str) -> Column:
    """Return the column of that name."""
    return next(each for each in COLUMNS if each.name == name)

