"""Every option of predict.py and app.py. Needs no torch, so that `--help` need not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skin.data.image_files import STDIN
from skin.model.choices import AMP, ONNX_MARK
from skin.utils.cli import flag_of, option
from skin.utils.errors import UserError
from skin.utils.files import check_output
from skin.utils.home import user_path

CSV_COLUMNS = ("image", "predicted", "probability", "prediction_set", "unlike", "error")
"""The first columns of the table of `--csv`; those of the classes come behind them."""


@dataclass(frozen=True)
class PredictSettings:
    """The options of predict.py.

    Raises:
        UserError: there is nothing to predict, a number is out of its range, or a file must not be written.
    """

    images: tuple[str, ...] = option(
        (), "files, folders, patterns, or - for a list of names on stdin", group="what to predict",
        positional=True, nargs="*", metavar="IMAGE",
    )  # fmt: skip
    null: bool = option(False, "names on stdin end with NUL, as from find -print0", group="what to predict")

    metadata: str = option(
        "", "metadata for all images (age=55,sex=female), or a table with one row per image",
        group="what to predict", metavar="WHAT",
    )  # fmt: skip

    checkpoint: Path | None = option(
        None, "the trained model (default: the newest run's)", group="model", metavar="FILE"
    )
    tta: int = option(1, "average over N of the 8 turned and mirrored views", group="model", metavar="N")
    amp: str = option("auto", "precision: auto, fp16, bf16 or off; auto is float32 for a model trained in it",
                      group="model", choices=AMP, metavar="A")  # fmt: skip

    top_k: int = option(3, "number of classes to show", group="output", metavar="K")
    json: bool = option(False, "print one JSON object per image", group="output")
    csv: Path | None = option(None, "write a table with all probabilities", group="output", metavar="FILE")
    explain: Path | None = option(
        None, "write a Grad-CAM overlay of each image's label", group="output", metavar="DIR"
    )

    export: Path | None = option(None, "write the model as ONNX", group="export", metavar="FILE")
    small: bool = option(
        False, "write the smallest file that still answers like the full one on validation images", group="export"
    )
    data: Path | None = option(
        None, "validation images for --small (default: the run's own)", group="export", metavar="DIR"
    )
    labels: Path | None = option(None, "table of labels for --data, as for train.py", group="export", metavar="CSV")

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise UserError(f"--top-k {self.top_k}: at least one class must be shown")
        if not 1 <= self.tta <= 8:
            raise UserError(f"--tta {self.tta}: there are 8 views of an image; choose 1 to 8")
        if self.small and not self.export:
            raise UserError("--small is about the file of --export: --export FILE --small")
        if (self.data or self.labels) and not self.small:
            raise UserError("--data and --labels name the images of --small; those to predict need no option")
        if self.labels and not self.data:
            raise UserError(f"--labels {self.labels}: needs the images that it labels, --data DIR")
        if self.export:
            check_output("--export", self.export, ".onnx", ONNX_MARK, {"--checkpoint": self.checkpoint})
        if self.csv:
            inputs = {"--metadata": user_path(self.metadata) if self.metadata else None, "--export": self.export}
            if STDIN in self.images:
                inputs["the list of images"] = Path("/dev/stdin")
            check_output("--csv", self.csv, ".csv", ",".join(CSV_COLUMNS).encode(), inputs, stream=True)
        if self.export and not self.images:
            for name in ("csv", "explain", "json", "metadata", "null", "tta", "top_k"):
                if getattr(self, name) != getattr(PredictSettings, name):
                    raise UserError(f"{flag_of(name)} is for the answers to images: name some, or leave it out")
        if self.null and self.images and STDIN not in self.images:
            raise UserError("--null is about a list on stdin, which - stands for: name it, or leave --null out")
        if self.csv and not self.json and self.top_k != PredictSettings.top_k:
            raise UserError("--top-k is about lines and --json: a CSV file has all classes; leave it out")
        if not self.images and not self.export:
            raise UserError(
                "nothing to predict: name an image or a folder, or - for a list on stdin; see predict.py --help"
            )


@dataclass(frozen=True)
class AppSettings:
    """The options of app.py."""

    checkpoint: Path | None = option(None, "the trained model (default: the newest run's)", metavar="FILE")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 lets other machines in", metavar="ADDRESS")
    port: int = option(7860, "port to listen on; the next free one if it is taken", metavar="N")

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: a port is a number from 1 to 65535")
