"""What the benchmark found: its JSON and what must be in it, the figures drawn from rounds, table, CSV."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from skin.utils.errors import UserError, printable
from skin.utils.files import write_atomically

from rich.table import Table
from rich.text import Text

SCHEMA = 3
STATUSES = ("ok", "skipped", "oom", "failed")
FIGURES = (
    "epoch_seconds", "images_per_second", "step_images_per_second", "end_to_end_share", "data_wait_share",
    "step_ms_median", "step_ms_p95", "first_step_seconds", "loss",
)  # fmt: skip
KEY = ("gpus", "parallel", "amp", "recipe", "model", "image_size", "batch_size")  # what makes a cell that cell
HOW = ("precision", "whole_epoch", "workers", "cached")  # a cell was measured; alike in all rounds
DERIVED = ("scaling_efficiency", "amp_speedup", "amp_memory_ratio", "speedup_over_plain")

_NUMBER, _TEXT = (int, float), (str,)
_MAYBE_NUMBER, _MAYBE_TEXT = (int, float, type(None)), (str, type(None))
_GPU_MEMORY = {
    "allocated_mib": _NUMBER, "reserved_mib": _NUMBER, "nvml_used_mib": _MAYBE_NUMBER,
    "utilisation_percent": _MAYBE_NUMBER, "power_watts": _MAYBE_NUMBER,
}  # fmt: skip
_GPU_MEANS = ("utilisation_percent", "power_watts")
# What a report holds: for each key its types, or the same for what is in it; [..] is a list of such.
REPORT: dict[str, Any] = {
    "schema": (int,), "kind": _TEXT, "complete": (bool,), "time": _TEXT, "command": _TEXT, "settings": (dict,),
    "train_images": (int,),
    "environment": {
        "python": _TEXT, "torch": _TEXT, "torchvision": _TEXT, "cuda": _MAYBE_TEXT, "cudnn": (int, type(None)),
        "driver": _MAYBE_TEXT, "cpu": _TEXT, "cpu_flags": [_TEXT], "cores": (int,), "usable_cores": (int,),
        "threads": (int,), "memory_mib": _MAYBE_NUMBER, "platform": _TEXT, "git_commit": _MAYBE_TEXT,
        "gpus_in_use_by_others": [_TEXT],
        "gpu_devices": [{"name": _TEXT, "uuid": _MAYBE_TEXT, "memory_mib": _NUMBER, "compute_capability": _TEXT}],
    },
    "cells": [{
        "gpus": (int,), "device": _TEXT, "parallel": _TEXT, "amp": _TEXT, "recipe": _TEXT, "status": _TEXT,
        "reason": _MAYBE_TEXT, "model": _TEXT, "image_size": (int,), "batch_size": (int,),
        "precision": _MAYBE_TEXT, "largest_batch_size": (int, type(None)), "rounds": (int,),
        "whole_epoch": (bool, type(None)), "workers": (int, type(None)), "cached": (bool, type(None)),
        "memory": {"gpus": [_GPU_MEMORY], "rss_mib": _MAYBE_NUMBER},
        **dict.fromkeys((*FIGURES, *DERIVED), _MAYBE_NUMBER),
        "spread": (dict,), "samples": (dict,),
    }],
}  # fmt: skip


def problems(content: Any, schema: Any = None, where: str = "report") -> list[str]:
    """What keeps `content` from being a report of this schema; empty where nothing does."""
    schema = REPORT if schema is None else schema
    if isinstance(schema, tuple):
        # bool is an int to Python, not to JSON
        fits = isinstance(content, schema) and (not isinstance(content, bool) or bool in schema)
        return [] if fits else [f"{where} is {type(content).__name__}"]
    if isinstance(schema, list):
        if not isinstance(content, list):
            return [f"{where} is {type(content).__name__}, not a list"]
        return [p for i, item in enumerate(content) for p in problems(item, schema[0], f"{where}[{i}]")]
    if not isinstance(content, dict):
        return [f"{where} is {type(content).__name__}, not an object"]
    found = [f"{where} lacks {key}" for key in schema if key not in content]
    for key, inner in schema.items():
        if key in content:
            found += problems(content[key], inner, f"{where}.{key}")
    return found


def read(path: Path) -> dict[str, Any]:
    """An earlier report. Raises `UserError` where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{printable(path)} is not JSON ({error}); name a file that --json wrote") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise UserError(f"{printable(path)} is no benchmark report; name a file that --json wrote")
    training = content["schema"] == SCHEMA and content.get("kind") != "input"
    if training and (found := problems(content)):
        raise UserError(f"{printable(path)} is damaged: {found[0]}; name a file that --json wrote")
    return content


# ---- from rounds to a row ---------------------------------------------------------------------------------------


