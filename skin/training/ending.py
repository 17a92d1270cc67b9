"""The end of a run: its best model, calibrated by validation images, some of its own, and pictures of no skin."""

from __future__ import annotations

import copy
from collections.abc import Callable

from skin.data import stand_ins
from skin.data.images import ImageError, centre_crop
from skin.evaluation import metadata_alone, metrics
from skin.model import calibration, checkpoint, unlike
from skin.model.calibration import BALANCED, MOST_PROBABLE, Calibration, MetadataAlone
from skin.model.inference import collect, traits_of
from skin.model.network import Classifier
from skin.model.unlike import Training
from skin.training import run_folder
from skin.training.loading import some_of_training
from skin.training.run import Run
from skin.utils import run_folders

import numpy as np


def best_classifier(run: Run) -> Classifier:
    """Return a classifier with the weights of best.pt, once that is on the disk. The one in training stays as it is.

    All processes must call it together.
    """
    topology = run.trainer.topology
    run.saver.wait()
    topology.barrier()
    classifier = copy.deepcopy(run.trainer.classifier)
    weights = None
    if topology.is_main:
        with run_folder.reading_own(run.folder):
            weights = checkpoint.load_single(run.folder / run_folders.BEST).network.state_dict()
    classifier.network.load_state_dict(topology.from_main(weights))  # the folder may be on rank 0's machine alone
    return classifier


def calibrate(
    run: Run, classifier: Classifier, logits: np.ndarray, traits: np.ndarray, stopping: Callable[[], bool]
) -> Calibration:
    """Return the calibration by the validation images' logits and traits, on rank 0; say how well the flag does.

    Called, and raising, as `known_and_strange`; the other processes get an empty one.
    """
    training, pictures = known_and_strange(run, classifier, stopping)
    if not run.trainer.topology.is_main:
        return {}
    labels, groups = run.splits.labels("val"), run.splits.groups("val")
    rule = BALANCED if run.trainer.options.monitor == "balanced_accuracy" else MOST_PROBABLE
    calibrated = calibration.fit(logits, labels, traits, groups, training, pictures, rule)
    run.log.say(said(calibrated))
    probabilities = calibration.probabilities_of(calibrated, logits)
    if any(calibrated.get("biases", [])):
        run.log.say(of_both_rules(calibrated, probabilities, labels))
    alone = _metadata_alone(run, calibration.scores(calibrated, probabilities))
    if alone is not None:
        calibrated["metadata_alone"] = alone
        warning = metadata_alone.is_shortcut(alone)
        run.log.say(f"{'WARNING: ' * warning}{metadata_alone.said(alone)}", style="bold red" if warning else None)
    return calibrated


def of_both_rules(calibrated: Calibration, probabilities: np.ndarray, labels: np.ndarray) -> str:
    """Return the line on the validation labels by both rules, which differ since biases undo `--class-weights`."""
    called = calibration.balanced(calibrated, probabilities)
    answers = {MOST_PROBABLE: probabilities}
    if called is not None:
        answers[BALANCED] = np.eye(probabilities.shape[1])[called]
    words = [
        f'by the rule "{rule}" balanced accuracy {metrics.balanced_accuracy(labels, found):.3f}, '
        f"accuracy {metrics.accuracy(labels, found):.3f}"
        for rule, found in answers.items()
    ]
    return (
        f"labels  of validation, once biases have undone --class-weights: {'; '.join(words)}; the model's are by "
        f'the rule "{calibration.rule_of(calibrated)}"'
    )


def _metadata_alone(run: Run, scores: np.ndarray) -> MetadataAlone | None:
    """Return how well metadata alone predict beside the model's scores [N, C]; None without metadata."""
    encoder, splits = run.splits.encoder, run.splits
    if encoder is None:
        return None
    training, validation = (
        (encoder.encode(splits.of(name), len(splits.of(name))), splits.labels(name)) for name in ("train", "val")
    )
    return metadata_alone.measure(training, validation, splits.groups("val"), scores)


def known_and_strange(
    run: Run, classifier: Classifier, stopping: Callable[[], bool]
) -> tuple[Training, dict[str, np.ndarray]]:
    """Return the traits of some training images, and on rank 0 those of stand-ins for pictures of no skin, by kind.

    All processes must call it together.

    Raises:
        UserError: an image cannot be read.
        Stopped: `stopping` returned True in one of the processes.
    """
    trainer, topology = run.trainer, run.trainer.topology
    loader = some_of_training(
        trainer.options, topology, run.splits, trainer.data, run.log, most=unlike.MOST_IMAGES
    )
    traits = collect(classifier, loader, topology, lambda traits: traits, stopping=stopping).features
    own = loader.dataset
    training = Training(traits, own.labels, classifier.widths()[:-1])  # type: ignore[attr-defined]
    if not topology.is_main:
        return training, {}
    size = classifier.preprocess.image_size
    squares = _squares(run, size)
    drawn = stand_ins.draw(size, squares, trainer.options.seed)
    return training, {kind: traits_of(classifier, pixels, topology.device) for kind, pixels in drawn.items()}


def _squares(run: Run, size: int) -> list[np.ndarray]:
    """Return some validation images, as the network sees them."""
    data = run.trainer.data.dataset
    some = run.splits.dataset("val", data.preprocess, cache=data.cache, most=stand_ins.COUNT)
    squares = []
    for row in range(len(some)):
        try:
            squares.append(centre_crop(some.stored(row), size))
        except ImageError:  # gone since it was last read: the others will do
            continue
    return squares


def said(calibrated: Calibration) -> str:
    """Return the line on how well pictures of no skin are told from the images of the run."""
    if "unlike" not in calibrated:
        return "no validation images: nothing is calibrated, and no picture is flagged as unlike the training images"
    shares = ", ".join(
        f"{kind} {caught['flagged']:.2f}" for kind, caught in calibrated["unlike"].get("caught", {}).items()
    )
    weak = unlike.passing(calibrated["unlike"])
    warning = f"; it cannot tell {', '.join(weak)}" if weak else ""
    return f"unlike  flagged of pictures that show no skin: {shares}{warning}"
