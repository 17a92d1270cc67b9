"""The networks, precisions, views and files of the options. Needs no torch: `--help` need not wait for it."""

from __future__ import annotations

MODELS = tuple(f"efficientnet_b{n}" for n in range(8))
AMP = ("auto", "fp16", "bf16", "off")
VIEWS = 8
"""The most views to average over: four quarter turns, of the picture and of its mirror image (see `tta`)."""
PRODUCER = "skin"  # of an exported model
ONNX_MARK = b"\x12\x04" + PRODUCER.encode()  # how its file has that near its beginning: tag, length, name
