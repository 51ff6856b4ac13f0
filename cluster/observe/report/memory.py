"""What memories held at most, against what they have."""

from cluster.observe.report.bars import Segment, Stack, stacks
from cluster.observe.report.blocks import absent, figure, legend, note, table
from cluster.observe.report.colours import fill
from cluster.observe.report.markup import NOTHING, Markup, join
from cluster.observe.result import Result
from cluster.observe.schema import Memory
from cluster.observe.table import bytes_text, percent_text

PARTS = (("experts", "experts_peak_bytes", fill("expert")), ("dense weights", "dense_bytes", fill("dense")),
         ("KV caches", "kv_peak_bytes", fill("attention")), ("activations", "activations_peak_bytes", fill("dispatch")))
"""Part of a memory, its figure in schema.Memory, and its colour."""

MOST_BARS = 24


def memory(result: Result) -> Markup:
    """A bar a device, as wide as its capacity; peaks of parts, which may fall at different instants."""
    if not result.memory:
        return absent("No device of this machine has a memory.")
    rows = [Stack(held.device, tuple(
        Segment(class_, float(amount), percent_text(amount / _whole(held)), f"{name} {bytes_text(amount)}")
        for name, key, class_ in PARTS if (amount := getattr(held, key))),
        f"{bytes_text(_sum(held))} of {bytes_text(held.capacity_bytes) if held.capacity_bytes else 'any'}",
        float(_whole(held))) for held in result.memory[:MOST_BARS]]
    used = [(class_, name) for name, key, class_ in PARTS if any(getattr(held, key) for held in result.memory)]
    behind = table(("device", *(name for name, *_ in PARTS), "all", "capacity", "budget for experts", "used"), [
        (held.device, *(bytes_text(getattr(held, key)) for _, key, _ in PARTS), bytes_text(_sum(held)),
         bytes_text(held.capacity_bytes) if held.capacity_bytes else "-", bytes_text(held.budget_bytes),
         percent_text(_sum(held) / held.capacity_bytes if held.capacity_bytes else None)) for held in result.memory])
    more = len(result.memory) - MOST_BARS
    return join([figure("peak memory by device; a bar's full width is the device's capacity", stacks(rows),
                        legend(used), behind=behind), note(f"{more} more devices are not drawn.") if more > 0 else
                 NOTHING])


def _sum(held: Memory) -> int:
    return held.peak_bytes + held.activations_peak_bytes


def _whole(held: Memory) -> int:
    """What a bar's width stands for: the capacity; of a device without one, what it held."""
    return held.capacity_bytes or _sum(held) or 1
