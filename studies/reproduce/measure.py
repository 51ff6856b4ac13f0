"""How a published figure is got here: the runs that it needs, and what is made of their results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.observe.result import Result

Figure = float | bool | None
"""A number; for a trend whether it holds; None where nothing that is public tells it."""

Results = Mapping[str, Result]


class Case(NamedTuple):
    """One run: a run by name (configs/run/NAME.yaml) and `--set` settings; `moelab run` carries it out again."""

    run: str
    settings: tuple[str, ...] = ()

    def with_(self, *settings: str) -> "Case":
        """The same run with more set in it."""
        return Case(self.run, (*self.settings, *settings))


def no_runs(_quick: bool) -> Mapping[str, Case]:
    """The cases of a figure that needs no run: a closed form, statistics of a trace."""
    return {}


@dataclass(frozen=True)
class Measure:
    """How a figure is got.

    cases: key -> run; asked for `quick` ones (a smaller grid, fewer tokens), it names those that sweeps repeat.
    value: the figure, from results by key. routing: where the routing comes from. reason: a sentence that stands beside
    the verdict. sweeps: further choices that no source gives: dotted setting -> values to try. beside: the same figure
    on another reading of the machine, as a second column; beside_title: what that is.
    of_energy: whether it looks at energy; constants of energy are swept for no other. readings: of a figure without
    runs, what it would be if something that the source leaves open were read otherwise, by what that is.
    """

    cases: Callable[[bool], Mapping[str, Case]]
    value: Callable[[Results], Figure]
    routing: str
    reason: str = ""
    sweeps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: "Measure | None" = None
    beside_title: str = ""
    of_energy: bool = False
    readings: Mapping[str, Callable[[], Figure]] = field(default_factory=dict)


def unknown_figure(reason: str) -> Measure:
    """A figure that nothing public lets anyone compute; the reason says what is missing."""
    return Measure(no_runs, lambda _: None, "none", reason)
