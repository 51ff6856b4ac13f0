"""The wire format of protocol buffers, and the few messages of a Perfetto trace that a timeline is made of.

Field numbers are those of perfetto/trace/perfetto_trace.proto; a test decodes a file with Perfetto's own classes.
"""

import struct
from collections.abc import Iterable

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4
"""TrackEvent.Type"""

UNIT_COUNT, UNIT_BYTES = 2, 3
"""CounterDescriptor.Unit"""

_SEQUENCE = 1
_FRESH, _GOES_ON = 1, 2
"""TracePacket.SequenceFlags: what was interned before is void; what was interned is meant."""

_EXPLICIT = 3
"""TrackDescriptor.ChildTracksOrdering: children in the order of their rank."""

_INTERNED = {"category": 1, "name": 2, "annotation": 3}
"""Fields of InternedData."""


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as its 64-bit two's complement."""
    if value < 0:
        value += 1 << 64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """An integer or enum field."""
    return varint(field << 3) + varint(value)


def blob(field: int, data: bytes) -> bytes:
    """A message, string or bytes field."""
    return varint(field << 3 | 2) + varint(len(data)) + data


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<Q", value)


def _packet(body: bytes, flags: int = _GOES_ON) -> bytes:
    """Trace.packet, of the one sequence of packets that a timeline is."""
    return blob(1, body + number(10, _SEQUENCE) + number(13, flags))


def first_packet() -> bytes:
    """What a sequence begins with: nothing was interned yet."""
    return _packet(b"", _FRESH)


def track(uuid: int, name: str, parent: int = 0, rank: int = 0, unit: int = 0) -> bytes:
    """A TrackDescriptor; with a unit, of a counter."""
    body = number(1, uuid) + blob(2, name.encode()) + number(11, _EXPLICIT) + number(12, rank)
    body += number(5, parent) if parent else b""
    body += blob(8, number(3, unit)) if unit else b""
    return _packet(blob(60, body))


class Interned:
    """Strings that are written once and referred to by number: names, categories, names of annotations."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], int] = {}
        self._new: list[bytes] = []

    def id(self, what: str, text: str) -> int:
        """The number of a string; a new one is told by the next `packet`."""
        known = self._ids.get((what, text))
        if known is None:
            known = self._ids[what, text] = len(self._ids) + 1
            self._new.append(blob(_INTERNED[what], number(1, known) + blob(2, text.encode())))
        return known

    def packet(self) -> bytes:
        """InternedData with what is new; empty where nothing is."""
        new, self._new = self._new, []
        return _packet(blob(12, b"".join(new))) if new else b""


def event(kind: int, track_uuid: int, at_ns: int, *, name: int = 0, category: int = 0,
          notes: Iterable[tuple[int, int]] = (), flows: Iterable[int] = (), ends_flows: Iterable[int] = (),
          value: int | None = None, text: str = "") -> bytes:
    """A TrackEvent. name, category: interned; text: a name that is not. notes: (interned annotation, integer)."""
    body = number(9, kind) + number(11, track_uuid)
    body += number(10, name) if name else b""
    body += number(3, category) if category else b""
    body += b"".join(blob(4, number(1, note) + number(4, amount)) for note, amount in notes)
    body += number(30, value) if value is not None else b""
    body += b"".join(fixed64(47, flow) for flow in flows) + b"".join(fixed64(48, flow) for flow in ends_flows)
    body += blob(23, text.encode()) if text else b""
    return _packet(number(8, at_ns) + blob(11, body))
