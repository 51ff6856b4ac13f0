"""Arrangement of experts in arXiv 2303.06182: its figures of expert buffering (G2) and of load balancing (G3)."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np

from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.feed import divided, visits_of
from cluster.observe.result import Result
from cluster.resolve import resolve
from emulation.ledger import Ledger
from emulation.view import Visits
from schedulers._placement import device_shares, owners_by
from schedulers.registry import load_policy
from studies.expert_caches import Loads, loads, misses
from studies.reproduce.measure import Case, Measure, Results, no_runs
from studies.reproduce.moe_gating import BATCH, GPUS, RUN
from studies.reproduce.moe_gating import MT as MT_TASK
from studies.reproduce.moe_gating import case as gating

LM, MT = RUN["lm"], RUN[MT_TASK]
A_GPU = 16
"""Experts of a layer of NLLB on each GPU of one node."""
ON_ONE_NODE = 10
"""Experts that the published cache of a GPU holds."""

GIB = 1 << 30
SIZES = tuple(range(1, A_GPU + 1))
KNEE = 5
"""Experts a GPU beyond which the published miss rate falls faster."""
CLOSE = 0.05
"""Two miss rates that differ by no more, on the mean over cache sizes, are called close here."""
COMPARABLE = 0.85
"""Of the baseline's throughput; as much as a figure may be off to pass."""

LM_ROUTING = "generated: Zipf over 512 experts, skew assumed and swept; the paper prints no distribution"
MT_ROUTING = "generated: 28 hot experts of 128 with a skew, both assumed; persistent, with the published idle share"
LM_SWEEP = {"workload.generator.skew": ("0.5", "1.5", "2.0")}
MT_SWEEP = {"workload.generator.skew": ("0.0", "2.0"), "workload.generator.share": ("0.9", "1.0"),
            "workload.generator.experts": ("14", "56")}
"""Nothing public tells the distributions: what the generators assume, and what else is tried."""


# runs

def lm(placement: str, quick: bool) -> Case:
    """The language model under dynamic gating: one batch places, the next is timed; quick: its first MoE layer."""
    return Case(LM, ("policy=dynamic_gating", f"policy.parameters.placement={placement}", "workload.requests=128",
                     "workload.history=0.5", *(("model.layers=1",) if quick else ())))


def static(nodes: int, quick: bool) -> Case:
    """The baseline: static gating with the published capacity factor, 48 sentences a GPU; quick on four nodes: short
    ones, which the decoder hardly notices, and one step of it."""
    of = gating(MT_TASK, "static", quick, nodes)
    return of.with_("limits.steps=2", "workload.prompt_tokens=8") if quick and nodes > 2 else of


def buffered(nodes: int, slots: int, quick: bool) -> Case:
    """Caches of so many experts a GPU, warm from a batch of sentences before, which is not timed."""
    return Case(MT, (*static(nodes, quick).settings, "policy=expert_buffering", f"policy.parameters.slots={slots}",
                     *_after(nodes, 1)))


def placed_mt(placement: str, quick: bool) -> Case:
    """Translation under dynamic gating, placed by the three batches before."""
    return Case(MT, (*static(1, quick).settings, "policy=dynamic_gating", f"policy.parameters.placement={placement}",
                     *_after(1, 3)))


def _after(nodes: int, batches: int) -> tuple[str, ...]:
    """The settings of a batch that so many others went before."""
    return (f"workload.requests={nodes * GPUS * BATCH[MT_TASK] * (batches + 1)}", "workload.output_tokens=8",
            f"workload.history={batches / (batches + 1)}")


def both(case: Callable[[str, bool], Case], by: str) -> Callable[[bool], Mapping[str, Case]]:
    """The original order and a placement by history."""
    return lambda quick: {"original": case("contiguous", quick), by: case(by, quick)}


def gain(phase: str, by: str) -> Callable[[Results], float]:
    """Percent of throughput that a placement adds in a phase."""
    return lambda results: 100 * (rate(results[by], phase) / rate(results["original"], phase) - 1)


def rate(result: Result, phase: str) -> float:
    """Tokens a second of a phase: of the encoder, or of a model without one, in prefill."""
    return float(result.phases[phase].tokens_per_s or 0.0)


