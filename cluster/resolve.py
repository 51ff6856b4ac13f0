"""From a run's config to what it runs: machine, model, constants with their sources, and whether it all fits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.build import build_machine, build_model, fallbacks, resolve_options
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware, load_precision
from cluster.config.names import trace_path
from cluster.config.precision import Precision
from cluster.config.quantities import confidence, provenance
from cluster.config.reading import policy_target, with_constants
from cluster.config.run import EMBEDDED, ModelChoice, PolicyChoice, RunConfig
from emulation.errors import ConfigError, InputError
from emulation.machine import Machine
from emulation.model import NOTHING, Model
from moe.shapes import ModelShape, from_config, load_shape, read_config

EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "moe" / "embedded"


@dataclass(frozen=True)
class PolicyTarget:
    """A policy to load: its name as given, where its class is, and its parameters."""

    name: str
    target: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Setup:
    """Everything that a run is made of, resolved and checked; checkpoint and trace are files, where it has them."""

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


def resolve(config: RunConfig) -> Setup:
    """Everything that the run names, found, built and checked for size."""
    base = config.folder
    where = f"machine {config.machine.name}"
    hardware = with_constants(load_hardware(config.machine.name, base), config.machine.constants, where)
    options = resolve_options(hardware, config.machine.options, where)
    precision = load_precision(config.precision, base)
    shape, checkpoint = find_model(config.model, base)
    machine = build_machine(hardware, options, precision.compute, Path(config.machine.name).stem)
    model = build_model(shape, precision)
    rows = provenance("hardware", hardware) + provenance("precision", precision)
    setup = Setup(config, hardware, options, precision, shape, machine, model,
                  tuple(_target(choice, base) for choice in (config.policy, *config.against)), rows,
                  confidence([row for row in rows if row["path"].startswith("hardware.")]),
                  approximations(hardware, precision, shape, machine, model), checkpoint,
                  _existing(trace_path(config.workload.trace, base), "trace") if config.workload.trace else None,
                  _existing(base / config.workload.prompts, "prompts") if config.workload.prompts else None)
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


def _target(choice: PolicyChoice, base: Path) -> PolicyTarget:
    return PolicyTarget(choice.name, *policy_target(choice, base))


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise InputError(f"workload.{what}: there is no file {path}")
    return path


def approximations(hardware: Hardware, precision: Precision, shape: ModelShape, machine: Machine,
                   model: Model) -> tuple[str, ...]:
    """What this machine and model leave out or stand in for, in sentences."""
    out = [*hardware.leaves_out, *(sentence + "." for sentence in fallbacks(hardware, precision.compute))]
    layers = model.layers
    present = {"attention": True, "router": True, "head": True, "norm": True,
               "shared": any(layer.shared != NOTHING for layer in layers),
               "dense": any(layer.dense != NOTHING for layer in layers)}
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


def cache_tokens(config: RunConfig) -> int:
    """The most positions that caches hold at once: known where the workload gives lengths, else what it does give."""
    work = config.workload
    return work.batch * (work.context_tokens + (work.prompt_tokens or 0) + (work.output_tokens or 0))


def budget_bytes(setup: Setup) -> NDArray[np.int64]:
    """Room for experts on each device: its memory less dense weights and caches, where it holds them."""
    budget = np.array([device.memory_bytes for device in setup.machine.devices], np.int64)
    for home, needed in _dense(setup).items():
        budget[home] -= needed
    return budget


def _dense(setup: Setup) -> dict[int, int]:
    """Bytes of dense weights and caches on each home that runs attention; sequences are divided among homes."""
    machine, model = setup.machine, setup.model
    kv = cache_tokens(setup.config) * model.kv_bytes_per_token
    return {home: model.dense_bytes + -(-kv // len(machine.homes))
            for home in machine.homes if "attention" in machine.devices[home].kernels}


def check_capacity(setup: Setup) -> None:
    """Refuse a model that the machine cannot hold: its experts where experts rest, all else on each home."""
    machine, model = setup.machine, setup.model
    dense = _dense(setup)
    named = f"{model.name} at {setup.config.precision} does not fit {machine.name}"
    remedy = "choose a narrower precision, a smaller model or workload, or a machine with more memory"
    for home, needed in dense.items():
        device = machine.devices[home]
        if needed > device.memory_bytes:
            raise ConfigError(f"{named}: weights outside the experts and caches take {_gb(needed)} on {device.name}, "
                              f"which holds {_gb(device.memory_bytes)}; {remedy}")
    room = sum(machine.devices[store].memory_bytes - dense.get(store, 0) for store in machine.stores)
    experts = len(model.moe_layers) * model.experts * model.expert_work(model.d_ff).weight_bytes
    if experts > room:
        stores = ", ".join(machine.devices[store].name for store in machine.stores)
        raise ConfigError(f"{named}: its experts take {_gb(experts)} and the devices where experts rest ({stores}) "
                          f"have room for {_gb(room)}; {remedy}")


def _gb(bytes_: int) -> str:
    return f"{bytes_ / 1e9:.2f} GB"
