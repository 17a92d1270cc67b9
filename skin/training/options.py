"""Every option of train.py, with its default: the recipe of the project's sources.

A run's options are read once, here, and written to its `config.json`. A run that goes on takes them from
there. It may change only what belongs to the machine (`MACHINE`) or mends an error (`MENDS`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skin.model.choices import MODELS
from skin.training.recipes import RECIPES, described
from skin.utils import cli, run_folders
from skin.utils.cli import flag_of, option
from skin.utils.errors import UserError
from skin.utils.hardware import check_workers
from skin.utils.home import user_path
from skin.utils.launchers import restarted_by_torchrun

if TYPE_CHECKING:
    from skin.utils.parallel import Topology

# A checkpoint keeps a row of metrics.csv per epoch; skin.model.tensorfile reads the values of at most so many.
MOST_EPOCHS = 10_000
MOST_FOLDS = 100
# Validation metrics that can pick the best model, each with True if larger is better.
MONITORS = {"accuracy": True, "balanced_accuracy": True, "macro_auc": True, "loss": False}

# Optimizers, each with the tensors that it keeps per parameter. train.py makes them.
OPTIMIZERS = {
    "adam": ("step", "exp_avg", "exp_avg_sq"), "adamw": ("step", "exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
}  # fmt: skip
# What `--track` may name: Python's name of a package that is also its name for pip.
TRACKERS = ("tensorboard",)


@dataclass(frozen=True)
class Options:
    """Every option of a run. The defaults are the recipe of the project's sources."""

    data: Path | None = option(None, "data folder, in any of the known layouts", group="data", metavar="DIR")
    labels: Path | None = option(
        None, "CSV with columns image,label[,group][,split], for folders in no known layout", group="data",
        metavar="CSV",
    )  # fmt: skip
    group_by: str | None = option(
        None, "regular expression that finds the lesion or patient in a file's path, such as "
        r"'(P\d+)_'; joined with those of a table",
        group="data", metavar="REGEX",
    )  # fmt: skip
    label_column: str | None = option(
        None, "column of the labels, if a table has several", group="data", metavar="NAME"
    )
    group_column: str | None = option(
        None, "column of the patient or lesion, whose images stay in one split", group="data", metavar="NAME"
    )
    ignore_class: tuple[str, ...] = option(
        (), "class to leave out, or several by commas; may be repeated", group="data", action=cli.Names,
        metavar="NAME",
    )  # fmt: skip
    demo: bool = option(False, "make a small set of drawn lesions and train on it", group="data")
    split: str = option("70/20/10", "train/val/test, used if the data bring no split", group="data")
    check: bool = option(False, "read and audit the data, train nothing", group="data")
    keep_duplicates: bool = option(False, "do not join lesions that share a near copy", group="data")
    skip_bad_images: bool = option(False, "leave out images that cannot be read", group="data")
    allow_missing: bool = option(False, "go on without images that are not there or have no class", group="data")

    metadata: tuple[str, ...] = option(
        (), "columns to use beside the pixels, such as age,sex,localization; each value may be missing", group="data",
        action=cli.Names, metavar="NAMES",
    )  # fmt: skip

    model: str = option("efficientnet_b3", "efficientnet_b0 to _b7", group="model", choices=MODELS, metavar="NAME")
    weights: str = option("imagenet", "imagenet, none, or a state_dict's path", group="model", metavar="W")
    image_size: int | None = option(None, "side in pixels (default: the model's own)", group="model", metavar="N")

    recipe: str = option(
        "standard", "standard is the sources' recipe; fast gets to the same quality sooner "
        f"({described('fast')}); strong gets the best model ({described('strong')})",
        group="training", choices=tuple(RECIPES), metavar="NAME",
    )  # fmt: skip
    epochs: int = option(20, "passes over the training split", group="training", metavar="N")
    batch_size: int = option(32, "images per step and GPU", group="training", metavar="N")
    optimizer: str = option(
        "adam", "adam, adamw or sgd (with momentum 0.9)", group="training", choices=tuple(OPTIMIZERS), metavar="NAME"
    )
    lr: float = option(1e-4, "peak learning rate", group="training")
    weight_decay: float = option(
        0.0, "L2 penalty; decoupled from the gradient with adamw", group="training", metavar="W"
    )
    warmup_epochs: float = option(1.0, "epochs of linear warm-up (at most 0.3 of all)", group="training", metavar="N")
    freeze_epochs: int = option(
        0, "train the head alone at first, at the peak rate; the warm-up comes after", group="training", metavar="N",
    )  # fmt: skip
    accumulate: int = option(
        1, "forward and backward passes per step: N times the images in the memory of one pass", group="training",
        metavar="N",
    )  # fmt: skip
    augment: float = option(
        1.0, "strength of the augmentation: 1 is the recipe's, 0 is none", group="training", metavar="X"
    )
    cutout: float = option(
        0.0, "side of the square hidden in half of the views, as a share of the view; 0 hides nothing",
        group="training", metavar="X",
    )  # fmt: skip
    mixup: float = option(
        0.0, "blend pairs of images, with shares from Beta(A, A); 0 is none", group="training", metavar="A"
    )
    cutmix: float = option(
        0.0, "paste a piece of an image into another, with shares from Beta(A, A); 0 is none", group="training",
        metavar="A",
    )  # fmt: skip
    label_smoothing: float = option(
        0.0, "share of each label that goes to all classes alike", group="training", metavar="X"
    )
    ema: float = option(
        0.0, "decay of the mean of the weights that is validated and saved; 0 takes the last weights",
        group="training", metavar="D",
    )  # fmt: skip
    class_weights: str = option(
        "balanced", "against imbalance, in the loss: balanced weighs images; logits adds log(share of the class) to "
        "each logit; none", group="training", choices=("balanced", "logits", "none"), metavar="W",
    )  # fmt: skip
    monitor: str = option(
        "accuracy", "validation metric that picks the best model: " + ", ".join(MONITORS), group="training",
        choices=tuple(MONITORS), metavar="METRIC",
    )  # fmt: skip
    patience: int = option(0, "stop after N epochs without a better one; 0 is never", group="training", metavar="N")
    seed: int = option(0, "seed of the split, the weights, the order and the augmentation", group="training")

    folds: int | None = option(
        None, "train K models, each without one fold, and join them in an ensemble", group="training",
        metavar="K",
    )  # fmt: skip
    fold: int | None = option(
        None, "train this fold alone, 1 to K, into the folder of the others", group="training", metavar="N"
    )

    amp: str = option(
        "auto", "auto, fp16, bf16 or off", group="machine", choices=("auto", "fp16", "bf16", "off"), metavar="A"
    )
    gpus: int | None = option(None, "GPUs to use; 0 is the CPU (default: all visible)", group="machine", metavar="N")
    compile: bool = option(False, "compile the model on a GPU: slow first steps, faster ones", group="machine")
    workers: int | None = option(None, "loader processes (default: chosen)", group="machine", metavar="N")
    cache: str = option("auto", "decoded images: auto, off, or a folder", group="machine", metavar="DIR")
    cache_limit: float | None = option(
        None, "most GiB of decoded images to keep (default: what the disk spares)", group="machine", metavar="N"
    )

    out: Path | None = option(None, "run folder (default: runs/<time>-<model>)", group="run", metavar="DIR")
    resume: Path | None = option(
        None, "go on with the newest run, or RUN; auto: with the run in --out, or begin it", group="run", nargs="?",
        const=run_folders.LATEST, metavar="RUN",
    )  # fmt: skip
    save_minutes: float = option(10.0, "minutes between saves inside an epoch", group="run", metavar="N")
    track: str = option(
        "none", "none, or tensorboard: also write the metrics for it", group="run", choices=("none", *TRACKERS),
        metavar="NAME",
    )  # fmt: skip

    # These are no options: `read_options` sets them for a run that goes on.
    images_per_step: int | None = None  # those it had, over all replicas; None if --batch-size sets them anew
    auto: bool = False  # `--resume auto`

    def step_images(self, replicas: int) -> int:
        """Return the images of a step over all replicas: `--batch-size` for each of them in each pass."""
        return self.batch_size * replicas * self.accumulate


