"""Checkpoints: a killed process never leaves half a file, and loading a stranger's file runs no code.

A checkpoint holds only tensors, numbers, strings, lists and dicts, so `weights_only=True` always loads it.
Inference needs `best.pt`; `--resume` needs `last.pt`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, TypedDict, cast

from skin.data.class_names import order_of
from skin.data.images import Preprocess
from skin.data.metadata import Encoder, join
from skin.model.calibration import COVERAGES, MOST_PROBABLE, RULES, Calibration, MetadataAlone, rule_of
from skin.model.choices import MODELS
from skin.model.network import build
from skin.model.tensorfile import load
from skin.model.unlike import passing
from skin.utils.errors import UserError, printable
from skin.utils.files import atomic
from skin.utils.run_folders import BEST

import torch
from torch import Tensor
from torchvision.models import EfficientNet

__all__ = ["FORMAT_VERSION", "Checkpoint", "check_tensors", "load", "load_best", "save"]

FORMAT_VERSION = 1
MOST_MEMBERS = 100  # of an ensemble


# ---- writing --------------------------------------------------------------------------------------------


def save(state: Mapping[str, Any], path: Path, previous: Path | None = None) -> None:
    """Write `state` to `path` atomically: a reader sees the whole old file or the whole new one.

    Args:
        previous: a name under which the file that was at `path` is kept.

    Raises:
        WriteError: the disk is full or the folder cannot be written; the old file stays.
    """
    with atomic(path, previous) as file:
        sink = _Sink(file)
        torch.save(state, sink)  # type: ignore[arg-type]
        if sink.error is not None:
            raise sink.error


class _Sink:
    """A file for `torch.save` that keeps its error until the end.

    Torch's writer is C++. When it closes an archive that cannot be written, it takes the whole process down.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


