"""A result as rows, one figure each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from cluster.observe.schema import Part
from emulation.units import seconds

if TYPE_CHECKING:
    from cluster.observe.result import Result


class Row(NamedTuple):
    """part: of the result. name: phase, link, lane, device, layer. value: a number in the unit; None: there is none."""

    part: str
    name: str
    figure: str
    unit: str
    value: float | int | None


_UNITS = {"_s": "s", "_bytes": "B"}


def rows(result: "Result") -> list[Row]:
    """Every figure of a result; picoseconds as seconds."""
    out = [Row("run", "", "makespan", "s", seconds(result.makespan_ps)),
           Row("run", "", "horizon", "s", seconds(result.horizon_ps)),
           Row("run", "", "emitted_tokens", "", result.emitted_tokens),
           Row("run", "", "output_tokens_per_s", "1/s", result.output_tokens_per_s)]
    if result.bound is not None:
        out += [Row("bound", "", "lower_bound", "s", seconds(result.bound.lb_ps)),
                Row("bound", "", "times", "", result.bound.times)]
    if (energy := result.energy) is not None:
        out += [Row("energy", "", "joules", "J", energy.joules),
                Row("energy", "", "joules_per_token", "J", energy.joules_per_token),
                Row("energy", "", "tokens_per_kilojoule", "1/kJ", energy.tokens_per_kilojoule)]
        for joules in (energy.by_part, energy.by_device):
            out += [Row("energy", name, "joules", "J", value) for name, value in joules.items()]
        out += [Row("energy by link", name, "joules", "J", value) for name, value in energy.by_link.items()]
    for name in ("ttft", "tpot", "itl"):
        if (found := getattr(result, name)) is not None:
            out += _figures("latency", name, found)
    if (served := result.serving) is not None:
        out += _figures("serving", "", served)
        for name in ("queueing", "end_to_end"):
            if (found := getattr(served, name)) is not None:
                out += _figures("latency", name, found)
        if served.slo is not None:
            out += _figures("slo", "", served.slo)
    out += _figures("prefetch", "", result.prefetch)
    for phase, part in result.phases.items():
        out += _figures("phase", phase, part)
        out += [Row("runs", phase, device, "", count) for device, count in part.runs.items()]
        out += [Row("critical path", phase, label, "s", seconds(ps)) for label, ps in part.latency_ps.items()]
    for link in result.traffic:
        out += [Row("traffic", link.link, cause, "B", count) for cause, count in link.bytes.items()]
    for lane in result.lanes:
        out += [Row("busy", lane.lane, label, "s", seconds(ps)) for label, ps in lane.busy.items()]
        out += [Row("stall", lane.lane, label, "s", seconds(ps)) for label, ps in lane.stall.items()]
    for memory in result.memory:
        out += _figures("memory", memory.device, memory)
    out += [Row("skew", str(i), "max_over_mean", "", value) for i, value in enumerate(result.skew.layers)]
    return out


def _figures(part: str, name: str, of: Part) -> Iterator[Row]:
    """The plain numbers of a part, named without their units."""
    for figure in type(of).model_fields:
        value = getattr(of, figure)
        if figure == "exact_ps" or not (value is None or isinstance(value, (int, float))):
            continue
        if figure.endswith("_ps"):
            yield Row(part, name, figure.removesuffix("_ps"), "s", None if value is None else seconds(int(value)))
        elif figure.endswith("_per_s"):
            yield Row(part, name, figure, "1/s", value)
        else:
            end = next((end for end in _UNITS if figure.endswith(end)), "")
            yield Row(part, name, figure.removesuffix(end), _UNITS.get(end, ""), value)
