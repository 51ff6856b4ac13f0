"""Reproduces systems: every claim measured, swept and judged, and the tables and pictures written."""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.observe.files import check_writable, write_texts
from cluster.session import Progress
from emulation.errors import ConfigError, MoelabError, unknown
from studies.reproduce.claims import SYSTEMS, Claims, load_claims
from studies.reproduce.laboratory import Laboratory
from studies.reproduce.measure import Measure
from studies.reproduce.picture import picture
from studies.reproduce.report import page
from studies.reproduce.sweeping import Sweep, Sweeper, evaluate
from studies.reproduce.verdict import Row, judge
from studies.sweep_crew import Processes

ALL = "all"


@dataclass(frozen=True)
class Reproduced:
    """One system's rows, in the order of its claims, and how many runs they took."""

    system: str
    claims: Claims
    rows: list[Row]
    runs: int


def systems(asked: str) -> tuple[str, ...]:
    """The systems that a name means."""
    if asked == ALL:
        return SYSTEMS
    if asked not in SYSTEMS:
        raise ConfigError(unknown("system", asked, (*SYSTEMS, ALL)))
    return (asked,)


def measures_of(system: str, claims: Claims) -> dict[str, Measure]:
    """How each claim of a system is measured; a claim without a measure, or the other way round, is a fault."""
    found: Mapping[str, Measure] = importlib.import_module(f"studies.reproduce.{system}").MEASURES
    ids = [claim.id for claim in claims.claims]
    if set(found) != set(ids):
        raise MoelabError(f"claims and measures of {system} differ: {sorted(set(found) ^ set(ids))}")
    return {name: found[name] for name in ids}


def reproduce(asked: str, progress: Progress, *, only: Sequence[str] = (), sweeps: bool = True,
              workers: int | None = None) -> Iterator[Reproduced]:
    """Every system that is asked for, one by one. only: ids of claims; sweeps: whether what is assumed is swept."""
    with Processes(workers) as crew:
        for system in systems(asked):
            claims = load_claims(system)
            laboratory = Laboratory(crew, progress)
            yield _one(system, _chosen(claims, only, system), laboratory, sweeps)


def _chosen(claims: Claims, only: Sequence[str], system: str) -> Claims:
    ids = [claim.id for claim in claims.claims]
    for name in only:
        if name not in ids:
            raise ConfigError(unknown(f"claim of {system}", name, ids))
    return claims if not only else claims.model_copy(update={
        "claims": tuple(claim for claim in claims.claims if claim.id in only)})


def _one(system: str, claims: Claims, laboratory: Laboratory, sweeps: bool) -> Reproduced:
    found: Mapping[str, Measure] = measures_of(system, load_claims(system))
    measures = {claim.id: found[claim.id] for claim in claims.claims}
    beside = {name: measure.beside for name, measure in measures.items() if measure.beside is not None}
    every = [*measures.values(), *beside.values()]
    laboratory.carry_out((case for measure in every for case in measure.cases(False).values()), system)
    swept = Sweeper(laboratory).sweep_all(measures, system) if sweeps else {}
    rows = []
    for claim in claims.claims:
        measure = measures[claim.id]
        cases = measure.cases(False)
        why = next((laboratory.failed[case] for case in cases.values() if case in laboratory.failed), "")
        other = measure.beside
        rows.append(judge(system, claim, measure, evaluate(measure, cases, laboratory), swept.get(claim.id, Sweep()),
                          failed=why,
                          beside=None if other is None else evaluate(other, other.cases(False), laboratory)))
    return Reproduced(system, claims, rows, laboratory.runs)


def write(found: Sequence[Reproduced], folder: Path) -> list[str]:
    """Rows, page and pictures of what was reproduced; the names of the files."""
    check_writable(folder)
    texts = {"rows.json": json.dumps([row.as_json() for one in found for row in one.rows], indent=1) + "\n",
             "reproduction.md": page(found)}
    texts |= {f"{one.system}.svg": drawn for one in found if (drawn := picture(one.claims.title, one.rows))}
    write_texts(folder, texts)
    return list(texts)
