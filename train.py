"""Fine-tune EfficientNet on images of skin disease, by transfer learning.

    python train.py --data ./data      # B3, ImageNet weights, 20 epochs
    python train.py --data HAM10000 --model efficientnet_b0 --epochs 5
    python train.py --demo             # no data yet? two minutes on two cores
    python train.py --resume           # go on with the newest run
    python train.py --demo --out run --resume auto    # begin, or go on
    torchrun --standalone --nproc-per-node 4 train.py --data ./data    # DDP

The data folder may be class folders, split folders, HAM10000 as downloaded, and
more (see README.md), or any folder of images with --labels. All that a run
makes goes into its run folder.
"""

from __future__ import annotations

import copy
import math
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skin.data.dataset import Batch, PlainBatches, make_loader, timed_ahead
from skin.evaluation import metrics
from skin.evaluation.model_card import write_model_card
from skin.model import calibration, checkpoint
from skin.model.inference import collect
from skin.training import attempts, batch_norm, losses, runs
from skin.training.curves import draw_curves
from skin.training.parts import check_data
from skin.training.saver import kept
from skin.training.session import Run, finished, open_run
from skin.training.settings import common_settings
from skin.training.trainer import Trainer
from skin.utils import cli, memory, parallel
from skin.utils.console import Log
from skin.utils.errors import UserError
from skin.utils.faults import explained
from skin.utils.interrupts import Interrupts, Stopped

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader


def learning_rate(step: int, steps: int, warmup: int, peak: float, frozen: int = 0) -> float:
    """Return the rate of optimizer step `step` of `steps`: linear up over `warmup` steps, then half a cosine down.

    Before that, `frozen` of the steps train the head alone, at the peak rate: a new head has nothing that large steps
    could break. The warm-up is for the body, which has.
    """
    if step < frozen:
        return peak
    step, steps = step - frozen, steps - frozen
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_step(trainer: Trainer, images: Tensor, labels: Tensor, batch_weight: float) -> Tensor:
    """One optimizer step on a batch. One path for float16, bfloat16 and float32, on CPU and GPU.

    Args:
        images: uint8 [B, H, W, 3] on the device: this process's share of the batch.
        labels: int64 [B] on the device.
        batch_weight: sum of the class weights over the whole batch, all processes together.

    Returns:
        float32 [4] on the device: loss numerator, weight, correct, images. Reading it is a sync point.
    """
    logits = trainer.model(images)  # autocast is inside, where DataParallel's threads see it
    mean, weight = losses.cross_entropy(logits, labels, trainer.class_weights)
    loss = mean
    if trainer.topology.distributed:  # DDP averages the gradients of `world` processes: weighed by its share of the
        # batch's weight, each one's mean adds up to the mean of the whole batch.
        loss = mean * (weight / batch_weight * trainer.topology.world)
    trainer.scaler.scale(loss).backward()
    trainer.scaler.step(trainer.optimizer)  # skipped where a gradient is not finite
    trainer.scaler.update()
    trainer.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        correct = (logits.argmax(1) == labels).sum()
        return torch.stack([mean * weight, weight, correct, torch.full_like(weight, len(labels))])


@dataclass(frozen=True)
class StepDone:
    """What `train_steps` tells after each step."""

    step: int  # steps of this epoch that are done
    record: Tensor  # of `train_step`
    rows: Tensor  # int64 [B]: which images it was
    wait_seconds: float  # for the batch


def train_steps(trainer: Trainer, epoch: int, first_step: int = 0) -> Iterator[StepDone]:
    """The steps of an epoch (counted from 0), from `first_step` on. This is the loop."""
    settings, device, batches = trainer.settings, trainer.topology.device, trainer.batches
    batches.set_epoch(epoch, first_step)
    weights = trainer.class_weights.cpu()[trainer.dataset.labels]
    batch_weights = [float(weights[rows].sum()) for rows in batches.plan(epoch)]
    steps = settings.epochs * len(batches)
    alone = settings.freeze_epochs if settings.freeze_epochs < settings.epochs else 0  # else the head is all there is
    frozen = alone * len(batches)
    warmup = int(min(settings.warmup_epochs * len(batches), 0.3 * (steps - frozen)))
    trainer.freeze(epoch < settings.freeze_epochs)
    trainer.classifier.train()
    for step, (batch, wait_seconds) in enumerate(timed_ahead(trainer.loader, device), start=first_step):
        if trainer.topology.any([bool(batch.error)])[0]:
            raise UserError(batch.error or "another process could not read an image; see its message")
        done = epoch * len(batches) + step
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(done, steps, warmup, settings.lr, frozen)
        trainer.seed_dropout(done)
        record = train_step(trainer, batch.images, batch.labels, batch_weights[step])
        yield StepDone(step + 1, record, batch.indices, wait_seconds)


