"""The wire format of protocol buffers, and the few messages of a Perfetto trace that a timeline is made of.

Field numbers are those of perfetto/trace/perfetto_trace.proto; a test decodes a file with Perfetto's own classes.
"""

import struct

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


_BYTES = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number as its 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _BYTES[value]
    if value < 0:
        value += 1 << 64
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


_NOTE, _IID, _INT = varint(4 << 3 | 2), varint(1 << 3), varint(4 << 3)


def on_track(kind: int, uuid: int) -> bytes:
    """Part of an event: its type and track."""
    return number(9, kind) + number(11, uuid)


def named(name: int, category: int) -> bytes:
    """Part of an event: its interned name and category."""
    return number(10, name) + number(3, category)


def note(annotation: int, value: int) -> bytes:
    """Part of an event: an integer under an interned name."""
    body = _IID + varint(annotation) + _INT + varint(value)
    return _NOTE + varint(len(body)) + body


def flow(number_: int, *, ends: bool) -> bytes:
    """Part of an event: an arrow that leaves it, or that ends there."""
    return fixed64(48 if ends else 47, number_)


def level(value: int) -> bytes:
    """Part of an event: the value of a counter."""
    return number(30, value)


def text(name: str) -> bytes:
    """Part of an event: a name that is not interned."""
    return blob(23, name.encode())


_EVENT, _TIME, _TRACE = varint(11 << 3 | 2), varint(8 << 3), varint(1 << 3 | 2)
_TAIL = number(10, _SEQUENCE) + number(13, _GOES_ON)


def event(at_ns: int, *parts: bytes) -> bytes:
    """A TrackEvent packet of parts."""
    body = b"".join(parts)
    packet = _TIME + varint(at_ns) + _EVENT + varint(len(body)) + body + _TAIL
    return _TRACE + varint(len(packet)) + packet
