"""Gating and characterisation in arXiv 2303.06182: dense models against mixtures, three gatings, what they hold."""

from collections.abc import Callable, Mapping
from functools import cache

from cluster.build import build_model
from cluster.config.load import load_precision
from cluster.observe.result import Result
from cluster.observe.schema import Memory
from moe.shapes import load_shape
from studies.reproduce.measure import Case, Measure, Results

LM, MT = "lm", "mt"
ENCODER, DECODER = "mt_encoder", "mt_decoder"
RUN = {LM: "moe_lm", MT: "moe_mt"}
DENSE = {LM: "lm-dense-355m", MT: "nllb-200-3.3b"}
BATCH = {LM: 8, MT: 48}
"""Sequences of a GPU."""
GPUS = 8
LM_LAYERS = 12
"""MoE layers of the language model, of which quick cases run the first one with the dense layer before it."""
DECODER_LAYERS, EXPERTS = 6, 128
"""MoE layers of NLLB's decoder, and experts of each."""
CAPACITY = {LM: "0.05", MT: "1"}
SWEEPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    LM: {"workload.generator.skew": ("0.5", "1.25"), "workload.prompt_tokens": ("512", "2048")},
    MT: {"workload.generator.share": ("0.5", "1.0"), "workload.prompt_tokens": ("16", "64")}}
ROUTING = {LM: "generated: Zipf of skew 1 over the experts of each layer (assumed)",
           MT: "generated: 28 hot experts of each layer get nearly all tokens (assumed; paper: 75 % idle in decode)"}
CLOSED = ("activations by closed form (docs/systems/moe_deployment.md): without attention scores, all positions' "
          "logits, beams, and what a framework and its allocator keep")
SAME_BATCH = "both with the batch of the baseline; the paper may compare each at its best batch"


def policy(task: str, gating: str) -> str:
    """A gating's policy, as a setting; static gating with the published capacity factor."""
    if gating == "static":
        return f'{{name: static_gating, parameters: {{capacity_factor: "{CAPACITY[task]}"}}}}'
    return f"{gating}_gating"


def case(task: str, gating: str, quick: bool, nodes: int = 1) -> Case:
    """One gating on so many nodes, every GPU with the same batch; `dense`: the model of the same flops a token."""
    settings = [f"machine.options.nodes={nodes}", f"workload.batch={BATCH[task] * GPUS * nodes}"]
    if gating == "dense":
        settings += [f"model={DENSE[task]}", "policy=dynamic_gating"]
    else:
        settings.append(f"policy={policy(task, gating)}")
        if task == LM and (quick or nodes > 1):
            settings.append("model.layers=1")
    if task == MT:
        settings.append(f"limits.steps={3 if quick or nodes > 1 else 9}")
    return Case(RUN[task], tuple(settings))


def cases(task: str, *gatings: str) -> Callable[[bool], Mapping[str, Case]]:
    """One node."""
    return lambda quick: {gating: case(task, gating, quick) for gating in gatings}


def on_nodes(task: str) -> Callable[[bool], Mapping[str, Case]]:
    """Static and dynamic gating on two and four nodes; quick: on two."""
    return lambda quick: {f"{gating} {nodes}": case(task, gating, quick, nodes)
                          for nodes in ((2,) if quick else (2, 4)) for gating in ("static", "dynamic")}


def time_s(result: Result, what: str) -> float:
    """Of a pass of the language model (of one that is cut: as often as its layers come), of the encoder, or of a step
    of the decoder."""
    if what == LM:
        return result.makespan_ps * repeats(result) / 1e12
    phase = result.phases["prefill" if what == ENCODER else "decode"]
    return phase.time_ps / phase.steps / 1e12


def repeats(result: Result) -> int:
    """How often the layers of a language model that is cut come in the whole one; 1 of a model that is whole."""
    model = result.config["model"]
    assert isinstance(model, dict)
    layers = model.get("layers")
    return 1 if layers is None else LM_LAYERS // int(str(layers))


@cache
def lm_dense_bytes() -> int:
    """Weights outside the experts of the whole language model."""
    return build_model(load_shape("lm-moe-52b"), load_precision("fp16")).dense_bytes


def resident(each: Memory, times: int) -> tuple[int, int]:
    """(weights, caches) of the whole model on a GPU."""
    return times * each.experts_peak_bytes + (each.dense_bytes if times == 1 else lm_dense_bytes()), (
        times * each.kv_peak_bytes)


def held_bytes(result: Result) -> int:
    """The most that one GPU holds: weights, caches and activations."""
    return max(sum(resident(each, repeats(result))) + each.activations_peak_bytes for each in result.memory
               if each.dense_bytes)


def active_bytes(result: Result) -> int:
    """The most activations on one GPU."""
    return max(each.activations_peak_bytes for each in result.memory if each.dense_bytes)


