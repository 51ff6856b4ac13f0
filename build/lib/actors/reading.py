"""The bytes of a shard, read part by part: from the mapped checkpoint, or from a mapped file that stands for it."""

import mmap
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actors.device import DeviceActor
from actors.play import Read
from actors.programme import Load

if TYPE_CHECKING:
    import torch

PART_BYTES = 256 << 10
"""About how much is read at once."""

MOST_PARTS = 64
SCRATCH_BYTES = 64 << 20
"""Size of the file that stands for weights; a larger shard reads it again from its begin."""


class Reader:
    """Reads what loads bring. A device with weights reads its shard's tensors; another as many bytes of `scratch`."""

    def __init__(self, devices: Mapping[int, DeviceActor], scratch: str) -> None:
        self._devices, self._path = devices, scratch
        self._scratch: np.ndarray[tuple[int], np.dtype[np.uint8]] | None = None
        self._at = 0

    def reads(self, load: Load) -> list[Read]:
        """The parts in which a load's bytes are read, to be done in order."""
        device = self._devices.get(load.device)
        tensors = device.shard(load.moe, load.expert, load.part) if device is not None else []
        if tensors:
            return [partial(_touch, rows) for tensor in tensors for rows in _cut(tensor)]
        parts = min(MOST_PARTS, -(-load.bytes // PART_BYTES))
        bounds = [load.bytes * i // parts for i in range(parts + 1)] if parts else []
        return [partial(self._pass, high - low) for low, high in pairwise(bounds)]

    def _pass(self, bytes_: int) -> int:
        """Go on through the scratch file by so many bytes."""
        scratch, left = self._opened(), bytes_
        buffer = self._buffer
        while left:
            here = min(left, len(scratch) - self._at, len(buffer))
            np.copyto(buffer[:here], scratch[self._at:self._at + here])
            self._at = (self._at + here) % len(scratch)
            left -= here
        return bytes_

    def _opened(self) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
        if self._scratch is None:
            with open(self._path, "rb") as file:
                self._scratch = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
            self._buffer = np.empty(1 << 20, np.uint8)
        return self._scratch


def _cut(tensor: "torch.Tensor") -> "list[torch.Tensor]":
    """A matrix in parts of whole rows."""
    row_bytes = tensor[0].numel() * tensor.element_size()
    rows = max(1, PART_BYTES // row_bytes, -(-len(tensor) // MOST_PARTS))
    return [tensor[at:at + rows] for at in range(0, len(tensor), rows)]


def _touch(rows: "torch.Tensor") -> int:
    """Read every byte of some rows."""
    rows.clone()
    return rows.numel() * rows.element_size()