def empty_row(key: dict[str, Any], status: str, reason: str | None) -> dict[str, Any]:
    """A row with no figures, of the cell that `key` names (`KEY` and device)."""
    return {
        **key, "status": status, "reason": reason, "largest_batch_size": None, "rounds": 0,
        **dict.fromkeys((*HOW, *FIGURES, *DERIVED)), "memory": {"gpus": [], "rss_mib": None},
        "spread": {}, "samples": {},
    }  # fmt: skip


def row_of(key: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """The means over rounds (of memory the highest peak) and, under `spread`, the spread of each figure.

    `samples` and `spread` have `rss_mib` beside the figures, and under `gpus` the same for each GPU.
    """
    row = empty_row(key, "ok", None)
    values: dict[str, Any] = {name: [s[name] for s in samples] for name in FIGURES}
    values["rss_mib"] = [s["memory"]["rss_mib"] for s in samples]
    by_gpu = zip(*(s["memory"]["gpus"] for s in samples), strict=True)
    gpus = [{name: [reading[name] for reading in readings] for name in _GPU_MEMORY} for readings in by_gpu]
    row.update({name: statistics.fmean(values[name]) for name in FIGURES})
    row.update({name: samples[0][name] for name in HOW})
    row["memory"] = {"rss_mib": max(values["rss_mib"]), "gpus": [_over_rounds(gpu) for gpu in gpus]}
    row["spread"] = {name: _spread(v) for name, v in values.items()}
    row["spread"]["gpus"] = [{name: _spread(v) for name, v in gpu.items()} for gpu in gpus]
    row["rounds"], row["samples"] = len(samples), {**values, "gpus": gpus}
    return row


def _spread(values: list[float | None]) -> dict[str, float | None]:
    """Lowest, highest and standard deviation of the rounds that have the figure."""
    known = [v for v in values if v is not None]
    return {
        "low": min(known, default=None), "high": max(known, default=None),
        "std": statistics.stdev(known) if len(known) > 1 else None,
    }  # fmt: skip


def _over_rounds(gpu: dict[str, list[float | None]]) -> dict[str, float | None]:
    """The highest of a GPU's peaks, the mean of what is a mean already."""
    row: dict[str, float | None] = {}
    for name, values in gpu.items():
        known = [v for v in values if v is not None]
        combine = statistics.fmean if name in _GPU_MEANS else max
        row[name] = combine(known) if known else None
    return row


def peak_mib(row: dict[str, Any]) -> float | None:
    """The figure that memory is compared by: the fullest GPU's peak allocation, or the process's RSS."""
    gpus = row["memory"]["gpus"]
    return max(g["allocated_mib"] for g in gpus) if gpus else row["memory"]["rss_mib"]


def derive(rows: list[dict[str, Any]]) -> None:
    """Fill in what follows from comparing rows: scaling over GPUs, the gain of AMP and over the plain recipe."""

    def ratio(row: dict[str, Any], other: dict[str, Any], figure: Callable[..., Any]) -> float | None:
        base = _measured(rows, {**row, **other})
        top, bottom = figure(row), figure(base) if base else None
        return top / bottom if top and bottom else None

    for row in rows:
        if row["status"] != "ok":
            continue
        speed = lambda r: r["images_per_second"]  # noqa: E731
        if row["gpus"] > 1:
            gain = ratio(row, {"gpus": 1, "parallel": "single"}, speed)
            row["scaling_efficiency"] = gain / row["gpus"] if gain else None
        if row["amp"] == "on":
            row["amp_speedup"] = ratio(row, {"amp": "off"}, speed)
            row["amp_memory_ratio"] = ratio(row, {"amp": "off"}, peak_mib)
        if row["recipe"] != "plain":
            row["speedup_over_plain"] = ratio(row, _plain(row), speed)


def _measured(rows: list[dict[str, Any]], key: dict[str, Any]) -> dict[str, Any] | None:
    """The row of the cell that `key` names, where it has figures."""
    row = _cell(rows, key)
    return row if row and row["status"] == "ok" else None


def _cell(rows: list[dict[str, Any]], key: dict[str, Any]) -> dict[str, Any] | None:
    """The row of the cell that `key` names. A batch that was searched for is no part of its name."""
    names = [name for name in KEY if name != "batch_size" or key["largest_batch_size"] is None]
    return next((r for r in rows if all(r[name] == key[name] for name in names)), None)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """How the cell of the plain recipe differs from that of `row`, which is compared with it."""
    return {"recipe": "plain", "amp": "off", "parallel": "dp" if row["gpus"] > 1 else "single"}  # it knows no DDP


# ---- shown ------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> Table:
    """The rows for a terminal, at most 100 columns wide; what was skipped for one reason is one row."""
    view = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", caption=_caption(rows))
    view.caption_justify = "left"
    for name in ("device", "recipe", "amp"):
        view.add_column(name, no_wrap=True)
    for name in ("images/s", "×plain", "ceiling", "reached", "wait", "step ms", "p95", "epoch s", "GiB"):
        view.add_column(name, justify="right", no_wrap=True)
    skipped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] == "skipped":
            skipped.setdefault((device_name(row), row["reason"]), []).append(row)
        elif row["status"] == "ok":
            view.add_row(device_name(row), _short(row["recipe"]), row["amp"], *_figures(row))
        else:
            view.add_row(device_name(row), _short(row["recipe"]), row["amp"], Text(row["status"], style="yellow"))
    for (device, _), alike in skipped.items():
        recipes, amps = (",".join(dict.fromkeys(_short(r[k]) for r in alike)) for k in ("recipe", "amp"))
        view.add_row(device, recipes, amps, Text("skipped", style="yellow"))
    return view


