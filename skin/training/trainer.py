"""Model, optimizer and loader of a run, put together once, for train.py and benchmark.py alike."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skin.data.dataset import Batch, EpochBatches, SkinDiseaseDataset, default_workers, make_loader
from skin.model import precision
from skin.model.checkpoint import check_tensors
from skin.model.cpu_step import accelerate
from skin.model.model import Classifier, build, load_weights, preprocess_for
from skin.training import batch_norm, losses
from skin.training.options import Options
from skin.training.recipes import RECIPES
from skin.training.saver import bytes_needed
from skin.training.splits import Splits
from skin.utils.errors import UserError
from skin.utils.parallel import Topology

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}


@dataclass
class Trainer:
    """What a training step needs, made by `build_trainer` for this script and for benchmark.py alike."""

    topology: Topology
    classifier: Classifier  # the model itself, on its device
    model: nn.Module  # the same as the steps call it, see `step_model`
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    class_weights: Tensor  # float32 [C], on the device
    dataset: SkinDiseaseDataset  # the training part
    batches: EpochBatches
    loader: DataLoader[Batch]
    workers: int  # loader processes that are wanted; `loader` has fewer where shared memory is short
    options: Options
    origin: str  # of the weights
    notes: tuple[str, ...] = ()  # what the user should know of the machine

    def freeze(self, frozen: bool) -> None:
        """Freeze or free the body. DDP looks only once at what needs gradients, so it is wrapped anew."""
        if frozen != self.classifier.frozen:
            self.classifier.freeze(frozen)
            self.model = step_model(self.classifier, self.options, self.topology)

    def seed_dropout(self, step: int) -> None:
        """Dropout's draws, too, are a function of (seed, step, rank, GPU): nothing to save, nothing to restore.

        Args:
            step: counted from the beginning of the run.
        """
        key = (self.options.seed, step, self.topology.rank)
        torch.manual_seed(_draw(key))
        if self.topology.kind == "DataParallel":  # its replicas are seeded alike now, each on a GPU of its own
            for device in self.topology.cuda_devices:
                torch.cuda.default_generators[device.index].manual_seed(_draw((*key, device.index)))

    def state(self) -> dict[str, Any]:
        """What resuming needs of it. Take it between steps: the scaler's state counts after `update()`.

        All processes must call it together: each one's BatchNorm has statistics of its own within an epoch.
        """
        statistics = torch.stack(self.topology.gather(batch_norm.read(self.classifier.network)))
        return {
            "model": self.classifier.network.state_dict(),
            "statistics": statistics,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "machine": self._machine(),
            "plan": self.plan(),
        }

    def load_state(self, state: dict[str, Any], path: Path) -> None:
        """The inverse of `state`, for a file's contents. A scaler that was off then, or is off now, starts anew.

        BatchNorm's statistics are each process's own again; where there were fewer or more processes, their mean.

        Raises:
            UserError: they do not fit this model; nothing is changed then.
        """
        network, scaler = self.classifier.network, state.get("scaler")
        check_tensors(state.get("model"), network.state_dict(), path)
        optimizer = self._adam_state(state.get("optimizer"), path)
        if not isinstance(scaler, dict) or (scaler and scaler.keys() != _SCALER):
            raise UserError(f"{path}: damaged checkpoint: 'scaler' is not the state of a GradScaler")
        if not all(type(v) in (int, float) and 0 <= v < math.inf for v in scaler.values()):
            raise UserError(f"{path}: damaged checkpoint: 'scaler' holds what is no number")
        statistics = self._statistics(state.get("statistics"), path)
        network.load_state_dict(state["model"])
        if statistics is not None:  # files of before they were kept have rank 0's alone
            batch_norm.write(network, statistics)
        self.optimizer.load_state_dict(optimizer)
        if scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(scaler)

    def _statistics(self, found: Any, path: Path) -> Tensor | None:
        """This process's BatchNorm statistics from those of all, a row a process; None where none were kept."""
        if found is None:
            return None
        rows = len(found) if isinstance(found, Tensor) and found.dim() == 2 else 0
        like = batch_norm.read(self.classifier.network).expand(max(rows, 1), -1)
        check_tensors({"statistics": found}, {"statistics": like}, path)
        return found[self.topology.rank] if rows == self.topology.world else found.double().mean(0).float()

    def _adam_state(self, found: Any, path: Path) -> dict[str, Any]:
        """Adam's moments from a file and the rate of its last step, with the options of this run."""
        own = self.optimizer.state_dict()
        try:
            moments, lr = found["state"], found["param_groups"][0]["lr"]
            shapes = [parameter.shape for parameter in self.classifier.network.parameters()]
            for number, entry in moments.items():
                like = torch.empty(shapes[number], device="meta")
                check_tensors(entry, {"step": torch.empty(()), "exp_avg": like, "exp_avg_sq": like}, path)
                if entry["step"] < 0 or (entry["exp_avg_sq"] < 0).any():
                    raise ValueError
            if type(lr) is not float or not math.isfinite(lr):
                raise ValueError
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged checkpoint: 'optimizer' is not this model's Adam state") from error
        return {"state": moments, "param_groups": [{**group, "lr": lr} for group in own["param_groups"]]}

    def changes_since(self, before: Any) -> list[str]:
        """Name what the last bits of a result depend on and is no longer as in `before`, the machine of a state."""
        before = before if isinstance(before, dict) else {}
        return _changes(self._machine(), before)

    def plan(self) -> dict[str, int]:
        """Return what says which images a step of an epoch takes, beside the seed."""
        return {"images a step": self.batches.batch_size, "images to train on": self.batches.size}

    def changes_of_plan(self, before: Any) -> list[str]:
        """Name what makes the steps of an epoch others than those of `before`, the plan of a state."""
        before = before if isinstance(before, dict) else {}
        return _changes(self.plan(), {**self.plan(), **before})

    def _machine(self) -> dict[str, Any]:
        return {
            "device": self.topology.describe(),
            "precision": str(self.classifier.precision),
            "compiled": self.options.compile,
            "steps an epoch": len(self.batches),
            "torch": str(torch.__version__),
        }

    def resolved(self) -> dict[str, Any]:
        """What "auto" and the defaults became, for config.json."""
        return {
            "image_size": self.classifier.preprocess.image_size,
            "weights": self.origin,
            "precision": str(self.classifier.precision),
            "parallel": self.topology.kind,
            "gpus": self.topology.gpus,
            "processes": self.topology.world,
            "workers": self.loader.num_workers,
            "images_per_step": self.batches.batch_size,
            "steps_per_epoch": len(self.batches),
            "parameters": sum(p.numel() for p in self.classifier.network.parameters()),
        }

    def describe(self) -> str:
        """The header's lines about model and machine."""
        found, options = self.resolved(), self.options
        return (
            f"model   {options.model}, {found['parameters'] / 1e6:.1f} M parameters, {found['image_size']} px; "
            f"weights: {found['weights']}\n"
            f"device  {self.topology.describe()}, {found['precision']}, {found['images_per_step']} images a step, "
            f"{found['workers']} loader workers"
            + "".join(f"\n        {note}" for note in self.notes)
        )

    def optimizer_steps(self) -> int:
        """Steps that Adam has taken; fewer than were asked of it where the scaler skipped some."""
        state = self.optimizer.state.get(self.classifier.network.classifier[1].bias, {})
        return int(state.get("step", 0))


