"""From a run's config to what it runs: machine, model, constants with their sources, and whether it all fits."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.build import build_machine, build_model, fallbacks, resolve_options
from cluster.config.faults import faults_of
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, load_precision
from cluster.config.names import trace_path
from cluster.config.precision import Precision
from cluster.config.quantities import confidence, provenance
from cluster.config.reading import policy_target, with_constants
from cluster.config.run import EMBEDDED, ModelChoice, PolicyChoice, RunConfig
from cluster.kept import file_sha256, kept
from cluster.requests import existing, requests_of
from emulation.errors import ConfigError, InputError
from emulation.faults import Fault
from emulation.machine import Machine
from emulation.model import NOTHING, Model
from emulation.trace import Trace
from emulation.units import parse
from emulation.view import Setting
from moe.shapes import ModelShape, from_config, load_shape, read_config
from workloads.requests import Requests
from workloads.routing.kinds import Kind
from workloads.routing.router import fits
from workloads.synthetic import Router, history
from workloads.traces import read_trace

EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "moe" / "embedded"


@dataclass(frozen=True)
class PolicyTarget:
    """A policy to load: its name as given, where its class is, and its parameters."""

    name: str
    target: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Everything that a run is made of, resolved and checked.

    checkpoint, trace, prompts: files, where it has them. routing: what the trace holds. requests: of a served workload.
    """

    config: RunConfig
    hardware: Hardware
    options: dict[str, int]
    precision: Precision
    shape: ModelShape
    machine: Machine
    model: Model
    policies: tuple[PolicyTarget, ...]
    provenance: list[dict[str, Any]]
    confidence: dict[str, Any]
    approximations: tuple[str, ...]
    checkpoint: Path | None
    trace: Path | None
    prompts: Path | None
    routing: Trace | None
    requests: Requests | None = None
    generator: Kind | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def kv_capacity_bytes(self) -> int | None:
        """Memory for caches on each home of a served workload, as its config says; None where it says nothing."""
        serving = self.config.workload.serving
        return None if serving is None or serving.kv.capacity is None else int(parse(serving.kv.capacity, "bytes"))

    @cached_property
    def setting(self) -> Setting:
        """What every policy is told at the start; its history is how often the trace visits each expert, or as many
        generated tokens as the workload says."""
        budget, tokens, seen = budget_bytes(self), self.config.workload.history_tokens, None
        if self.routing is not None:
            seen = self.routing.popularity()
        elif tokens and self.generator is not None:
            seen = history(self.model, Router(self.model, self.generator, self.config.seed), tokens)
        for shared in (budget, seen):
            if shared is not None:
                shared.flags.writeable = False
        return Setting(self.machine, self.model, budget, seen)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of the files that a run reads: its trace, generator, prompts, requests, checkpoint."""
        serving = self.config.workload.serving
        recorded = None if serving is None or serving.recorded is None else self.config.folder / serving.recorded
        drawn = self.config.workload.generator
        files = {"trace": self.trace, "prompts": self.prompts, "requests": recorded,
                 "generator": drawn.file(self.config.folder) if drawn is not None else None}
        hashes = {name: _sha256([path]) for name, path in files.items() if path is not None}
        if self.checkpoint is not None:
            weights = sorted(self.checkpoint.glob("*.safetensors"))
            hashes["checkpoint"] = _sha256([self.checkpoint / "config.json", *weights])
        return hashes


def _sha256(paths: list[Path]) -> str:
    return hashlib.sha256(b"".join(map(file_sha256, paths))).hexdigest()


@kept(most=2)
def _trace(path: Path) -> Trace:
    """The trace in a file; several setups may share it."""
    trace = read_trace(path)
    for column in vars(trace).values():
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
    return trace


def resolve(config: RunConfig, *, live: bool = False, checked: bool = True) -> Setup:
    """Everything that the run names, found, built and checked. live: its requests come from clients. checked: refused
    where the machine cannot hold it."""
    base = config.folder
    where = f"machine {config.machine.name}"
    hardware = with_constants(load_hardware(config.machine.name, base), config.machine.constants, where)
    options = resolve_options(hardware, config.machine.options, where)
    precision = load_precision(config.precision, base)
    whole, checkpoint = find_model(config.model, base)
    shape = cut(whole, config.model.layers)
    if shape.encoder_layers and config.workload.serving is not None:
        raise ConfigError(f"{shape.model} has an encoder, and continuous batching knows one stack: use static batches")
    machine = build_machine(hardware, options, precision.compute, Path(config.machine.name).stem)
    model = build_model(shape, precision)
    faults = faults_of(config.faults, machine)
    rows = provenance("hardware", hardware) + provenance("precision", precision)
    rows += provenance("storage", config.storage) if faults else []
    drawn, trace = config.workload.generator, trace_path(config.workload.trace, base) if config.workload.trace else None
    setup = Setup(config, hardware, options, precision, shape, machine, model,
                  tuple(_target(choice, base) for choice in (config.policy, *config.against)), rows,
                  confidence([row for row in rows if row["path"].startswith("hardware.")]),
                  (*cut_sentence(whole, shape), *approximations(hardware, precision, shape, machine, model)),
                  checkpoint, trace,
                  existing(base / config.workload.prompts, "prompts") if config.workload.prompts else None,
                  fitting(model, _trace(existing(trace, "trace"))) if trace else None,
                  requests_of(config, base, live=live), None if drawn is None else fits(model, drawn.kind(base)),
                  faults)
    if checked:
        check_capacity(setup)
    return setup


def find_model(choice: ModelChoice, base: Path) -> tuple[ModelShape, Path | None]:
    """The shape of the model that a run names, and the folder of its weights where it has them."""
    if choice.checkpoint is not None or choice.name == EMBEDDED:
        folder = EMBEDDED_FOLDER if choice.checkpoint is None else base / choice.checkpoint
        if not folder.is_dir():
            what = "the embedded model is missing: there is no folder" if choice.checkpoint is None else \
                "model.checkpoint: there is no folder"
            raise InputError(f"{what} {folder}")
        return from_config(read_config(folder), EMBEDDED if choice.checkpoint is None else folder.name), folder
    if choice.config is not None:
        return load_shape(base / choice.config), None
    return load_shape(str(choice.name)), None


def cut(shape: ModelShape, moe_layers: int | None) -> ModelShape:
    """The shape without what follows so many of its MoE layers; its head stays."""
    if moe_layers is None:
        return shape
    if shape.encoder_layers:
        raise ConfigError(f"model.layers cuts a model behind a MoE layer, and {shape.model} has an encoder and a "
                          "decoder: leave it out")
    if moe_layers > len(shape.moe_layers):
        raise ConfigError(f"model.layers is {moe_layers}, and {shape.model} has {len(shape.moe_layers)} MoE layers")
    layers = shape.moe_layers[moe_layers - 1] + 1
    return replace(shape, layers=layers, moe_layers=shape.moe_layers[:moe_layers], windows=shape.windows[:layers])


def cut_sentence(whole: ModelShape, shape: ModelShape) -> tuple[str, ...]:
    """What was cut from a model, where anything was."""
    if shape == whole:
        return ()
    return (f"The model is cut to its first {len(shape.moe_layers)} of {len(whole.moe_layers)} MoE layers "
            f"({shape.layers} of {whole.layers} layers), with embedding and head whole.",)


def fitting(model: Model, trace: Trace) -> Trace:
    """The trace, if it is of a model of this shape; refuses another."""
    layers, have = len(model.moe_layers), len(trace.layer_ids)
    if trace.num_experts != model.experts or trace.top_k != model.top_k or have != layers:
        like = trace.num_experts == model.experts and trace.top_k == model.top_k and have < layers
        remedy = f"; model.layers: {have} times the model's first {have}" if like else ""
        raise InputError(
            f"the trace is of {trace.model!r} ({have} MoE layers, {trace.num_experts} experts, top-{trace.top_k}), the "
            f"model {model.name!r} has {layers} MoE layers, {model.experts} experts, top-{model.top_k}{remedy}")
    return trace


def _target(choice: PolicyChoice, base: Path) -> PolicyTarget:
    return PolicyTarget(choice.name, *policy_target(choice, base))


def approximations(hardware: Hardware, precision: Precision, shape: ModelShape, machine: Machine,
                   model: Model) -> tuple[str, ...]:
    """What this machine and model leave out or stand in for, in sentences."""
    out = [*hardware.leaves_out, *(sentence + "." for sentence in fallbacks(hardware, precision.compute))]
    layers = model.layers
    present = {"attention": True, "router": True, "head": True, "norm": True,
               "shared": any(layer.shared != NOTHING for layer in layers),
               "dense": any(layer.dense != NOTHING for layer in layers)}
    if model.encoder_layers:
        present["dense"] = True  # keys and values of the encoder's output
    for home in dict.fromkeys(machine.devices[h].kind for h in machine.homes):
        device = next(machine.devices[h] for h in machine.homes if machine.devices[h].kind == home)
        free = [family for family, there in present.items() if there and family not in device.kernels]
        if free:
            out.append(f"The hardware file gives no cost on its {home} to: {', '.join(free)}.")
    if shape.expert_bias:
        out.append("Biases of experts are left out of bytes and flops.")
    if any(window is not None for window in shape.windows):
        out.append("Sliding-window layers are costed as if they attended to the whole context.")
    return tuple(out)


def cache_tokens(setup: Setup) -> list[int]:
    """The most positions that the caches of each home hold at once; sequence i lies on home i modulo their count.

    A sequence keeps all of its positions from its first step to its last. A prompt of text without prompt_tokens
    counts as none.
    """
    homes, work, trace = len(setup.machine.homes), setup.config.workload, setup.routing
    if trace is None:
        each = (work.prompt_tokens or 0) + (work.output_tokens or 0)
        return [-(-(work.batch - home) // homes) * each for home in range(homes)]
    numbers, step = np.unique(trace.step, return_inverse=True)
    sequences, of = np.unique(trace.sequence, return_inverse=True)
    last = min(setup.config.limits.steps or len(numbers), len(numbers)) - 1
    first, end, length = (np.full(len(sequences), start, np.int64) for start in (len(numbers), -1, 0))
    here = step <= last
    np.minimum.at(first, of[here], step[here])
    np.maximum.at(end, of[here], step[here])
    np.maximum.at(length, of[here], trace.position[here].astype(np.int64) + 1 + work.context_tokens)
    held = np.zeros((homes, len(numbers) + 1), np.int64)
    met = end >= 0
    np.add.at(held, (sequences[met] % homes, first[met]), length[met])
    np.add.at(held, (sequences[met] % homes, end[met] + 1), -length[met])
    most: list[int] = held.cumsum(axis=1).max(axis=1).tolist()
    return most


def budget_bytes(setup: Setup) -> NDArray[np.int64]:
    """Room for experts on each device: its memory less dense weights and caches, where it holds them."""
    budget = np.array([device.memory_bytes for device in setup.machine.devices], np.int64)
    for home, needed in dense_bytes(setup).items():
        budget[home] -= needed
    return budget


def dense_bytes(setup: Setup) -> dict[int, int]:
    """Bytes of dense weights and caches on each home that runs attention."""
    machine, model = setup.machine, setup.model
    return {home: model.dense_bytes + bytes_
            for home, bytes_ in zip(machine.homes, cache_bytes(setup), strict=True)
            if "attention" in machine.devices[home].kernels}


def cache_bytes(setup: Setup) -> list[int]:
    """Memory that the caches of each home need at least: all of a static batch; of served requests the largest one's,
    or what the workload sets aside."""
    requests, serving = setup.requests, setup.config.workload.serving
    model = setup.model
    if requests is None or serving is None:
        if model.encoder_layers and setup.routing is None:
            work, homes = setup.config.workload, len(setup.machine.homes)
            each = ((work.prompt_tokens or 0) * model.source_bytes_per_token
                    + (work.output_tokens or 0) * model.kv_bytes_per_token)
            return [-(-(work.batch - home) // homes) * each for home in range(homes)]
        return [tokens * max(model.kv_bytes_per_token, model.source_bytes_per_token) for tokens in cache_tokens(setup)]
    if setup.kv_capacity_bytes is not None:
        return [setup.kv_capacity_bytes] * len(setup.machine.homes)
    blocks = -(-(requests.prompt_tokens + requests.output_tokens - 1) // serving.kv.block_tokens)
    homes = len(setup.machine.homes)
    return [int(blocks[home::homes].max(initial=0)) * kv_block_bytes(setup) for home in range(homes)]


def kv_block_bytes(setup: Setup) -> int:
    """Bytes of a KV block of a served workload."""
    serving = setup.config.workload.serving
    return 0 if serving is None else serving.kv.block_tokens * setup.model.kv_bytes_per_token


def check_capacity(setup: Setup) -> None:
    """Refuse a model that the machine cannot hold: its experts where experts rest, all else on each home."""
    machine, model = setup.machine, setup.model
    dense = dense_bytes(setup)
    named = f"{model.name} at {setup.config.precision} does not fit {machine.name}"
    remedy = "choose a narrower precision, a smaller model or workload, or a machine with more memory"
    for home, needed in dense.items():
        device = machine.devices[home]
        if needed > device.memory_bytes:
            raise ConfigError(f"{named}: weights outside the experts and caches take {gigabytes(needed)} on "
                              f"{device.name}, which holds {gigabytes(device.memory_bytes)}; {remedy}")
    room = sum(machine.devices[store].memory_bytes - dense.get(store, 0) for store in machine.stores)
    experts = len(model.moe_layers) * model.experts * model.expert_bytes
    if experts > room:
        stores = ", ".join(machine.devices[store].name for store in machine.stores)
        raise ConfigError(f"{named}: its experts take {gigabytes(experts)} and the devices where experts rest "
                          f"({stores}) have room for {gigabytes(room)}; {remedy}")


def gigabytes(bytes_: int, digits: int = 2) -> str:
    """A size as it is told."""
    return f"{bytes_ / 1e9:.{digits}f} GB" if abs(bytes_) < 10**27 else "more than 10^18 GB"
