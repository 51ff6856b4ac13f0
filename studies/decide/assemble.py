"""A decision put together from what its runs found."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cluster.build import device_names, resolve_options
from studies.decide.decision import (
    Again,
    Axis,
    BreakEven,
    Contender,
    Decision,
    Goal,
    Influence,
    Outcome,
    Place,
    Runs,
    Sampled,
)
from studies.decide.frontier import frontier
from studies.decide.objectives import OBJECTIVES, TOLD, figure, limits_s
from studies.decide.ready import Ready
from studies.decide.search import Found, Key
from studies.decide.space import place_label, value_text, words
from studies.decide.turning import Ends, Plane, Turn, value_of
from studies.decide.uncertain import Drawn, correlations, interval, margin, stability
from studies.decide.variables import labels
from studies.decide.verdict import break_even_text, verdict

MOST_TEXT = 2000
"""Letters of a sentence about what did not go through."""


@dataclass(frozen=True)
class Parts:
    """What the stages of a decision found. chosen: the number of the best setting. values: place -> candidate -> its
    objective. winners: place -> who is best. never: (place, variable) without a break-even."""

    ready: Ready
    found: Mapping[Key, Found]
    chosen: Mapping[Key, int]
    drawn: Drawn
    again: Mapping[int, Again]
    values: Mapping[int, dict[str, float | None]]
    winners: Mapping[int, tuple[str, ...]]
    plane: Plane
    ends: Mapping[tuple[int, int], Ends]
    turns: list[Turn]
    never: list[tuple[int, int]]
    asked: dict[str, int]


def assembled(parts: Parts) -> Decision:
    """The decision, its sentences last."""
    ready, study = parts.ready, parts.ready.study
    goal, named = OBJECTIVES[study.objective], words(study)
    places = tuple(_place(parts, number) for number in range(len(ready.places)))
    constants = _constants(parts)
    shares = [place.stability.share for place in places if place.stability is not None and (place.winner or place.tied)]
    made = Decision(
        name=study.name, title=study.title, verdict=(), goal=Goal(
            name=goal.name, unit=goal.unit, more=goal.more, text=goal.text, slo_s=limits_s(study.slo)),
        axes=tuple(Axis(path=path, label=named[path], values=tuple(map(value_text, values)))
                   for path, values in study.over.items()),
        candidates=tuple(_contender(parts, name) for name in ready.grounds), equal=ready.equality, places=places,
        constants=tuple(sorted(constants, key=lambda one: -(one.swing or 0.0))), influences=tuple(_influences(parts)),
        break_evens=tuple(_break_evens(parts, constants, places)),
        frontier=frontier(study, ready.places, parts.found),
        stability=sum(shares) / len(shares) if shares else None, runs=Runs(**parts.asked),
        samples=study.uncertainty.draws(len(ready.variables)), seed=study.uncertainty.seed,
        routing=study.uncertainty.routing, beyond=study.uncertainty.beyond,
        study=study.model_dump(mode="json", by_alias=True))
    return made.model_copy(update={"verdict": verdict(made)})


def _contender(parts: Parts, name: str) -> Contender:
    ground = parts.ready.grounds[name]
    options = resolve_options(ground.hardware, ground.machine.options)
    memory = sum(len(names) * spec.memory.si for group, names in device_names(ground.hardware, options).items()
                 if (spec := ground.hardware.devices[group]).memory)
    return Contender(name=name, machine=ground.machine.name, options=options, memory_bytes=int(memory),
                     policies=tuple(dict.fromkeys(tried.name for tried, _ in ground.tried)), searched=ground.searched,
                     amount=parts.ready.amounts.get(name))


def _place(parts: Parts, number: int) -> Place:
    ready, study = parts.ready, parts.ready.study
    top, values = parts.winners[number], parts.values[number]
    samples = {name: parts.drawn.values[number, name] for name in values}
    winner = top[0] if len(top) == 1 else None
    spread = [margin(study, {name: column[i] for name, column in samples.items()}, winner)
              for i in range(len(parts.drawn.quantiles))] if winner else []
    return Place(at={path: value_text(value) for path, value in ready.places[number].items()},
                 label=place_label(study, ready.places[number]),
                 outcomes=tuple(_outcome(parts, number, name) for name in ready.grounds), winner=winner,
                 tied=top if len(top) > 1 else (), margin=margin(study, values, winner) if winner else None,
                 margins=interval(spread),
                 stability=stability(study, list(ready.grounds), samples, top) if samples else None,
                 again=parts.again.get(number))


def _outcome(parts: Parts, number: int, name: str) -> Outcome:
    key, fit = (number, name), parts.ready.fits[number, name]
    if fit.status != "ran":
        return Outcome(candidate=name, status="unfit" if fit.status == "unfit" else "failed", why=fit.why,
                       needs=fit.needs)
    found, chosen = parts.found[key], parts.chosen.get(key)
    tried, why = len(dict.fromkeys(point.key for point in found.points)), found.refused
    why = why if why is None or len(why) <= MOST_TEXT else why[:MOST_TEXT] + "..."
    if chosen is None:
        return Outcome(candidate=name, status="failed", why=why, needs=fit.needs, tried=tried,
                       exhaustive=found.exhaustive)
    limits, row = limits_s(parts.ready.study.slo), found.rows[chosen]
    figures = {figure_: value for figure_ in TOLD if (value := figure(row, figure_, limits)) is not None}
    intervals = {figure_: spread for figure_ in figures
                 if (spread := interval(parts.drawn.figures[key][figure_])) is not None}
    return Outcome(candidate=name, status="ran", why=why, needs=fit.needs, setting=found.choices[chosen].told(),
                   tried=tried, exhaustive=found.exhaustive, value=found.values[chosen],
                   interval=interval(parts.drawn.values[key]), figures=figures, intervals=intervals,
                   digest=row["digest"])


def _constants(parts: Parts) -> list[Sampled]:
    """Every constant that is drawn, in the order of the variables, with what it does."""
    out = []
    for i, (variable, label) in enumerate(zip(parts.ready.variables, labels(parts.ready.variables), strict=True)):
        swings = {place: ends.swing for (place, j), ends in parts.ends.items() if j == i}
        at = max(swings, key=lambda place: swings[place]) if swings else None
        turned = tuple(dict.fromkeys(turn.place for turn in parts.turns
                                     if turn.variable == i and abs(turn.outer) <= 1))
        out.append(variable.told(label).model_copy(update={
            "swing": None if at is None else swings[at], "swing_at": at, "wins_change_at": turned}))
    return out


def _influences(parts: Parts) -> Iterator[Influence]:
    study = parts.ready.study
    for place, winner in parts.plane.winners.items():
        drawn = {name: parts.drawn.values[place, name] for name in parts.values[place]}
        known = correlations(study, parts.drawn, drawn, winner)
        for (at, i), ends in parts.ends.items():
            if at == place:
                yield Influence(place=place, constant=parts.ready.variables[i].name, correlation=known[i],
                                margin_low=ends.margins[-1.0], margin_high=ends.margins[1.0], swing=ends.swing)


def _break_evens(parts: Parts, constants: list[Sampled], places: tuple[Place, ...]) -> Iterator[BreakEven]:
    beyond = parts.ready.study.uncertainty.beyond
    rows: list[tuple[int, int, BreakEven]] = []
    for turn in parts.turns:
        value, ends = value_of(parts.plane, turn), [parts.plane.value(turn, at) for at in (turn.inner, turn.outer)]
        rows.append((turn.place, turn.variable, BreakEven(
            place=turn.place, constant=constants[turn.variable].name, winner=turn.winner,
            other=turn.other[0] if len(turn.other) == 1 else None, keeps="below" if turn.side > 0 else "above",
            value=value, between=(min(ends), max(ends)), unit=constants[turn.variable].unit,
            where="within" if abs(turn.outer) <= 1 else "beyond", text="")))
    rows += [(place, i, BreakEven(place=place, constant=constants[i].name, winner=parts.plane.winners[place],
                                  other=None, keeps=None, value=None, between=None, unit=constants[i].unit,
                                  where="nowhere", text="")) for place, i in parts.never]
    for place, i, told in sorted(rows, key=lambda row: (row[0], -(constants[row[1]].swing or 0.0), row[1])):
        yield told.model_copy(update={"text": break_even_text(places[place].label, constants[i], told, beyond)})
