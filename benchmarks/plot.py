"""Growth as a picture: four small charts in one SVG, both axes logarithmic, written by hand so that bytes repeat."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

WIDTH, HEIGHT, MARGIN, GAP = 340, 260, 52, 36
STYLE = ("<style>text{font:11px sans-serif;fill:#333}.t{font-weight:bold;font-size:13px}"
         ".g{stroke:#ddd;stroke-width:1}.a{stroke:#888;stroke-width:1;fill:none}</style>")
COLOURS = {"run_s": ("#c2410c", "whole run"), "replay_s": ("#1d4ed8", "replay")}


def decades(low: float, high: float) -> list[float]:
    """Powers of ten around what is shown."""
    return [10.0 ** e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def scale(value: float, ticks: Sequence[float], start: float, end: float) -> float:
    """Where a value stands between the outermost ticks."""
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    return start + (end - start) * (math.log10(value) - low) / (high - low)


def seconds(value: float) -> str:
    """A power of ten of seconds."""
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


def panel(axis: dict[str, Any], x0: float, y0: float) -> Iterator[str]:
    """One axis: medians with their spread, and the fitted exponents."""
    points = axis["points"]
    values = [point["value"] for point in points]
    lows = [point[name]["low"] for point in points for name in COLOURS]
    highs = [point[name]["high"] for point in points for name in COLOURS]
    xs, ys = decades(min(values), max(values)), decades(min(lows), max(highs))
    left, right, top, bottom = x0 + MARGIN, x0 + WIDTH - 8, y0 + 26, y0 + HEIGHT - 30
    yield f'<text class="t" x="{left}" y="{y0 + 14}">{axis["axis"]}</text>'
    for tick in xs:
        x = scale(tick, xs, left, right)
        yield f'<path class="g" d="M{x:.1f} {top}V{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick:g}</text>'
    for tick in ys:
        y = scale(tick, ys, bottom, top)
        yield f'<path class="g" d="M{left} {y:.1f}H{right}"/>'
        yield f'<text x="{left - 5}" y="{y + 4:.1f}" text-anchor="end">{seconds(tick)}</text>'
    yield f'<path class="a" d="M{left} {top}V{bottom}H{right}"/>'
    for number, (name, (colour, label)) in enumerate(COLOURS.items()):
        at = [(scale(v, xs, left, right), point[name]) for v, point in zip(values, points, strict=True)]
        line = "L".join(f"{x:.1f} {scale(m['median'], ys, bottom, top):.1f}" for x, m in at)
        yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
        for x, m in at:
            low, high = (scale(m[key], ys, bottom, top) for key in ("low", "high"))
            yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="1"/>'
            yield f'<circle cx="{x:.1f}" cy="{scale(m["median"], ys, bottom, top):.1f}" r="2.6" fill="{colour}"/>'
        found = axis["slopes"][name]
        yield (f'<text x="{left + 8}" y="{top + 12 + 14 * number}" style="fill:{colour}">{label}: '
               f'{found["all"]["slope"]:.2f}, larger half {found["larger_half"]["slope"]:.2f}</text>')


def growth_svg(report: dict[str, Any]) -> str:
    """The report of the growth benchmark, two charts a row."""
    axes = report["axes"]
    wide, high = 2 * WIDTH + GAP, -(-len(axes) // 2) * (HEIGHT + 8)
    body = [line for i, axis in enumerate(axes)
            for line in panel(axis, (i % 2) * (WIDTH + GAP), (i // 2) * (HEIGHT + 8))]
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">'
            f'<rect width="{wide}" height="{high}" fill="#fff"/>')
    return "\n".join([head, STYLE, *body, "</svg>", ""])
