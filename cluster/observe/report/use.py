"""What devices and links did: busy and waiting, bytes by cause, joules."""

from cluster.observe.energy_table import joules_text, missing_text
from cluster.observe.explanation import word
from cluster.observe.report.bars import Segment, Stack, stacks
from cluster.observe.report.blocks import absent, family_legend, figure, legend, note, table
from cluster.observe.report.colours import TITLES, by_family, series
from cluster.observe.report.markup import NOTHING, Markup, join, tag
from cluster.observe.result import Result
from cluster.observe.schema import DeviceUse, Traffic
from cluster.observe.table import bytes_text, percent_text, time_text
from emulation.units import seconds

MOST_BARS = 24
"""Devices or links beyond these are in the table only."""


def devices(result: Result) -> Markup:
    """Of each device's busiest lane, as shares of the run: the work that it did, and what it waited for meanwhile."""
    shown = [device for device in result.devices if device.busy_ps + device.stall_ps][:MOST_BARS]
    if not shown:
        return absent("No time passed, so that no device did anything.")
    lanes = {lane.lane: lane.busy for lane in result.lanes}
    pictures = []
    for title, of in (("work, as shares of the run", {d.device: lanes[d.lane] for d in shown}),
                      ("waiting, as shares of the run", {d.device: d.stall for d in shown})):
        rows, names = [], list[str]()
        for device in shown:
            total_ps = device.busy_ps + device.stall_ps
            parts = by_family(of[device.device])
            names += parts
            rows.append(Stack(device.device, tuple(
                Segment(f"f-{part}", float(ps), percent_text(ps / total_ps),
                        f"{TITLES[part]} {percent_text(ps / total_ps)}") for part, ps in parts.items()),
                percent_text(sum(parts.values()) / total_ps), float(total_ps)))
        pictures.append(figure(title, stacks(rows), family_legend(names), behind=_device_table(result, of)))
    return join([tag("div", *pictures, class_="grid2"), _rest(len(result.devices), "devices")])


def _device_table(result: Result, of: dict[str, dict[str, int]]) -> Markup:
    """Times by label; of devices that are drawn."""
    labels = sorted(dict.fromkeys(label for row in of.values() for label in row))
    found = {device.device: device for device in result.devices}
    return table(("device", "lane", *map(word, labels)), [
        (name, found[name].lane, *(_share(row.get(label, 0), found[name]) for label in labels))
        for name, row in of.items()], words=2)


def _share(ps: int, device: DeviceUse) -> str:
    return "-" if not ps else f"{time_text(seconds(ps))} ({percent_text(ps / (device.busy_ps + device.stall_ps))})"


def links(result: Result) -> Markup:
    """Bytes that crossed each link, by cause."""
    used = sorted((link for link in result.traffic if link.total_bytes), key=lambda link: -link.total_bytes)
    if not used:
        return absent("Nothing crossed a link.")
    causes = sorted(dict.fromkeys(cause for link in used for cause in link.bytes))
    rows = [Stack(link.link, _parts(link), bytes_text(link.total_bytes)) for link in used[:MOST_BARS]]
    families = [name for link in used for name in by_family(link.bytes)]
    behind = table(("link", "from", "to", *map(word, causes), "bytes"), [
        (link.link, link.source, link.target, *(f"{link.bytes.get(cause, 0):,}" for cause in causes),
         f"{link.total_bytes:,}") for link in used], words=3)
    return join([figure("bytes that crossed each link, by cause", stacks(rows), family_legend(families), behind=behind),
                 _rest(len(used), "links")])


def _parts(link: Traffic) -> tuple[Segment, ...]:
    return tuple(Segment(f"f-{part}", float(amount), percent_text(amount / link.total_bytes),
                         f"{TITLES[part]} {bytes_text(amount)}") for part, amount in by_family(link.bytes).items())


def _rest(count: int, what: str) -> Markup:
    return note(f"{count - MOST_BARS} more {what} are not drawn.") if count > MOST_BARS else NOTHING


ENERGY = ("idle", "busy", "bytes", "flops", "links")
COLOURS = ("f-idle", *(series(i) for i in (0, 1, 2, 3)))


def energy(results: dict[str, Result]) -> Markup:
    """Joules an emitted token by what they are spent on, a bar a run; the table tells devices apart."""
    rows, behind = [], []
    for name, result in results.items():
        found, tokens = result.energy, result.emitted_tokens
        if found is None or not tokens:
            continue
        rows.append(Stack(name, tuple(
            Segment(COLOURS[ENERGY.index(part)], joules, percent_text(joules / found.joules),
                    f"{part} {joules_text(joules / tokens)}")
            for part in ENERGY if (joules := found.by_part.get(part))), joules_text(found.joules_per_token)))
        behind += [(name, device, *(joules_text(found.device_parts[device].get(part)) for part in ENERGY[:4]),
                    joules_text(joules)) for device, joules in sorted(found.by_device.items())]
        behind += [(name, link, *["-"] * 4, joules_text(joules)) for link, joules in sorted(found.by_link.items())]
    missing = [f"{name}: {missing_text(result)}." for name, result in results.items()
               if result.energy is None or result.no_energy_data]
    if not rows:
        return absent("Energy is not known: " + (" ".join(missing) or "no token was emitted."))
    entries = [(COLOURS[i], part) for i, part in enumerate(ENERGY)
               if any(r.energy is not None and r.energy.by_part.get(part) for r in results.values())]
    return join([figure("energy an emitted token, by what it is spent on", stacks(rows), legend(entries), behind=table(
        ("run", "of", *ENERGY[:4], "sum"), behind, words=2)), *(note(line) for line in missing)])
