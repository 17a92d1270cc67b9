"""Our figures against the ISIC Challenge's own scorer, on real images.

The scorer (PyPI isic-challenge-scoring 5.6.0) needs pandas < 3, so it runs in an environment of its own, whose
python SKIN_ISIC_SCORER names:

    python3.11 -m venv isic && isic/bin/pip install isic-challenge-scoring==5.6.0 'pandas<3'
    SKIN_ISIC_SCORER=isic/bin/python SKIN_REAL_DATA=... python -m pytest -m real tests/evaluation/test_isic_scorer.py
"""

import json
import os
import subprocess
from pathlib import Path

import evaluate
from skin.data import split
from skin.data.class_names import ISIC_2018
from skin.data.layouts import read_index
from skin.model import checkpoint
from tests import tiny

import pandas as pd
import pytest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not os.environ.get("SKIN_ISIC_SCORER"), reason="SKIN_ISIC_SCORER names no python"),
]

def test_agrees_with_the_challenges_scorer(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "ham10000_mini"
    rows = split.split_index(read_index(data), (0.5, 0.1, 0.4), seed=0)
    split.write_manifest(rows, tmp_path / "split.csv")
    best = tiny.write_checkpoint(tmp_path / "best.pt", image_size=64)
    state = checkpoint.load(best)
    state["config"] |= {"data": str(data)}
    checkpoint.save(state, best)
    evaluate.main(["--checkpoint", str(best), "--threshold", "0.5", "--rounds", "20", "--workers", "0"])
    out = tmp_path / "evaluation"
    ours = json.loads((out / "report.json").read_text())

    test = rows[rows["split"] == "test"]
    truth = pd.DataFrame({name: (test["label"] == name.lower()).astype(float) for name in ISIC_2018})
    truth.insert(0, "image", test["image"])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    command = [os.environ["SKIN_ISIC_SCORER"], "-m", "isic_challenge_scoring", "--output", "json", "classification"]
    command += [str(tmp_path / "truth.csv"), str(out / "isic_submission.csv")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)

    assert ours["images"] == len(test)
    assert ours["balanced_accuracy"]["value"] == pytest.approx(theirs["overall"], abs=1e-9)
    per_class = theirs["per_category"]  # figure -> number of the category, or its name
    for figure, name_of_theirs, where in (
        ("auc", "auc", None),
        ("average_precision", "ap", None),
        ("sensitivity", "sensitivity", "at_threshold"),
        ("specificity", "specificity", "at_threshold"),
    ):
        for name in ISIC_2018:
            of_class = ours["per_class"][name.lower()]
            value = (of_class[where] if where else of_class)[figure]["value"]
            assert value == pytest.approx(per_class[name_of_theirs][name], abs=1e-9), (figure, name)
