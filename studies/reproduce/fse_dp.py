"""FSE-DP (arXiv 2603.27624): every figure and plot of its evaluation that is public, with the simulator's action times
taken literally, and beside them on the same array read physically."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

from cluster.observe.result import Result
from studies.chiplet_budgets import BUFFER_MB, USED, area, fits, power, settings, useful
from studies.reproduce.measure import Case, Figure, Measure, Results, no_runs, unknown_figure

PUBLISHED, PHYSICAL = "-published", ""
ROUTING = "generated, Zipf with skew 0.6 (no trace of these models on C4 or WikiText-2 is public)"
BESIDE = "on the same array read physically"
SKEWS = {"workload.generator.skew": ("0.2", "1.0")}


class Shape(NamedTuple):
    """A model as the simulator runs it."""

    d_model: int
    d_ff: int
    top_k: int


MODELS = {"fse-qwen3": Shape(2048, 768, 8), "fse-deepseek": Shape(2048, 1408, 6), "fse-phi-3.5": Shape(4096, 3200, 2),
          "fse-yuan-2.0": Shape(2048, 4096, 2)}
LENGTHS = (16, 64, 256)
LAYERS = 2
GRID = tuple((model, tokens) for model in MODELS for tokens in LENGTHS)
QUICK_GRID = (("fse-qwen3", 64), ("fse-phi-3.5", 64))
FSE, UNPAIRED = "fse_dp", "{name: fse_dp, parameters: {paired: false, placement: sequential}}"
BASES = {"ep": "ep_chiplet", "hydra": "hydra"}
DOUBLE = {name: f"{{name: {policy}, parameters: {{double_buffer: true}}}}" for name, policy in BASES.items()}
SIDES = (2, 3, 4)
SLOTS = (3, 7, 11, 19, 35, 59)
"""Of 8, 12, 16, 24, 40 and 64 slots, five are for tokens."""
SLACK = (0, 10, 20, 30)
D2D, DDR = (128, 288, 512, 640), (16, 32, 64, 90)


def case(kind: str, model: str, tokens: int, policy: str, *more: str, side: int = 2, layers: int = LAYERS) -> Case:
    """A pass of so many tokens, in equal blocks over the chiplets."""
    return Case("fse_dp", (
        f"machine.name=chiplet-{side}x{side}{kind}", f"model={{name: {model}, layers: {layers}}}", f"policy={policy}",
        f"workload.batch={side * side}", f"workload.prompt_tokens={tokens // (side * side)}", *more))


def grid(kind: str, **policies: str) -> Callable[[bool], Mapping[str, Case]]:
    """Each policy for each model and length."""
    return lambda quick: {f"{name} {model} {tokens}": case(kind, model, tokens, policy, layers=1 if quick else LAYERS)
                          for model, tokens in (QUICK_GRID if quick else GRID) for name, policy in policies.items()}


def each(results: Results, name: str) -> dict[str, Result]:
    """The results of one policy, by model and length."""
    return {key.partition(" ")[2]: result for key, result in results.items() if key.partition(" ")[0] == name}


def speedups(results: Results) -> list[float]:
    """Time of every baseline over FSE-DP's, where both ran."""
    ours = each(results, "fse")
    return [other.makespan_ps / ours[key].makespan_ps for base in BASES for key, other in each(results, base).items()]


def fullest(result: Result) -> int:
    """Bytes of experts on the fullest chiplet at its peak."""
    return max(memory.experts_peak_bytes for memory in result.memory if memory.device.startswith("chiplet"))


def two(make: Callable[[str], Measure]) -> Measure:
    """The published action times, and the physical machine beside them."""
    first, second = make(PUBLISHED), make(PHYSICAL)
    return Measure(first.cases, first.value, first.routing, first.reason, first.sweeps, second, BESIDE)


def measured(cases: Callable[[str], Callable[[bool], Mapping[str, Case]]], value: Callable[[Results], Figure],
             reason: str = "") -> Measure:
    """Cases on both machines."""
    return two(lambda kind: Measure(cases(kind), value, ROUTING, reason, SKEWS))