def _caption(rows: list[dict[str, Any]]) -> str:
    whole = any(row["whole_epoch"] for row in rows)
    return (
        "×plain: times the plain recipe without AMP · ceiling: images/s of the bare step on ready batches · "
        "reached: training's share of it · wait: share of the time spent waiting for data · "
        f"epoch s: {'of an epoch timed whole' if whole else 'reckoned from images/s'} · "
        "GiB: peak allocated on the fullest GPU, RSS on the CPU"
    )


def _figures(row: dict[str, Any]) -> list[str]:
    spread = row["spread"]["images_per_second"]
    error = f" ±{three_digits((spread['high'] - spread['low']) / 2)}" if row["rounds"] > 1 else ""
    return [
        three_digits(row["images_per_second"]) + error,
        f"{row['speedup_over_plain']:.2f}" if row["speedup_over_plain"] else "",
        three_digits(row["step_images_per_second"]),
        f"{row['end_to_end_share']:.0%}",
        f"{row['data_wait_share']:.0%}",
        f"{row['step_ms_median']:,.0f}",
        f"{row['step_ms_p95']:,.0f}",
        three_digits(row["epoch_seconds"]),
        three_digits((peak_mib(row) or 0.0) / 1024),
    ]


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the table has no room for: reasons, precisions, scaling, the gain of AMP."""
    lines = []
    grouped: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "ok":
            name = device_name(row) if row["status"] == "skipped" else _name(row)
            grouped.setdefault(f"{row['status']}: {row['reason']}", []).append(name)
            continue
        if row["reason"]:
            grouped.setdefault(row["reason"], []).append(_name(row))
        if row["largest_batch_size"]:
            grouped.setdefault(f"largest batch that fits: {row['largest_batch_size']}", []).append(_name(row))
    for reason, names in grouped.items():
        lines.append(f"{', '.join(dict.fromkeys(names))} {reason}")
    for row in rows:
        said = [
            f"{row['scaling_efficiency']:.0%} of linear scaling" if row["scaling_efficiency"] else "",
            f"{row['amp_speedup']:.2f} times the speed of amp off" if row["amp_speedup"] else "",
            f"{row['amp_memory_ratio']:.2f} of its memory" if row["amp_memory_ratio"] else "",
        ]
        if row["status"] == "ok":
            lines.append(f"{_name(row)}: {row['precision']}, {_fed(row)}" + "".join(f", {s}" for s in said if s)
                         + f", last loss {row['loss']:.3f}")  # fmt: skip
    return lines


def _fed(row: dict[str, Any]) -> str:
    """How images came to a row's steps."""
    processes = f"{row['workers']} loader process" + ("es" if row["workers"] != 1 else "")
    return f"{processes}, " + ("images decoded before" if row["cached"] else "decoding")


def device_name(row: dict[str, Any]) -> str:
    if row["gpus"] == 0:
        return "CPU"
    return f"{row['gpus']} GPU{'s' if row['gpus'] > 1 else ''}" + (
        f" {row['parallel']}" if row["parallel"] != "single" else ""
    )


def _short(recipe: str) -> str:
    return {"plain-channels-last": "plain-cl", "ours-compiled": "compiled"}.get(recipe, recipe)


def _name(row: dict[str, Any]) -> str:
    return f"{device_name(row)} {_short(row['recipe'])} amp {row['amp']}"