# Defaults with --demo: a small network from scratch on small pictures.
DEMO = {
    "model": "efficientnet_b0", "weights": "none", "image_size": 64, "epochs": 24, "batch_size": 16, "lr": 1e-3,
    "workers": 1,
    "monitor": "balanced_accuracy",  # by accuracy, an early epoch that calls everything a nevus may win
}  # fmt: skip
# Options that may change when a run goes on: they are of the machine, not of the experiment.
MACHINE = {
    "amp", "gpus", "compile", "workers", "cache", "cache_limit", "out", "resume", "save_minutes", "track", "fold",
}  # fmt: skip
# More of them, which an error advises to change. The run says what a change means and writes it to config.json.
MENDS = {"data", "labels", "batch_size", "accumulate", "lr", "skip_bad_images", "allow_missing"}
AUTO = Path("auto")
# Files that a run may leave in its folder if it is killed as it begins; check.png is of an earlier version.
_BEGUN = {
    "demo", "split.csv", "contents.csv", "warnings.txt", "environment.json", "check.json", "check.png", "check.html",
}  # fmt: skip

# Options that may differ between the machines of a run: they say where the data lie and how they are read.
OWN = {"data", "labels", "workers", "cache", "cache_limit"}


def common_options(description: str | None, argv: Sequence[str] | None, topology: Topology) -> Options:
    """Return in every process the options that rank 0 has read; a machine may set those in `OWN` for itself.

    The run's folder, and so its config.json, need not be on the other machines.

    Raises:
        UserError: in all processes: as `read_options`, or if processes were started with different options.
    """

    def read() -> tuple[Options, Options | None]:
        given = cli.parse(Options, description, argv)
        return given, read_options(description, argv) if topology.is_main else None

    found = topology.together(read)
    given, common = [given for given, _ in found], found[0][1]
    assert common is not None
    for name in (field.name for field in cli.options(Options) if field.name not in OWN | {"out"}):
        values = ["left out" if (value := getattr(one, name)) is None else value for one in given]
        if name == "resume":  # rank 0 alone needs to know the run's folder
            values = [value if value == "left out" else "given" for value in values]
        for rank, value in enumerate(values):
            if value != values[0]:
                raise UserError(f"{flag_of(name)} is {value} in process {rank} and {values[0]} in process "
                                "0: start all machines with the same options")  # fmt: skip
    if topology.is_main:
        return common
    own = {name: value for name in OWN if (value := getattr(given[topology.rank], name)) != getattr(Options, name)}
    if "data" in own:
        own["data"] = own["data"].resolve()
    return dataclasses.replace(common, **own)


