"""Make an exported model smaller: fewer bits for its weights, or for its activations, too.

Weights are kept in fewer bits and turned back into float32 by nodes that onnxruntime computes once, when it loads
the file: the answers take as long as the full model's. Activations in fewer bits are onnxruntime's own quantization.
No way is safe by itself: EfficientNet loses more by 8 bits than most networks. skin/evaluation/small.py judges each.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from skin.model.export import feed, signed

import numpy as np

LARGE = 16384  # weights of a layer that is worth 8 bits by itself: most of the file, and the least of the damage
_BATCH = 8  # squares in a step of the calibration

Reduce = Callable[[bytes, np.ndarray], bytes]
"""From a full file and squares uint8 [N, S, S, 3], for those ways that are `calibrated`, to a smaller file."""


class Way(NamedTuple):
    """A way of making the file smaller.

    Attributes:
        calibrated: it looks at images for the range of each activation.
    """

    name: str
    calibrated: bool
    reduce: Reduce


def fewer_bits(content: bytes, large: int | None) -> bytes:
    """Return the file with float16 weights, but 8 bits for the layers of at least `large` weights (None: for none).

    In 8 bits each output channel has a scale of its own, so that its largest weight is 127.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load_from_string(content)
    graph, restoring = model.graph, []
    for tensor in _weights(graph):
        name, values = tensor.name, numpy_helper.to_array(tensor)
        graph.initializer.remove(tensor)
        if large is None or values.size < large:
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
            restoring.append(helper.make_node("Cast", [f"{name}_float16"], [name], to=onnx.TensorProto.FLOAT))
            continue
        scale = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
        scale[scale == 0] = 1
        graph.initializer.append(numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
        restoring.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=onnx.TensorProto.FLOAT))
        restoring.append(helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]))
    nodes = [*restoring, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _weights(graph: Any) -> list[Any]:
    """Return the float32 weights of the network's layers, without those that tell the distance."""
    used = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    return [tensor for tensor in graph.initializer if tensor.name in used]


def quantized(content: bytes, squares: np.ndarray, bits: int) -> bytes:
    """Return the file with weights in 8 bits, per channel, and activations in so many, by onnxruntime."""
    import onnxruntime
    from onnxruntime import quantization

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    class Squares(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([squares[first : first + _BATCH] for first in range(0, len(squares), _BATCH)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else feed(session, batch)

    kinds = {8: quantization.QuantType.QUInt8, 16: quantization.QuantType.QUInt16}
    with tempfile.TemporaryDirectory(prefix="skin-export-") as name, _quiet():
        full, small = Path(name) / "full.onnx", Path(name) / "small.onnx"
        full.write_bytes(content)
        quantization.quantize_static(
            full, small, Squares(), per_channel=True, activation_type=kinds[bits],
            weight_type=quantization.QuantType.QInt8, op_types_to_quantize=["Conv", "Gemm"],
        )  # fmt: skip
        return small.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back the advice that onnxruntime logs: to fold what torch's exporter has folded, and on the opset."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


WAYS = (
    Way("float16 weights", False, lambda content, squares: fewer_bits(content, None)),
    Way("int8 weights of large layers, float16 others", False, lambda content, squares: fewer_bits(content, LARGE)),
    Way("int8 weights", False, lambda content, squares: fewer_bits(content, 0)),
    Way("int8 weights, 16-bit activations", True, lambda content, squares: quantized(content, squares, 16)),
    Way("int8 weights, 8-bit activations", True, lambda content, squares: quantized(content, squares, 8)),
)


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Return a file with this metadata and no other."""
    import onnx

    return signed(onnx.load_from_string(content), metadata)