def over_static(nodes: int) -> Measure:
    """Throughput of MT's decoder with buffering over static gating, on as many nodes; beside it with larger caches."""
    slots = ON_ONE_NODE // nodes
    return Measure(
        _pair(nodes, slots), over, MT_ROUTING,
        f"80 experts cached in all, {slots} a GPU: the paper states the cache of one node only", MT_SWEEP,
        Measure(_pair(nodes, ON_ONE_NODE), over, MT_ROUTING), "10 a GPU: all of them")


def _pair(nodes: int, slots: int) -> Callable[[bool], Mapping[str, Case]]:
    return lambda quick: {"static": static(nodes, quick), "buffered": buffered(nodes, slots, quick)}


def over(results: Results) -> float:
    """Rate of the decoder with buffering over static gating's."""
    return rate(results["buffered"], "decode") / rate(results["static"], "decode")


def comparable() -> Measure:
    """Whether buffering keeps the baseline's throughput on one node."""
    return Measure(_pair(1, ON_ONE_NODE), lambda results: over(results) >= COMPARABLE, MT_ROUTING,
                   f"comparable: at least {COMPARABLE:.0%} of the baseline's throughput, at 10 experts a GPU", MT_SWEEP)


# what the routing alone tells

def routed(result: Result, batches: int) -> tuple[Visits, Visits]:
    """The routing of a run with so many batches, its first half and its second."""
    known = {key: result.config[key] for key in ("model", "precision", "workload", "seed")}
    config = RunConfig.model_validate_json(json.dumps(
        {**known, "machine": {"name": result.machine}, "policy": "dynamic_gating"}))
    work = config.workload.model_copy(update={"history": 0.5, "requests": batches * config.workload.batch})
    return _routed(config.model_copy(update={"workload": work}).model_dump_json())


@lru_cache(maxsize=16)
def _routed(config: str) -> tuple[Visits, Visits]:
    setup = resolve(RunConfig.model_validate_json(config))
    first, second = divided(setup)
    return visits_of(first, setup.model.experts), visits_of(second, setup.model.experts)


def decoder(visits: Visits) -> Visits:
    """The decoder's steps and layers: those of a step that passes the encoder route nothing in them, and idle."""
    layers = visits.counts.shape[1] // 2
    there = visits.counts[:, layers:].any(axis=(1, 2))
    return Visits(visits.step[there], visits.counts[there, layers:])


class Curves:
    """Worst-layer miss rates of MT's decoder by cache size; two batches of sentences place, two score."""

    def __init__(self, result: Result) -> None:
        self._first, self._second = (decoder(part) for part in routed(result, 4))

    def rates(self, rule: str, placement: str = "contiguous", sizes: tuple[int, ...] = SIZES) -> list[float]:
        """The rate of the worst layer at each size."""
        owner = owners_by(self._first.counts, GPUS, placement)
        popular = self._first.counts.sum(axis=0)
        return [misses(self._second, owner, GPUS, size, rule, popular).worst for size in sizes]


def of_misses(value: Callable[[Curves], float | bool], reason: str = "") -> Measure:
    """A figure of Fig. 12."""
    return Measure(lambda quick: {"placed": placed_mt("greedy", quick)},
                   lambda results: value(Curves(results["placed"])), MT_ROUTING, reason, MT_SWEEP)


def falls_faster(curves: Curves) -> bool:
    """Whether a slot takes more off the miss rate from 5 to 10 a GPU than from 1 to 5."""
    one, knee, ten = curves.rates("lifo", sizes=(1, KNEE, 10))
    return (knee - ten) / (10 - KNEE) > (one - knee) / (KNEE - 1)


def lifo_beats_fifo(curves: Curves) -> bool:
    """Whether LIFO misses less on the mean over sizes, and never more."""
    pairs = list(zip(curves.rates("lifo"), curves.rates("fifo"), strict=True))
    return all(lifo <= fifo for lifo, fifo in pairs) and sum(lifo for lifo, _ in pairs) < sum(fifo for _, fifo in pairs)


def lifo_near_min(curves: Curves) -> bool:
    """Whether LIFO with balancing is close to MIN with balancing."""
    lifo, least = (np.mean(curves.rates(rule, "greedy")) for rule in ("lifo", "belady"))
    return bool(lifo - least <= CLOSE)


