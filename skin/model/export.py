"""Export a trained model as one ONNX file, for programs and devices that have no PyTorch.

The graph holds more than the network: it takes bytes, as an image library gives them, normalises them, and returns
calibrated probabilities. A graph cannot say how to resize or name the classes, so the file's metadata do.
"""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

from skin.model.averaging import as_one
from skin.model.calibration import divisors, rule_of
from skin.model.checkpoint import Checkpoint, SingleCheckpoint, load_best
from skin.model.choices import PRODUCER
from skin.model.log_distance import log_distance
from skin.model.metadata import with_metadata
from skin.utils.errors import UserError
from skin.utils.files import write_atomically

import cv2
import numpy as np
import torch
from torch import Tensor, nn

OPSET = 20
RULES = (
    "A prediction set holds each class whose probability is at least its threshold (prediction_set_thresholds for "
    "90 %, _95 for 95 %; null is every class), and always the most probable class and the label. The label is the "
    "class whose probability is largest when divided by its number in divisors. An image whose distance is not at "
    "most 1 is unlike the training images."
)
METADATA_RULES = (
    "The input metadata has the numbers of each column, one after another. Of a column without categories they are "
    "(value - mean) / deviation, at most 10 either way, and 0; or 0 and 1 if the value is missing. Of another column "
    "they are a 1 in the place of its category and 0 elsewhere, all 0 if the value is missing or none of them."
)
# The outputs, and how far onnxruntime's may be from torch's: logits as a share of an image's largest, distances of
# themselves, each plus one. Rounding grows on the noise that they are compared on; another graph is far further off.
TOLERANCES = {"probabilities": 1e-4, "logits": 0.1, "distance": 0.1}


