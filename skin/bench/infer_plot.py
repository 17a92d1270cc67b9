"""The plot of `--infer`: speed by batch size and, if the truth is known, accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skin.utils import drawing
from skin.utils.drawing import COLOURS, FAINT, GRID

from matplotlib.axes import Axes

MARKERS = "osD^vP"
Cell = dict[str, Any]  # a row, by the names of infer.COLUMNS


def draw(cells: Sequence[Cell], subtitle: str, path: Path) -> None:
    """Draw the cells to `path`; `subtitle` says which model and which machine they are of."""
    ways = list(dict.fromkeys((cell["title"], cell["device"]) for cell in cells))
    known = any(cell["balanced_accuracy"] is not None for cell in cells)
    with drawing.styled():
        figure = drawing.figure(8.6 if known else 5.2, 4.0)
        panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        for number, way in enumerate(ways):
            mine = [cell for cell in cells if (cell["title"], cell["device"]) == way]
            look: Any = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            speeds = [cell["images_per_second"] for cell in mine]
            panels[0].plot([cell["batch_size"] for cell in mine], speeds, label=way[0], linewidth=1.4, **look)
            if known:
                _accuracy(panels[1], mine[0], look)
        _dress(panels, sorted({cell["batch_size"] for cell in cells}))
        columns = -(-len(ways) // 2) if len(ways) > 3 else len(ways)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=columns)
        figure.suptitle(subtitle, fontsize=9, color=FAINT, x=0.01, ha="left")
        drawing.save(figure, path)


def _accuracy(axes: Axes, cell: Cell, look: Any) -> None:
    """Draw a way's accuracy against its latency for a single image, with the interval of the accuracy."""
    value, low, high = (cell[f"balanced_accuracy{end}"] for end in ("", "_low", "_high"))
    error = None if low is None else [[value - low], [high - value]]
    axes.errorbar([cell["p50_ms"]], [value], error, capsize=2, linewidth=1, **look)


def _dress(panels: Sequence[Axes], sizes: Sequence[int]) -> None:
    panels[0].set_title("Answers, images per second")
    panels[0].set_xlabel("images a call")
    panels[0].set_xscale("log", base=2)
    panels[0].set_xticks(sizes, [str(size) for size in sizes])
    panels[0].set_ylim(bottom=0)
    if len(panels) > 1:
        panels[1].set_title("Balanced accuracy against latency")
        panels[1].set_xlabel("ms for a single image, median")
        panels[1].set_xlim(left=0)
    for axes in panels:
        axes.grid(color=GRID)
        axes.minorticks_off()