def latency_ratio(what: str, task: str) -> Measure:
    """Time with static gating over that of the dense model."""
    return Measure(cases(task, "static", "dense"),
                   lambda found: time_s(found["static"], what) / time_s(found["dense"], what), ROUTING[task],
                   sweeps={"workload.prompt_tokens": SWEEPS[task]["workload.prompt_tokens"]})


def memory_ratio(task: str) -> Measure:
    """Memory of a GPU with static gating over that of the dense model."""
    return Measure(cases(task, "static", "dense"),
                   lambda found: held_bytes(found["static"]) / held_bytes(found["dense"]), ROUTING[task],
                   reason=CLOSED, sweeps=SWEEPS[task])


def gain(what: str, task: str, over: str) -> Measure:
    """Throughput of dynamic gating over that of another, on one node."""
    return Measure(cases(task, over, "dynamic"),
                   lambda found: time_s(found[over], what) / time_s(found["dynamic"], what), ROUTING[task],
                   reason=SAME_BATCH, sweeps=SWEEPS[task])


def gain_on_nodes(what: str, task: str) -> Measure:
    """The most that dynamic gating gains over static gating on several nodes."""
    def value(found: Results) -> float:
        return max(time_s(found[f"static {nodes}"], what) / time_s(found[f"dynamic {nodes}"], what)
                   for nodes in (2, 4) if f"static {nodes}" in found)

    return Measure(on_nodes(task), value, ROUTING[task], reason=SAME_BATCH)


def activation(task: str) -> Measure:
    """What dynamic gating changes of the activations of static gating, in percent."""
    return Measure(cases(task, "static", "dynamic"),
                   lambda found: 100 * (active_bytes(found["dynamic"]) / active_bytes(found["static"]) - 1),
                   ROUTING[task], reason=CLOSED, sweeps=SWEEPS[task])


def total_memory(task: str) -> Measure:
    """Memory of a GPU with static gating over that with dynamic gating."""
    return Measure(cases(task, "static", "dynamic"),
                   lambda found: held_bytes(found["static"]) / held_bytes(found["dynamic"]), ROUTING[task],
                   reason=CLOSED, sweeps=SWEEPS[task])


def largest_batch(task: str) -> Measure:
    """The largest doubling of the baseline's batch that fits with dynamic gating, whose activations grow with it."""
    def value(found: Results) -> float:
        result, times = found["dynamic"], 1
        parts = [(each.capacity_bytes, *resident(each, repeats(result)), each.activations_peak_bytes)
                 for each in result.memory if each.dense_bytes]
        while all(weights + 2 * times * (caches + active) <= room for room, weights, caches, active in parts):
            times *= 2
        return times * BATCH[task]

    return Measure(cases(task, "dynamic"), value, ROUTING[task], sweeps=SWEEPS[task],
                   reason="doubled while weights, caches and activations fit 32 GB; " + CLOSED)


def waste(task: str) -> Measure:
    """Rows that static gating sends over those that are routed, from the bytes that leave the GPUs."""
    def sent(result: Result) -> int:
        return sum(each.bytes.get("dispatch", 0) for each in result.traffic if each.target.startswith("nvlink"))

    return Measure(cases(task, "static", "dynamic"), lambda found: sent(found["static"]) / sent(found["dynamic"]),
                   ROUTING[task], reason="E C / k; dynamic gating's bytes are those of the rows that are routed")


def decoder_sparsity() -> Measure:
    """Share of a layer's experts to whom no token of a decoder step is routed, in percent."""
    def value(found: Results) -> float:
        phase = found["dynamic"].phases["decode"]
        return 100 * (1 - sum(phase.runs.values()) / (phase.steps * DECODER_LAYERS * EXPERTS))

    return Measure(cases(MT, "dynamic"), value, ROUTING[MT], sweeps=SWEEPS[MT],
                   reason="the hot set was chosen for it: it is an assumption, and not a finding")


WHAT = {LM: LM, ENCODER: MT, DECODER: MT}

MEASURES: dict[str, Measure] = {
    **{f"latency_ratio_{what}": latency_ratio(what, task) for what, task in WHAT.items()},
    **{f"memory_ratio_{task}": memory_ratio(task) for task in (LM, MT)},
    **{f"gating_static_{what}": gain(what, task, "static") for what, task in WHAT.items()},
    **{f"gating_tutel_{what}": gain(what, task, "tutel") for what, task in WHAT.items()},
    **{f"gating_static_nodes_{what}": gain_on_nodes(what, task) for what, task in WHAT.items()},
    **{f"{name}_{task}": made(task) for task in (LM, MT)
       for name, made in (("activation", activation), ("largest_batch", largest_batch),
                          ("total_memory", total_memory), ("waste", waste))},
    "decoder_sparsity": decoder_sparsity(),
}
