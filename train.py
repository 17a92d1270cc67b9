"""Fine-tune EfficientNet on images of skin disease, by transfer learning.

    python train.py --data ./data      # B3, ImageNet weights, 20 epochs
    python train.py --demo             # no data yet? two minutes on two cores
    python train.py --resume           # go on with the newest run
    torchrun --standalone --nproc-per-node 4 -- train.py --data ./data    # DDP

README.md lists the layouts of a data folder. A run has one folder, in runs/.
"""

from __future__ import annotations

import functools
import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

from skin.training.options import Options, common_options
from skin.utils import cli

if __name__ == "__main__":  # before torch, which takes seconds to import
    cli.answer_early(Options, __doc__)

from skin.data.dataset import Batch, timed_ahead
from skin.model import calibration, checkpoint, cpu_kernels
from skin.model.inference import collect
from skin.model.metadata import attach
from skin.model.network import Classifier, preprocess_for
from skin.training import batch_norm, check, ema, ending, folds, losses, mixing
from skin.training.loading import training_data, validation_loader
from skin.training.progress import Progress
from skin.training.records import StepDone, StepRecord
from skin.training.run import Opened, Run, open_run
from skin.training.saver import bytes_needed
from skin.training.splits import Splits
from skin.training.states import BestPt, LastPt, Restorable, checked_last
from skin.training.trainer import Trainer, common_precision, compiled, starting_weights
from skin.utils import parallel
from skin.utils.known_errors import as_user_errors
from skin.utils.parallel import Topology
from skin.utils.signals import Interrupts, Stopped

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision.models import EfficientNet, get_model


def build_trainer(
    options: Options, topology: Topology, splits: Splits, images_per_step: int | None = None, origin: str = ""
) -> Trainer:
    """Build model, optimizer, scaler and loader on their device, ready for the first step.

    A step takes `images_per_step` in total, or `--batch-size` per replica. With `origin`, last.pt brings the weights.
    """
    torch.manual_seed(options.seed)  # of the new head, and of everything with --weights none
    network: EfficientNet = get_model(options.model, weights=None)
    network.classifier[1] = nn.Linear(network.classifier[1].in_features, len(splits.classes))
    attach(network, splits.encoder)  # with --metadata
    origin = origin or starting_weights(network, options, topology)
    cpu_kernels.accelerate(network, topology.device)
    preprocess = preprocess_for(options.model, options.image_size)
    precision = common_precision(options.amp, topology)
    # Autocast is entered in `Classifier.forward`, not here: the threads of DataParallel's replicas lose its dtype.
    classifier = Classifier(network, preprocess, precision).to(topology.device)
    data = training_data(options, topology, splits, preprocess, images_per_step, bytes_needed(network))
    weights = losses.class_weights(data.dataset.labels, len(splits.classes), options.class_weights)
    return Trainer(
        options=options, topology=topology, classifier=classifier, data=data, origin=origin,
        make_parallel=make_parallel, model=make_parallel(classifier, options, topology),
        optimizer=make_optimizer(network.parameters(), options), class_weights=weights.to(topology.device),
        averaged=ema.averaged(classifier, options.ema),
        # Small gradients vanish in float16, which has five bits of exponent; bfloat16 and float32 need no scaling.
        scaler=torch.amp.GradScaler(topology.device.type, enabled=precision.dtype is torch.float16),
    )  # fmt: skip


def make_optimizer(parameters: Iterable[nn.Parameter], options: Options) -> torch.optim.Optimizer:
    """Return the optimizer of `--optimizer`; `OPTIMIZERS` in skin/training/options.py lists them all."""
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": functools.partial(torch.optim.SGD, momentum=0.9),
    }  # fmt: skip
    fused = options.optimizer != "sgd"  # its kernel wants momentum of all or none, and freed layers have none yet
    return kinds[options.optimizer](parameters, lr=options.lr, weight_decay=options.weight_decay, fused=fused)


def make_parallel(classifier: Classifier, options: Options, topology: Topology) -> nn.Module:
    """Return the classifier as training steps call it. Validation calls the classifier itself."""
    model = compiled(classifier, topology) if options.compile else classifier
    if topology.distributed:  # BatchNorm's statistics are each process's own until skin.training.batch_norm.average
        return DistributedDataParallel(model, process_group=topology.devices, forward_sync_buffers=False)
    if topology.gpus > 1:
        return nn.DataParallel(model, device_ids=list(range(topology.gpus)))
    return model


