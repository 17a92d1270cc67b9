"""Draw the losses, accuracies and learning rate of a training run, epoch by epoch, beside what it has to beat."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from skin.training.columns import Row
from skin.training.standing import Baseline
from skin.utils.drawing import ACCENT, FAINT, GRID, INK, SECOND, THIRD, figure, label, styled

from matplotlib.ticker import MaxNLocator


def draw_curves(rows: Sequence[Row], best_epoch: int, monitor: str, baseline: Baseline) -> bytes:
    """Return a PNG of losses, accuracies and the learning rate against epochs, with the best epoch marked.

    Args:
        rows: one per epoch, with the columns of metrics.csv.
        best_epoch: the epoch (counted from 1) whose weights are in best.pt.
    """
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) <= 30 else ""  # more would hide the lines

    def line(axes: Any, column: str, colour: str, name: str, style: str = "-") -> None:
        values = [row[column] for row in rows]
        axes.plot(epochs, values, style, color=colour, label=name, linewidth=1.6, marker=marker, markersize=3)

    def to_beat(axes: Any, value: float, name: str) -> None:
        axes.axhline(value, color=INK, linewidth=1, linestyle=(0, (6, 3)), label=name)

    with styled([baseline.commonest]):
        made = figure(11, 3.7)
        losses, accuracies, rates = made.subplots(1, 3)
        line(losses, "train_loss", ACCENT, "training")
        line(losses, "val_loss", SECOND, "validation")
        to_beat(losses, baseline.loss, "the shares of the classes")
        losses.set_title("Loss (weighted cross entropy)")
        line(accuracies, "train_accuracy", ACCENT, "training")
        line(accuracies, "val_accuracy", SECOND, "validation")
        line(accuracies, "val_balanced_accuracy", THIRD, "validation, balanced", "--")
        to_beat(accuracies, baseline.accuracy, label(f"always {baseline.commonest}", 36, 1))
        accuracies.set_title("Accuracy")
        accuracies.set_ylim(0, 1)
        line(rates, "lr", FAINT, "at the end of the epoch")
        rates.set_title("Learning rate")
        rates.set_ylim(bottom=0)
        rates.yaxis.set_major_formatter(lambda rate, place: f"{rate:g}")  # no factor above, which moves the title
        best = f"best {monitor.replace('_', ' ')} (epoch {best_epoch})"
        for axes in (losses, accuracies, rates):
            axes.axvline(best_epoch, color=FAINT, linewidth=1, linestyle=":", label=best)
            axes.set_xlabel("epoch")
            axes.set_xlim(0.5, epochs[-1] + 0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            # Below the picture, where it hides no line.
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=8)
        content = io.BytesIO()
        made.savefig(content, format="png", bbox_inches="tight", pad_inches=0.12)
        return content.getvalue()