# ---- reading best.pt ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A validated `best.pt`: a `SingleCheckpoint` or an `EnsembleCheckpoint`, and what is alike in both.

    Those who ask a model need not know which it is; `skin.model.fold_batchnorm.for_inference` makes it ready.
    """

    path: Path
    model_name: str  # such as "efficientnet_b3", or "5 x efficientnet_b0"
    classes: tuple[str, ...]
    preprocess: Preprocess
    config: dict[str, Any]  # the run's config.json: every option by its name, and `resolved`
    metrics: dict[str, float | None]  # the best epoch's row of metrics.csv; None if a metric is not defined
    calibration: Calibration  # empty until the run has come to its end
    encoder: Encoder | None  # of what the model takes beside the pixels; an ensemble's members one after another
    lacks_calibration: ClassVar[str] = "its run has not come to its end"  # if it is empty

    @property
    def lost_rule(self) -> str:
        """Words on the rule of labels if it is not that of the members; "" if it is, and for a single model."""
        return ""

    @property
    def trained_in_float32(self) -> bool:
        """True if it was trained, and so calibrated, in float32; False for older files, which do not say."""
        return str(self.config.get("resolved", {}).get("precision")).startswith("float32")

    def amp(self, asked: str) -> str:
        """Return the `--amp` that answers are given in: as asked, but "auto" is "off" if it was trained in float32.

        Its validation metrics, temperature and thresholds are of float32, and those of other answers would differ.
        """
        return "off" if asked == "auto" and self.trained_in_float32 else asked

    def describe(self) -> str:
        """Return one line that tells models apart: the file, the training data and the validation score."""
        monitor = str(self.config.get("monitor"))
        value = self.metrics.get(f"val_{monitor}")
        said = [f"{self.path}: {self.model_name}"]
        if self.config.get("data"):
            said.append(f"trained on {self.config['data']}")
        if self.encoder is not None:
            said.append(f"with {', '.join(self.encoder.names)} beside the pixels")
        if value is not None:
            said.append(f"validation {monitor.replace('_', ' ')} {value:.4f}")
        if rule_of(self.calibration) != MOST_PROBABLE:
            said.append(f'labels by the rule "{rule_of(self.calibration)}"')
        if not self.calibration:
            said.append(f"uncalibrated ({self.lacks_calibration})")
            said += [self.lost_rule] if self.lost_rule else []
        elif weak := passing(self.calibration["unlike"]):
            said.append(f"cannot tell {', '.join(weak)} from its training images")
        return printable(", ".join(said), limit=1000)


@dataclass(frozen=True)
class SingleCheckpoint(Checkpoint):
    """One model: the network with its weights, on the CPU in eval mode."""

    network: EfficientNet


class Source(TypedDict):
    """The file that a member of an ensemble was taken from: its name and that of its folder, and its SHA-256."""

    file: str
    sha256: str


@dataclass(frozen=True)
class EnsembleCheckpoint(Checkpoint):
    """Several models that answer as one: see `skin.model.ensemble`. All of them see the same squares of images."""

    members: tuple[SingleCheckpoint, ...]
    sources: tuple[Source, ...]  # one per member
    lacks_calibration: ClassVar[str] = "its members share no validation images"

    @property
    def trained_in_float32(self) -> bool:
        """True if a member was."""
        return any(member.trained_in_float32 for member in self.members)

    @property
    def lost_rule(self) -> str:
        rules = {rule_of(member.calibration) for member in self.members}
        if self.calibration or rules <= {MOST_PROBABLE}:
            return ""
        others = " and ".join(f'"{rule}"' for rule in sorted(rules - {MOST_PROBABLE}))
        return f"labels are the most probable class, though its members have the rule {others}"


_SHARED = {"classes": list, "config": dict, "metrics": dict, "calibration": dict}
_KEYS = {"model": dict, "preprocess": dict, **_SHARED}
_ALONE = MetadataAlone.__required_keys__
_TEXT_OR_NONE = (str, type(None))
_CONFIG: dict[str, Any] = {  # the types of the options that others read; each may be missing
    "data": _TEXT_OR_NONE, "labels": _TEXT_OR_NONE, "group_by": _TEXT_OR_NONE, "demo": bool, "split": str,
    "allow_missing": bool,
    "skip_bad_images": bool, "keep_duplicates": bool, "model": str, "weights": str, "monitor": str,
    "epochs": int, "batch_size": int, "seed": int, "amp": str, "out": _TEXT_OR_NONE, "resolved": dict,
}  # fmt: skip


def load_best(path: Path) -> Checkpoint:
    """Read and validate a `best.pt`.

    Raises:
        UserError: no such file, another format version, or contents that do not fit the declared model.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"no checkpoint at {path}", "train one first: python train.py --data DIR (or --demo)")
    if path.is_dir():
        within = path / BEST
        what = f"the model in it, {within}" if within.is_file() else "a best.pt, as a run writes it"
        raise UserError(f"{path} is a folder", f"name {what}")
    state = load(path)
    return _ensemble(state, path) if "members" in state else _single(state, path, str(path))


def load_single(path: Path) -> SingleCheckpoint:
    """Read and validate a `best.pt` of one model. Raises `UserError` as `load_best` does, and for an ensemble."""
    found = load_best(path)
    if not isinstance(found, SingleCheckpoint):
        raise UserError(f"{path} is an ensemble itself; name its models instead")
    return found


def _single(state: dict[str, Any], path: Path, name: str) -> SingleCheckpoint:
    """Validate the contents of a `best.pt` of one model, which errors call `name`."""
    _check_version(state, name)
    _check_kinds(state, _KEYS, name)
    _check_config(state["config"], name)
    model, classes = state["config"].get("model"), state["classes"]
    if model not in MODELS:
        raise UserError(f"{name}: unknown model {model!r}; known are {MODELS[0]} to {MODELS[-1]}")
    _check_classes(classes, name)
    _check_metrics(state["metrics"], name)
    encoder = _encoder(state["config"], name)
    with torch.device("meta"):
        network = build(model, len(classes), encoder)
    check_tensors(state["model"], network.state_dict(), name)
    features = network.classifier[1].in_features
    _check_calibration(state["calibration"], len(classes), partial(_check_unlike, classes, features), name)
    network.load_state_dict(state["model"], assign=True)
    return SingleCheckpoint(
        path=path,
        network=network.eval(),
        model_name=model,
        classes=tuple(classes),
        preprocess=_preprocess(state["preprocess"], name),
        config=state["config"],
        metrics=state["metrics"],
        calibration=cast(Calibration, state["calibration"]),
        encoder=encoder,
    )


