"""One colour a cause, everywhere: families of work and of waiting, other series, and steps of a heat map.

Each colour is a class and a CSS variable with a value for light and one for dark pages. Hues are those of Okabe and Ito
(Color Universal Design, 2008), darkened or lightened until 3:1 against the page (WCAG 2.1, 1.4.11), so that the three
common kinds of colour blindness tell neighbours apart; gaps between segments and a table behind each picture tell the
rest.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Family(NamedTuple):
    """Labels of work or of waiting that share a colour; `light` and `dark`: its values on such pages."""

    name: str
    title: str
    labels: tuple[str, ...]
    light: str
    dark: str


FAMILIES = (
    Family("expert", "routed experts", ("expert",), "#0072b2", "#5aaef0"),
    Family("attention", "attention", ("attention",), "#00805c", "#33c79a"),
    Family("dense", "other computation", ("router", "dense", "shared", "norm", "head", "gather", "scatter", "reduce",
                                          "sort", "mask", "einsum"), "#5b6b7b", "#93a5b8"),
    Family("demand", "demand loads", ("demand load", "demand"), "#cc5500", "#f5874a"),
    Family("prefetch", "prefetches", ("prefetch",), "#a87000", "#f2bd4f"),
    Family("stream", "streams and other copies", ("stream", "copy", "none"), "#627d00", "#b7d653"),
    Family("dispatch", "tokens to experts", ("dispatch",), "#b0447f", "#ea9ccb"),
    Family("return", "results back", ("return",), "#7b3f98", "#c595dc"),
    Family("host", "host: issue, synchronise, place", ("issue", "sync", "join", "place"), "#86502e", "#cf9f7f"),
    Family("waiting", "waiting for memory or a lane", ("memory", "lane", "behind prefetch"), "#a3182f", "#ef7480"),
    Family("recovery", "recovery from faults", ("recovery",), "#111111", "#ffffff"),
    Family("idle", "no work, no request", ("no work", "arrival", "unexplained"), "#ccd2d9", "#3d4651"))

OTHER = "dense"
_OF = {label: family.name for family in FAMILIES for label in family.labels}
TITLES = {family.name: family.title for family in FAMILIES}

SERIES = (("#0072b2", "#5aaef0"), ("#cc5500", "#f5874a"), ("#00805c", "#33c79a"), ("#7b3f98", "#c595dc"),
          ("#a87000", "#f2bd4f"), ("#5b6b7b", "#93a5b8"), ("#b0447f", "#ea9ccb"), ("#627d00", "#b7d653"))
"""(light, dark) of what is no cause: policies, devices, parts of a memory."""

HEAT = (("#eef2f6", "#1c222a"), ("#d6e5f3", "#17334e"), ("#b4d1ea", "#174a70"), ("#86b8de", "#1f6593"),
        ("#5499cb", "#3383b6"), ("#2b79b7", "#5aa4cf"), ("#12579b", "#8fc7e5"), ("#082f63", "#dcf0fa"))
"""(light, dark) of the steps of a heat map, from nothing to the most."""


def family(label: str) -> str:
    """The family of a label of emulation/lowering/emit.py or cluster/observe/attribution.py."""
    return _OF.get(label, OTHER)


def fill(label: str) -> str:
    """The class that paints a label's family."""
    return f"f-{family(label)}"


def series(number: int) -> str:
    """The class that paints the n-th of several series; after eight they begin again."""
    return f"s{number % len(SERIES)}"


def by_family(amounts: Mapping[str, int]) -> dict[str, int]:
    """Amounts of labels by family, in the order of FAMILIES; those that are zero stay out."""
    out = dict.fromkeys(TITLES, 0)
    for label, amount in amounts.items():
        out[family(label)] += amount
    return {name: amount for name, amount in out.items() if amount}


def in_order(names: Iterable[str]) -> list[str]:
    """Names of families in the order in which they are always drawn."""
    wanted = dict.fromkeys(names)
    return [name for name in TITLES if name in wanted]


def variables(dark: bool) -> str:
    """Declarations of all colours for a stylesheet."""
    pairs = [(f"f-{f.name}", (f.light, f.dark)) for f in FAMILIES]
    pairs += [(f"s{i}", pair) for i, pair in enumerate(SERIES)] + [(f"q{i}", pair) for i, pair in enumerate(HEAT)]
    return "".join(f"--{name}:{pair[dark]};" for name, pair in pairs)


def classes() -> str:
    """Rules that paint by class: an area, and a line where an element is of class `line` too."""
    names = [f"f-{f.name}" for f in FAMILIES] + [f"s{i}" for i in range(len(SERIES))]
    areas = "".join(f".{name}{{fill:var(--{name})}}.line.{name}{{fill:none;stroke:var(--{name})}}" for name in names)
    return areas + "".join(f".q{i}{{fill:var(--q{i});stroke:var(--q{i})}}" for i in range(len(HEAT)))
