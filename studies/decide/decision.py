"""What a decision holds: decision.json, typed and under a digest; the same study gives the same bytes.

Times are seconds, rates a second, other amounts in the unit that stands beside them. Margins are ratios: 1.2 is 20 %
better, whichever way the objective goes. A constant's value is in SI units.
"""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, JsonValue, ValidationError

from cluster.observe.digest import canonical, sha256
from cluster.observe.schema import Part
from emulation.errors import InputError
from emulation.reading import parse_json, read_bytes

DECISION_FILE = "decision.json"
DECISION_VERSION = 2
LARGEST_BYTES = 1 << 28

Scalar = str | int | float | bool | None


class Goal(Part):
    """What is compared: its name, its unit, whether more is better, how it reads, and the SLO's limits in seconds."""

    name: str
    unit: str
    more: bool
    text: str
    slo_s: dict[str, float] = Field(default_factory=dict)


class Axis(Part):
    """An axis of the plane: its dotted path, the word that it goes by, and its values in the order of the study."""

    path: str
    label: str
    values: tuple[str, ...]


class Amount(Part):
    """What of a candidate is held equal. low, high: over the ranges of what it is summed from. parts: by device group.
    sources: where each part's figure is from."""

    value: float
    low: float
    high: float
    parts: dict[str, float]
    sources: dict[str, str]


class Contender(Part):
    """A candidate as it was compared: machine and options (with what `equal` chose), bytes of memory, its policies."""

    name: str
    machine: str
    options: dict[str, int]
    memory_bytes: int
    policies: tuple[str, ...]
    searched: tuple[str, ...]
    amount: Amount | None = None


class Equality(Part):
    """What was held equal, at which amount, in which unit, and within which share."""

    by: str
    target: float
    unit: str
    within: float


class Interval(Part):
    """Nearest-rank percentiles over the draws in which the run went through; failed: draws in which it did not."""

    p5: float
    p50: float
    p95: float
    samples: int
    failed: int


class Setting(Part):
    """A policy with its parameters, and what else was searched (dotted path -> value). label: how it is told."""

    label: str
    policy: str
    parameters: dict[str, Scalar]
    others: dict[str, JsonValue]


class Need(Part):
    """What a device must hold at least, where that is known before any run, and what it can."""

    device: str
    what: str
    bytes: int
    capacity_bytes: int


class Outcome(Part):
    """A candidate at a place.

    status: ran; unfit (weights or caches do not fit, told before any run); failed (no setting went through).
    why: the sentence of what did not work, also of single settings that were refused. tried: settings of which there
    is a run. exhaustive: those were all. value: of the objective. interval: of it, over the draws. figures,
    intervals: of output_tokens_per_s, ttft_p50, tpot_p50, joules_per_token, those that there are. digest: of the run.
    """

    candidate: str
    status: Literal["ran", "unfit", "failed"]
    why: str | None = None
    needs: tuple[Need, ...] = ()
    setting: Setting | None = None
    tried: int = 0
    exhaustive: bool = True
    value: float | None = None
    interval: Interval | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    intervals: dict[str, Interval] = Field(default_factory=dict)
    digest: str | None = None


class Stability(Part):
    """In how many draws who wins. share: of those in which the winner of the file's values wins; low, high: Wilson's
    95 % interval of that share. none: draws in which nobody went through."""

    samples: int
    wins: dict[str, int]
    ties: int
    none: int
    share: float
    low: float
    high: float


class Again(Part):
    """Draws in which the best settings of the search competed anew. same_winner: in how many the candidate that wins
    with its fixed setting wins with the best of them, too. same_setting: candidate -> in how many its setting was the
    best. loss: candidate -> the most that its fixed setting lost, as a share of the best."""

    samples: int
    settings: int
    same_winner: int
    same_setting: dict[str, int]
    loss: dict[str, float]


class Place(Part):
    """A point of the plane. at: axis path -> value. winner: None where candidates tie (tied) or none went through.
    margin: the winner over the second, a ratio; None where no other went through, or none has any of it (goodput 0).
    margins: of the same candidate over the best other, in the draws; below 1: it lost."""

    at: dict[str, str]
    label: str
    outcomes: tuple[Outcome, ...]
    winner: str | None
    tied: tuple[str, ...] = ()
    margin: float | None
    margins: Interval | None = None
    stability: Stability | None = None
    again: Again | None = None

    def of(self, candidate: str) -> Outcome:
        """How a candidate came out here."""
        return next(outcome for outcome in self.outcomes if outcome.candidate == candidate)


