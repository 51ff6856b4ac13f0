"""A decision carried out: what fits, the best settings, draws, swings and break-evens, put together."""

from pathlib import Path

from cluster.observe.files import check_writable, write_texts
from cluster.observe.store import Store
from cluster.session import Progress, Silent
from studies.decide.assemble import Parts, assembled
from studies.decide.decision import DECISION_FILE, Decision
from studies.decide.ready import Ready, prepare
from studies.decide.runs import Runs, runs_in
from studies.decide.search import best, leaders, search
from studies.decide.study import Decide
from studies.decide.turning import Plane, break_evens, swings
from studies.decide.uncertain import sample
from studies.sweep import Options


def decide(study: Decide, folder: Path | Store, options: Options | None = None,
           progress: Progress | None = None) -> tuple[Decision, int]:
    """The decision, and how many runs were carried out now; decision.json is written into the folder."""
    options, heard = options or Options(), progress or Silent()
    check_writable(folder)
    ready = prepare(study)
    one = next(iter(ready.grounds.values()))
    with runs_in(folder, one.study, options, heard) as runs:
        runs.expected = ready.planned
        made = assembled(_carried_out(ready, runs))
        write_texts(folder, {DECISION_FILE: made.to_json()})
        return made, runs.carried


def _carried_out(ready: Ready, runs: Runs) -> Parts:
    study = ready.study
    found = search(study, ready.grounds, ready.places, ready.where, runs)
    runs.forget("search")
    chosen = best(study, found)
    drawn, again = sample(study, ready.variables, found, chosen, runs)
    runs.forget("again")
    values: dict[int, dict[str, float | None]] = {number: {} for number in range(len(ready.places))}
    for (place, name), number in chosen.items():
        values[place][name] = found[place, name].values[number]
    winners = {place: leaders(study, own) for place, own in values.items()}
    contested = {place: top[0] for place, top in winners.items() if len(top) == 1 and len(values[place]) > 1}
    plane = Plane(study, ready.variables, found, chosen, values, contested, runs)
    ends = swings(plane) if study.uncertainty.break_even else {}
    runs.forget("swings")
    turns, never = break_evens(plane, ends)
    runs.forget("break_even")
    return Parts(ready, found, chosen, drawn, again, values, winners, plane, ends, turns, never, dict(runs.asked))
