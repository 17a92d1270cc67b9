"""Draw curves.png: the losses, accuracies and learning rate of a training run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skin.training.columns import Row
from skin.utils.drawing import ACCENT, FAINT, GRID, SECOND, figure, styled

from matplotlib.ticker import MaxNLocator


def draw_curves(rows: Sequence[Row], best_epoch: int, monitor: str, path: Path) -> None:
    """Draw losses, accuracies and the learning rate against epochs, and mark the best epoch.

    Args:
        rows: of metrics.csv, one per epoch.
        best_epoch: the epoch (counted from 1) whose weights are in best.pt.
        path: of the .png, which is replaced.
    """
    epochs = [row["epoch"] for row in rows]

    def line(axes: Any, column: str, colour: str, label: str, style: str = "-") -> None:
        values = [row[column] for row in rows]
        axes.plot(epochs, values, style, color=colour, label=label, linewidth=1.6, marker="o", markersize=3)

    with styled():
        made = figure(11, 3.7)
        losses, accuracies, rates = made.subplots(1, 3)
        line(losses, "train_loss", ACCENT, "training")
        line(losses, "val_loss", SECOND, "validation")
        losses.set_title("Loss (weighted cross entropy)")
        line(accuracies, "train_accuracy", ACCENT, "training")
        line(accuracies, "val_accuracy", SECOND, "validation")
        line(accuracies, "val_balanced_accuracy", SECOND, "validation, balanced", "--")
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
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", color=GRID, linewidth=0.8)
            # Below the picture, where it hides no line.
            axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=8)
        made.savefig(path, bbox_inches="tight", pad_inches=0.12)
