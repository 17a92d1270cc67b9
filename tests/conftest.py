"""What the tests share: the demo set, the scripts as processes, and the reasons to skip."""

from __future__ import annotations

import functools
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
SMALL_NETWORK = ROOT / "tests" / "small_network"
sys.path.insert(0, str(ROOT))  # the scripts are modules at the top of the repository: `import train`

import skin  # noqa: E402, F401  # before torch, for how its threads wait
from tests import warm  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)  # tiny tensors: threads only wait for one another

# A background job starts with these ignored, and so would every script that the tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def slow(*values: Any) -> Any:
    """Parameters of a test that `make test` leaves out: it is long, and runs with others anyway."""
    return pytest.param(*values, marks=pytest.mark.slow)


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr != "real" and str(SMALL_NETWORK) not in os.environ.get("PYTHONPATH", ""):
        others = filter(None, [os.environ.get("PYTHONPATH")])
        os.environ["PYTHONPATH"] = os.pathsep.join([str(SMALL_NETWORK), *others])
        runpy.run_path(str(SMALL_NETWORK / "sitecustomize.py"))  # for this process; others read PYTHONPATH
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        os.environ[warm.SERVER] = warm.server()  # one for all of pytest's processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    real = any(os.environ.get(name) for name in ("SKIN_REAL_DATA", "SKIN_CASES"))
    chromium = Path("/usr/bin/chromium").exists()
    reasons = {
        "gpu": None if torch.cuda.is_available() else "no CUDA GPU on this machine",
        "real": None if real else "neither SKIN_REAL_DATA nor SKIN_CASES names a folder with real images",
        "browser": None if chromium else "no /usr/bin/chromium on this machine",
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def short_endings(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw the curves once for all trainings in a process, and few stand-ins: half of what a tiny training takes.

    Only where the slow tests are left out; their trainings, and those in processes of their own, end in full.
    """
    run = sys.modules.get("skin.training.run")
    if run is None or request.config.option.markexpr != "not slow":
        yield
        return
    from skin.data import stand_ins
    from skin.training import curves, ending, follow

    drawn: list[bytes] = []

    def draw_once(*arguments: Any) -> bytes:
        if not drawn:
            drawn.append(curves.draw_curves(*arguments))
        return drawn[0]

    few = SimpleNamespace(COUNT=4, draw=functools.partial(stand_ins.draw, count=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "draw_curves", draw_once)
        patch.setattr(follow, "draw_curves", draw_once)
        patch.setattr(ending, "stand_ins", few)
        yield


@pytest.fixture(scope="module")
def published() -> Iterator[None]:
    """EfficientNet B0 to B7 as published, for all tests of a module, and not the small ones of most tests."""
    from skin.bench import work

    from torchvision.models import efficientnet

    def forget() -> None:
        work.work_of.cache_clear()
        work.numbers_moved.cache_clear()

    table = getattr(efficientnet, "_published", efficientnet._efficientnet_conf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "_efficientnet_conf", table)
        forget()
        yield
    forget()


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo set in the HAM10000 layout: 160 images of seven classes, some lesions seen twice."""
    from skin.data import demo

    return demo.write(tmp_path_factory.mktemp("demo") / "HAM10000", images=160, seed=0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sets: `ham10000`, `ham10000_mini` (see the `real` marker)."""
    return _named_folder("SKIN_REAL_DATA")


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of replicas of public downloads: `layouts`, `faults`."""
    return _named_folder("SKIN_CASES")


def _named_folder(variable: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} names no folder")
    return Path(folder)


@pytest.fixture
def run_script(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_script("train.py", "--demo", ...)` from an empty working folder: the finished process, as text."""

    def run(script: str, *args: object, **keywords: object) -> subprocess.CompletedProcess[str]:
        fonts = tmp_path_factory.getbasetemp() / "matplotlib"  # one list of fonts for all scripts
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
        environment["MPLCONFIGDIR"] = str(fonts)
        environment.update(keywords.pop("env", {}))  # type: ignore[call-overload]
        command = [sys.executable, str(ROOT / script), *map(str, args)]
        return warm.run(command, cwd=tmp_path, env=environment, timeout=240, **keywords)

    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window (see the `browser` marker)."""
    from tests.browsing import chromium  # most modules of tests start none

    with chromium() as found:
        yield found
