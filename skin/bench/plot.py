"""The benchmark's plot: throughput and peak memory by number of GPUs, recipe, and AMP on and off."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skin.bench.columns import Row, three_digits
from skin.bench.options import RECIPES
from skin.utils import drawing
from skin.utils.drawing import FAINT, GRID, INK
from skin.utils.errors import UserError

from matplotlib.axes import Axes

COLOURS = dict(zip(RECIPES, drawing.COLOURS, strict=False))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw throughput and peak memory: a bar per recipe with AMP on and off, with the range over rounds.

    Raises:
        UserError: no row was measured, or the file cannot be written.
    """
    measured = [row for row in rows if row.status == "ok"]
    if not measured:
        raise UserError("--plot: nothing was measured, so there is nothing to draw")
    places = list(dict.fromkeys(row.key.place for row in measured))
    series = list(dict.fromkeys((row.key.recipe, row.key.amp) for row in measured))
    with drawing.styled():
        figure = drawing.figure(max(6.8, 2.4 + 1.6 * len(places)), 3.8)
        speed, memory = figure.subplots(1, 2)
        width = 0.8 / len(series)  # of a bar
        for i, (recipe, amp) in enumerate(series):
            mine = [row for row in measured if (row.key.recipe, row.key.amp) == (recipe, amp)]
            x = [places.index(row.key.place) + (i - (len(series) - 1) / 2) * width for row in mine]
            fill = COLOURS[recipe] if amp == "on" else "white"
            look: Any = {"width": 0.9 * width, "color": fill, "edgecolor": COLOURS[recipe]}
            look["label"] = f"{recipe}, AMP {amp}"
            _draw_speeds(speed, x, mine, look)
            memories = [(row.peak_mib or 0.0) / 1024 for row in mine]
            memory.bar(x, memories, **look)
            _write_above(memory, x, memories, memories)
        for axes, title in ((speed, "Training, images per second"), (memory, "Peak memory, GiB")):
            axes.set_title(title)
            axes.set_xticks(range(len(places)), places)
            axes.set_xlim(-0.6, len(places) - 0.4)
            axes.margins(y=0.12)
            axes.grid(axis="y", color=GRID)
        columns = min(3, -(-len(series) // 2))  # filled one by one: AMP on, and off below it; more are too wide
        figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        figure.suptitle(_subtitle(measured), fontsize=9, color=FAINT, x=0.01, ha="left")
        drawing.save(figure, path)


def _draw_speeds(axes: Axes, x: list[float], rows: list[Row], look: dict[str, Any]) -> None:
    samples = [[value for value in row.samples("images_per_second") if value is not None] for row in rows]
    speeds = [row.mean("images_per_second") or 0.0 for row in rows]
    below = [value - min(of_row) for value, of_row in zip(speeds, samples, strict=True)]
    above = [max(of_row) - value for value, of_row in zip(speeds, samples, strict=True)]
    axes.bar(x, speeds, **look)
    axes.errorbar(x, speeds, [below, above], fmt="none", ecolor=INK, capsize=2, linewidth=1)
    _write_above(axes, x, speeds, [max(of_row) for of_row in samples])


def _subtitle(rows: list[Row]) -> str:
    """Return the model and the device: "efficientnet_b3, 300 px, 32 images a replica; NVIDIA A100"."""
    keys = [row.key for row in rows]
    models, sides, batches, devices = (
        ", ".join(dict.fromkeys(map(str, values)))
        for values in (
            [key.model for key in keys], [key.image_size for key in keys], [key.batch_size for key in keys],
            [row.device for row in rows],
        )
    )  # fmt: skip
    return f"{models}, {sides} px, {batches} images a replica; {devices}"


def _write_above(axes: Axes, x: list[float], values: list[float], tops: list[float]) -> None:
    for place, value, top in zip(x, values, tops, strict=True):
        axes.annotate(
            three_digits(value), (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
