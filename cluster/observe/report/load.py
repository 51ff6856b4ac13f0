"""Which experts were asked for: a heat map of layers and experts, by their share of their layer's mean."""

from collections.abc import Sequence

from cluster.observe.report.axes import Axis
from cluster.observe.report.blocks import absent, figure, note, table
from cluster.observe.report.heat import heat_legend, heat_map, levels
from cluster.observe.report.markup import Markup, tag
from cluster.observe.result import Result
from cluster.observe.table import number_text

TIMES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Where the steps of the load's colours end, in multiples of a layer's mean load."""

WORDS = ("none", "below a quarter of the mean", "to half", "to the mean", "to twice", "to 4 times", "to 8 times",
         "8 times and more")
MOST_ROWS, MOST_COLUMNS = 64, 256
HOTTEST = 5


def load(result: Result) -> Markup:
    """Prefill and decode apart."""
    pictures = [_phase(result.load.layers, rows, phase) for phase, rows in
                (("prefill", result.load.prefill), ("decode", result.load.decode)) if any(map(any, rows))]
    if not pictures:
        return absent("No token was routed to an expert.")
    return tag("div", *pictures, class_="grid2")


def _phase(layers: Sequence[int], rows: Sequence[Sequence[int]], phase: str) -> Markup:
    drawn, names = _joined([list(row) for row in rows], [str(layer) for layer in layers])
    means = [sum(row) / len(row) or 1.0 for row in drawn]
    shares = [[amount / mean for amount in row] for row, mean in zip(drawn, means, strict=True)]
    told = [f"layer {name}: {sum(row):,} routed tokens; the fullest of {len(row)} has {number_text(max(share))} times "
            "the mean" for name, row, share in zip(names, drawn, shares, strict=True)]
    experts = len(rows[0])
    picture = heat_map(f"load of each expert in {phase}: {len(layers)} layers of {experts} experts", names,
                       [levels(share, TIMES) for share in shares], told, _numbers(experts),
                       row_px=14 if len(names) <= 24 else 10)
    behind = table(("layer", "routed tokens", "experts with none", "fullest over mean",
                    f"the {min(HOTTEST, experts)} fullest: tokens"), [
        (str(layer), f"{sum(row):,}", str(sum(not amount for amount in row)),
         number_text(max(row) * len(row) / (sum(row) or 1)), _hottest(row))
        for layer, row in zip(layers, rows, strict=True)])
    return figure(f"{phase}: tokens by layer (down) and expert (across), over the layer's mean", picture,
                  heat_legend(WORDS), note(_grouped(len(layers), experts)) if _grouped(len(layers), experts) else "",
                  behind=behind)


def _hottest(row: Sequence[int]) -> str:
    first = sorted(range(len(row)), key=lambda expert: (-row[expert], expert))[:HOTTEST]
    return ", ".join(f"{expert}: {row[expert]:,}" for expert in first)


def _numbers(experts: int) -> Axis:
    """Experts by number."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if experts <= 8 * step)
    return Axis(float(experts), tuple((float(at), str(at)) for at in range(0, experts, step)))


def _joined(rows: list[list[int]], names: list[str]) -> tuple[list[list[int]], list[str]]:
    """Neighbours summed where there are more layers or experts than can be told apart in a picture."""
    down, across = -(-len(rows) // MOST_ROWS), -(-len(rows[0]) // MOST_COLUMNS)
    narrow = [[sum(row[at:at + across]) for at in range(0, len(row), across)] for row in rows]
    return ([[sum(column) for column in zip(*narrow[at:at + down], strict=True)] for at in range(0, len(rows), down)],
            names[::down])


def _grouped(layers: int, experts: int) -> str:
    down, across = -(-layers // MOST_ROWS), -(-experts // MOST_COLUMNS)
    return f"A cell is {down} layers by {across} experts." if down * across > 1 else ""