def read_options(description: str | None, argv: Sequence[str] | None = None) -> Options:
    """Return the options of the command line, with the defaults of `--demo` or of the run to `--resume`.

    Raises:
        UserError: an option is wrong, or contradicts the run that is to go on.
    """
    options = cli.parse(Options, description, argv)
    if options.check and options.resume is not None:
        raise UserError("--check audits a folder, and no run: name the folder, --data DIR --check, without --resume")
    auto = options.resume == AUTO
    folder = _run_in(options.out) if auto else options.resume or _folder_of_folds(options)
    config: dict[str, Any] = {}
    if folder is not None:
        if folder == run_folders.LATEST:  # a run has a link of that name only once it has a model
            folder = run_folders.newest_run()
        folder = folder.resolve()  # runs/latest may point at another run before this one ends
        config = run_folders.read_config(folder)
        if run_folders.is_joined(config):
            raise UserError(f"--resume {folder}: an ensemble of the models of other runs; name one of those runs")
        if config.get("fold"):  # the folder of a fold: its run goes on, with that fold alone
            config = {**run_folders.read_config(folder.parent), "fold": config["fold"]}
            folder = folder.parent
        known = {f.name for f in cli.options(Options)} - {"out", "resume"}
        defaults = {name: value for name, value in config.items() if name in known}
        options = cli.parse(Options, description, argv, {**defaults, "batch_size": None})
        options = _with_batches(options, config, auto)
        _refuse_other_folder(options.out, folder, auto)
        options = dataclasses.replace(options, resume=folder, out=folder, auto=auto)
    else:
        _refuse_restart(options.out, auto)
        defaults = {**(DEMO if options.demo else {}), **RECIPES[options.recipe].defaults}
        options = cli.parse(Options, description, argv, defaults)
        options = dataclasses.replace(options, resume=None, auto=auto)
    for name in ("data", "labels"):
        if (path := getattr(options, name)) is not None:
            options = dataclasses.replace(options, **{name: path.resolve()})
    if options.weights not in ("imagenet", "none"):
        options = dataclasses.replace(options, weights=str(user_path(options.weights).resolve()))
    options = dataclasses.replace(options, metadata=_columns(options.metadata))
    if options.cache not in ("auto", "off"):
        options = dataclasses.replace(options, cache=str(user_path(options.cache)))
    _check(options)
    _refuse_labels_in(options)
    if options.resume is not None:
        options = _with_labels(options, config)
        check_unchanged(options, config)
    return options


