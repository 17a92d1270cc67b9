"""Read a file of tensors from a stranger, so that nothing in it runs and nothing in it fills the memory.

`torch.load(weights_only=True)` runs no code from a file. It still calls the functions that it knows, so a few bytes
may ask for a terabyte (`bytearray(10**12)`, a deflated record, a tensor of stride 0). It also checks no sums.
So the file is looked through first. It must be the plain archive that `torch.save` writes, whole, and its pickle may
name only tensors and their storages. The contents are then rebuilt from plain types.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any

from skin.utils.errors import UserError
from skin.utils.files import refuse_pipe

import torch
from torch import Tensor

FILE_LIMIT = 2 * 2**30  # bytes; the training state of a B7 is 0.8 GB
PICKLE_LIMIT = 32 * 2**20  # bytes of data.pkl, which holds everything but the tensors' own
VALUES_LIMIT = 200_000  # in the nested dicts and lists; the state of a B7 after 1,000 epochs has 20,000
DEPTH_LIMIT = 16

_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)
_NAMED_ON_THE_STACK = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_END_RECORD = 22  # bytes, at the very end of an archive without a comment


class NotLoadable(Exception):
    """A file is refused; the text is the reason, as a phrase."""


def load(path: Path) -> dict[str, Any]:
    """Return the dict in a file that `torch.save` wrote: plain dicts (keys str or int), lists, tuples, numbers,
    strings, None, and tensors on the CPU. Never runs code from the file.

    Raises:
        UserError: there is no such file, or it is damaged, or holds anything else.
    """
    try:
        refuse_pipe(path)
        with open(path, "rb") as file:
            _look_through(file)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise NotLoadable(f"it holds a {type(state).__name__}, not a dict")
        plain: dict[str, Any] = _Rebuilder().plain(state)
        return plain
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except NotLoadable as error:
        raise UserError(f"{path} is not a checkpoint or state_dict that can be loaded safely: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is") from error
    except Exception as error:  # a broken or hostile file can make the unpickler raise anything
        raise UserError(f"{path} is not a checkpoint or state_dict that can be loaded safely: damaged") from error


def _look_through(file: IO[bytes]) -> None:
    """Refuse anything that `torch.save` does not write, before the file is unpacked."""
    size = file.seek(0, 2)
    if size > FILE_LIMIT:
        raise NotLoadable(f"it is larger than {FILE_LIMIT // 2**30} GiB")
    # Both readers of the archive, zipfile and torch, must see the same one. So it begins here (otherwise torch reads
    # an old kind of pickle) and ends there, with nothing hidden before or behind it.
    file.seek(0)
    begins = file.read(4) == b"PK\3\4"
    file.seek(max(0, size - _END_RECORD))
    if not begins or file.read(4) != b"PK\5\6":
        raise NotLoadable("it is empty, cut off, or not what torch.save writes (torch 1.6 or newer)")
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = {entry.filename.lower() for entry in entries}
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not stored or len(names) < len(entries) or sum(entry.file_size for entry in entries) > size:
            raise NotLoadable("its records are compressed, doubled or overlapping")
        pickles = [name for name in names if name.endswith(".pkl")]  # to torch's reader, upper case is lower case
        if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
            raise NotLoadable("it has not the one description that torch.save writes")
        for entry in entries:
            if entry.filename.lower() == pickles[0]:
                if entry.file_size > PICKLE_LIMIT:
                    raise NotLoadable(f"its description is larger than {PICKLE_LIMIT // 2**20} MiB")
                _look_through_pickle(archive.read(entry))
            with archive.open(entry) as record:  # zipfile compares the sum at the end of a record
                while record.read(2**20):
                    pass


def _look_through_pickle(content: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(content):
        named = opcode.name == "GLOBAL" and not _GLOBALS.fullmatch(str(argument))
        if named or opcode.name in _NAMED_ON_THE_STACK:
            raise NotLoadable(f"it wants to call {argument if named else 'something'}, which is no tensor")
        if opcode.name == "PROTO" and argument != 2:
            raise NotLoadable(f"it is a pickle of protocol {argument}; torch.save writes protocol 2")


class _Rebuilder:
    """Rebuilds loaded values from plain types: an OrderedDict of a stranger may bring its own `items`."""

    def __init__(self) -> None:
        self.left = VALUES_LIMIT  # shared branches may multiply the values of a small file without end

    def plain(self, value: Any, depth: int = 0) -> Any:
        self.left -= 1
        if self.left < 0 or depth > DEPTH_LIMIT:
            raise NotLoadable("it is nested too deep, or holds too many values")
        if isinstance(value, Tensor):
            return _sound(value)
        if type(value) in (dict, OrderedDict):
            if not all(type(key) in (str, int) for key in dict.keys(value)):
                raise NotLoadable("it holds a dict with other keys than strings and whole numbers")
            return {key: self.plain(item, depth + 1) for key, item in dict.items(value)}
        if type(value) in (list, tuple):
            return type(value)(self.plain(item, depth + 1) for item in value)
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int and abs(value) < 2**63:
            return value
        raise NotLoadable(f"it holds a {type(value).__name__}")


def _sound(tensor: Tensor) -> Tensor:
    """Return the tensor, without a gradient, if its storage holds all of its elements."""
    needed = tensor.numel() * tensor.element_size()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or needed > tensor.untyped_storage().nbytes():
        raise NotLoadable("a tensor in it is larger than its data")
    return tensor.detach()