def balancing_lowers(curves: Curves) -> bool:
    """Whether balanced experts miss no more at any cache size, and less on the mean."""
    pairs = list(zip(curves.rates("lifo", "greedy"), curves.rates("lifo"), strict=True))
    return all(new <= old for new, old in pairs) and sum(new for new, _ in pairs) < sum(old for _, old in pairs)


def lm_loads(results: Results, placement: str) -> Loads:
    """Load of the fullest of 8 GPUs in the language model, over the batches that score."""
    first, second = routed(next(iter(results.values())), 4)
    return loads(device_shares(second, owners_by(first.counts, GPUS, placement), GPUS))


def max_load(value: Callable[[Results], float | bool], reason: str = "") -> Measure:
    """A figure of Fig. 14."""
    return Measure(lambda quick: {"placed": lm("greedy", quick)}, value, LM_ROUTING, reason, LM_SWEEP)


# memory, without a run

def static_bytes(policy: str, **parameters: object) -> int:
    """Weights on the first GPU of one node before a run: all that is dense, and experts."""
    setup = resolve(load_run(MT, []))
    start, _ = load_policy(policy, parameters).start(setup.setting)
    ledger = Ledger(setup.machine, setup.model, start, setup.setting.budget_bytes)
    return int(ledger.used_bytes[setup.machine.homes[0]]) + setup.model.dense_bytes


def kept(slots: int, layers: str) -> int:
    """Bytes that stay with a cache of so many experts in each of these layers."""
    return static_bytes("expert_buffering", slots=slots, layers=layers)


def saved(slots: int, layers: str) -> float:
    """Bytes that a cache of so many experts saves."""
    return static_bytes("dynamic_gating") - kept(slots, layers)


def of_memory(value: Callable[[str], float], reason: str = "") -> Measure:
    """Which layers are buffered is not said: the decoder's, or all."""
    return Measure(no_runs, lambda _: value("decoder"), "none: weights", reason,
                   readings={"layers buffered": lambda: value("all")})


MEASURES: dict[str, Measure] = {
    "buffering_memory_most": of_memory(
        lambda layers: static_bytes("dynamic_gating") / kept(1, layers), "one expert a GPU and layer, decoder only"),
    "buffering_memory_at_10": of_memory(
        lambda layers: saved(10, layers) / GIB, "binary gigabytes: six layers of six experts of 64 MiB"),
    "buffering_knee": of_misses(falls_faster, "misses a slot between 5 and 10 a GPU against between 1 and 5"),
    "buffering_saved_16": of_memory(lambda layers: 100 * saved(16, layers) / static_bytes("dynamic_gating")),
    "buffering_saved_1": of_memory(lambda layers: 100 * saved(1, layers) / static_bytes("dynamic_gating")),
    "buffering_one_node": comparable(),
    "buffering_two_nodes": over_static(2),
    "buffering_four_nodes": over_static(4),
    "lifo_better_than_fifo": of_misses(lifo_beats_fifo, "FIFO as such, which does not look at the batch"),
    "lifo_near_min": of_misses(lifo_near_min, f"at most {CLOSE} of miss rate above it on the mean over cache sizes"),
    "max_load_original": max_load(lambda results: lm_loads(results, "contiguous").max, "published as: over 0.6"),
    "max_load_greedy": max_load(lambda results: lm_loads(results, "greedy").max, "published as: under 0.4"),
    "max_load_lowered": max_load(lambda results: lm_loads(results, "contiguous").max > 0.6 and
                                 lm_loads(results, "greedy").max < 0.4),
    "balancing_lm": Measure(both(lm, "greedy"), gain("prefill", "greedy"), LM_ROUTING, "", LM_SWEEP),
    "balancing_mt_encoder": Measure(both(placed_mt, "greedy"), gain("prefill", "greedy"), MT_ROUTING, "", MT_SWEEP),
    "anticorrelation_mt_decoder": Measure(
        both(placed_mt, "anticorrelation"), gain("decode", "anticorrelation"), MT_ROUTING,
        "generated hot experts do not depend on each other, so correlations are noise", MT_SWEEP),
    "balancing_lowers_misses": of_misses(balancing_lowers, "under LIFO, at 1 to 16 experts a GPU"),
}
