"""The networks, precisions and views that an option can name. Needs no torch: `--help` need not wait for it."""

from __future__ import annotations

MODELS = tuple(f"efficientnet_b{n}" for n in range(8))
AMP = ("auto", "fp16", "bf16", "off")
VIEWS = 8
"""The most views to average over: four quarter turns, of the picture and of its mirror image (see `tta`)."""
