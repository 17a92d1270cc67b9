"""Make the JSON schema of report.json from the types of a report.

`python -m skin.evaluation.schema` writes `report.schema.json` beside this file; a test holds it against the types.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from skin.evaluation.intervals import Estimate
from skin.evaluation.metrics import OVERALL
from skin.evaluation.report_types import FORMAT_VERSION, Report
from skin.utils.files import write_json
from skin.utils.run_folders import KIND

PATH = Path(__file__).with_name("report.schema.json")

Schema = dict[str, Any]
# A number that is not finite is null.
_PLAIN: dict[Any, Schema] = {
    int: {"type": "integer"}, float: {"type": ["number", "null"]}, str: {"type": "string"},
    bool: {"type": "boolean"}, type(None): {"type": "null"}, Any: {},
}  # fmt: skip


def schema() -> Schema:
    """Return the schema (JSON Schema, draft 2020-12) of what `to_json` makes of a report."""
    found: dict[str, Schema] = {}
    top = _of(Report, found)
    report = found[Report.__name__]
    report["properties"] |= {"kind": {"const": KIND}, "format_version": {"const": FORMAT_VERSION}}
    report["required"] += [metric.name for metric in OVERALL]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": KIND, **top, "$defs": found}


def _of(kind: Any, found: dict[str, Schema]) -> Schema:
    """Return the schema of a type; those of dataclasses go into `found`, by name."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        return {"type": "array", "items": _of(inner[0], found)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(inner[1], found)}
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_of(one, found) for one in inner]}
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise TypeError(f"a report holds a {kind}, of which the schema knows nothing")
    name = kind.__name__
    if name not in found:
        found[name] = {}  # a type may hold itself
        found[name] = _of_dataclass(kind, found)
    return {"$ref": f"#/$defs/{name}"}


def _of_dataclass(kind: Any, found: dict[str, Schema]) -> Schema:
    hints = typing.get_type_hints(kind)
    made: Schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    for spec in dataclasses.fields(kind):
        how = spec.metadata.get("json")
        if how != "inline":
            made["properties"][spec.name] = _of(hints[spec.name], found)
            made["required"] += [] if how == "optional" else [spec.name]
        elif typing.get_origin(hints[spec.name]) is dict:  # its names are those of metrics
            made["additionalProperties"] = _of(typing.get_args(hints[spec.name])[1], found)
        else:
            inner = _of_dataclass(hints[spec.name], found)
            made["properties"] |= inner["properties"]
            made["required"] += inner["required"]
    if kind is Estimate:
        made["description"] = "A metric with its interval; null where the set cannot give them."
    return made


if __name__ == "__main__":
    write_json(PATH, schema())