def _columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of `--metadata`, each once: a name, or several with commas between.

    Raises:
        UserError: a name is empty.
    """
    words = [word.strip() for name in names for word in name.split(",")]
    if not all(words):
        raise UserError("--metadata: a name between its commas is empty; name columns, such as age,sex,localization")
    return tuple(dict.fromkeys(words))


def _folder_of_folds(options: Options) -> Path | None:
    """Return the folder that another `--fold` has begun, and that this one goes on with; None if there is none."""
    if options.fold is None or options.out is None or options.check:
        return None
    return options.out if (options.out / "config.json").exists() else None


def _run_in(out: Path | None) -> Path | None:
    """Return the run that `--resume auto` goes on with: `--out`, or None if a new run is to begin there.

    Raises:
        UserError: there is no `--out`, or it holds something else.
    """
    if out is None:
        raise UserError("--resume auto goes on with the run in the folder --out, or begins it there: add --out DIR")
    if (out / "config.json").exists():
        return out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: --resume auto needs a folder for the run; choose another --out")
    names = {file.name for file in out.iterdir()} if out.exists() else set()
    other = sorted(name for name in names - _BEGUN if not name.startswith("."))
    if other:
        raise UserError(
            f"{out} holds {other[0]} and no config.json of a run, so there is nothing to go on with, and no "
            "run begins among other files; choose another --out"
        )
    return None


def _refuse_labels_in(options: Options) -> None:
    """Raise `UserError` if a new run would write its own file over the table of `--labels`."""
    if options.labels is None or options.out is None or options.resume is not None or options.check:
        return
    if options.labels.parent == options.out.resolve() and options.labels.name in _BEGUN:
        raise UserError(
            f"--labels {options.labels}: a run in that folder writes a {options.labels.name} of its own over it; "
            "choose another --out"
        )


def _refuse_other_folder(out: Path | None, folder: Path, auto: bool) -> None:
    """Raise `UserError` if a run is to go on in another folder than its own."""
    if out is not None and not auto and out.resolve() != folder:
        raise UserError(
            f"--out {out}: a run goes on in its own folder, {folder}; leave --out away, or copy that folder and "
            "--resume the copy"
        )


def _refuse_restart(out: Path | None, auto: bool) -> None:
    """Raise `UserError` if torchrun starts a command again that would begin a second run."""
    if auto or not restarted_by_torchrun() or (out is not None and not (out / "config.json").exists()):
        return
    where = shlex.quote(str(out)) if out else "DIR"
    raise UserError(
        "torchrun has started this command again, and it says nothing of going on with the run that has begun; "
        f"add --resume auto --out {where}"
    )


def _with_batches(options: Options, config: dict[str, Any], auto: bool) -> Options:
    """Return `options`, read with no default for `batch_size`, with the batches of the run unless they are set anew.

    A step keeps its images when the run goes on with other GPUs. A queue repeats its --batch-size at every start, so
    with `auto` only a new value counts.
    """
    before = config.get("batch_size", Options.batch_size)
    if options.batch_size is not None and not (auto and options.batch_size == before):
        return options
    kept = config["resolved"].get("images_per_step")
    return dataclasses.replace(options, batch_size=before, images_per_step=kept)


def _with_labels(options: Options, config: dict[str, Any]) -> Options:
    """Return `options` with the new place of a labels table that has moved with the data folder.

    A table that the command line names stays.
    """
    now = cli.plain(options)
    if now["labels"] and now["labels"] == config.get("labels") and now["data"] != config.get("data"):
        with contextlib.suppress(TypeError, ValueError):  # it lay elsewhere
            moved = Path(now["data"]) / Path(now["labels"]).relative_to(config["data"])
            return dataclasses.replace(options, labels=moved if moved.exists() else options.labels)
    return options


def _check(options: Options) -> None:
    if options.data is None and not options.demo:
        raise UserError("say where the images are: --data DIR, or --demo for a drawn set")
    if options.demo and options.resume is None:
        for name in ("data", "labels"):
            if getattr(options, name) is not None:
                raise UserError(f"--demo makes its own data; leave out {flag_of(name)}")
    least = {
        "epochs": 1, "batch_size": 1, "accumulate": 1, "freeze_epochs": 0, "patience": 0, "seed": 0, "mixup": 0.0,
        "cutmix": 0.0, "warmup_epochs": 0.0, "cache_limit": 0.0, "weight_decay": 0.0, "save_minutes": 0.0, "folds": 2,
        "fold": 1,
    }  # fmt: skip
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and not low <= value < float("inf"):
            raise UserError(f"{flag_of(name)} {value}: must be {low} or more")
    most = {
        "epochs": MOST_EPOCHS, "batch_size": 2**31 - 1, "accumulate": 2**31 - 1, "freeze_epochs": MOST_EPOCHS,
        "patience": MOST_EPOCHS,
    }  # fmt: skip
    for name, high in most.items():
        if getattr(options, name) > high:
            raise UserError(f"{flag_of(name)} {getattr(options, name)}: must be {high:,} or less")
    for name in ("mixup", "cutmix"):
        if getattr(options, name) and not 0.01 <= getattr(options, name) <= 100:
            raise UserError(f"{flag_of(name)} {getattr(options, name)}: must be 0 (none), or 0.01 to 100")
    check_workers(options.workers)
    _check_folds(options)
    if options.track in TRACKERS and find_spec(options.track) is None:
        raise UserError(
            f"--track {options.track} needs a package that is not here: pip install {options.track}, or --track none"
        )
    if not 0 <= options.augment <= 3:
        raise UserError(f"--augment {options.augment}: must be 0 (none) to 3; 1 is the recipe's")
    for name in ("cutout", "label_smoothing", "ema"):
        if not 0 <= getattr(options, name) < 1:
            raise UserError(f"{flag_of(name)} {getattr(options, name)}: must be 0 or more, and below 1")
    if not 0 < options.lr < float("inf"):
        raise UserError(f"--lr {options.lr}: must be above 0")
    if options.seed >= 2**63:
        raise UserError(f"--seed {options.seed}: must be below 2**63")


def _check_folds(options: Options) -> None:
    folds, fold = options.folds, options.fold
    if folds is not None and folds > MOST_FOLDS:
        raise UserError(f"--folds {folds}: must be {MOST_FOLDS} or less")
    if fold is None:
        return
    if folds is None:
        raise UserError(f"--fold {fold}: say of how many, by --folds K")
    if fold > folds:
        raise UserError(f"--fold {fold}: must be 1 to {folds}, the folds that there are")
    if options.out is None and not options.check:
        raise UserError(f"--fold {fold}: say by --out DIR which folder the folds share")


def check_unchanged(options: Options, config: dict[str, Any]) -> None:
    """Raise `UserError` if an option would make the run that goes on another run."""
    now = cli.plain(options)
    before = {**cli.plain(Options()), **config}  # a run of an earlier version lacks newer options
    for name in sorted(now.keys() - MACHINE - MENDS):
        if now[name] != before[name]:
            values = now[name] if isinstance(now[name], list) else [now[name]]
            flag = flag_of(name)
            option = " ".join(flag if value is True else f"{flag} {shlex.quote(str(value))}" for value in values)
            has = ", ".join(before[name]) or "none" if isinstance(before[name], list) else before[name]
            has = "none" if has is None else has
            has = "was begun without it" if before[name] is False else f"has {has}"
            if name == "folds" and before[name] is None:
                raise UserError(f"{option}: the run {options.resume} is of one model; choose another --out")
            elsewhere = "" if options.fold is None else " and another --out"
            raise UserError(
                f"{option}: the run {options.resume} {has}; "
                f"leave the option out to go on with it, or start a new run with {option}{elsewhere}"
            )
    for name in ("data", "labels"):
        if options.demo and now[name] != config.get(name):
            raise UserError(f"--demo makes its own data, in the run folder; leave out {flag_of(name)}")


def mended(options: Options, config: dict[str, Any]) -> dict[str, Any]:
    """Return the options in `MENDS` whose values differ from `config`, a run's config.json."""
    now, before = cli.plain(options), {**cli.plain(Options()), **config}  # an earlier version had fewer options
    return {name: now[name] for name in sorted(MENDS) if now[name] != before[name]}
