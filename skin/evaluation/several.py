"""Several checkpoints given to evaluate.py are one ensemble, in a run folder of its own: `runs/ensemble-<hash>`.

Its best.pt is what predict.py and app.py take. Beside it is the first model's split.csv, whose test split is the
default set, and those of the others, so that an image that one of the models was trained on is always known as such.

The average is calibrated on validation images that the models share. Their files keep their answers to them. If these
do not fit together, the models are asked for them again. Models that share none have an average without calibration.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from skin.data import split as splits
from skin.data import unknowns
from skin.evaluation import metrics, test_set
from skin.model import calibration, ensemble
from skin.model.calibration import Calibration
from skin.model.checkpoint import EnsembleCheckpoint, SingleCheckpoint
from skin.model.ensemble import Unseen
from skin.utils import run_folders
from skin.utils.errors import UserError
from skin.utils.files import write_json
from skin.utils.run_folders import LATEST

import pandas as pd


def join(models: Sequence[SingleCheckpoint], unseen: Unseen | None = None) -> EnsembleCheckpoint:
    """Write the ensemble of these models into the folder of just them, and return it.

    Args:
        models: as `ensemble.joinable` has read them.
        unseen: answers to calibrate the average on; by default those that the models keep, if they share them.

    Raises:
        UserError: as `save_ensemble`.
    """
    paths = [model.path for model in models]
    folder = folder_of(paths)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy_records(paths, folder)
    except OSError as error:
        remedy = "start evaluate.py in a folder that you may write into"
        raise UserError(f"cannot write the ensemble into {folder}: {error.strerror}; {remedy}") from error
    if unseen is None and share_validation(models):
        unseen = ensemble.kept_answers(models)
    config = test_set.place_of(models[0]) | {
        "resolved": {"image_size": models[0].preprocess.image_size, "joined": [str(path) for path in paths]}
    }

    def metrics_of(fitted: Calibration) -> dict[str, float | None]:
        if unseen is None:
            return {}
        scores = calibration.scores(fitted, calibration.probabilities_of(fitted, unseen.logits))
        return metrics.of_validation(unseen.labels, scores)

    # It tells the folder from a run's, so it is there before best.pt is.
    write_json(folder / run_folders.CONFIG, ensemble.config_of(models, config))
    return ensemble.save_ensemble(paths, folder / run_folders.BEST, unseen, config=config, metrics_of=metrics_of)


def folder_of(paths: Sequence[Path]) -> Path:
    """Return the run folder of an ensemble of just these models in this order."""
    hashes = "".join(ensemble.source_of(path)["sha256"] for path in paths)
    return LATEST.parent / f"ensemble-{hashlib.sha256(hashes.encode()).hexdigest()[:10]}"


def share_validation(models: Sequence[SingleCheckpoint]) -> bool:
    """Return True if the models' runs have the same validation images, and none was trained on one of them."""
    manifests = [_manifest(model.path.parent) for model in models]
    if any(manifest.empty for manifest in manifests):
        return False
    named = [set(manifest.loc[manifest["split"] == "val", "image"]) for manifest in manifests]
    return bool(named[0]) and all(names == named[0] for names in named)


def _copy_records(paths: Sequence[Path], folder: Path) -> None:
    """Copy the records of the runs into the ensemble's folder; an empty split.csv is that of a run without one."""
    of_members = folder.glob(test_set.OF_MEMBER.format("*"))
    for stale in (folder / run_folders.SPLIT, folder / unknowns.NAME, *of_members):
        stale.unlink(missing_ok=True)
    first = paths[0].parent
    for name in (run_folders.SPLIT, unknowns.NAME):
        if (first / name).exists():
            shutil.copyfile(first / name, folder / name)
    own = _manifest(first)
    for number, path in enumerate(paths[1:], 2):
        manifest = _manifest(path.parent)
        if manifest.empty or not manifest.equals(own):
            splits.write_manifest(manifest, folder / test_set.OF_MEMBER.format(number))


def _manifest(run: Path) -> pd.DataFrame:
    """Return the split.csv of a run; no rows if there is none."""
    path = run / run_folders.SPLIT
    return splits.read_manifest(path) if path.exists() else pd.DataFrame(columns=splits.MANIFEST_COLUMNS, dtype=str)