def against(bases: Mapping[str, str]) -> Callable[[str], Callable[[bool], Mapping[str, Case]]]:
    """FSE-DP and baselines over the grid."""
    return lambda kind: grid(kind, fse=FSE, **bases)


def narrow_slices(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """Slices of 1/64 for the wide experts and of 1/16 for others, as the simulator counts megabytes, beside EP's."""
    def cases(quick: bool) -> Mapping[str, Case]:
        found = {}
        for model, tokens in (QUICK_GRID if quick else GRID):
            parts = 64 if model in ("fse-phi-3.5", "fse-yuan-2.0") else 16
            policy = f"{{name: fse_dp, parameters: {{micro_slices: {parts}}}}}"
            for name, chosen in (("fse", policy), *BASES.items()):
                found[f"{name} {model} {tokens}"] = case(kind, model, tokens, chosen, layers=1)
        return found

    return cases


def saved(results: Results) -> Figure:
    """The most of a baseline's peak that FSE-DP saves, in per cent."""
    ours = each(results, "fse")
    return max(100 * (1 - fullest(ours[key]) / fullest(other))
               for base in BASES for key, other in each(results, base).items())


def holds_less(results: Results) -> bool:
    """Whether FSE-DP's peak is below every baseline's, everywhere."""
    ours = each(results, "fse")
    return all(fullest(ours[key]) < fullest(other) for base in BASES for key, other in each(results, base).items())


def uses_more(results: Results) -> bool:
    """Whether useful utilisation is above every baseline's: for the same work that is the same as being faster."""
    return all(speedup > 1 for speedup in speedups(results))


def buffers(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """FSE-DP on Phi3.5, 16 tokens, by slots for slices."""
    return lambda quick: {str(slots): case(kind, "fse-phi-3.5", 16, FSE,
                                           f"machine.constants.devices.chiplet.pools.expert_slots={slots}", layers=1)
                          for slots in (SLOTS[::2] if quick else SLOTS)}


def falls(results: Results) -> bool:
    """Whether time never rises from one case to the next, and falls from the first to the last."""
    times = [result.makespan_ps for result in results.values()]
    return all(later <= before for before, later in pairwise(times)) and times[-1] < times[0]


def bandwidths(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """A coarse grid of D2D and DDR bandwidth within both budgets, Qwen3, 256 tokens."""
    def cases(quick: bool) -> Mapping[str, Case]:
        points = [(a, b) for a in D2D for b in DDR if fits(a, b, BUFFER_MB)]
        return {f"{a} {b}": case(kind, "fse-qwen3", 256, FSE, *settings(a, b), layers=1)
                for a, b in (points[-3:] if quick else points)}

    return cases


def feasible(kind: str) -> Callable[[Results], Figure]:
    """Whether any reaches the utilisation that is asked for."""
    matrices = 2 if kind == PUBLISHED else 3
    return lambda results: any(useful(result, matrices, *MODELS["fse-qwen3"], 1) >= USED for result in results.values())


def arrays(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """The policies on every array, 144 tokens: a number that all of them divide."""
    return lambda quick: {f"{name} {side} {model}": case(kind, model, 144, policy, side=side, layers=1)
                          for model in (["fse-phi-3.5"] if quick else MODELS) for side in SIDES
                          for name, policy in (("fse", FSE), *BASES.items())}


def slack(kind: str, steps: tuple[int, ...]) -> Callable[[bool], Mapping[str, Case]]:
    """Passes of 64 one-token requests with token buffering."""
    return lambda quick: {str(s): Case("fse_dp_buffering", (
        f"machine.name=chiplet-2x2{kind}", f"workload.serving.batcher.parameters.slackness={s}",
        "policy={name: fse_dp, parameters: {paired: false}}", "model.layers=1",
        f"workload.serving.requests={256 if quick else 640}")) for s in (steps[:2] if quick else steps)}


def ablation(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """A1, A2 and A3, where the labels are what their configs say (A2 by elimination)."""
    coarse = "{name: fse_dp, parameters: {micro_slices: 4, paired: false, placement: sequential}}"
    two_slots = "machine.constants.devices.chiplet.pools.expert_slots=2"

    def cases(quick: bool) -> Mapping[str, Case]:
        found: dict[str, Case] = {}
        for model, tokens in (QUICK_GRID if quick else [(model, 64) for model in MODELS]):
            found |= {f"a1 {model}": case(kind, model, tokens, coarse, two_slots, layers=1),
                      f"a2 {model}": case(kind, model, tokens, UNPAIRED, layers=1),
                      f"a3 {model}": case(kind, model, tokens, FSE, layers=1)}
        return found

    return cases


def faster(*order: str) -> Callable[[Results], Figure]:
    """Whether each is slower than the next, for every model."""
    return lambda results: all(each(results, a)[key].makespan_ps > each(results, b)[key].makespan_ps
                               for a, b in pairwise(order) for key in each(results, a))


def destinations(kind: str) -> Callable[[bool], Mapping[str, Case]]:
    """A2 and A4 on the two models with few slices, whose channels are asked for each of them."""
    free = "{name: fse_dp, parameters: {paired: false, placement: sequential, destination: max_buffer}}"
    return lambda quick: {f"{name} {model}": case(kind, model, 64, policy, layers=1)
                          for model in ("fse-phi-3.5", "fse-yuan-2.0")[:1 if quick else 2]
                          for name, policy in (("a2", UNPAIRED), ("a4", free))}


def no_slower(results: Results) -> Figure:
    """Whether A4 takes no longer than A2."""
    a2 = each(results, "a2")
    return all(result.makespan_ps <= a2[key].makespan_ps for key, result in each(results, "a4").items())


ALONE = "each expert waits for the run of the one before it, as published"
MEASURES: dict[str, Measure] = {
    "speedup_least": measured(against(BASES), lambda results: min(speedups(results)), ALONE),
    "speedup_most": measured(against(BASES), lambda results: max(speedups(results)), ALONE),
    "speedup_least_double": measured(against(DOUBLE), lambda results: min(speedups(results))),
    "speedup_most_double": measured(against(DOUBLE), lambda results: max(speedups(results))),
    "memory_saved": measured(narrow_slices, saved, "12 slots of 1/64 expert are 81 % less than one expert; the 1/16 "
                                                   "that the simulator runs 25 %; published baselines hold one"),
    "utilisation_by_strategy": measured(against(BASES), uses_more, "useful work only: for the same pairs it is the "
                                                                   "inverse of time"),
    "utilisation_over_time": unknown_figure("a curve without figures; `moelab run fse_dp` writes a timeline"),
    "peak_buffer": measured(against(BASES), holds_less),
    "latency_over_buffer": measured(buffers, falls),
    "activity_timeline": unknown_figure("a picture without figures; `moelab run fse_dp` writes a timeline"),
    "heat_maps": unknown_figure("pictures without figures; counter tracks of the timeline show buffers"),
    "feasible_region": two(lambda kind: Measure(bandwidths(kind), feasible(kind), ROUTING, "Qwen3, 256 tokens",
                                                SKEWS)),
    "array_scaling": measured(arrays, uses_more, "144 tokens, which all arrays divide. A slice hops through 9 or 16 "
                              "chiplets, while Hydra's experts run side by side on as many"),
    "token_buffering": measured(lambda kind: slack(kind, SLACK), falls, "640 one-token requests in passes "
                                "of 64; who is held back is charged the wait, and joins the next pass on top of it"),
    "ablation": measured(ablation, faster("a1", "a2", "a3")),
    "most_free_destination": measured(destinations, no_slower, "the channels bind, and both keep them busy; its last "
                                      "slices enter farther from where the ring is free"),
    "buffering_in_ablation": measured(lambda kind: slack(kind, (0, 20)), falls, "20 %, as its script has it"),
    "paired_load": measured(lambda kind: grid(kind, u=UNPAIRED, p=FSE), faster("u", "p"), "with the placement of each: "
                            "sequential unpaired, even paired. Faster where a channel would serve more than its share; "
                            "where all experts are active, the channels are even anyhow"),
    "budget_area": Measure(no_runs, lambda _: area(288, BUFFER_MB), "none", "the formula"),
    "budget_power": Measure(no_runs, lambda _: power(288, 25.6), "none", "the formula"),
}
