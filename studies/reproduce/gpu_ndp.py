"""GPU-NDP (arXiv 2601.03992): every figure and trend that is public of its evaluation, by model and DIMMs."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import mean

import numpy as np

from cluster.config.reading import load_run
from cluster.feed import router_of
from cluster.observe.result import Result
from cluster.resolve import resolve
from emulation.view import PREFILL
from studies.reproduce.measure import Case, Figure, Measure, Results
from workloads.synthetic import Request, static_steps

QWEN3, DEEPSEEK, PHI, MIXTRAL = MODELS = ("qwen3-30b-a3b", "deepseek-v2-lite", "phi-3.5-moe", "mixtral-8x7b")
DIMMS = range(2, 7)
MIDDLE = 4
OUT = 512
FEWER = {False: "workload.output_tokens=65", True: "workload.output_tokens=17"}
"""Fewer tokens where only the mean time a token and the time to the first are needed; `end_to_end_s` says how."""

OURS, MONDE, WHOLE = "gpu_ndp", "monde", "expert_parallel"
CUT = "{name: gpu_ndp, parameters: {balance: false, prefetch: none}}"
BALANCED = "{name: gpu_ndp, parameters: {prefetch: none}}"
UNICAST = "{name: gpu_ndp, parameters: {exchange: unicast}}"
RUNNING = "{name: gpu_ndp, parameters: {prefetch: running}}"
STEPS = {"whole": WHOLE, "cut": CUT, "balanced": BALANCED, "ahead": OURS}
CAPS = (1, 4, 16, -1)
"""Residents a layer; the last fills the memory, and is what `gpu_ndp` does unless told otherwise."""

ROUTING = "fitted to Mixtral-8x7B's on MT-bench (published with HD-MoE), stretched to the experts of each model"
PRIVATE = "The paper has such a figure, and nothing public tells its values"
CALIBRATION, SERVED = 48, 16
"""Sequences that are tried for a calibration set at most, and those whose decodes it is to serve."""


def case(model: str, dimms: int, policy: str, *settings: str) -> Case:
    """A point of the grid."""
    return Case("gpu_ndp", (f"model={model}", f"machine.options.units={dimms}", f"policy={policy}", *settings))


def grid(policies: Mapping[str, str], models: tuple[str, ...], dimms: range | tuple[int, ...],
         *settings: str) -> dict[str, Case]:
    """Cases by policy's key, model and DIMMs."""
    return {f"{key} {model} {n}": case(model, n, policy, *settings)
            for model in models for n in dimms for key, policy in policies.items()}


def end_to_end_s(result: Result) -> float:
    """A request of 512 tokens in and 512 out: to the first token, and 511 times the mean time of a further one."""
    assert result.ttft is not None
    assert result.tpot is not None
    return result.ttft.mean_s + (OUT - 1) * result.tpot.mean_s


def over(results: Results, slower: str, faster: str) -> list[float]:
    """Latency under one policy over that under another, at each point where both ran."""
    points = [key.removeprefix(f"{faster} ") for key in results if key.startswith(f"{faster} ")]
    return [end_to_end_s(results[f"{slower} {at}"]) / end_to_end_s(results[f"{faster} {at}"]) for at in points]


def headline(quick: bool) -> dict[str, Case]:
    """MoNDE and GPU-NDP on the whole grid, all tokens; for sweeps with four DIMMs."""
    both = {"monde": MONDE, "ours": OURS}
    return grid(both, MODELS, (MIDDLE,), FEWER[True]) if quick else grid(both, MODELS, DIMMS)


def of_model(model: str) -> Measure:
    """A model's mean speed-up over the DIMMs."""
    runs = {key: one for key, one in headline(False).items() if model in key}
    return Measure(lambda quick: {} if quick else runs, lambda r: mean(over(r, "monde", "ours")), ROUTING, PRIVATE)


def ablation(step: str) -> Measure:
    """A step's latency against MoNDE, mean over the models with four DIMMs."""
    runs = grid({"monde": MONDE, "ours": STEPS[step]}, MODELS, (MIDDLE,), FEWER[False])
    return Measure(lambda quick: {} if quick else runs, lambda r: mean(over(r, "monde", "ours")), ROUTING, PRIVATE)


def compared(slower: str, faster: str, reason: str) -> Measure:
    """One variant's latency over another's, mean over the models with four DIMMs."""
    runs = grid({"slower": slower, "faster": faster}, MODELS, (MIDDLE,), FEWER[False])
    return Measure(lambda quick: {} if quick else runs, lambda r: mean(over(r, "slower", "faster")), ROUTING, reason)


def two_dimms(quick: bool) -> dict[str, Case]:
    """MoNDE and cut experts alone with two DIMMs."""
    return grid({"monde": MONDE, "cut": CUT}, (QWEN3, MIXTRAL) if quick else MODELS, (2,), FEWER[quick])


def loses_somewhere(results: Results) -> bool:
    return min(over(results, "monde", "cut")) < 1


def capped(quick: bool) -> dict[str, Case]:
    """The model of whose experts the GPU's memory holds the largest part, with more and more of them."""
    policies = {f"cap{cap}": OURS if cap < 0 else f"{{name: gpu_ndp, parameters: {{cap: {cap}}}}}" for cap in CAPS}
    return grid(policies, (DEEPSEEK,), (MIDDLE,) if quick else (MIDDLE, 6), FEWER[quick])