def weighted_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of -log p_i[y_i] and the sum of weights in it: mean * weight adds up over batches.

    Labels are int64 [B], or float32 [B, C] for images that are mixed: the share of each class.
    """
    if smoothing or labels.dim() == 2:
        return losses.soft_cross_entropy(logits, labels, class_weights, smoothing)
    return nn.functional.cross_entropy(logits, labels, weight=class_weights), class_weights[labels].sum()


def learning_rate(step: int, steps: int, warmup: int, peak: float, frozen: int = 0) -> float:
    """Return the rate of optimizer step `step` of `steps`: linear up over `warmup` steps, then half a cosine down.

    Before that, `frozen` steps train the head alone at the peak rate: the warm-up is for the body, which can break.
    """
    if step < frozen:
        return peak
    step, steps = step - frozen, steps - frozen
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_step(trainer: Trainer, batch: Batch, batch_weight: float) -> StepRecord:
    """Take one optimizer step on a batch, in the passes of `--accumulate`. One path for all precisions and devices.

    Args:
        batch: this process's share, on the device: images uint8 [B, H, W, 3], labels int64 [B], metadata or None.
        batch_weight: sum of the class weights over the whole batch, all processes together.
    """
    options = trainer.options
    sums = torch.zeros(3, device=batch.images.device)  # of the loss, the weights and the right answers
    for some, context in trainer.passes(batch):
        with context:
            images, targets, metadata = mixing.mixed(some, len(trainer.class_weights), options)
            answers = trainer.model(images, metadata)  # autocast is inside, see `build_trainer`
            times = answers.dim() - 1  # that each image is answered: twice with metadata, see `Encoder.partly`
            logits = answers.flatten(0, -2)
            shifted = logits + trainer.logit_offsets  # 0 but with --class-weights logits
            mean, weight = weighted_cross_entropy(
                shifted, targets.repeat_interleave(times, 0), trainer.class_weights, options.label_smoothing
            )
            weight = weight / times
            # Each mean counts by its share of the batch's weight; DDP divides the sum of gradients by the processes.
            loss = mean * (weight / batch_weight * trainer.topology.world)
            trainer.scaler.scale(loss).backward()
        sums += torch.stack([mean.detach() * weight, weight, (logits[::times].argmax(1) == some.labels).sum()])
    trainer.scaler.unscale_(trainer.optimizer)
    gradients = [p.grad for p in trainer.classifier.network.parameters() if p.grad is not None]
    grad_norm = nn.utils.get_total_norm(gradients)  # stays on the GPU, which nothing waits for here
    trainer.scaler.step(trainer.optimizer)  # skipped if a gradient is not finite
    trainer.scaler.update()
    trainer.optimizer.zero_grad(set_to_none=True)
    if trainer.averaged is not None:
        trainer.averaged.update(trainer.classifier)
    return StepRecord._make([*sums, torch.full_like(grad_norm, len(batch.labels)), grad_norm])


def train_steps(trainer: Trainer, epoch: int, first_step: int = 0) -> Iterator[StepDone]:
    """Take the steps of an epoch (counted from 0), from `first_step` on. This is the loop."""
    options, device, batches = trainer.options, trainer.topology.device, trainer.batches
    batches.set_epoch(epoch, first_step)
    batch_weights = trainer.batch_weights(epoch)
    trainer.freeze(epoch < options.freeze_epochs)
    trainer.classifier.train()
    for step, (batch, wait_seconds) in enumerate(timed_ahead(trainer.loader, device), start=first_step):
        trainer.refuse_unread(batch)
        done = epoch * len(batches) + step
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(done, *trainer.schedule())
        trainer.seed_step(done)
        record = train_step(trainer, batch, batch_weights[step])
        yield StepDone(step + 1, record, batch.indices, wait_seconds)


def train_epoch(run: Run, interrupts: Interrupts) -> None:
    """Train until the epoch ends or a signal asks to stop; `run.progress` says how far it came."""
    with run.begin_epoch() as advance:
        for done in train_steps(run.trainer, run.progress.epoch, run.progress.step):
            run.progress.take(done)
            advance(len(done.rows) * run.trainer.topology.world)
            if run.is_time_to_save(interrupts):  # by --save-minutes or SIGUSR1; raises `Stopped` if asked to stop
                save(run)


def end_epoch(run: Run, val_loader: DataLoader[Batch], interrupts: Interrupts) -> None:
    """Validate, note the row of the epoch in metrics.csv, and save."""
    trainer, progress, topology = run.trainer, run.progress, run.trainer.topology
    totals = progress.totals(topology)
    for network in dict.fromkeys((trainer.classifier.network, trainer.validated.network)):  # two with --ema
        batch_norm.average(network, topology)
    run.saver.wait()  # the loader's processes are forked here for the first time, with no other thread at work
    logits = collect(trainer.validating(), val_loader, topology, stopping=interrupts.stopping).logits
    run.refuse_bad_outputs(logits)
    labels, weights, offsets = run.splits.labels("val"), trainer.class_weights.cpu(), trainer.logit_offsets.cpu()
    val_loss, _ = weighted_cross_entropy(torch.from_numpy(logits) + offsets, torch.from_numpy(labels), weights)
    row, usage = run.measured(totals, float(val_loss), logits)
    best = progress.end_epoch(row, row["val_" + trainer.options.monitor], totals.skipped)
    save(run, best)
    run.say_epoch(row, usage, best)


def last_pt(trainer: Trainer, progress: Progress, classes: Sequence[str]) -> LastPt:
    """Return the contents of last.pt. All processes must call it together, between two steps."""
    network = trainer.classifier.network
    return {
        "model": network.state_dict(),
        "statistics": torch.stack(trainer.topology.gather(batch_norm.read(network))),
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "progress": progress.state(trainer.topology),
        "classes": list(classes),
        "machine": trainer.machine(),
        "plan": trainer.plan(),
        "averaged": ema.state(trainer.averaged, trainer.topology),
    }


def load_last(last: Restorable, trainer: Trainer, progress: Progress) -> None:
    """Take over the contents of a last.pt that has been checked. `last_pt` made them."""
    trainer.classifier.network.load_state_dict(last["model"])
    if last["statistics"] is not None:
        batch_norm.write(trainer.classifier.network, last["statistics"])
    trainer.optimizer.load_state_dict(last["optimizer"])
    if last["scaler"] and trainer.scaler.is_enabled():  # one that was off then, or is off now, starts anew
        trainer.scaler.load_state_dict(last["scaler"])
    ema.restore(trainer.averaged, last["averaged"])
    progress.load_state(last["progress"], trainer.topology, len(trainer.batches))


def best_pt(run: Run, network: nn.Module, calibrated: calibration.Calibration) -> BestPt:
    """Return the contents of best.pt: the unwrapped weights, and all that goes with them at inference."""
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "model": network.state_dict(),
        "classes": list(run.splits.classes),
        "preprocess": run.trainer.classifier.preprocess.to_dict(),
        "config": run.config,
        "metrics": run.progress.history[run.progress.best_epoch - 1],
        "calibration": calibrated,
    }


def save(run: Run, best: bool = False) -> None:
    """Copy the run's state; a thread of the saver writes it with `torch.save` while the training goes on."""
    last = last_pt(run.trainer, run.progress, run.splits.classes)
    if run.trainer.topology.is_main:
        run.saver.save(last, best_pt(run, run.trainer.validated.network, {}) if best else None, run.progress.history)


