"""Safetensors files mapped read-only: a tensor is a view of the page cache that all processes of a host share."""

import mmap
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

import torch

from emulation.errors import InputError, brief
from emulation.reading import parse_json

# Names in a safetensors header (format 0.4); fp8 and packed 4-bit are not multiplied here and so not listed.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its type's name, shape, and bytes [begin, end) from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file; a file cut short, or that is none, is refused."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(LENGTH_BYTES)
            if len(first) < LENGTH_BYTES:
                raise InputError(f"{path} is truncated: {size} bytes are too few for a safetensors file")
            (length,) = struct.unpack("<Q", first)
            if length > MAX_HEADER_BYTES:
                raise InputError(f"{path} is no safetensors file: its header would be {length} bytes long")
            raw = file.read(length)
    except FileNotFoundError:
        raise InputError(f"the checkpoint file {path} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise InputError(f"the checkpoint file {str(path)!r} cannot be read: "
                         f"{getattr(error, 'strerror', None) or error}") from None
    if len(raw) < length:
        raise InputError(f"{path} is truncated: its header needs {length} bytes and {len(raw)} are there")
    base = LENGTH_BYTES + length
    header = parse_json(raw, f"the header of {path}")
    if not isinstance(header, dict):
        raise InputError(f"{path} is no safetensors file: its header is {brief(header)} and not a mapping")
    entries = {name: _entry(path, name, item, base) for name, item in header.items() if name != "__metadata__"}
    needed = max((entry.end for entry in entries.values()), default=base)
    if needed > size:
        raise InputError(f"{path} is truncated: its tensors end at byte {needed} and the file at byte {size}")
    for name, entry in entries.items():
        if entry.dtype in DTYPES:
            nbytes = prod(entry.shape) * DTYPES[entry.dtype].itemsize
            if not base <= entry.begin <= entry.end or entry.end - entry.begin != nbytes:
                raise InputError(
                    f"tensor {name!r} of {path} holds {entry.end - entry.begin} bytes where its shape needs {nbytes}"
                )
    return entries


def _entry(path: Path, name: str, item: object, base: int) -> Entry:
    """One tensor as the header tells it: a type's name, a shape of whole numbers, two offsets from `base`."""
    told = item if isinstance(item, dict) else {}
    dtype, shape, offsets = told.get("dtype"), told.get("shape"), told.get("data_offsets")
    if not isinstance(dtype, str) or not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        raise InputError(f"{path} is no safetensors file: its header does not parse (tensor {brief(name)} is "
                         f"{brief(item)})")
    return Entry(dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


class MappedFile:
    """One safetensors file, mapped once; its tensors are views until an unaligned one has to be copied."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = read_header(path)
        self._bytes: torch.Tensor | None = None

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of this name: a read-only view, at the same address modulo a page in every process."""
        if name not in self.entries:
            raise InputError(f"{self.path} has no tensor {name!r}, which the checkpoint's index says is there")
        entry = self.entries[name]
        if entry.dtype not in DTYPES:
            raise InputError(
                f"tensor {name!r} of {self.path} is {entry.dtype}: only {', '.join(DTYPES)} are computed with "
                "(convert a quantised checkpoint first)"
            )
        dtype = DTYPES[entry.dtype]
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        raw = self._map()[entry.begin : entry.end]
        # A writer may leave a tensor off its own size's grid, where no view is possible: torch's copy is aligned.
        if entry.begin % dtype.itemsize:
            raw = raw.clone()
        return raw.view(dtype).view(entry.shape)

    def _map(self) -> torch.Tensor:
        if self._bytes is None:
            with self.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            with warnings.catch_warnings():
                # torch warns that a read-only buffer must not be written: that is the point.
                warnings.simplefilter("ignore", UserWarning)
                self._bytes = torch.frombuffer(mapped, dtype=torch.uint8)
        return self._bytes