def has_optimum_inside(results: Results) -> bool:
    """Whether the most residents are slower than fewer, for any number of DIMMs."""
    points = {key.split(" ", 1)[1] for key in results}
    last = [min(end_to_end_s(results[f"cap{cap} {at}"]) for cap in CAPS[:-1]) < end_to_end_s(
        results[f"cap{CAPS[-1]} {at}"]) for at in sorted(points)]
    return any(last)


def by_step(quick: bool) -> dict[str, Case]:
    """The steps of the ablation on one model."""
    return grid(STEPS, (MIXTRAL,) if quick else MODELS, (MIDDLE,), FEWER[quick])


def fullest_over_least(result: Result) -> float:
    """Busy time of the NDP unit that works most over that of the one that works least."""
    busy = [device.busy_ps for device in result.devices if device.kind == "ndp"]
    return max(busy) / min(busy)


def equally_loaded(results: Results) -> bool:
    """Whether cut experts load the units within 1 % of each other, and whole ones do not."""
    return all((fullest_over_least(result) > 1.01) == key.startswith("whole") for key, result in results.items()
               if key.startswith(("whole", "cut")))


def gpu_use(result: Result) -> float:
    """The part of the time in which the GPU computes."""
    gpu = next(device for device in result.devices if device.kind == "gpu")
    return gpu.busy_ps / (gpu.busy_ps + gpu.stall_ps)


def use_rises(results: Results) -> bool:
    use = [mean(gpu_use(result) for key, result in results.items() if key.startswith(f"{step} ")) for step in STEPS]
    return all(before < after for before, after in pairwise(use))


def calibration_sequences() -> int | None:
    """How many other sequences it takes until the experts that they visit most serve decodes as well as those that
    each decode's own prefill visits most: a quarter of Mixtral's a layer; None: not with CALIBRATION."""
    setup = resolve(load_run("gpu_ndp", [f"model={MIXTRAL}"]))
    router, model, all_ = router_of(setup), setup.model, SERVED + CALIBRATION
    layers, cap = len(model.moe_layers), model.experts // 4
    prefill, decode = np.zeros((2, all_, layers, model.experts), np.int64)
    for step in static_steps([Request(OUT, 65)] * all_):
        counts = prefill if step.phase[0] == PREFILL else decode
        np.add.at(counts, (step.sequence[:, None, None], np.arange(layers)[:, None], router.route(step).experts), 1)

    def hits(popular: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> int:
        """popular [SERVED or 1, layers, experts]: decodes of the served sequences that its first experts hold."""
        chosen = np.argsort(-popular, axis=2, kind="stable")[:, :, :cap]
        chosen = np.broadcast_to(chosen, (SERVED, layers, cap))
        return int(np.take_along_axis(decode[:SERVED], chosen, axis=2).sum())

    own, others = hits(prefill[:SERVED]), (prefill + decode)[SERVED:]
    return next((n for n in range(1, CALIBRATION + 1) if hits(others[:n].sum(axis=0)[None]) >= own), None)


def profiled(of: Callable[[Results, int], Figure]) -> Measure:
    """What a calibration pass takes on Mixtral-8x7B with four DIMMs; each sequence is 512 tokens in and 512 out."""
    runs = {"pass": case(MIXTRAL, MIDDLE, MONDE)}

    def value(results: Results) -> Figure:
        sequences = calibration_sequences()
        return None if sequences is None else of(results, sequences)

    return Measure(lambda quick: {} if quick else runs, value, ROUTING,
                   "No source says how long the pre-profiling is that the paper does without; ours is the shortest "
                   f"pass whose popular experts serve a decode as well, of {CALIBRATION} sequences at most")


MEASURES = {
    "speedup_mean": Measure(headline, lambda r: mean(over(r, "monde", "ours")), ROUTING,
                            "The models besides Qwen3, the DIMMs and MoNDE's rule for H are stand-ins"),
    "speedup_max": Measure(headline, lambda r: max(over(r, "monde", "ours")), ROUTING),
    "tp_alone_loses_at_2": Measure(two_dimms, loses_somewhere, ROUTING),
    "prefetch_optimum": Measure(capped, has_optimum_inside, ROUTING,
                                "DeepSeek-V2-Lite, of whose experts the GPU holds the largest part"),
    "units_equally_loaded": Measure(by_step, equally_loaded, ROUTING),
    "gpu_use_rises": Measure(by_step, use_rises, ROUTING),
    "speedup_qwen3": of_model(QWEN3), "speedup_deepseek": of_model(DEEPSEEK), "speedup_phi": of_model(PHI),
    "speedup_mixtral": of_model(MIXTRAL),
    "ablation_tp": ablation("cut"), "ablation_balance": ablation("balanced"), "ablation_prefetch": ablation("ahead"),
    "broadcast_over_unicast": compared(UNICAST, OURS, "Not in the paper; results come back one after the other, which "
                                                      "hides what a broadcast saves on the way out"),
    "running_over_frozen": compared(OURS, RUNNING, "Whether counts go on in decode is not found: both are there"),
    "profiling_tokens": profiled(lambda _, sequences: sequences * 2.0 * OUT),
    "profiling_seconds": profiled(lambda r, sequences: sequences * end_to_end_s(r["pass"])),
}