def three_digits(value: float) -> str:
    """A positive figure as a person reads it: 1,234 or 123 or 12.3 or 1.23."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """The rows as a table for a spreadsheet; per-GPU memory as the fullest GPU's."""
    gpu = [f"gpu_{name}" for name in _GPU_MEMORY]
    columns = [
        *KEY, "device", "status", "reason", "rounds", *HOW, *FIGURES, "images_per_second_std",
        *DERIVED, "largest_batch_size", "rss_mib", *gpu,
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        fullest = {name: _highest(row["memory"]["gpus"], name) for name in _GPU_MEMORY}
        std = row["spread"].get("images_per_second", {}).get("std")
        flat = {**row, "rss_mib": row["memory"]["rss_mib"], "images_per_second_std": std}
        flat.update({f"gpu_{k}": v for k, v in fullest.items()})
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in flat.items()})
    write_atomically(text.getvalue().encode(), path)


def _highest(gpus: list[dict[str, float | None]], name: str) -> float | None:
    return max((g[name] for g in gpus if g[name] is not None), default=None)  # type: ignore[type-var]


def compare(report: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What has changed since an earlier report, beyond the spread of both: lines of text.

    A row that was measured on another CPU or GPU is compared by its speed over that machine's plain recipe.
    """
    if old["schema"] != SCHEMA or old.get("kind") != "training":
        theirs = f"schema {old['schema']} ({old.get('kind')})"
        return [f"not compared: that report has {theirs}, this program writes {SCHEMA} (training)"]
    rows, environment, was = report["cells"], report["environment"], old["environment"]
    lines, elsewhere = [], []
    same_cpu = all(was[name] == environment[name] for name in ("cpu", "usable_cores"))
    for row in rows:
        past = _cell(old["cells"], row)
        if past is None:
            continue
        if row["status"] != past["status"]:
            lines.append(f"{_name(row)}: then {past['status']}, now {row['status']}"
                         + (f" ({row['reason']})" if row["reason"] else ""))  # fmt: skip
        if row["status"] != "ok" or past["status"] != "ok":
            continue
        here = same_cpu and row["device"] == past["device"]
        if not here:
            elsewhere.append(past["device"])
        changes = _speed_change(row, past, rows, old["cells"], here), _memory_change(row, past)
        lines += [line for line in changes if line]
        lines += [
            f"{_name(row)}: not alike: {name.replace('_', ' ')} {past[name]} then, {row[name]} now"
            for name in HOW if row[name] != past[name]
        ]  # fmt: skip
    lines = lines or ["no cell of that report can be compared"]
    unlike = [name for name in ("data", "labels") if report["settings"].get(name) != old["settings"].get(name)]
    lines[:0] = [f"not alike: {name} {old['settings'].get(name)} then, {report['settings'].get(name)} now"
                 for name in unlike]  # fmt: skip
    if elsewhere:
        machine = ", ".join(dict.fromkeys([was["cpu"], *elsewhere]))
        lines.insert(0, f"measured on another machine ({machine}): speeds over the plain recipe are compared there, "
                        "not the speeds themselves")  # fmt: skip
    elif (was["torch"], was["git_commit"]) != (environment["torch"], environment["git_commit"]):
        lines.insert(0, f"then: torch {was['torch']}, commit {(was['git_commit'] or 'unknown')[:12]}")
    return lines


def _speed_change(
    row: dict[str, Any], past: dict[str, Any], rows: list[dict[str, Any]], old: list[dict[str, Any]], here: bool
) -> str | None:
    """A line on how a cell's speed has changed, on the same machine (`here`) or over the plain recipe's."""
    figure, label, measured = "images_per_second", "images/s", [row, past]
    if not here:
        figure, label = "speedup_over_plain", "times the plain recipe"
        # A ratio is as uncertain as both of its speeds.
        plain = [_measured(there, {**row, **_plain(row)}) for there in (rows, old)]
        measured += [found for found in plain if found is not None]
    if not row[figure] or not past[figure]:
        return None
    change = row[figure] / past[figure] - 1
    spread = sum(map(_relative_spread, measured))
    verdict = "within the spread" if abs(change) <= spread else ("FASTER" if change > 0 else "SLOWER")
    return (f"{_name(row)}: {past[figure]:.2f} -> {row[figure]:.2f} {label} "
            f"({change:+.1%}, spread {spread:.1%}): {verdict}")  # fmt: skip


def _memory_change(row: dict[str, Any], past: dict[str, Any]) -> str | None:
    """A line on a cell's peak of memory, where it is another by more than a twentieth."""
    now, then = peak_mib(row), peak_mib(past)
    if not now or not then or abs(now / then - 1) <= 0.05:
        return None
    return f"{_name(row)}: peak memory {then / 1024:.2f} -> {now / 1024:.2f} GiB ({now / then - 1:+.1%})"


def _relative_spread(row: dict[str, Any]) -> float:
    """Half the range over rounds, relative to the mean; 5 % where a single round cannot tell."""
    spread = row["spread"]["images_per_second"]
    return (spread["high"] - spread["low"]) / 2 / row["images_per_second"] if row["rounds"] > 1 else 0.05