class Member(Part):
    """A constant of a candidate's machine: its value and range as the file writes them, and where they are from."""

    candidate: str
    path: str
    value: str
    kind: str
    source: str
    range: tuple[str, str]


class Sampled(Part):
    """What is drawn: one constant, or several that are one physical thing. name: CANDIDATE.path of the first.

    value, low, high: of the first member, SI. scale: log where the range spans more than a factor of 4.
    swing: the largest change of any place's margin from the low to the high end of its range alone, a ratio above 1;
    swing_at: the number of that place. wins_change_at: numbers of the places where the winner changes within the range.
    """

    name: str
    label: str
    unit: str
    value: float
    low: float
    high: float
    scale: Literal["log", "linear"]
    members: tuple[Member, ...]
    swing: float | None = None
    swing_at: int | None = None
    wins_change_at: tuple[int, ...] = ()


class Influence(Part):
    """What one constant does at a place, alone. place: its number. correlation: Spearman's, of its draws with the
    margin. margin_low, margin_high: of the winner over the best other at the ends of its range (below 1: it lost);
    None: a candidate did not go through there. swing: of these two, the larger over the smaller."""

    place: int
    constant: str
    correlation: float | None
    margin_low: float | None
    margin_high: float | None
    swing: float


class BreakEven(Part):
    """Where the winner of a place changes, for one constant alone.

    winner, other: who wins at the file's value, and beyond the break-even. keeps: the winner wins while the constant is
    above, or below, value. value, between: SI; between: the last values that were run on either side. where: within
    its range, beyond it (as far as `beyond` says), or nowhere (value is None). text: the sentence.
    """

    place: int
    constant: str
    winner: str
    other: str | None
    keeps: Literal["above", "below"] | None
    value: float | None
    between: tuple[float, float] | None
    unit: str
    where: Literal["within", "beyond", "nowhere"]
    text: str


class Front(Part):
    """A setting of a candidate at a place that no other beats in throughput, TTFT and TPOT at once.

    goodput: where there is an SLO; it then stands in throughput's place."""

    candidate: str
    at: dict[str, str]
    setting: Setting
    output_tokens_per_s: float
    goodput: float | None
    ttft_p50_s: float
    tpot_p50_s: float


class Runs(Part):
    """How many runs each part of the decision took; those that two parts share count in the first."""

    search: int
    samples: int
    again: int
    swings: int
    break_even: int


class Decision(Part):
    """Who wins where. verdict: sentences, the first is the answer. places: in the order of the plane, its last axis
    fastest. constants: all that is drawn, what swings most first. routing: whether the seed of the runs is drawn, too.
    study: what was asked."""

    schema_version: int = DECISION_VERSION
    name: str
    title: str
    verdict: tuple[str, ...]
    goal: Goal
    axes: tuple[Axis, ...]
    candidates: tuple[Contender, ...]
    equal: Equality | None
    places: tuple[Place, ...]
    constants: tuple[Sampled, ...]
    influences: tuple[Influence, ...]
    break_evens: tuple[BreakEven, ...]
    frontier: tuple[Front, ...]
    stability: float | None
    runs: Runs
    samples: int
    seed: int
    routing: bool = False
    beyond: float
    study: dict[str, JsonValue]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON of all of it."""
        return sha256(canonical(self.model_dump(mode="json")))

    def to_json(self) -> str:
        """The text of decision.json: sorted keys, floats as Python's repr, and the digest."""
        return json.dumps({**self.model_dump(mode="json"), "digest": self.digest}, sort_keys=True, indent=1,
                          allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The decision in a file, or in the folder of one; refuses another version, and one that was changed."""
        file = path / DECISION_FILE if path.is_dir() else path
        where = str(file)
        data = parse_json(read_bytes(file, "decision", LARGEST_BYTES), where)
        if not isinstance(data, dict) or "schema_version" not in data:
            raise InputError(f"{where} is no decision: it has no schema_version")
        if data["schema_version"] != DECISION_VERSION:
            raise InputError(f"{where} has schema version {data['schema_version']}; this moelab reads "
                             f"{DECISION_VERSION}: decide again")
        digest = data.pop("digest", None)
        try:
            made = cls.model_validate_json(json.dumps(data))
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if made.digest != digest:
            raise InputError(f"{where} was changed after it was written: its digest says {digest}, its content amounts "
                             f"to {made.digest}")
        return made
