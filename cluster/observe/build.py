"""Makes the result of a run that a scheduler has finished."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from actors.scheduler import Scheduler
from cluster.config.quantities import confidence
from cluster.observe import energy, figures, schema
from cluster.observe.attribution import Walked
from cluster.observe.digest import value_digest
from cluster.observe.figures import Timed
from cluster.observe.flight import Flight, read_flight
from cluster.observe.journal import Asked, Journal
from cluster.observe.requests import Service
from cluster.observe.requests import figures as request_figures
from cluster.observe.result import Result
from cluster.observe.series.of_result import series
from cluster.observe.series.slices import rows_of


def build_result(*, scheduler: Scheduler, journal: Journal, config: Mapping[str, Any], policy: str,
                 provenance: Sequence[Mapping[str, Any]], hashes: Mapping[str, str], requests: Asked,
                 approximations: Sequence[str] = (), bound: Mapping[str, Any] | None = None,
                 text: Sequence[Mapping[str, Any]] | None = None, host: Mapping[str, Any] | None = None,
                 service: Service | None = None, timed: Timed | None = None, flight: Flight | None = None,
                 rates: energy.Rates | None = None, faults: tuple[schema.FaultEffect, ...] | None = None) -> Result:
    """The result of a finished run.

    config: canonical and resolved, JSON values only. provenance: rows with path, value, kind, source and range.
    hashes: of inputs (trace, checkpoint). bound: lb_ps, binds and whatever else it found. text: rows with sequence,
    token_ids, text. host: keys of `schema.Host`. service: of requests that were batched continuously. timed, flight:
    what a collector gathered, and the operations that it kept; otherwise the scheduler has all of them. rates: what the
    machine draws, as far as it is known. faults: what became of them.
    """
    setting = scheduler.setting
    if timed is None:
        flight = read_flight(scheduler)
        timed = Walked(flight, scheduler.steps, rows_of(setting.machine), scheduler.emit.take_crossed())
    constants = tuple(schema.Constant.model_validate(dict(row), strict=False) for row in provenance)
    lanes, devices = figures.uses(scheduler, timed)
    makespan_ps = max((step.end_ps for step in scheduler.steps), default=0)
    found = request_figures(scheduler, journal, requests, service, makespan_ps)
    emitted = sum(found.requests.emitted_tokens)
    rates = rates or energy.Rates()
    joules = energy.spent(rates, setting.machine, lanes, scheduler.emit.worked, scheduler.emit.moved_bytes,
                          timed.horizon_ps)
    result = Result(
        machine=setting.machine.name, model=setting.model.name, policy=policy, exact=scheduler.policy.exact,
        config=dict(config), provenance=constants, confidence=_confidence(constants),
        approximations=tuple(approximations),
        hashes={**hashes, "machine": value_digest(setting.machine), "model": value_digest(setting.model),
                "budget": value_digest(setting.budget_bytes), "history": value_digest(setting.popularity),
                **({} if setting.history is None else {"history_by_step": value_digest(setting.history)}),
                "routing": journal.digest, "spans": timed.spans_digest},
        makespan_ps=makespan_ps, horizon_ps=timed.horizon_ps, emitted_tokens=emitted,
        output_tokens_per_s=figures.rate(emitted, makespan_ps), ttft=found.ttft, tpot=found.tpot, itl=found.itl,
        phases=figures.phases(scheduler, journal, timed), requests=found.requests, serving=found.serving,
        prefetch=schema.Prefetch(**scheduler.counts.prefetch(timed.end_ps)),
        traffic=tuple(figures.traffic(scheduler)), skew=figures.skew(scheduler.counts.load.sum(axis=0)),
        lanes=tuple(lanes), devices=tuple(devices), memory=tuple(figures.memory(scheduler, journal, service, timed)),
        bound=_bound(bound, makespan_ps), energy=energy.shown(joules, emitted),
        no_energy_data=energy.without_data(rates, setting.machine),
        text=None if text is None else tuple(schema.Answer.model_validate(dict(row), strict=False) for row in text),
        faults=faults, load=figures.load(scheduler),
        series=series(scheduler, journal, service, timed.sliced(), timed.horizon_ps, timed.end_ps),
        host=schema.Host(**(host or {})))
    result._flight = flight
    return result


def _confidence(constants: Sequence[schema.Constant]) -> schema.Confidence:
    """How far the machine can be trusted, as `moelab check` tells it; and how many constants are of which kind."""
    rows = [{"kind": constant.kind} for constant in constants if constant.path.startswith("hardware.")]
    label = confidence(rows)["label"] if rows else "unknown"
    return schema.Confidence(label=label, kinds=dict(sorted(Counter(c.kind for c in constants).items())))


def _bound(bound: Mapping[str, Any] | None, makespan_ps: int) -> schema.Bound | None:
    if bound is None:
        return None
    detail = {key: value for key, value in bound.items() if key not in ("lb_ps", "binds")}
    lb_ps = int(bound["lb_ps"])
    return schema.Bound(lb_ps=lb_ps, binds=bound["binds"], times=makespan_ps / lb_ps if lb_ps else None, detail=detail)