def _check_version(state: dict[str, Any], name: str) -> None:
    version = state.get("format_version")
    if is_version(version):
        return
    if type(version) is int:
        raise UserError(
            f"{name}: is of format version {version}, and this program reads {FORMAT_VERSION}",
            "use the program that wrote it, or train again",
        )
    raise UserError(f"{name}: not a best.pt of format version {FORMAT_VERSION}", "was it written by train.py?")


def _preprocess(values: Any, name: str) -> Preprocess:
    try:
        return Preprocess.from_dict(values)
    except UserError as error:
        raise UserError(f"{name}: damaged checkpoint: {error}") from error


def _encoder(config: dict[str, Any], name: str) -> Encoder | None:
    """Return the encoder of a run's metadata, which its config has; None if it takes the pixels alone."""
    found = config.get("resolved", {}).get("metadata")
    try:
        return None if found is None else Encoder.from_list(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{name}: damaged checkpoint: its 'metadata' are not the columns of a table") from error


def _ensemble(state: dict[str, Any], path: Path) -> EnsembleCheckpoint:
    """Validate the contents of a `best.pt` of several models."""
    _check_version(state, str(path))
    _check_kinds(state, {"members": list, "sources": list, **_SHARED}, str(path))
    _check_config(state["config"], str(path))
    _check_classes(state["classes"], str(path))
    _check_metrics(state["metrics"], str(path))
    sources = _checked_sources(state["sources"], path)
    names = [f"{path}: member {n} ({source['file']})" for n, source in enumerate(sources, 1)]
    found = dict(enumerate(state["members"]))
    for number, name in enumerate(names):
        if not isinstance(found.pop(number, None), dict):
            raise UserError(f"{name} is missing: make the ensemble again")
    if found:
        raise UserError(f"{path}: damaged checkpoint: it has more members than sources")
    members = [_single(member, path, name) for member, name in zip(state["members"], names, strict=True)]
    check_together(state["classes"], members, names)
    _check_calibration(state["calibration"], len(state["classes"]), _check_unlike_of_members, str(path))
    return EnsembleCheckpoint(
        path=path,
        model_name=name_of([member.model_name for member in members]),
        classes=tuple(state["classes"]),
        preprocess=members[0].preprocess,
        config=state["config"],
        metrics=state["metrics"],
        calibration=cast(Calibration, state["calibration"]),
        encoder=join(member.encoder for member in members),
        members=tuple(members),
        sources=sources,
    )


def _checked_sources(sources: list[Any], path: Path) -> tuple[Source, ...]:
    """Return the files of an ensemble's members, one at least, no two the same."""
    for source in sources:
        if not isinstance(source, dict) or not all(isinstance(source.get(key), str) for key in ("file", "sha256")):
            raise UserError(f"{path}: damaged checkpoint: 'sources' do not name files")
    hashes = [source["sha256"] for source in sources]
    if not 1 <= len(set(hashes)) == len(hashes) <= MOST_MEMBERS:
        raise UserError(f"{path}: damaged checkpoint: it has not 1 to {MOST_MEMBERS} different members")
    return tuple({"file": source["file"], "sha256": source["sha256"]} for source in sources)


def check_together(classes: Sequence[str], members: Sequence[SingleCheckpoint], names: Sequence[str]) -> None:
    """Check that models can answer as one: for the same classes, in any order, and for the same square of an image.

    Each brings its own mean and std of pixels.

    Raises:
        UserError: naming, by `names`, the first that does not fit.
    """
    for member, name in zip(members, names, strict=True):
        if order_of(classes, member.classes) is None:
            raise UserError(
                f"{name}: its classes ({', '.join(member.classes)}) are not those of {names[0]} "
                f"({', '.join(classes)}); only models of the same classes can be averaged"
            )
        for field in ("image_size", "resize_size", "interpolation"):
            own, first = getattr(member.preprocess, field), getattr(members[0].preprocess, field)
            if own != first:
                remedy = "train them with the same --image-size"
                if field == "interpolation":
                    remedy = "choose models of one kind, as their weights came with it"
                raise UserError(
                    f"{name}: its images are prepared with {field} {own}, those of {names[0]} with {first}; {remedy}"
                )


def name_of(models: Sequence[str]) -> str:
    """Return the name of an ensemble of these models: "2 x efficientnet_b0 + efficientnet_b3"."""
    return " + ".join(f"{n} x {name}" if n > 1 else name for name, n in sorted(Counter(models).items()))


def is_version(value: Any) -> bool:
    """Return True if a file's format version is the one that is written here."""
    return type(value) is int and value == FORMAT_VERSION


def check_tensors(state: Any, expected: dict[str, Tensor], path: Path | str) -> None:
    """Check that `state` has the names, shapes and dtypes of `expected`, and finite numbers.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path}: damaged checkpoint: its weights are no state_dict")
    for key in sorted(map(str, state.keys() ^ expected.keys())):
        raise UserError(f"{path}: damaged checkpoint: tensor {key} is {'missing' if key in expected else 'unknown'}")
    for key, value in expected.items():
        tensor = state[key]
        if not isinstance(tensor, Tensor) or tensor.shape != value.shape or tensor.dtype != value.dtype:
            raise UserError(f"{path}: damaged checkpoint: tensor {key} is not {value.dtype} {tuple(value.shape)}")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"{path}: damaged checkpoint: tensor {key} holds numbers that are not finite")


def _check_kinds(state: dict[str, Any], kinds: Mapping[str, type], path: str) -> None:
    for key, kind in kinds.items():
        if not isinstance(state.get(key), kind):
            raise UserError(f"{path}: damaged checkpoint: {key!r} is not a {kind.__name__}")


def _check_metrics(metrics: dict[str, Any], path: str) -> None:
    if not all(_is_number(value) or value is None for value in metrics.values()):
        raise UserError(f"{path}: damaged checkpoint: 'metrics' holds values that are not numbers")


def _check_classes(classes: list[Any], path: str) -> None:
    try:
        sound = all(isinstance(name, str) and 0 < len(name.encode()) <= 1000 for name in classes)
    except UnicodeEncodeError:  # half a character (a lone surrogate), which no terminal and no file can take
        sound = False
    if not sound or not classes or len(set(classes)) < len(classes):
        raise UserError(f"{path}: damaged checkpoint: 'classes' is not a list of different names")


def _check_config(config: dict[str, Any], path: str) -> None:
    for key, kind in _CONFIG.items():
        if key in config and (not isinstance(config[key], kind) or (kind is int and isinstance(config[key], bool))):
            raise UserError(f"{path}: damaged checkpoint: the config's {key!r} is a {type(config[key]).__name__}")


def _check_calibration(
    calibration: dict[str, Any], classes: int, check_unlike: Callable[[dict[str, Any]], None], path: str
) -> None:
    """Check that `skin.model.calibration.apply` can use it for `classes` classes; an empty one is fine."""
    if not calibration:
        return
    try:
        for coverage in COVERAGES:
            thresholds = calibration["sets"][coverage]["thresholds"]
            shared = calibration["sets"][coverage]["shared"]
            sound = len(thresholds) == classes and all(map(_is_finite, thresholds))
            if not sound or not all(type(c) is int and 0 <= c < classes for c in shared):
                raise ValueError("sets")
        if not (_is_finite(calibration["temperature"]) and calibration["temperature"] > 0):
            raise ValueError("temperature")
        unlike = calibration["unlike"]
        if not (_is_number(unlike["threshold"]) and unlike["threshold"] > 0 and type(calibration["images"]) is int):
            raise ValueError("threshold")
        _check_caught(unlike)
        check_unlike(unlike)
        _check_probabilities(calibration, classes)
        alone = calibration.get("metadata_alone")
        if alone is not None and not all(_is_finite(alone[name]) for name in _ALONE):
            raise ValueError("metadata_alone")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged checkpoint: its calibration does not fit its model") from error


def _check_unlike(classes: Sequence[str], features: int, unlike: dict[str, Any]) -> None:
    """Check the flag of a network with so many pooled features."""
    means, directions, variances = unlike["means"], unlike["directions"], unlike["variances"]
    shapes = {1 <= len(means) <= len(classes), means.shape[1:] == directions.shape[1:] == (features,)}
    shapes |= {len(directions) == len(variances), means.dtype == directions.dtype == torch.float32}
    positive = [unlike["rest"], *variances]
    if shapes != {True} or not all(_is_finite(value) and value > 0 for value in positive):
        raise ValueError("unlike")
    if not (torch.isfinite(means).all() and torch.isfinite(directions).all()):
        raise ValueError("means")
    _check_stages(unlike)


def _check_unlike_of_members(unlike: dict[str, Any]) -> None:
    """Check the flag of an ensemble, which is its threshold alone."""
    if "means" in unlike:
        raise ValueError("unlike")


def _check_stages(unlike: dict[str, Any]) -> None:
    """Check what checkpoints of earlier versions lack: the stages and their scales."""
    stages, scales = unlike.get("stages", []), unlike.get("scales", [[0.0, 1.0]])
    if len(scales) != len(stages) + 1:
        raise ValueError("scales")
    for centre, spread in scales:
        if not (_is_finite(centre) and _is_finite(spread) and spread > 0):
            raise ValueError("scales")
    for stage in stages:
        mean, whitening = stage["mean"], stage["whitening"]
        sound = mean.ndim == 1 and whitening.shape == (len(mean), len(mean))
        if not sound or not mean.dtype == whitening.dtype == torch.float32:
            raise ValueError("stages")
        if not (torch.isfinite(mean).all() and torch.isfinite(whitening).all()):
            raise ValueError("stages")


def _check_caught(unlike: dict[str, Any]) -> None:
    for kind, caught in unlike.get("caught", {}).items():
        if type(kind) is not str or type(caught["images"]) is not int or not _is_finite(caught["flagged"]):
            raise ValueError("caught")


def _check_probabilities(calibration: dict[str, Any], classes: int) -> None:
    """Raise `ValueError` or the like for what older files lack and newer ones need not have, if it is not sound."""
    biases, means = calibration.get("biases", [0.0] * classes), calibration.get("mean_probabilities", [1.0] * classes)
    if not (len(biases) == len(means) == classes and all(map(_is_finite, [*biases, *means])) and min(means) > 0):
        raise ValueError("biases")
    losses = calibration.get("cross_validation", {"temperature": 0.0, "biases": 0.0})
    rule = calibration.get("decision", MOST_PROBABLE)
    if rule not in RULES or (rule != MOST_PROBABLE and "mean_probabilities" not in calibration):
        raise ValueError("decision")
    if not all(_is_finite(losses[name]) for name in ("temperature", "biases")):
        raise ValueError("decision")
    if "answers" not in calibration:
        return
    logits, labels, groups = (calibration["answers"][name] for name in ("logits", "labels", "groups"))
    if logits.shape != (len(labels), classes) or labels.shape != groups.shape or labels.ndim != 1:
        raise ValueError("answers")
    dtypes = [logits.dtype, labels.dtype, groups.dtype]
    if dtypes != [torch.float32, torch.int64, torch.int64] or not torch.isfinite(logits).all():
        raise ValueError("answers")
    distance = calibration["answers"].get("distance", labels.to(torch.float64))
    if distance.dtype != torch.float64 or distance.shape != labels.shape or distance.isnan().any():
        raise ValueError("distance")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError("labels")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)
