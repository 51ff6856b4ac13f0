"""The generators: what routing may look like, each a name with its parameters."""

from dataclasses import dataclass, fields
from fractions import Fraction
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emulation.errors import ConfigError, unknown
from emulation.view import Step
from workloads.routing import chances, draw
from workloads.routing.chances import ONE

Ints = NDArray[np.int64]

LONGEST_MEMORY = 0.99
"""The largest chance to repeat: finding where a place began takes 1 / (1 - chance) positions on average."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A generator. Experts are drawn without replacement, rank r with weight r**-skew; ranks differ by layer."""

    name: ClassVar[str]
    skew: float = 0.0

    def members(self, experts: int) -> int:
        """Experts of a preferred set, of so many in a layer; 0 where there is none."""
        return 0

    def preference(self) -> float:
        """Chance that a draw is from its token's preferred set rather than from all experts."""
        return 0.0

    def groups(self, root: int, step: Step) -> Ints:
        """Whose preferred set each token has, -1 for none."""
        return np.full(len(step), -1, np.int64)

    def ranks(self, layer: int, layers: int, experts: int) -> list[int]:
        """Chance of each rank in a layer, likeliest first, in units of 2**-32."""
        return chances.zipf(experts, self.skew)

    def repeats(self, layer: int, layers: int) -> float:
        """Chance that a token's place keeps the expert that it had at the position before."""
        return 0.0

    def pairs(self, layer: int, layers: int) -> float:
        """Chance that a place takes the partner of the expert before it."""
        return 0.0


@dataclass(frozen=True, kw_only=True)
class Balanced(Kind):
    """All experts alike."""

    name = "balanced"

    def ranks(self, layer: int, layers: int, experts: int) -> list[int]:
        return chances.zipf(experts, 0.0)


@dataclass(frozen=True, kw_only=True)
class Zipf(Kind):
    """Rank r has the weight r**-skew."""

    name = "zipf"
    skew: float = 1.0


@dataclass(frozen=True, kw_only=True)
class HotSet(Kind):
    """A set of so many experts a layer gets a share of the draws beside what falls on it anyway."""

    name = "hot_set"
    experts: int
    share: float = 0.5

    def members(self, experts: int) -> int:
        return self.experts

    def preference(self) -> float:
        return self.share

    def groups(self, root: int, step: Step) -> Ints:
        return np.zeros(len(step), np.int64)


@dataclass(frozen=True, kw_only=True)
class RotatingHotSet(HotSet):
    """A hot set that is another one after every `period_steps` steps."""

    name = "rotating_hot_set"
    period_steps: int = 100

    def groups(self, root: int, step: Step) -> Ints:
        return np.full(len(step), step.number // self.period_steps, np.int64)


@dataclass(frozen=True, kw_only=True)
class Bursts(HotSet):
    """Time falls into windows of `length_steps` steps; a window is a burst with a chance, and has a hot set then."""

    name = "bursts"
    length_steps: int = 20
    chance: float = 0.2

    def groups(self, root: int, step: Step) -> Ints:
        window = step.number // self.length_steps
        with np.errstate(over="ignore"):
            word = draw.words(draw.mix(np.array([root ^ ONE], np.uint64)), window)
        hot = int(word[0] & draw.LOW) < chances.threshold(self.chance)
        return np.full(len(step), window if hot else -1, np.int64)


@dataclass(frozen=True, kw_only=True)
class Affinity(HotSet):
    """A sequence prefers a set of its own, and each place of a token keeps its expert with the chance `repeat`."""

    name = "affinity"
    repeat: float = 0.0

    def groups(self, root: int, step: Step) -> Ints:
        return step.sequence.astype(np.int64)

    def repeats(self, layer: int, layers: int) -> float:
        return self.repeat


@dataclass(frozen=True, kw_only=True)
class FittedLayer:
    """What was fitted to a layer: chance of each rank (units of 2**-32), of repeating, of taking a partner."""

    ranks: tuple[int, ...]
    repeat: float
    pair: float


@dataclass(frozen=True, kw_only=True)
class Fitted(Affinity):
    """What `moelab trace fit` found, for a model of any shape.

    Layer l of L follows layer l * M // L of the M fitted ones. Chances over ranks are a density: of more or fewer
    experts, each has what falls on its part of the ranks; a sequence's set is the same part of them.
    by_phase: a sequence has a set for prefill and another one for decode.
    """

    name = "fitted"
    layers: tuple[FittedLayer, ...]
    by_phase: bool = False

    def members(self, experts: int) -> int:
        if not self.share:
            return 0
        fitted = len(self.layers[0].ranks)
        return max(1, (2 * self.experts * experts + fitted) // (2 * fitted))

    def groups(self, root: int, step: Step) -> Ints:
        return 2 * step.sequence + step.phase if self.by_phase else step.sequence.astype(np.int64)

    def _of(self, layer: int, layers: int) -> FittedLayer:
        return self.layers[layer * len(self.layers) // layers]

    def ranks(self, layer: int, layers: int, experts: int) -> list[int]:
        return stretched(self._of(layer, layers).ranks, experts)

    def repeats(self, layer: int, layers: int) -> float:
        return self._of(layer, layers).repeat

    def pairs(self, layer: int, layers: int) -> float:
        return self._of(layer, layers).pair


def stretched(ranks: tuple[int, ...], experts: int) -> list[int]:
    """Chances over so many ranks, as one density over all of them."""
    if len(ranks) == experts:
        return list(ranks)
    sums = [0]
    for chance in ranks:
        sums.append(sums[-1] + chance)

    def below(rank: int) -> int:
        at = Fraction(rank * len(ranks), experts)
        whole = at.numerator // at.denominator
        rest = (at - whole) * ranks[whole] if whole < len(ranks) else Fraction(0)
        return sums[whole] + rest.numerator // rest.denominator

    edges = [below(rank) for rank in range(experts + 1)]
    return [high - low for low, high in pairwise(edges)]


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in (Balanced, Zipf, HotSet, RotatingHotSet, Bursts, Affinity,
                                                             Fitted)}


def kind(name: str, **parameters: Any) -> Kind:
    """A generator by name."""
    if name not in KINDS:
        raise ConfigError(unknown("generator", name, KINDS))
    known = [field.name for field in fields(KINDS[name])]
    for parameter in parameters:
        if parameter not in known:
            raise ConfigError(f"generator {name}: {unknown('parameter', parameter, known)}")
    return KINDS[name](**parameters)