def begin(opened: Opened) -> Run:
    """Build what a run needs, and on --resume bring it back to where it was."""
    options, splits = opened.options, opened.splits
    trainer = build_trainer(options, opened.topology, splits, options.images_per_step, opened.origin)
    run = opened.begin(trainer)
    if opened.last is not None:
        load_last(checked_last(opened.last, trainer, splits.classes, run.folder / "last.pt"), trainer, run.progress)
    run.say_resumed(opened.source, opened.last)
    return run


def fit(run: Run, interrupts: Interrupts) -> int:
    """Train to the end; return 0, or 128 + the signal that stopped it."""
    trainer = run.trainer
    val_loader = validation_loader(trainer.options, trainer.topology, run.splits, trainer.data, run.log)
    interrupts.hold(alone=not trainer.topology.distributed)
    try:
        while not run.is_trained:
            train_epoch(run, interrupts)
            end_epoch(run, val_loader, interrupts)
        run.say_out_of_patience()
        finish(run, val_loader, interrupts)
    except Stopped:
        save(run)
        run.say_stopped()
        return 128 + (interrupts.stop or signal.SIGTERM)
    return 0


def finish(run: Run, val_loader: DataLoader[Batch], interrupts: Interrupts) -> None:
    """Calibrate the best model on the validation split, and write the last files of a run."""
    topology, classifier = run.trainer.topology, ending.best_classifier(run)
    logits, traits, _ = collect(
        classifier, val_loader, topology, lambda traits: traits, stopping=interrupts.stopping
    )
    calibrated = ending.calibrate(run, classifier, logits, traits, interrupts.stopping)
    if topology.is_main:  # by torch.save, whole or not at all
        checkpoint.save(best_pt(run, classifier.network, calibrated), run.folder / "best.pt")
        run.end(calibrated, logits)


def train(options: Options, topology: Topology, interrupts: Interrupts) -> int:
    """Train one model; return 0, or 128 + the signal that stopped it."""
    with open_run(options, topology) as opened:
        run = begin(opened)
        with as_user_errors(run.trainer.images_per_pass(), run.how_to_go_on, options.accumulate):
            return fit(run, interrupts)


def main(argv: Sequence[str] | None = None) -> int:
    with as_user_errors(), Interrupts() as interrupts, parallel.processes() as processes:
        options = common_options(__doc__, argv, processes)
        if options.check:
            return check.run(options, argv, processes, build_trainer, train_step) if processes.is_main else 0
        topology = parallel.on_devices(processes, options.gpus)
        return folds.run(options, topology, interrupts, train)


if __name__ == "__main__":
    cli.run(main)
