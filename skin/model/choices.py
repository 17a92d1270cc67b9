"""The networks and precisions that an option can name. Needs no torch, so that `--help` need not wait for it."""

from __future__ import annotations

MODELS = tuple(f"efficientnet_b{n}" for n in range(8))
AMP = ("auto", "fp16", "bf16", "off")