class Portable(nn.Module):
    """A model from uint8 [B, S, S, 3] RGB squares to (probabilities, logits, distance), float32.

    Probabilities and logits are [B, C]. The distance from the training images is [B], as `unlike.distance` gives it;
    0 without a calibration. Encoded metadata, float32 [B, M], are for a model with a branch for them.
    """

    biases: Tensor

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.model: Any = as_one(checkpoint, _Network)
        self.temperature = float(checkpoint.calibration.get("temperature", 1.0))
        self.log_distance = log_distance(checkpoint.calibration)
        biases = checkpoint.calibration.get("biases", [0.0] * len(checkpoint.classes))
        self.register_buffer("biases", torch.tensor(biases, dtype=torch.float32))

    def forward(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        logits, traits = self.model.answers(images, metadata)
        return (logits / self.temperature + self.biases).softmax(1), logits, self.log_distance(traits).exp()


class _Network(nn.Module):
    """`Classifier.answers` of one model, in operations that a graph can hold."""

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: SingleCheckpoint) -> None:
        super().__init__()
        self.network = checkpoint.network
        self.register_buffer("mean", 255 * torch.tensor(checkpoint.preprocess.mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(checkpoint.preprocess.std).view(1, 3, 1, 1))

    def answers(self, images: Tensor, metadata: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        traits = []
        for stage in self.network.features:
            maps = stage(maps)
            traits.append(maps.mean((2, 3)))
        features = with_metadata(self.network, traits[-1], metadata)
        return self.network.classifier(features), torch.cat(traits, 1)


def export(checkpoint_path: Path, path: Path) -> str:
    """Write the model of a `best.pt` to `path` as ONNX, and compare onnxruntime's answers with torch's.

    The input `images` is uint8 [batch, S, S, 3], RGB. The outputs `probabilities` (calibrated) and `logits` are
    float32 [batch, classes], `distance` is float32 [batch]. The metadata hold `classes`, `preprocess`,
    `prediction_set_thresholds`, `prediction_set_thresholds_95` and `divisors` as JSON, `decision`, `model`,
    `versions` and `rules`: the label is the class whose probability is largest after the division, a class is in the
    set if its probability reaches its threshold, the label and the most probable class always are, and an image is
    unlike the training images if its distance is above 1.

    A model that takes age and the like has a second input, `metadata`, float32 [batch, M], which cannot be left out.
    The file says as JSON under `metadata` how `columns` are encoded, one after another, and which row means that all
    are `missing`.

    Returns:
        A line for the user on the file that was written.

    Raises:
        UserError: there is no such checkpoint, a package is missing, the file cannot be written, or answers differ.
    """
    checkpoint = load_best(checkpoint_path)
    content, difference = as_onnx(checkpoint)
    write_atomically(content, path)
    takes = "" if checkpoint.encoder is None else f"; a second input, metadata, takes {checkpoint.encoder.describe()}"
    same = "exactly those" if difference == 0 else f"within {difference:.0e} of those"
    return (
        f"wrote {path}: {checkpoint.model_name}, {len(checkpoint.classes)} classes, ONNX opset {OPSET}, "
        f"{len(content) / 2**20:.0f} MiB; its probabilities are {same} of torch in float32 (--amp off){takes}"
    )


def require_packages() -> None:
    """Raise `UserError` if a package that the export needs is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):  # torch's exporter is written with onnxscript
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing = error.name or name
            raise UserError(f"cannot export: {missing} is missing; pip install -r requirements.txt") from error


def as_onnx(checkpoint: Checkpoint) -> tuple[bytes, float]:
    """Return the contents of the ONNX file, and the largest difference in a probability from torch.

    Raises:
        UserError: a package is missing, or answers differ.
    """
    require_packages()
    portable = Portable(checkpoint).eval()
    size = checkpoint.preprocess.image_size
    draw = np.random.Generator(np.random.Philox(0))
    # Noise, which may be infinitely far from the training images, and a hue like skin's, which is near to them.
    noise = draw.integers(0, 256, (size, size, 3), np.uint8)
    hue = draw.integers([190, 140, 120], [230, 180, 160], (3, 3, 3), np.uint8)
    inputs = {"images": np.stack([noise, cv2.resize(hue, (size, size))])}
    if checkpoint.encoder is not None:
        missing = checkpoint.encoder.missing
        inputs["metadata"] = np.stack([missing, draw.random(len(missing), np.float32)])
    content = _to_onnx(portable, inputs, metadata(checkpoint))
    differences = _differences(content, portable, inputs)
    for name, difference in differences.items():
        if not difference <= TOLERANCES[name]:
            raise UserError(f"cannot export: onnxruntime's {name} differ from torch's by {difference:.1g}")
    return content, differences["probabilities"]


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Return what the file says of itself."""
    sets, encoder = checkpoint.calibration.get("sets"), checkpoint.encoder
    known = {"columns": encoder.to_list(), "missing": encoder.missing.tolist()} if encoder is not None else None
    return {
        **({} if known is None else {"metadata": json.dumps(known), "metadata_rules": METADATA_RULES}),
        "classes": json.dumps(checkpoint.classes),
        "preprocess": json.dumps(checkpoint.preprocess.to_dict()),
        "prediction_set_thresholds": json.dumps(sets["90"]["thresholds"] if sets else None),
        "prediction_set_thresholds_95": json.dumps(sets["95"]["thresholds"] if sets else None),
        "decision": rule_of(checkpoint.calibration),
        "divisors": json.dumps(divisors(checkpoint.calibration, len(checkpoint.classes)).tolist()),
        "rules": RULES,
        "model": checkpoint.model_name,
        "versions": json.dumps({"torch": str(torch.__version__), "opset": OPSET}),
        "notice": "Research software, not a medical device.",
    }


def feed(session: Any, squares: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of an exported model for squares, uint8 [N, S, S, 3], of which nothing else is known."""
    inputs = {"images": squares}
    if len(session.get_inputs()) > 1:
        known = json.loads(session.get_modelmeta().custom_metadata_map["metadata"])
        inputs["metadata"] = np.tile(np.array(known["missing"], np.float32), (len(squares), 1))
    return inputs


def ask(session: Any, outputs: list[str], squares: np.ndarray) -> list[np.ndarray]:
    """Return the named outputs of an exported model for squares, as `feed` gives them to it.

    Raises:
        MemoryError: in place of onnxruntime's own exception, which has no base but `Exception`.
    """
    try:
        answers: list[np.ndarray] = session.run(outputs, feed(session, squares))
    except Exception as error:
        if "allocate memory" in str(error):
            raise MemoryError(str(error)) from error
        raise
    return answers


def _to_onnx(portable: Portable, inputs: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():  # that two inputs have the same batch is what is meant
        warnings.filterwarnings("ignore", "# The axis name: batch will not be used")
        program: Any = torch.onnx.export(
            portable,
            tuple(map(torch.from_numpy, inputs.values())),
            input_names=list(inputs),
            output_names=list(TOLERANCES),
            dynamic_shapes={name: {0: batch} for name in inputs},
            opset_version=OPSET,
            verbose=False,
        )
    model = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]  # the exporter's notes for debugging, with paths of this machine
    return signed(model, metadata)


def signed(model: Any, metadata: dict[str, str]) -> bytes:
    """Return the file of an `onnx.ModelProto` with this metadata and no other, and with our name as its producer."""
    import onnx

    model.producer_name, model.producer_version = PRODUCER, ""
    onnx.helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def _differences(content: bytes, portable: Portable, inputs: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each of onnxruntime's outputs from torch's, as `TOLERANCES` has it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(list(TOLERANCES), inputs)
    with torch.inference_mode():
        expected = [output.numpy() for output in portable(*map(torch.from_numpy, inputs.values()))]
    differences = {}
    for name, ours, theirs in zip(TOLERANCES, found, expected, strict=True):
        scale = np.ones(1) if name == "probabilities" else 1 + np.abs(theirs)
        if name == "logits":
            scale = scale.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):  # a distance may be infinite, in both
            apart = np.where(ours == theirs, 0.0, np.abs(ours - theirs) / scale)
        differences[name] = float(apart.max())
    return differences
