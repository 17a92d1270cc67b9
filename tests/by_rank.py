"""train.py as the tests start it under torchrun: each process keeps the weights that it has after each epoch.

    torchrun --standalone --nproc-per-node 2 tests/by_rank.py <options of train.py>

Writes rank<r>-epoch<n>.pt into the working folder. The head's dropout is off, since its draws are each
process's own, and what several processes do together is compared with what one does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import train
from skin.training.run import Run
from skin.training.trainer import Trainer
from skin.utils import cli

end_epoch, build_trainer = train.end_epoch, train.build_trainer


def keep_weights(run: Run, *more: Any) -> None:
    end_epoch(run, *more)
    state, rank = run.trainer.classifier.network.state_dict(), run.trainer.topology.rank
    torch.save({name: tensor.cpu() for name, tensor in state.items()}, f"rank{rank}-epoch{run.progress.epoch}.pt")


def without_dropout(*arguments: Any) -> Trainer:
    trainer = build_trainer(*arguments)
    trainer.classifier.network.classifier[0].p = 0.0  # type: ignore[assignment]
    return trainer


if __name__ == "__main__":
    train.end_epoch, train.build_trainer = keep_weights, without_dropout
    cli.run(train.main)
