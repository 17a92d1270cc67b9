"""The benchmark's plot: throughput and peak memory against GPUs, with AMP on and off, for each recipe."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from skin.bench.report import device_name, peak_mib, three_digits
from skin.utils.errors import UserError
from skin.utils.files import write_atomically

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2933", "#616e7c", "#e4e7eb"
COLOURS = {"ours": "#1b5e9b", "ours-compiled": "#4f8f6b", "plain": "#c8553d", "plain-channels-last": "#d99a2b"}
_STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": FAINT, "axes.spines.top": False, "axes.spines.right": False,
    "text.color": INK, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "legend.frameon": False, "axes.axisbelow": True, "hatch.linewidth": 0.6,
}  # fmt: skip


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Throughput and peak memory against GPUs, a bar for each recipe with AMP on and off; range over rounds."""
    measured = [r for r in rows if r["status"] == "ok"]
    if not measured:
        raise UserError("--plot: nothing was measured, so there is nothing to draw")
    groups = list(dict.fromkeys(device_name(r) for r in measured))
    series = list(dict.fromkeys((r["recipe"], r["amp"]) for r in measured))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(max(6.8, 2.4 + 1.6 * len(groups)), 3.8), dpi=150, layout="constrained")
        speed, memory = figure.subplots(1, 2)
        width = 0.8 / len(series)  # of a bar
        for i, (recipe, amp) in enumerate(series):
            mine = [r for r in measured if (r["recipe"], r["amp"]) == (recipe, amp)]
            x = [groups.index(device_name(r)) + (i - (len(series) - 1) / 2) * width for r in mine]
            spreads = [r["spread"]["images_per_second"] for r in mine]
            speeds = [r["images_per_second"] for r in mine]
            memories = [(peak_mib(r) or 0.0) / 1024 for r in mine]
            fill = COLOURS[recipe] if amp == "on" else "white"
            look: Any = {"width": 0.9 * width, "color": fill, "edgecolor": COLOURS[recipe]}
            look["label"] = f"{recipe}, AMP {amp}"
            speed.bar(x, speeds, **look)
            memory.bar(x, memories, **look)
            below = [v - s["low"] for v, s in zip(speeds, spreads, strict=True)]
            above = [s["high"] - v for v, s in zip(speeds, spreads, strict=True)]
            speed.errorbar(x, speeds, [below, above], fmt="none", ecolor=INK, capsize=2, linewidth=1)
            _write_above(speed, x, speeds, [s["high"] for s in spreads])
            _write_above(memory, x, memories, memories)
        for axes, title in ((speed, "Training, images per second"), (memory, "Peak memory, GiB")):
            axes.set_title(title)
            axes.set_xticks(range(len(groups)), groups)
            axes.set_xlim(-0.6, len(groups) - 0.4)
            axes.margins(y=0.12)
            axes.grid(axis="y", color=GRID)
        columns = min(3, -(-len(series) // 2))  # filled one by one: AMP on, and off below it; more are too wide
        figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        model, side, batch, devices = (
            ", ".join(dict.fromkeys(str(row[name]) for row in measured))
            for name in ("model", "image_size", "batch_size", "device")
        )
        figure.suptitle(
            f"{model}, {side} px, {batch} images a replica; {devices}",
            fontsize=9, color=FAINT, x=0.01, ha="left",
        )  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix.lstrip(".") or "png")
    write_atomically(buffer.getvalue(), path)


def _write_above(axes: Axes, x: list[float], values: list[float], tops: list[float]) -> None:
    for place, value, top in zip(x, values, tops, strict=True):
        axes.annotate(
            three_digits(value), (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=8
        )
