"""DAOP (arXiv 2501.10375): every figure of its evaluation that is public, on machines with the costs of its code."""

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from statistics import mean

from cluster.config.names import CONFIGS, TRACES
from cluster.observe.result import Result
from studies.reproduce.measure import Case, Figure, Measure, Results, no_runs, unknown_figure
from workloads.statistics import info
from workloads.traces import read_trace

MIXTRAL, PHI = "mixtral", "phi"
RUN = {MIXTRAL: "daop", PHI: "daop_phi"}
EXPERTS = {MIXTRAL: 32 * 8, PHI: 32 * 16}
FULL, LEAST = "0.469", "0.25"
RATIOS = (LEAST, "0.375", FULL, "0.5", "0.625")
NAMED = (FULL, LEAST)
"""The ratios whose figures are published; the others have shorter runs, since a decode's rate hardly varies."""
TOO_MUCH = {"0.5": "64 GB", "0.625": "64 GB"}
"""Cache ratios that 48 GB do not hold beside the dense weights, and the memory that they are run with."""
SWEPT = (LEAST, FULL, "0.625")
"""The ratios of quick cases."""
SHORT, QUICK = "workload.output_tokens=65", "workload.output_tokens=17"
FITTED = CONFIGS / "workload" / "fitted" / "mixtral-mt-bench.json"

ROUTING = ("fitted to Mixtral-8x7B's on MT-bench (published with HD-MoE), for Phi stretched to 16 experts; predictions "
           "right with the published chance of 84.11 %")
PHYSICAL = "cpu-gpu-a6000, copies at 25 GB/s"


def daop(model: str, ratio: str, quick: bool) -> Case:
    """DAOP with a share of the experts cached."""
    return _case(model, ratio, quick, f"policy.parameters.ratio={ratio}")


def fiddler(model: str, ratio: str, quick: bool) -> Case:
    """Fiddler with as many experts."""
    popular = int(float(ratio) * EXPERTS[model])
    return _case(model, ratio, quick, f"policy={{name: fiddler, parameters: {{popular: {popular}}}}}")


def _case(model: str, ratio: str, quick: bool, policy: str) -> Case:
    length = (QUICK,) if quick else () if ratio in NAMED else (SHORT,)
    memory = (f"machine.constants.devices.gpu.memory={TOO_MUCH[ratio]}",) if ratio in TOO_MUCH else ()
    return Case(RUN[model], (policy, *length, *memory))


def copying(model: str, quick: bool) -> dict[str, Case]:
    """The baselines that copy what is missing, with the same part of the experts cached where they cache any."""
    popular, layers = int(float(FULL) * EXPERTS[model]), 32
    policies = {"on_demand": f"{{name: on_demand, parameters: {{slots: 1, popular: {popular}}}}}",
                "mixtral_offloading": f"{{name: mixtral_offloading, parameters: {{slots: {popular // layers}}}}}",
                "pre_gated": "pre_gated", "prefetch_all": "prefetch_all"}
    oracle = "forecast={name: oracle, accuracy: 1.0}"
    return {f"{name} {model}": Case(RUN[model], (f"policy={policy}", oracle, QUICK if quick else SHORT))
            for name, policy in policies.items()}


def rate(result: Result) -> float:
    """Tokens a second of decode."""
    return float(result.phases["decode"].tokens_per_s or 0.0)


def gain(results: Results, model: str, ratio: str) -> float:
    """DAOP's rate over Fiddler's."""
    return rate(results[f"daop {model} {ratio}"]) / rate(results[f"fiddler {model} {ratio}"])


def pairs(models: tuple[str, ...], quick: bool, ratios: tuple[str, ...] = ()) -> dict[str, Case]:
    """DAOP and Fiddler at cache ratios, by default at all of them."""
    ratios = ratios or (SWEPT if quick else RATIOS)
    return {f"{name} {model} {ratio}": of(model, ratio, quick) for model in models for ratio in ratios
            for name, of in (("daop", daop), ("fiddler", fiddler))}


