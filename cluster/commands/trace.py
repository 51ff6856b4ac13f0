"""`moelab trace`: record routing from a real model, look into a trace, bring one in from elsewhere."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import Config, Json, Settings, read
from cluster.commands.show import console, printable

if TYPE_CHECKING:
    from emulation.view import Ints, Visits

FAR = 0.15
"""A fitted figure farther from the recorded one than this part of it is named."""

app = typer.Typer(no_args_is_help=True, help="Record, inspect and convert routing traces.", rich_markup_mode=None)

Source = Annotated[str, typer.Argument(metavar="TRACE", help="A trace by name (`moelab list traces`) or path.")]
To = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The trace file (.npz) to write.")]


@app.command()
def record(config: Config, out: To, settings: Settings = None) -> None:
    """Answer an `execute` run's prompts as the run does, with the plain model, and write the routing taken."""
    from cluster.resolve import resolve
    from emulation.errors import ConfigError
    from emulation.extras import require
    from workloads.traces import joined, write_trace

    require("trace record", "models")
    setup = resolve(read(config, settings))
    work = setup.config.workload
    if work.work != "execute" or setup.checkpoint is None or work.output_tokens is None:
        raise ConfigError(f"routing is recorded from real weights, and {setup.config.name} has work: {work.work}")
    if setup.model.encoder_layers:
        raise ConfigError(f"{setup.model.name} has an encoder, and a trace is recorded of models without: `moelab run` "
                          "times it")
    from moe import determinism

    determinism.pin()
    from transformers import AutoTokenizer

    from cluster.execute import ends, prompts_of, sampling_of
    from moe.checkpoint import Checkpoint
    from moe.hook import ExpertHook, LocalExperts
    from moe.record import record as recorded
    from moe.shell import load_shell

    checkpoint = Checkpoint(setup.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(str(setup.checkpoint), local_files_only=True)
    prompts = prompts_of(setup, tokenizer)
    model, parts = load_shell(checkpoint), []
    with ExpertHook(model, LocalExperts(checkpoint)) as hook:
        for at in range(0, len(prompts), work.batch):
            _, part = recorded(hook, prompts[at:at + work.batch], work.output_tokens, model=setup.model.name,
                               num_experts=setup.model.experts, eos=ends(model), sampling=sampling_of(setup, at))
            parts.append(part)
    trace = joined(parts)
    write_trace(out, trace)
    print(f"{out}: {len(trace.step)} tokens in {int(trace.step[-1]) + 1} steps")


@app.command()
def info(trace: Source, as_json: Json = False) -> None:
    """What a trace holds, and how skewed, local and alike its routing is (with --json by layer too)."""
    from cluster.config.names import trace_path
    from workloads.statistics import by_layer
    from workloads.statistics import info as described
    from workloads.traces import read_trace

    found = read_trace(trace_path(trace, Path()))
    told = described(found)
    if as_json:
        print(json.dumps({**told, "by_layer": by_layer(found)}, indent=2))
        return
    screen, width = console(), max(map(len, told))
    for key, value in told.items():
        shown = "" if value is None else f"{value:.3f}" if isinstance(value, float) else printable(str(value))
        screen.print(f"{key:{width}}  {shown}".rstrip(), markup=False, highlight=False)


Devices = Annotated[int, typer.Option("--devices", min=1, help="Devices that share the experts of a layer.")]
History = Annotated[float, typer.Option("--history", min=0.0, max=1.0, help="The first part of the steps, by which "
                                        "experts are placed; the rest is scored.")]


@app.command()
def misses(trace: Source,
           slots: Annotated[str, typer.Option("--slots", help="Sizes of the cache: 4, or 1..8.")] = "1..8",
           policies: Annotated[str, typer.Option("--policies", help="Evictions, with commas between.")]
           = "lifo,fifo,lru,belady",
           placement: Annotated[str, typer.Option("--placement", help="Who owns which expert.")] = "contiguous",
           devices: Devices = 1, history: History = 0.5, as_json: Json = False) -> None:
    """Miss rates of expert caches on each device by cache size: of the worst layer, and of all. The steps that place
    also tell what is cached at first."""
    from studies.expert_caches import curve, sizes_in

    placing, scored, owners = _placements(trace, devices, history, [placement])
    sizes = sizes_in(slots)
    rows = curve(scored, owners[placement], devices, sizes, policies.split(","), placing.counts.sum(axis=0))
    if as_json:
        print(json.dumps({"devices": devices, "placement": placement, "history": history, "rows": rows}, indent=2))
        return
    screen = console()
    names = list(dict.fromkeys(row["policy"] for row in rows))
    screen.print("misses in the worst layer (in all), by slots a layer and device", markup=False, highlight=False)
    screen.print("slots  " + "  ".join(f"{name:>15}" for name in names), markup=False, highlight=False)
    for size in sizes:
        told = [f"{row['worst_layer']:.3f} ({row['miss_rate']:.3f})" for row in rows if row["slots"] == size]
        screen.print(f"{size:5}  " + "  ".join(f"{text:>15}" for text in told), markup=False, highlight=False)


@app.command()
def balance(trace: Source, devices: Devices = 8, history: History = 0.5, as_json: Json = False) -> None:
    """The largest share of a batch that one device gets, by how experts are placed: in the worst batch, on the mean."""
    from schedulers._placement import PLACEMENTS, device_shares
    from studies.expert_caches import loads

    _, scored, owners = _placements(trace, devices, history, list(PLACEMENTS))
    found = {name: loads(device_shares(scored, owner, devices)) for name, owner in owners.items()}
    if as_json:
        print(json.dumps({"devices": devices, "history": history,
                          "placements": {name: of._asdict() for name, of in found.items()}}, indent=2))
        return
    for name, of in found.items():
        console().print(f"{name:22}  max load {of.max:.3f}  mean max load {of.mean:.3f}", markup=False, highlight=False)


def _placements(trace: str, devices: int, history: float, names: list[str],
                ) -> "tuple[Visits, Visits, dict[str, Ints]]":
    """The steps that place, those that are scored, and the owner of each expert under each placement."""
    from cluster.config.names import trace_path
    from emulation.errors import ConfigError, unknown
    from schedulers._placement import PLACEMENTS, owners_by
    from studies.expert_caches import halves, visits_of
    from workloads.traces import read_trace

    placing, scored = halves(visits_of(read_trace(trace_path(trace, Path()))), history)
    for name in names:
        if name not in PLACEMENTS:
            raise ConfigError(unknown("placement", name, PLACEMENTS))
    return placing, scored, {name: owners_by(placing.counts, devices, name) for name in names}


@app.command()
def fit(trace: Source,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The fitted generator to write.")],
        seed: Annotated[int, typer.Option(min=0, help="Of what is generated while fitting.")] = 0,
        as_json: Json = False) -> None:
    """Find a generator whose routing is like a trace's, for models of any shape: `generator: {fitted: FILE}`."""
    from cluster.config.names import trace_path
    from cluster.observe.files import write_texts
    from workloads.routing.fit import fit as fitted
    from workloads.routing.fit import generated, head
    from workloads.routing.fitted import fitted_text
    from workloads.statistics import info as described
    from workloads.traces import read_trace

    recorded = head(read_trace(trace_path(trace, Path())))
    of = fitted(recorded, seed)
    told, again = described(recorded), described(generated(recorded, of, seed + 1))
    text = fitted_text(of, {"of": trace, "recorded": told, "generated": again})
    write_texts(out.parent, {out.name: text})
    if as_json:
        print(json.dumps({"recorded": told, "generated": again}, indent=2))
        return
    screen = console()
    both = {name: (value, twin) for name, value in told.items()
            if isinstance(value, float) and isinstance(twin := again[name], float)}
    width = max(map(len, both))
    screen.print(f"{'':{width}}  recorded  generated", markup=False, highlight=False)
    for name, (value, twin) in both.items():
        screen.print(f"{name:{width}}  {value:8.3f}  {twin:9.3f}", markup=False, highlight=False)
    print(f"{out}: generator of {len(of.layers)} layers, fitted to {told['tokens']} tokens")
    far = [name for name, (value, twin) in both.items() if abs(twin - value) > FAR * max(abs(value), 0.1)]
    if far:
        print(f"not alike within {FAR:.0%}: {', '.join(far)}; a generator can't say all that a trace does "
              "(docs/routing.md), and a replay of the trace itself can")


@app.command()
def convert(source: Annotated[Path, typer.Argument(help="Routing from elsewhere: .npz, .npy, .json or .jsonl.")],
            out: To, model: Annotated[str, typer.Option(help="Whose routing it is.")],
            experts: Annotated[int, typer.Option(min=1, help="Experts in each layer.")],
            batch: Annotated[int, typer.Option(min=1, help="Sequences that run together.")] = 1,
            top_k: Annotated[int | None, typer.Option(min=1, help="Experts of each token, where the file holds flat "
                                                                  "ids (SGLang's); known for models that ship with "
                                                                  "moelab.")] = None) -> None:
    """Bring in routing that another tool recorded: vLLM's or SGLang's responses, HD-MoE's JSON, or plain arrays."""
    from moe import shapes
    from workloads.foreign import convert as converted
    from workloads.traces import write_trace

    if top_k is None and model in shapes.names():
        top_k = shapes.load_shape(model).top_k
    trace = converted(source, model=model, num_experts=experts, batch=batch, top_k=top_k)
    write_trace(out, trace)
    print(f"{out}: {len(trace.step)} tokens")
