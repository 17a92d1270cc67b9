"""`make simulate` takes half an hour; here each of its studies draws one small set, so that none of them rots."""

from pathlib import Path

from skin.utils.errors import UserError
from tests.simulation import coverage, points, studies
from tests.simulation.studies import STUDIES, Study

import numpy as np
import pytest


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.title)
def test_each_study_says_shares(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (studies, points):
        monkeypatch.setattr(module, "TRUTH", 3000)
        monkeypatch.setattr(module, "ROUNDS", 20)
    found = study.run(study.sizes[1], 0)
    assert all(0 <= value <= 1 or np.isnan(value) for value in found.values())
    assert np.isfinite(list(found.values())).any()


def test_coverage_and_its_standard_error_by_hand() -> None:
    said = [{"a": 1.0}, {"a": 1.0}, {"a": 0.0}, {"a": 1.0}, {"a": np.nan}, {}]
    assert coverage.coverage(said, "a") == (0.75, pytest.approx(0.25))  # standard deviation 0.5 of four
    assert coverage.coverage([{"a": 1.0}] * 8, "a") == (1, pytest.approx(np.sqrt(0.9 * 0.1 / 8)))
    assert np.isnan(coverage.coverage(said, "b")).all()


def test_what_holds_less_often_than_promised_is_named() -> None:
    study = Study("Metrics", (80, 200), 100, lambda size, seed: {})
    said = [{"good": 1.0, "bad": float(n % 4 > 0)} for n in range(100)]
    text, broken = coverage.table(study, 100, {80: said, 200: said})
    assert "| bad | 75.0 ± 4.4 | 75.0 ± 4.4 |" in text
    assert broken == ["bad, 200 lesions: 75.0 ± 4.4, promised 93"]


def test_the_table_is_written_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "statistics.md"
    monkeypatch.setattr(coverage, "DOCUMENT", document)
    document.write_text(f"before\n{coverage.BEGIN}\nold\n{coverage.END}\nafter\n")
    for _ in range(2):
        coverage.write(["new\n"])
    assert document.read_text() == f"before\n{coverage.BEGIN}\n\nnew\n\n{coverage.END}\nafter\n"
    document.write_text("no marks")
    with pytest.raises(UserError, match="no place for the table"):
        coverage.write(["new\n"])


def test_the_document_has_the_marks() -> None:
    text = coverage.DOCUMENT.read_text(encoding="utf-8")
    assert text.index(coverage.BEGIN) < text.index(coverage.END)
