"""The two budgets of an array of chiplets, and how much of its compute is used over D2D and DDR bandwidth (FSE-DP,
arXiv 2603.27624: utilisation of at least 60 % within both)."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from cluster.config.reading import load_run
from cluster.observe.result import Result
from cluster.run import run

AREA_MOST, POWER_BELOW = 30.0, 60.0
"""Limits of the budgets: 30 (mm2, inferred) and 60 (W, inferred)."""
BUFFER_MB = (16 * 0.002 + 12 * 0.288) * 4
"""Buffers of the default array: 16 tokens and 12 slices of Qwen3 on each of 4 chiplets, 13.952 MB."""
USED = 0.60
"""The utilisation that the paper asks for."""
COARSE = (tuple(range(128, 2049, 240)), tuple(range(8, 129, 15)))
FULL = (tuple(range(128, 2049, 16)), tuple(range(8, 129, 2)))
"""D2D and DDR bandwidths in GB/s; DDR is one channel's."""


def area(d2d_gb_s: float, buffer_mb: float) -> float:
    """Budget 1 of the published simulator, at most AREA_MOST: D2D in modules of 96 GB/s, buffer of the whole array.

    The simulator names no unit; mm2 is inferred. 16.75 at 288 GB/s and 13.952 MB.
    """
    return 3.2 * d2d_gb_s / 96 + 1.3 * buffer_mb / 3.328 + 1.7


def power(d2d_gb_s: float, ddr_gb_s: float) -> float:
    """Budget 2, below POWER_BELOW: D2D, and one channel's DDR in steps of 12.8 GB/s. W is inferred; 25.0 by default."""
    return 8.864e-3 * d2d_gb_s + 6.5 * ddr_gb_s / 12.8 + 9.492


def fits(d2d_gb_s: float, ddr_gb_s: float, buffer_mb: float) -> bool:
    """Whether a machine keeps to both."""
    return area(d2d_gb_s, buffer_mb) <= AREA_MOST and power(d2d_gb_s, ddr_gb_s) < POWER_BELOW


def settings(d2d_gb_s: float, ddr_gb_s: float) -> tuple[str, ...]:
    """What makes a run's machine have these bandwidths."""
    return (f"machine.constants.links.d2d.bandwidth={d2d_gb_s} GB/s",
            f"machine.constants.links.channel.bandwidth={ddr_gb_s} GB/s")


def useful(result: Result, matrices: int, d_model: int, d_ff: int, top_k: int, layers: int) -> float:
    """Share of the chiplets' MAC that were of use: pairs times the MAC of one, once each, over peak and time.

    matrices: of an expert's three, how many are counted (the published action times count two).
    """
    tokens = sum(phase.prefill_tokens + phase.decode_tokens for phase in result.phases.values())
    chips = sum(device.kind == "chiplet" for device in result.devices)
    macs = tokens * top_k * layers * matrices * d_model * d_ff
    return macs / (chips * MAC_PER_S * result.makespan_ps * 1e-12)


MAC_PER_S = 2048 * 0.8e9
"""A chiplet's peak in the simulator: 2048 MAC a cycle at 0.8 GHz."""


class Point(NamedTuple):
    """A machine of the contour: GB/s, GB/s, share of compute used, whether it fits both budgets."""

    d2d: float
    ddr: float
    used: float
    fits: bool


def contour(evaluate: Callable[[float, float], float], grid: tuple[Sequence[int], Sequence[int]],
            buffer_mb: float) -> Iterator[Point]:
    """Every point of a grid."""
    for d2d in grid[0]:
        for ddr in grid[1]:
            yield Point(d2d, ddr, evaluate(d2d, ddr), fits(d2d, ddr, buffer_mb))


def qwen3_used(machine: str) -> Callable[[float, float], float]:
    """Utilisation of one layer of Qwen3, 256 tokens, by FSE-DP on a machine with other bandwidths."""
    matrices = 2 if machine.endswith("published") else 3

    def used(d2d: float, ddr: float) -> float:
        config = load_run("fse_dp", [f"machine.name={machine}", "model.layers=1", "against=[]", "timeline.max_ops=0",
                                     *settings(d2d, ddr)])
        return useful(run(config, one_thread=True), matrices, 2048, 768, 8, 1)

    return used


CELL, LEFT, TOP = 26, 70, 60


def picture(points: Sequence[Point], title: str) -> str:
    """SVG: a cell a machine, darker where more is used; outlined where it keeps to both budgets and reaches USED."""
    d2d, ddr = (sorted({getattr(p, name) for p in points}) for name in ("d2d", "ddr"))
    width, height = LEFT + CELL * len(d2d) + 40, TOP + CELL * len(ddr) + 70
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 560)}" height="{height}" '
           f'viewBox="0 0 {max(width, 560)} {height}"><style>text{{font:11px sans-serif;fill:#333}}'
           "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>",
           f'<text x="12" y="20" style="font-weight:bold;font-size:13px">{escape(title)}</text>',
           f'<text x="12" y="38">per cent of MAC used; outlined: at least {USED:.0%} within both budgets; '
           "pale: over a budget</text>"]
    for p in points:
        x, y = LEFT + CELL * d2d.index(p.d2d), TOP + CELL * (len(ddr) - 1 - ddr.index(p.ddr))
        edge = ' stroke="#b91c1c" stroke-width="2"' if p.fits and p.used >= USED else ""
        out.append(f'<rect x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}" fill="#1d4ed8" '
                   f'fill-opacity="{(0.1 + 0.9 * min(p.used, 1)) * (1 if p.fits else 0.35):.2f}"{edge}/>')
        if CELL * len(d2d) < 1000:
            out.append(f'<text x="{x + CELL / 2}" y="{y + 17}" text-anchor="middle">{100 * p.used:.0f}</text>')
    step = max(1, len(d2d) // 8), max(1, len(ddr) // 8)
    bottom = TOP + CELL * len(ddr)
    out += [f'<text x="{LEFT + CELL * (i + 0.5)}" y="{bottom + 16}" text-anchor="middle">{v:g}</text>'
            for i, v in enumerate(d2d) if i % step[0] == 0]
    out += [f'<text x="{LEFT - 6}" y="{bottom - CELL * i - 9}" text-anchor="end">{v:g}</text>'
            for i, v in enumerate(ddr) if i % step[1] == 0]
    out += [f'<text x="{LEFT}" y="{bottom + 36}">D2D, GB/s</text>', f'<text x="8" y="{TOP - 6}">DDR, GB/s</text>']
    return "\n".join([*out, "</svg>", ""])


def main() -> None:
    """Draw the contour of one machine."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("out", type=Path, help="the SVG to write")
    asked.add_argument("--machine", default="chiplet-2x2-published")
    asked.add_argument("--full", action="store_true", help="the paper's grid, 7381 machines, not 72")
    given = asked.parse_args()
    points = list(contour(qwen3_used(given.machine), FULL if given.full else COARSE, BUFFER_MB))
    given.out.write_text(picture(points, f"{given.machine}, Qwen3, 256 tokens"), encoding="utf-8")
    good = [p for p in points if p.fits and p.used >= USED]
    print(f"{len(good)} of {len(points)} machines use at least {USED:.0%} within both budgets")


if __name__ == "__main__":
    main()
