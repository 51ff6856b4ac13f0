"""Requests as they were served: when each got its tokens, and what that amounts to. Columns of whole picoseconds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from actors.scheduler import Scheduler
from cluster.observe import schema
from cluster.observe.journal import Asked, Journal
from emulation.units import PS_PER_S
from emulation.view import PREFILL

Ints = NDArray[np.int64]
NEVER = -1


@dataclass(frozen=True)
class Service:
    """How requests were served: what of it the steps do not tell.

    kv_capacity_blocks, kv_peak_blocks [homes]. preemptions [requests]. recomputed_tokens: positions that were computed
    again behind a pre-emption. prefix_tokens: those that were found in the cache. kv_blocks [steps, homes]: held in
    each step. ttft_ps, tpot_ps: of the SLO.
    """

    batcher: str
    block_tokens: int
    block_bytes: int
    kv_capacity_blocks: Ints
    kv_peak_blocks: Ints
    preemptions: Ints
    recomputed_tokens: int
    prefix_tokens: int
    kv_blocks: Ints
    ttft_ps: int | None = None
    tpot_ps: int | None = None


class Times(NamedTuple):
    """Instants of each request (NEVER: none), [requests], and the gaps between all tokens of one request, [gaps].

    started: the begin of the first step that computed any of it. first, last: ends of the steps that made its first
    and its last token. made: tokens. prompted: its prefill was part of the run, and ended.
    """

    started_ps: Ints
    first_ps: Ints
    last_ps: Ints
    made: Ints
    prompted: NDArray[np.bool_]
    gaps_ps: Ints


def times(scheduler: Scheduler, journal: Journal, asked: Asked) -> Times:
    """When each request was served. Its tokens come at the ends of the steps that wanted its logits."""
    steps = [activity.step for activity in journal.activities]
    begin_ps = np.array([step.begin_ps for step in scheduler.steps], np.int64)
    end_ps = np.array([step.end_ps for step in scheduler.steps], np.int64)
    count = len(asked.sequence)
    started, first, last = (np.full(count, NEVER, np.int64) for _ in range(3))
    if not steps or not count:
        none = np.zeros(count, np.int64)
        return Times(started, first, last, none, none > 0, none[:0])
    number = np.repeat(np.arange(len(steps)), [len(step) for step in steps])
    who = np.searchsorted(asked.sequence, np.concatenate([step.sequence for step in steps]))
    phase, ends = (np.concatenate([getattr(step, key) for step in steps]) for key in ("phase", "ends"))
    started[who[::-1]] = begin_ps[number[::-1]]
    prefilled = np.zeros(count, np.bool_)
    prefilled[who[phase == PREFILL]] = True
    order = np.argsort(who[ends], kind="stable")
    whose, at_ps = who[ends][order], end_ps[number[ends][order]]
    first[whose[::-1]], last[whose] = at_ps[::-1], at_ps
    gaps = np.diff(at_ps)[whose[1:] == whose[:-1]]
    return Times(started, first, last, np.bincount(whose, minlength=count), prefilled & (first != NEVER), gaps)


def quantiles(values_ps: Sequence[int] | Ints) -> schema.Quantiles | None:
    """Mean and nearest-rank P50, P90 and P99 of whole picoseconds; None of nothing."""
    ordered = np.sort(np.asarray(values_ps, np.int64))
    if not len(ordered):
        return None
    exact = ranked(ordered)
    p50_s, p90_s, p99_s = (value / PS_PER_S for value in exact)
    mean_s = sum(ordered.tolist()) / (len(ordered) * PS_PER_S)
    return schema.Quantiles(count=len(ordered), mean_s=mean_s, p50_s=p50_s, p90_s=p90_s, p99_s=p99_s, exact_ps=exact)


def quantiles_s(values_s: Sequence[float]) -> schema.Quantiles | None:
    """The same of seconds that are no whole picoseconds."""
    if not values_s:
        return None
    p50_s, p90_s, p99_s = ranked(np.sort(np.array(values_s)))
    return schema.Quantiles(count=len(values_s), mean_s=math.fsum(values_s) / len(values_s), p50_s=p50_s, p90_s=p90_s,
                            p99_s=p99_s)


def ranked(ordered: NDArray[Any]) -> tuple[Any, Any, Any]:
    """P50, P90 and P99 by nearest rank, as Python's numbers."""
    p50, p90, p99 = (ordered[-(-len(ordered) * percent // 100) - 1].item() for percent in (50, 90, 99))
    return p50, p90, p99


class Figures(NamedTuple):
    """What a result says of its requests."""

    requests: schema.Requests
    ttft: schema.Quantiles | None
    tpot: schema.Quantiles | None
    itl: schema.Quantiles | None
    serving: schema.Serving | None


def figures(scheduler: Scheduler, journal: Journal, asked: Asked, service: Service | None, makespan_ps: int) -> Figures:
    """TTFT: from arrival to the end of the step that ended the prefill. TPOT: (last - first) / (tokens - 1). ITL:
    every gap between two tokens of a request."""
    found = times(scheduler, journal, asked)
    several = found.made > 1
    tpot_s = [gap / ((made - 1) * PS_PER_S) for gap, made in
              zip((found.last_ps - found.first_ps)[several].tolist(), found.made[several].tolist(), strict=True)]
    return Figures(_columns(asked, found, service),
                   quantiles((found.first_ps - asked.arrival_ps)[found.prompted]), quantiles_s(tpot_s),
                   quantiles(found.gaps_ps), None if service is None else _serving(asked, found, service, makespan_ps))


def _columns(asked: Asked, found: Times, service: Service | None) -> schema.Requests:
    def known(at_ps: Ints, where: NDArray[np.bool_]) -> tuple[int | None, ...]:
        return tuple(ps if there else None for ps, there in zip(at_ps.tolist(), where.tolist(), strict=True))

    columns = {name: tuple(getattr(asked, name).tolist())
               for name in ("sequence", "arrival_ps", "prompt_tokens", "output_tokens")}
    return schema.Requests(
        **columns, emitted_tokens=tuple(found.made.tolist()), started_ps=known(found.started_ps, found.started_ps >= 0),
        first_ps=known(found.first_ps, found.prompted), last_ps=known(found.last_ps, found.last_ps != NEVER),
        preemptions=(0,) * len(asked.sequence) if service is None else tuple(service.preemptions.tolist()))


def _serving(asked: Asked, found: Times, service: Service, makespan_ps: int) -> schema.Serving:
    done, started = found.made == asked.output_tokens, found.started_ps != NEVER
    return schema.Serving(
        batcher=service.batcher, finished=int(done.sum()),
        queueing=quantiles((found.started_ps - asked.arrival_ps)[started]),
        end_to_end=quantiles((found.last_ps - asked.arrival_ps)[done]),
        block_tokens=service.block_tokens, block_bytes=service.block_bytes,
        kv_capacity_blocks=tuple(service.kv_capacity_blocks.tolist()),
        kv_peak_blocks=tuple(service.kv_peak_blocks.tolist()), preemptions=int(service.preemptions.sum()),
        recomputed_tokens=service.recomputed_tokens, prefix_tokens=service.prefix_tokens,
        slo=None if service.ttft_ps is None and service.tpot_ps is None else _slo(
            asked, found, done, service.ttft_ps, service.tpot_ps, makespan_ps))


def _slo(asked: Asked, found: Times, done: NDArray[np.bool_], ttft_ps: int | None, tpot_ps: int | None,
         makespan_ps: int) -> schema.Slo:
    """Who met the objective: of all requests, also of those that the run left unfinished."""
    soon = found.prompted.copy()
    if ttft_ps is not None:
        soon &= found.first_ps - asked.arrival_ps <= ttft_ps
    fast = done.copy()
    if tpot_ps is not None:
        fast &= -((found.first_ps - found.last_ps) // np.maximum(found.made - 1, 1)) <= tpot_ps
    count, met = len(done), int((soon & fast).sum())
    return schema.Slo(ttft_s=None if ttft_ps is None else ttft_ps / PS_PER_S,
                      tpot_s=None if tpot_ps is None else tpot_ps / PS_PER_S,
                      ttft_share=int(soon.sum()) / count, tpot_share=int(fast.sum()) / count, share=met / count,
                      requests_per_s=met * PS_PER_S / makespan_ps if makespan_ps else None)
