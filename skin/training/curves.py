"""Draw curves.png: the losses, accuracies and learning rate of a training run, epoch by epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

BLUE, ORANGE, GREY = "#1f6f9f", "#d9772b", "#8a8f98"


def draw_curves(rows: list[dict[str, Any]], best_epoch: int, monitor: str, path: Path) -> None:
    """Draw losses, accuracies and the learning rate against epochs, and mark the best epoch.

    Args:
        rows: one dict per epoch with the columns of metrics.csv.
        best_epoch: the epoch (counted from 1) whose weights are in best.pt.
        path: of the .png, which is replaced.
    """
    epochs = [row["epoch"] for row in rows]
    figure, (losses, accuracies, rates) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")

    def line(axes: Any, column: str, colour: str, label: str, style: str = "-") -> None:
        axes.plot(epochs, [row[column] for row in rows], style, color=colour, label=label, marker="o", markersize=3)

    line(losses, "train_loss", BLUE, "training")
    line(losses, "val_loss", ORANGE, "validation")
    losses.set_title("Loss (weighted cross entropy)")
    line(accuracies, "train_accuracy", BLUE, "training")
    line(accuracies, "val_accuracy", ORANGE, "validation")
    line(accuracies, "val_balanced_accuracy", ORANGE, "validation, balanced", "--")
    accuracies.set_title("Accuracy")
    accuracies.set_ylim(0, 1)
    line(rates, "lr", GREY, "at the end of the epoch")
    rates.set_title("Learning rate")
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (losses, accuracies, rates):
        axes.axvline(best_epoch, color=GREY, linewidth=1, linestyle=":", label=f"best {monitor} (epoch {best_epoch})")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