def train_epoch(run: Run, interrupts: Interrupts) -> None:
    """Train until the epoch ends or a signal asks to stop; `run.progress` says how far it came."""
    trainer, progress, settings = run.trainer, run.progress, run.trainer.settings
    topology = trainer.topology
    progress.begin_epoch(len(trainer.batches), topology.device)
    seconds_before, start, saved = progress.seconds, time.perf_counter(), time.monotonic()
    title = f"epoch {progress.epoch + 1}/{settings.epochs}"
    images_before = progress.step * trainer.batches.batch_size
    with run.log.progress(title, trainer.batches.size, images_before) as advance:
        for done in train_steps(trainer, progress.epoch, progress.step):
            progress.records[done.step - 1] = done.record
            progress.step = done.step
            progress.taken += 1
            progress.wait_seconds += done.wait_seconds
            advance(len(done.rows) * topology.world)
            # Looking at the loss waits for the GPU, so there it is done now and then; a CPU has it at hand.
            if topology.device.type == "cpu" or done.step % 20 == 0 or done.step == len(trainer.batches):
                refuse_bad_loss(run)
            progress.seconds = seconds_before + time.perf_counter() - start
            due = time.monotonic() - saved > 60 * settings.save_minutes
            stop, save = topology.any([interrupts.stop is not None, interrupts.save or due])
            if stop or save:
                refuse_bad_loss(run)  # what is not finite must not get into last.pt
            if stop:
                raise Stopped
            if save:
                run.save()
                interrupts.save, saved = False, time.monotonic()
            run.saver.check()


def refuse_bad_loss(run: Run) -> None:
    """Raise `UserError`, naming the images, where a step of this epoch had a loss that is not finite."""
    trainer, progress = run.trainer, run.progress
    own = progress.first_bad_step()
    if not trainer.topology.any([own is not None])[0]:
        return
    step = min(step for step in trainer.topology.gather(own) if step is not None)
    names = [trainer.dataset.path(row).name for row in trainer.batches.plan(progress.epoch)[step][:8]]
    raise UserError(
        f"the loss is not finite in epoch {progress.epoch + 1}, step {step + 1} (images {', '.join(names)}, …); "
        f"{kept(run.folder)}; try a smaller --lr, or --amp off"
    )


def end_epoch(run: Run, val_loader: DataLoader[Batch], interrupts: Interrupts) -> None:
    """Validate, note the epoch's figures, and save."""
    trainer, progress, settings = run.trainer, run.progress, run.trainer.settings
    topology = trainer.topology
    loss_sum, weight, correct, images = topology.sum(progress.totals())
    train_seconds, wait_seconds = progress.seconds, progress.wait_seconds
    start = time.perf_counter()
    batch_norm.average(trainer.classifier.network, topology)
    model = trainer.model if topology.kind == "DataParallel" else trainer.classifier
    run.saver.wait()  # the loader's processes are forked here for the first time, with no other thread at work
    logits = collect(model, val_loader, topology, stopping=interrupts.stopping).logits
    if not np.isfinite(logits).all():  # the last step of the epoch broke the weights: no loss has shown it yet
        raise UserError(
            f"the model's outputs are not finite after epoch {progress.epoch + 1}; {kept(run.folder)}; "
            "try a smaller --lr, or --amp off"
        )
    labels, probabilities = run.parts.labels("val"), calibration.softmax(logits)
    class_weights = trainer.class_weights.cpu()
    val_loss, _ = losses.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), class_weights)
    usage = memory.read_all(topology)  # all processes ask at once
    row = {
        "epoch": progress.epoch + 1,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "train_loss": float(loss_sum / weight),
        "train_accuracy": float(correct / images),
        "val_loss": float(val_loss),
        "val_accuracy": metrics.accuracy(labels, probabilities),
        "val_balanced_accuracy": metrics.balanced_accuracy(labels, probabilities),
        "val_macro_auc": metrics.macro_auc(labels, probabilities),
        "seconds": train_seconds + time.perf_counter() - start,
        "images_per_second": float(images / train_seconds),
        "data_wait_seconds": wait_seconds,
        "peak_memory_mib": usage.peak_mib,
    }
    best = progress.end_epoch(row, row["val_" + settings.monitor])
    run.save(best)
    skipped = progress.taken - trainer.optimizer_steps()
    run.log.say(runs.epoch_line(row, settings.epochs, usage, skipped, best))
    if math.isnan(progress.best_value):
        run.log.say_once(f"warning: the validation {settings.monitor} is not defined; while it is not, the newest "
                         "epoch counts as the best")  # fmt: skip
    if trainer.dataset.cache is not None and trainer.dataset.cache.note is not None:
        run.log.say_once(trainer.dataset.cache.note)


