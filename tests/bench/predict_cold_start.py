"""How long `python predict.py img.png` takes from a cold start, beside a bare script.

    python tests/bench/predict_cold_start.py [--checkpoint runs/latest/best.pt] [--rounds 10]

The bare script imports torch and torchvision, builds the same network without initialising it (on the meta
device), loads the same weights, and runs one forward pass. The two take turns, each in a process of its own;
what is compared is the median. With no --checkpoint, a B3 with random weights is written and used.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

BARE = """
import sys
import torch, torchvision
state = torch.load(sys.argv[1], weights_only=True, mmap=True)
with torch.device("meta"):
    network = getattr(torchvision.models, state["config"]["model"])(num_classes=len(state["classes"]))
network.load_state_dict(state["model"], assign=True)
size = state["preprocess"]["image_size"]
with torch.inference_mode():
    print(network.eval()(torch.rand(1, 3, size, size)).softmax(1))
"""


def write_b3(folder: Path) -> Path:
    from skin.model import checkpoint
    from skin.model import network as networks

    network = networks.build("efficientnet_b3", 7)
    state = {
        "model": network.state_dict(),
        "classes": ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"],
        "preprocess": networks.preprocess_for("efficientnet_b3").to_dict(),
        "config": {"model": "efficientnet_b3"},
        "metrics": {},
        "calibration": {},
        "format_version": checkpoint.FORMAT_VERSION,
    }
    checkpoint.save(state, folder / "best.pt")
    return folder / "best.pt"


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        import numpy as np
        from PIL import Image

        checkpoint = options.checkpoint or write_b3(Path(folder))
        image = Path(folder) / "img.png"
        noise = np.random.Generator(np.random.Philox(0)).integers(0, 256, (450, 600, 3), np.uint8)
        Image.fromarray(noise).save(image)
        ours = [sys.executable, str(ROOT / "predict.py"), "--checkpoint", str(checkpoint), str(image)]
        bare = [sys.executable, "-c", BARE, str(checkpoint)]
        times: dict[str, list[float]] = {"bare": [], "predict.py": []}
        for _ in range(options.rounds + 1):  # the first round fills the system's file cache
            times["bare"].append(seconds(bare))
            times["predict.py"].append(seconds(ours))
    medians = {}
    for name, values in times.items():
        medians[name] = statistics.median(values[1:])
        print(f"{name:12} median {medians[name]:.2f} s, {min(values[1:]):.2f} to {max(values[1:]):.2f} s")
    print(f"ratio of medians, n = {options.rounds}: {medians['predict.py'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
