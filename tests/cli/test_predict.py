import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import predict
from skin import load_classifier
from skin.data.class_names import readable_name
from skin.model.classifier import Answer
from skin.model.ensemble import save_ensemble
from skin.serving.overlays import overlay_name
from skin.utils import cli
from tests import tiny, warm
from tests.conftest import ROOT

import numpy as np
import pytest
import torch
from PIL import Image
from rich.cells import cell_len

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def best_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    calibration = tiny.calibration(temperature=1.0, threshold=0.1, unlike_threshold=1e9)
    return tiny.write_checkpoint(tmp_path_factory.mktemp("run") / "best.pt", calibration=calibration)


@pytest.fixture
def run(
    best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """`run("a.jpg", "--json")` in a folder of its own and in this process: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, checkpoint: object = best_pt) -> tuple[int, str, str]:
        argv = ["predict.py", "--amp", "off", "--checkpoint", str(checkpoint), *map(str, words)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as end:
            cli.run(predict.main)
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err.removeprefix(f"model {checkpoint}: efficientnet_b0\n")

    return run


def draw(path: Path | str, seed: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(tiny.picture(seed)).save(path)


def test_one_image_is_one_line(run: Run, best_pt: Path) -> None:
    draw("lesion.png")
    code, out, err = run("lesion.png", "--top-k", 2)
    expected = load_classifier(best_pt, device="cpu", amp="off").predict("lesion.png")
    (first, share), (second, less) = expected.top(2)
    members = ", ".join(expected.prediction_set)
    assert out == f"lesion.png\t{first} {share:.4f}\t{second} {less:.4f}\t90 % set: {members}\n"
    assert (code, err) == (0, "")


def test_which_model_answers_is_said_on_stderr(
    best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --checkpoint it is the newest run's, here one without a link."""
    monkeypatch.chdir(tmp_path)
    state = torch.load(best_pt, weights_only=True)
    state["config"] |= {"data": "/data/HAM10000", "monitor": "balanced_accuracy"}
    state |= {"metrics": {"val_balanced_accuracy": 0.70114}, "calibration": {}}
    Path("runs/a").mkdir(parents=True)
    torch.save(state, "runs/a/best.pt")
    draw("lesion.png")
    monkeypatch.setattr(sys, "argv", ["predict.py", "lesion.png"])
    assert predict.main() == 0
    out, err = capsys.readouterr()
    assert out.startswith("lesion.png\t")
    assert out.count("\n") == 1
    assert err == (
        "model runs/a/best.pt: efficientnet_b0, trained on /data/HAM10000, validation balanced accuracy 0.7011, "
        "uncalibrated (its run has not come to its end)\n"
    )


def test_json_is_an_object_a_line_and_an_unreadable_image_one_with_its_error(run: Run) -> None:
    draw("photos/a.png")
    Path("photos/b.jpg").write_text("no image")
    draw("photos/c.png", 1)
    code, out, err = run("photos", "--json", "--top-k", 7)
    first, broken, last = map(json.loads, out.splitlines())
    assert (first["image"], broken["image"], last["image"]) == ("photos/a.png", "photos/b.jpg", "photos/c.png")
    assert sum(first["top"].values()) == pytest.approx(1, abs=1e-5)
    assert first["class"] == next(iter(first["top"]))
    assert first["decision"] == "most probable"
    assert first["probability"] == first["top"][first["class"]]
    assert first["unlike"] is False
    assert broken == {"image": "photos/b.jpg", "error": broken["error"]}
    assert "not an image" in broken["error"]
    assert err.startswith("cannot read photos/b.jpg: not an image")
    assert code == 1


def test_csv_has_a_row_an_image_and_a_column_a_class(run: Run) -> None:
    draw("photos/a.png")
    Path("photos/b.jpg").touch()
    code, out, _ = run("photos", "--csv", "out.csv")
    good, bad = csv.DictReader(io.StringIO(Path("out.csv").read_text()))
    probabilities = {name: float(good[name]) for name in tiny.CLASSES}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert good["predicted"] == max(probabilities, key=probabilities.__getitem__)
    assert good["unlike"] == "false"
    assert good["error"] == ""
    assert bad["error"] == "an empty file (0 bytes)"
    assert bad["predicted"] == bad["mel"] == ""
    assert (code, out) == (1, "")


def test_the_csv_of_any_classes_can_be_read_again(run: Run, tmp_path: Path) -> None:
    """Sets are joined by `|`, and no class shares its column with another or with ours."""
    classes = ("image", "error", "a b", "c|d", "probability_image", "x", "y")
    checkpoint = tiny.write_checkpoint(tmp_path / "odd.pt", classes, calibration=tiny.calibration(1.0, 0.0, 1e9))
    draw("lesion.png")
    run("lesion.png", "--csv", "out.csv", checkpoint=checkpoint)
    header, first = csv.reader(io.StringIO(Path("out.csv").read_text()))
    assert len(set(header)) == len(header)
    assert header[6:] == ["probability_probability_image", "probability_error", *classes[2:]]
    members = re.split(r"(?<!\\)\|", first[header.index("prediction_set")])
    assert sorted(name.replace("\\|", "|") for name in members) == sorted(classes)


def test_no_cell_of_the_csv_is_a_formula(run: Run, tmp_path: Path) -> None:
    checkpoint = tiny.write_checkpoint(tmp_path / "best.pt", classes=("=cmd()", "@home"))
    names = ("=1+1.png", "-dash.png", "+plus.png", "@at.png")
    for name in names:
        draw(name)
    run("--csv", "out.csv", "--", *names, checkpoint=checkpoint)
    rows = list(csv.reader(io.StringIO(Path("out.csv").read_text())))
    assert len(rows) == 5
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [row[0] for row in rows[1:]] == [f"./{name}" for name in names]
    assert all(Path(row[0]).exists() for row in rows[1:])


@pytest.mark.parametrize(
    "name", ["two words.png", "it's \"so\".png", "new\nline.png", "cr\rx.png", "é.png", "bad\udcff.png"]
)
def test_names_of_any_kind_survive_json_and_never_break_a_line(run: Run, name: str) -> None:
    draw(name)
    _, out, _ = run(name, "--json", "--csv", "out.csv")
    (line,) = out.splitlines()
    assert json.loads(line)["image"] == name
    with open("out.csv", encoding="utf-8", newline="") as file:  # which has to be UTF-8, whatever the name
        (row,) = list(csv.reader(file))[1:]
    assert row[0] == name.replace("\r", "\\r").encode("utf-8", "backslashreplace").decode()
    _, plain, _ = run(name)
    assert len(plain.splitlines()) == 1


def test_pictures_that_a_folder_has_in_other_formats_are_said(run: Run) -> None:
    Path("in").mkdir()
    draw("in/a.png")
    Path("in/b.avif").touch()
    code, out, err = run("in")
    assert (code, len(out.splitlines())) == (0, 1)
    assert err == "WARNING: passed over, in formats that are not read: 1 file .avif\n"


def test_who_writes_one_name_gets_its_answer_before_the_next(
    best_pt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    draw("a.png")
    reader, writer = os.pipe()
    heard: list[str] = []

    class Listening(io.StringIO):
        def write(self, text: str) -> int:
            if text.startswith("a.png"):
                heard.append(text)
                os.write(writer, b"a.png\n") if len(heard) < 3 else os.close(writer)
            return len(text)

    monkeypatch.setattr(sys, "argv", ["predict.py", "-", "--checkpoint", str(best_pt)])
    monkeypatch.setattr(sys, "stdout", Listening())
    os.write(writer, b"a.png\n")
    with os.fdopen(reader) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert predict.main() == 0
    assert len(heard) == 3


def test_a_name_with_a_leading_dash_follows_two_dashes(run: Run) -> None:
    draw("-f.png")
    code, out, _ = run("--", "-f.png")
    assert code == 0
    assert out.startswith("-f.png\t")


@pytest.mark.parametrize(
    "mode", ["L", "1", "LA", "RGBA", "P", "CMYK", "I;16"], ids=lambda mode: mode.replace(";", "")
)
def test_images_of_other_modes_are_read(run: Run, mode: str) -> None:
    picture = Image.fromarray(tiny.picture(0))
    picture = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
    picture.save("odd.tiff")
    code, out, err = run("odd.tiff")
    assert (code, err) == (0, "")
    assert out.startswith("odd.tiff\t")


def test_an_animation_is_its_first_frame(run: Run) -> None:
    frames = [Image.fromarray(tiny.picture(seed)) for seed in (0, 1)]
    frames[0].save("still.gif")
    frames[0].save("moves.gif", save_all=True, append_images=frames[1:])
    _, out, _ = run("still.gif", "moves.gif")
    still, moves = out.splitlines()
    assert still.split("\t")[1:] == moves.split("\t")[1:]


def test_a_huge_image_is_reported_and_the_others_are_predicted(run: Run) -> None:
    Image.new("1", (12_000, 11_000)).save("huge.png")
    draw("good.png")
    code, out, err = run("huge.png", "good.png")
    assert code == 1
    assert "12000x11000 pixels" in err
    assert out.startswith("good.png\t")


def test_overlays_have_names_that_every_system_takes_and_no_two_the_same() -> None:
    sources = ("in/a:1.png", "in/a_1.png", "in/a*1.png", "nul/aux.png")
    names = [str(overlay_name(source)) for source in sources]
    assert names[1] == "in/a_1.png.cam.png"
    assert names[0].startswith("in/a_1.png.")
    assert names[2].startswith("in/a_1.png.")
    assert names[3].startswith("_nul/_aux.png.")
    assert len(set(names)) == 4


def test_overlays_of_long_names_have_names_that_are_short_enough(run: Run) -> None:
    sources = [f"in/{'é' * 125}{end}.png" for end in ("a", "b")]
    for source in sources:
        draw(source)
    assert run("in", "--explain", "why")[0] == 0
    names = {overlay_name(source) for source in sources}
    assert {path.relative_to("why") for path in Path("why").rglob("*.png")} == names
    assert len(names) == 2


def test_overlays_keep_the_folders_and_never_take_each_others_place(run: Run, tmp_path: Path) -> None:
    draw("in/a.png")
    draw("in/deep/a.png", 1)
    elsewhere = tmp_path.parent / "elsewhere" / "a.png"
    draw(elsewhere, 2)
    _, out, _ = run("in", elsewhere, "../elsewhere/a.png", "--explain", "why", "--json")
    overlays = [json.loads(line)["overlay"] for line in out.splitlines()]
    assert overlays[:2] == ["why/in/a.png.cam.png", "why/in/deep/a.png.cam.png"]
    assert overlays[2] == overlays[3], "one file, whichever way it is named"
    assert all(Path(path).resolve().is_relative_to(tmp_path / "why") for path in overlays)
    with Image.open(overlays[0]) as overlay:
        assert overlay.size == (64, 64)


def test_eight_views_change_the_probabilities_a_little(run: Run) -> None:
    draw("a.png")
    plain, views = (run("a.png", "--json", *words)[1] for words in ((), ("--tta", 8)))
    assert json.loads(plain)["probability"] != json.loads(views)["probability"]


def test_an_ensemble_answers_like_any_model(run: Run, best_pt: Path, tmp_path: Path) -> None:
    second = tiny.write_checkpoint(tmp_path / "uncalibrated.pt")
    both = save_ensemble([best_pt, second], tmp_path / "both.pt").path
    draw("a.png")
    words = ("a.png", "--tta", 2, "--csv", "out.csv", "--explain", "why", "--json")
    code, out, err = run(*words, checkpoint=both)
    said = f"model {both}: 2 x efficientnet_b0, uncalibrated (its members share no validation images)\n"
    assert (code, err) == (0, said)
    assert Path(json.loads(out)["overlay"]).is_file()
    with open("out.csv", encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert sum(float(row[name]) for name in tiny.CLASSES) == pytest.approx(1, abs=1e-4)


def test_an_ensemble_without_its_members_rule_says_so(run: Run, tmp_path: Path) -> None:
    rule = {"decision": "balanced", "mean_probabilities": [1 / len(tiny.CLASSES)] * len(tiny.CLASSES)}
    members = []
    for temperature in (1.0, 2.0):
        fitted = tiny.calibration(temperature=temperature, threshold=0.1, unlike_threshold=1e9) | rule
        members.append(tiny.write_checkpoint(tmp_path / f"{temperature}.pt", calibration=fitted))
    draw("a.png")
    said = 'labels are the most probable class, though its members have the rule "balanced"'
    assert said in run("a.png", checkpoint=save_ensemble(members, tmp_path / "both.pt").path)[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "nothing to predict"),
        (("nothing-here",), "no images in nothing-here"),
        (("a.png", "--tta", 9), "--tta 9"),
        (("a.png", "--top-k", 0), "--top-k 0"),
        (("a.png", "--top-k", 2, "--csv", "a.csv"), "--top-k is about lines and --json"),
        (("a.png", "--null"), "--null is about a list on stdin"),
        (("a.png", "--amp", "fp8"), "--amp"),
        (("a.png", "--csv", "no/such/folder.csv"), "--csv no/such/folder.csv: there is no folder no/such"),
        (("a.png", "--explain", "a.png/why"), "cannot write into a.png/why"),
        (("--export", "no/such/model.onnx"), "there is no folder no/such"),
    ],
)
def test_mistakes_are_one_line_and_code_2(run: Run, words: tuple[object, ...], said: str) -> None:
    draw("a.png")
    Path("nothing-here").mkdir()
    code, _, err = run(*words)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1


def test_no_checkpoint_yet_says_what_to_type_first(run: Run) -> None:
    code, _, err = run("a.png", checkpoint="runs/latest/best.pt")
    assert code == 2
    assert "train one first: python train.py" in err


def on_terminal(words: list[object], width: int, folder: Path) -> str:
    """What a script writes on a terminal of so many columns, without colours."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment |= {"TERM": "xterm", "OMP_NUM_THREADS": "1"}
    process = warm.Popen(words, stdout=follower, stderr=follower, cwd=folder, env=environment)
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # how Linux tells that the other side of a terminal has closed
        pass
    assert process.wait() == 0
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")


CHINESE, ARABIC = "黑色素瘤与其他皮肤肿瘤的综合分类", "ورم ميلانيني حميد"
FOREIGN = ("akiec", "a name so long that it is read to its end by nobody", "mel", "nv", CHINESE, ARABIC, "vasc")


@pytest.fixture(scope="module")
def foreign_pt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_checkpoint(tmp_path_factory.mktemp("foreign") / "best.pt", classes=FOREIGN)


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_on_a_terminal_every_class_stands_beside_its_own_number(
    foreign_pt: Path, tmp_path: Path, run: Run, width: int
) -> None:
    draw(tmp_path / "a.png")
    script = [sys.executable, ROOT / "predict.py", "--amp", "off", "--checkpoint", foreign_pt, "--top-k", "7"]
    _, *lines = on_terminal([*script, "a.png"], width, tmp_path).splitlines()  # the first says which model answers
    assert all(cell_len(line) <= width for line in lines)
    (answer,) = map(json.loads, run("a.png", "--json", "--top-k", 7, checkpoint=foreign_pt)[1].splitlines())
    # A class begins on the line of its number. What follows without one belongs to it, up to the set.
    shown, _, members = re.sub("[█▏▎▍▌▋▊▉]", "", "\n".join(lines[1:])).partition("90 % set:")
    blocks = re.findall(r"(\d+\.\d) %([^%]*?)(?=\d+\.\d %|$)", shown)
    found = [(number, "".join(name.split())) for number, name in blocks]
    expected = [(f"{100 * p:.1f}", "".join(readable_name(name).split())) for name, p in answer["top"].items()]
    assert found == expected
    assert "".join(members.split()) == "".join(",".join(map(readable_name, answer["prediction_set"])).split())


def test_a_picture_that_is_unlike_is_said_before_its_numbers(tmp_path: Path) -> None:
    odd = tiny.calibration(temperature=1.0, threshold=0.1, unlike_threshold=1e-9)
    draw(tmp_path / "a.png")
    model = tiny.write_checkpoint(tmp_path / "best.pt", calibration=odd)
    text = on_terminal([sys.executable, ROOT / "predict.py", "--checkpoint", model, "a.png", "a.png"], 100, tmp_path)
    assert "2 images in" in text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    place = next(number for number, line in enumerate(lines) if line.endswith("a.png"))  # after what is left of a bar
    assert lines[place + 1] == "unlike the training images: the numbers mean little"
    assert re.match(r"\d+\.\d %", lines[place + 2])


# What makes a start slow and a prediction has no need of. (torch itself imports numpy and pynvml.)
HEAVY = {"pandas", "sklearn", "scipy", "matplotlib", "gradio", "onnx", "onnxruntime", "rich", "imagehash"}


def test_a_prediction_imports_nothing_heavy_and_needs_no_stdin(best_pt: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    code = (
        "import sys, runpy\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        f"assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)\n"
        "ours = {m for m in sys.modules if m.startswith('skin.')}\n"
        "unneeded = {'data.layouts', 'evaluation.report', 'serving.webpage', 'model.export', 'serving.terminal'}\n"
        "assert not ours & {'skin.' + m for m in unneeded}, ours\n"
    )
    script = str(ROOT / "predict.py")
    words = f"import sys; sys.argv = {[script, '--checkpoint', str(best_pt), 'a.png']!r}\n" + code
    command = [sys.executable, "-c", words]
    paths = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, f"model {best_pt}: efficientnet_b0\n")
    assert ended.stdout.startswith("a.png\t")


@pytest.mark.real
def test_a_folder_of_real_images_gives_an_answer_each(run: Run, real_data: Path) -> None:
    folder = real_data / "ham10000_mini" / "images"
    code, out, err = run(folder, "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in sorted(folder.iterdir())]
    assert (code, err) == (0, "")
    assert np.isfinite([row["probability"] for row in rows]).all()


@pytest.mark.parametrize("flags", [("--csv", "k.csv"), ("--tta", "8"), ("--explain", "k"), ("--json",)])
def test_an_export_without_images_refuses_the_options_of_answers(run: Run, flags: tuple[str, ...]) -> None:
    code, _, err = run("--export", "model.onnx", *flags)
    assert (code, err) == (2, f"error: {flags[0]} is for the answers to images: name some, or leave it out\n")


def test_answers_have_stdout_to_themselves_beside_an_export(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(checkpoint: Path, path: Path, settings: object, say: Callable[[str], None]) -> str:
        say("trying")
        return f"wrote {path}"

    monkeypatch.setattr(predict, "export", export)
    draw("lesion.png")
    code, out, err = run("--export", "model.onnx", "lesion.png", "--json")
    assert json.loads(out)["image"] == "lesion.png"
    assert (code, err.splitlines()[:2]) == (0, ["trying", "wrote model.onnx"])
    assert run("--export", "model.onnx") == (0, "trying\nwrote model.onnx\n", "")


def test_an_export_to_a_folder_is_refused_before_it_begins(run: Run, tmp_path: Path) -> None:
    code, _, err = run("--export", tmp_path)
    assert code == 2
    assert f"--export {tmp_path}: is a folder; name a file in it, such as {tmp_path}/name.onnx" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("b.png", "--csv", "a.png"), "--csv a.png: is there and is no earlier result; name a new file"),
        (("b.png", "--csv", "known.csv", "--metadata", "known.csv"), "--csv known.csv: is the file of --metadata"),
        (("b.png", "--csv", "link.csv", "--metadata", "known.csv"), "--csv link.csv: is the file of --metadata"),
        (("b.png", "--csv", "known.csv"), "--csv known.csv: is there and is no earlier result"),
        (("--export", "a.png"), "--export a.png: is there and is no earlier result; name a new file"),
        (("--export", "copy.pt"), "--export copy.pt: is there and is no earlier result"),
        (("--export", "other.onnx"), "--export other.onnx: is there and is no earlier result"),
        (("--export", "pipe"), "--export pipe: is a pipe or a device; name a file in a folder of yours"),
        (("b.png", "--export", "both", "--csv", "both"), "--csv both: is the file of --export"),
        (("empty", "--csv", "answers.csv"), "no images in empty"),
    ],
)
def test_no_file_is_lost_to_a_slip(run: Run, best_pt: Path, words: tuple[str, ...], said: str) -> None:
    draw("a.png")
    draw("b.png")
    Path("known.csv").write_text("image,age\nb.png,50\n")
    Path("link.csv").symlink_to("known.csv")
    Path("answers.csv").write_text("image,predicted,probability,prediction_set,unlike,error,mel\n")
    Path("copy.pt").write_bytes(best_pt.read_bytes())
    Path("other.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    Path("empty").mkdir()
    os.mkfifo("pipe")
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    code, _, err = run(*words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before
    assert Path("pipe").is_fifo()


def test_a_table_may_go_to_a_device_and_replace_an_older_one(run: Run) -> None:
    draw("a.png")
    Path("answers.txt").touch()
    for _ in range(2):
        assert run("gone.png", "a.png", "--csv", "answers.txt")[0] == 1
        lines = Path("answers.txt").read_text().splitlines()
        assert [line.split(",")[0] for line in lines] == ["image", "gone.png", "a.png"]
    code, _, err = run("gone.png", "--csv", "answers.txt")
    assert (code, err.splitlines()[-1]) == (1, "answers.txt is kept as it was, since no image could be read")
    assert len(Path("answers.txt").read_text().splitlines()) == 3
    assert run("gone.png", "--csv", "new.csv")[0] == 1
    assert len(Path("new.csv").read_text().splitlines()) == 2
    assert run("a.png", "--csv", "/dev/null")[0] == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("words", [[], ["--json"], ["--json", "--csv", "a.csv"]])
def test_answers_that_would_go_nowhere_are_an_error_whose_advice_works(
    words: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw("a.png")
    monkeypatch.setattr(sys, "stdout", None)  # as after >&-
    code, _, errors = run("a.png", *words)
    _, closed, advice = errors.rpartition("error: standard output is closed, so the answers would go nowhere: use ")
    assert code == 2
    assert closed
    used, _, replaced = advice.strip().partition(" in place of ")
    kept = ["--json"] if "--json" in words and not replaced else []
    assert run("a.png", *kept, *used.replace("FILE", "b.csv").split())[0] == 0
    assert len(Path("b.csv").read_text().splitlines()) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_what_is_full_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    draw("a.png")
    assert run("a.png", "--csv", "/dev/full")[2].endswith("error: cannot write /dev/full: No space left on device\n")
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", full)
    code, _, err = run("a.png", "--json")
    assert (code, err) == (2, "error: cannot write standard output: No space left on device\n")
    with contextlib.suppress(OSError):
        full.close()


def test_a_table_that_ends_early_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*arguments: object) -> Iterator[tuple[Answer[str], None]]:
        yield from (pair for pair, _ in zip(answer(*arguments), range(2), strict=False))
        raise KeyboardInterrupt

    answer = predict.answers
    for number in range(3):
        draw(f"photos/{number}.png", number)
    monkeypatch.setattr(predict, "answers", answers)
    code, _, err = run("photos", "--csv", "k.csv")
    assert code == 130
    assert "k.csv holds some of the answers, not all" in err.splitlines()
    assert len(Path("k.csv").read_text().splitlines()) == 3