def physical(cases: Mapping[str, Case]) -> dict[str, Case]:
    """The same runs, shorter ones, on the machine of data sheets."""
    return {key: case.with_("machine=cpu-gpu-a6000", *(s for s in case.settings if s.startswith("machine.")), SHORT)
            for key, case in cases.items()}


def measured(cases: Callable[[bool], Mapping[str, Case]], value: Callable[[Results], Figure], reason: str = "",
             sweeps: Mapping[str, tuple[str, ...]] | None = None) -> Measure:
    """A figure of runs on the published costs, and beside it on the machine of data sheets."""
    return Measure(cases, value, ROUTING, reason, sweeps or {},
                   Measure(lambda quick: physical(cases(quick)), value, ROUTING), PHYSICAL)


def decode_rate(model: str, ratio: str, of: Callable[[str, str, bool], Case] = daop, reason: str = "") -> Measure:
    """Tokens a second of one policy's decode."""
    return measured(lambda quick: {"run": of(model, ratio, quick)}, lambda results: rate(results["run"]), reason)


def caching_cases(quick: bool) -> dict[str, Case]:
    """DAOP and all that copies, on both models."""
    return {key: case for model in RUN for key, case in {
        f"daop {model} {FULL}": daop(model, FULL, quick), **copying(model, quick)}.items()}


def over_caching(results: Results) -> float:
    """DAOP over the fastest of those that copy, on the model where that is most."""
    def fastest(model: str) -> float:
        return max(rate(result) for key, result in results.items() if key.endswith(model))

    return max(rate(results[f"daop {model} {FULL}"]) / fastest(model) for model in RUN)


def ratios_in(results: Results, model: str) -> list[str]:
    """The cache ratios that were run, ascending."""
    return [ratio for ratio in RATIOS if f"daop {model} {ratio}" in results]


def mean_gain(results: Results) -> float:
    """Mean over models and cache sizes, less one, in percent."""
    return 100 * (mean(gain(results, model, ratio) for model in RUN for ratio in ratios_in(results, model)) - 1)


def faster_everywhere(results: Results) -> bool:
    """Faster than Fiddler at each ratio, and faster with more cached."""
    rates = [[rate(results[f"daop {model} {ratio}"]) for ratio in ratios_in(results, model)] for model in RUN]
    return all(gain(results, model, ratio) > 1 for model in RUN for ratio in ratios_in(results, model)) and all(
        a < b for row in rates for a, b in pairwise(row))


def grows(results: Results) -> bool:
    """Whether the gain at full memory is above the mean over ratios, on Mixtral."""
    return gain(results, MIXTRAL, FULL) > mean(gain(results, MIXTRAL, ratio) for ratio in ratios_in(results, MIXTRAL))


def tokens_per_kilojoule(result: Result) -> float | None:
    """Of the whole run, prefill included; None where the machine's file says nothing of power."""
    return None if result.energy is None else result.energy.tokens_per_kilojoule


def energy(of: Callable[[str, str, bool], Case], model: str) -> Measure:
    """Tokens a kilojoule of one policy's run."""
    return Measure(lambda quick: {"run": of(model, FULL, quick)},
                   lambda results: tokens_per_kilojoule(results["run"]), ROUTING, ENERGY,
                   of_energy=True)


def energy_gain(results: Results) -> float | None:
    """DAOP's tokens a kilojoule over Fiddler's, mean over models."""
    found = [(tokens_per_kilojoule(results[f"daop {model} {FULL}"]),
              tokens_per_kilojoule(results[f"fiddler {model} {FULL}"])) for model in RUN]
    return mean(a / b for a, b in found if a and b) if all(a and b for a, b in found) else None


def recorded_similarity(_: Results) -> float:
    """What was recorded of the routing to which the generator was fitted, in percent."""
    return 100 * float(json.loads(FITTED.read_text(encoding="utf-8"))["recorded"]["prefill_decode_similarity"])