def _draw(key: tuple[int, ...]) -> int:
    """Return a seed of 64 bits that is a function of `key`."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _changes(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    changed = [name for name in now if str(now[name]) != str(before.get(name))]
    return [f"{name} {now[name]} (was {before.get(name)})" for name in changed]


def cannot_compile(topology: Topology) -> str:
    """Say why `--compile` is refused on these devices; `""` where it is not."""
    if topology.device.type == "cpu":
        return "--compile is for GPUs: on the CPU a step has layers of its own; leave it out"
    if topology.kind == "DataParallel":
        return "--compile does not reach DataParallel's replicas; start with torchrun, or use --gpus 1"
    return ""


def step_model(classifier: Classifier, options: Options, topology: Topology) -> nn.Module:
    """The model as training steps call it: compiled where that is asked for, made parallel where there are replicas.

    Validation calls the classifier itself: its batches have other sizes, each of which would be compiled anew.

    Raises:
        UserError: `--compile` for the CPU or for DataParallel.
    """
    if not options.compile:
        return topology.wrap(classifier)
    if reason := cannot_compile(topology):
        raise UserError(reason)
    compiled: Any = torch.compile(classifier, dynamic=False)  # an epoch has two sizes of batches at most
    return topology.wrap(compiled)


def _refuse_small_pieces(batches: EpochBatches, topology: Topology, least_side: int) -> None:
    """Raise `UserError` where a replica would get no image of a batch, or too few pixels for BatchNorm."""
    if batches.least_images < 1:
        raise UserError(
            f"{min(batches.batch_size, batches.size)} images a step are too few for {topology.replicas} "
            f"{'processes' if topology.distributed else 'GPUs'}; use fewer of them"
        )
    if batches.least_images < 2 and least_side <= 32:
        raise UserError("a batch of one 32-pixel image gives BatchNorm a single value; use a larger --batch-size")


def build_trainer(
    options: Options,
    topology: Topology,
    splits: Splits,
    images_per_step: int | None = None,
    origin: str | None = None,
) -> Trainer:
    """Model, optimizer and loader of a run, on their device, ready for the first step.

    Args:
        images_per_step: over all replicas; `--batch-size` for each of them where None. A run that goes on
            with other GPUs than before keeps the number it had.
        origin: of weights that a checkpoint is about to bring; none are loaded then.

    Raises:
        UserError: the weights cannot be had, or the batches are too small for BatchNorm.
    """
    recipe, preprocess = RECIPES[options.recipe], preprocess_for(options.model, options.image_size)
    torch.manual_seed(options.seed)  # of the new head, and of everything with --weights none
    network = build(options.model, len(splits.classes))
    if origin is None:  # rank 0's weights become everyone's when the model is made parallel
        own = load_weights(network, options.model, options.weights) if topology.is_main else ""
        origin = topology.from_main(own)
    on_gpu = topology.device.type == "cuda"
    accelerate(network, topology.device)
    mode = precision.choose(options.amp, topology.device)
    modes = topology.gather(str(mode))
    if len(set(modes)) > 1:
        other = next(name for name in modes if name != modes[0])
        raise UserError(f"--amp {options.amp} is {modes[0]} on one machine and {other} on another; try --amp off")
    classifier = Classifier(network, preprocess, mode).to(topology.device)
    # The batches have one size, so cuDNN may search its fastest kernels once. It keeps what it finds for each thread,
    # and DataParallel's forward has new threads at every step.
    torch.backends.cudnn.benchmark = on_gpu and topology.kind != "DataParallel"

    cache = splits.open_cache(preprocess, options, bytes_needed(network))
    size_of = functools.partial(recipe.image_size, epochs=options.epochs, full=preprocess.image_size)
    dataset = splits.dataset("train", preprocess, options.seed, cache, size_of)
    images_per_step = images_per_step or options.batch_size * topology.replicas
    shares = (topology.replicas, topology.rank, topology.world)
    batches = EpochBatches(dataset.labels, images_per_step, options.seed, *shares)
    _refuse_small_pieces(batches, topology, least_side=size_of(0))  # later epochs have larger views, if others
    workers = options.workers if options.workers is not None else default_workers(on_gpu)
    weights = losses.class_weights(dataset.labels, len(splits.classes), options.class_weights)
    notes: list[str] = []
    loader = make_loader(dataset, batches, workers, pin_memory=on_gpu, say=notes.append)
    return Trainer(
        options=options,
        origin=origin,
        topology=topology,
        classifier=classifier,
        model=step_model(classifier, options, topology),
        optimizer=torch.optim.Adam(
            network.parameters(), lr=options.lr, weight_decay=options.weight_decay, fused=True
        ),
        scaler=mode.make_scaler(),
        class_weights=weights.to(topology.device),
        dataset=dataset,
        batches=batches,
        loader=loader,
        workers=workers,
        notes=tuple(notes),
    )