def fit(run: Run, interrupts: Interrupts) -> int:
    """Train to the end; 0, or 128 + the signal that stopped it."""
    trainer, progress, settings = run.trainer, run.progress, run.trainer.settings
    topology = trainer.topology
    val_set = run.parts.dataset("val", trainer.classifier.preprocess, cache=trainer.dataset.cache)
    val_size = 2 * settings.batch_size * max(1, len(topology.cuda_devices))
    val_batches = PlainBatches(len(val_set), val_size, topology.rank, topology.world)
    val_loader = make_loader(val_set, val_batches, trainer.workers, trainer.loader.pin_memory, run.log.say_once)
    interrupts.hold(alone=not topology.distributed)
    try:
        while progress.epoch < settings.epochs and not progress.out_of_patience(settings.patience):
            memory.reset_peaks(topology.cuda_devices)
            train_epoch(run, interrupts)
            end_epoch(run, val_loader, interrupts)
        finish(run, val_loader, interrupts)
    except Stopped:
        run.save()
        run.saver.wait()
        run.log.say(f"stopped after epoch {progress.epoch}, step {progress.step}; "
                    f"{'NOT saved' if run.saver.unsaved else 'saved'}. "
                    f"Go on with: python train.py --resume {shlex.quote(str(run.folder))}")  # fmt: skip
        return 128 + (interrupts.stop or signal.SIGTERM)
    return 0


def finish(run: Run, val_loader: DataLoader[Batch], interrupts: Interrupts) -> None:
    """Calibrate the best model on the validation part, draw the curves, and say what to do next."""
    trainer, progress, folder = run.trainer, run.progress, run.folder
    topology = trainer.topology
    run.saver.wait()
    topology.barrier()
    classifier = copy.deepcopy(trainer.classifier)  # what --resume needs stays as it is
    best = checkpoint.load_best(folder / "best.pt").network.state_dict() if topology.is_main else None
    classifier.network.load_state_dict(topology.from_main(best))  # the folder may be on rank 0's machine alone
    logits, features = collect(classifier, val_loader, topology, True, stopping=interrupts.stopping)
    if not topology.is_main:
        return
    calibrated = calibration.fit(logits, run.parts.labels("val"), features)
    checkpoint.save(run.best_state(classifier.network, calibrated), folder / "best.pt")
    best_row = progress.history[progress.best_epoch - 1]
    write_model_card(folder / "model_card.md", run.config, run.parts.classes, best_row)
    draw_curves(progress.history, progress.best_epoch, run.trainer.settings.monitor, folder / "curves.png")
    attempts.forget(folder)
    path = shlex.quote(str(folder / "best.pt"))
    run.log.say(
        f"\nbest validation {trainer.settings.monitor}: {progress.best_value:.4f}, epoch {progress.best_epoch}\n"
        f"everything is in {folder}: best.pt, metrics.csv, curves.png, model_card.md\n"
        f"next:  python evaluate.py --checkpoint {path}\n"
        f"       python predict.py --checkpoint {path} IMAGE"
    )


def main(argv: Sequence[str] | None = None) -> int:
    with explained(), Interrupts() as interrupts, parallel.processes() as processes:
        settings = common_settings(__doc__, argv, processes)
        if settings.check:
            return check_data(settings, Log()) if processes.is_main else 0
        topology = parallel.on_devices(processes, settings.gpus)
        if finished(settings, topology):
            Log(quiet=not topology.is_main).say(f"{settings.resume} is done: there is nothing to go on with")
            return 0
        with (
            open_run(settings, topology) as run,
            explained(run.trainer.batches.most_images // topology.replicas, run.how_to_go_on),
        ):
            return fit(run, interrupts)


if __name__ == "__main__":
    cli.run(main)