def embedded_hit_rate(_: Results) -> float:
    """How much of the embedded model's routing its next gates foretold, mean over its traces, in percent."""
    rates = [info(read_trace(path))["forecast_hit_rate"] for path in sorted(TRACES.glob("embedded-*.npz"))]
    return 100 * mean(found for found in rates if isinstance(found, float))


BANDWIDTH = {"machine.constants.links.pcie.bandwidth": ("5.24288 GB/s", "25 GB/s")}
ENERGY = ("of the GPU board and the CPU package over the whole run, prefill with its swaps at the code's load cost "
          "included; the paper does not say what it measured")
LITERAL = ("a CPU expert takes what DAOP's code says of one token and nothing more: no hand-over, no Python around it, "
           "which weighs more the faster the CPU (Phi)")
FIT = f"{', '.join(sorted(TOO_MUCH))} of the experts do not fit 48 GB and run with {TOO_MUCH['0.5']}"

MEASURES: dict[str, Measure] = {
    "speedup_over_caching": measured(
        caching_cases, over_caching,
        "over the fastest of on_demand with a popular cache, mixtral_offloading, pre_gated and prefetch_all, on the "
        "model where that is most. The code's 210 ms for Mixtral are 1.7 GB/s and its 30 ms for Phi 5.2 GB/s on one "
        "host: what a copy takes there is uncertain, so it is swept up to pinned PCIe 4.0", BANDWIDTH),
    "speedup_over_offloading": measured(lambda quick: pairs((MIXTRAL, PHI), quick),
                                        lambda results: 1 + mean_gain(results) / 100,
                                        f"the mean over cache sizes and both models; {FIT}"),
    "decode_mixtral": decode_rate(MIXTRAL, FULL, daop, LITERAL),
    "decode_phi": decode_rate(PHI, FULL, daop, LITERAL),
    "gain_over_fiddler": measured(lambda quick: pairs((MIXTRAL,), quick, (FULL,)),
                                  lambda results: 100 * (gain(results, MIXTRAL, FULL) - 1), LITERAL),
    "fiddler_mixtral": decode_rate(MIXTRAL, FULL, fiddler, LITERAL),
    "decode_mixtral_25": decode_rate(MIXTRAL, LEAST, daop, LITERAL),
    "decode_phi_25": decode_rate(PHI, LEAST, daop, LITERAL),
    "mean_gain": measured(lambda quick: pairs((MIXTRAL, PHI), quick), mean_gain,
                          f"over five cache sizes and both models; {FIT}"),
    "energy_mixtral": energy(daop, MIXTRAL),
    "energy_mixtral_other": energy(fiddler, MIXTRAL),
    "energy_phi": energy(daop, PHI),
    "energy_phi_other": energy(fiddler, PHI),
    "energy_gain": Measure(lambda quick: pairs((MIXTRAL, PHI), quick, (FULL,)), energy_gain, ROUTING, ENERGY,
                           of_energy=True),
    "prefill_decode_similarity": Measure(
        no_runs, recorded_similarity, "recorded from Mixtral-8x7B on MT-bench, published with HD-MoE",
        "cosine of loads, of 256 and the next 512 tokens of ten sequences; other texts than the paper's"),
    "prediction_accuracy": Measure(
        no_runs, embedded_hit_rate, "the embedded model's own gates, six recorded traces",
        "another model: six layers of 16 experts, trained for this repository. Mixtral's gates are no part of what "
        "is public as routing"),
    "baselines_below_one": measured(
        lambda quick: copying(MIXTRAL, quick),
        lambda results: sum(rate(result) < 1 for result in results.values()) > 1,
        "on_demand with a popular cache, mixtral_offloading, pre_gated, prefetch_all; several: more than one"),
    "hellaswag": unknown_figure(
        "task accuracy takes the weights of Mixtral-8x7B and the HellaSwag harness; what DAOP costs in quality is "
        "measured on the embedded model instead"),
    "faster_at_every_ratio": measured(lambda quick: pairs((MIXTRAL, PHI), quick), faster_everywhere, FIT),
    "gain_grows_with_ratio": measured(lambda quick: pairs((MIXTRAL,), quick), grows, FIT),
}
