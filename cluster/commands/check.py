"""`moelab check`: is this run sound, what does it resolve to, and where are its constants from?"""

import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.run import Config, Json, Settings, read
from cluster.commands.show import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from cluster.resolve import Setup

MARK = "*"
All = Annotated[bool, typer.Option("--all", help="Print the whole config as well, defaults included.")]


def check(config: Config, settings: Settings = None, whole: All = False, as_json: Json = False) -> None:
    """Check a run without carrying it out; print what it says, what fits, and every constant with its source."""
    from cluster.serve.setting import setup_of

    setup = setup_of(read(config, settings))
    placed, told = start_policies(setup)
    if as_json:
        print(json.dumps(facts(setup, told), indent=2, sort_keys=True))
        return
    _print(setup, placed, facts(setup, told), whole)


def start_policies(setup: "Setup") -> tuple[dict[str, list[int]], list[str]]:
    """Load each policy and let it place the experts; refuses what does not exist or does not fit.

    Policy -> bytes of experts on each device at the start; and what policies say of themselves, in sentences.
    """
    from actors.scheduler import Scheduler
    from cluster.feed import blind, divided, told
    from emulation.engine.choose import make_engine
    from schedulers.registry import load_policy

    placed: dict[str, list[int]] = {}
    said: list[str] = []
    for policy in setup.policies:
        loaded = load_policy(policy.target, policy.parameters)
        setting = told(setup, loaded, policy.name, setup.setting, partial(divided, setup))
        started = Scheduler(setting, loaded, partial(make_engine, "spec"))
        placed[policy.name] = started.ledger.used_bytes.tolist()
        said += blind(setup, loaded)
    return placed, said


def facts(setup: "Setup", said: "Sequence[str]") -> dict[str, Any]:
    """What a run resolves to, as JSON."""
    return {
        "config": setup.config.model_dump(mode="json", by_alias=True),
        "machine": {"name": setup.machine.name, "options": setup.options, "confidence": setup.confidence,
                    "devices": [{"name": d.name, "kind": d.kind, "memory_bytes": d.memory_bytes, "rests": d.rests}
                                for d in setup.machine.devices]},
        "model": {"name": setup.model.name, "layers": len(setup.model.layers),
                  "moe_layers": len(setup.model.moe_layers), "experts": setup.model.experts,
                  "top_k": setup.model.top_k, "dense_bytes": setup.model.dense_bytes,
                  "expert_bytes": setup.model.expert_bytes},
        "policies": [{"name": p.name, "class": p.target, "parameters": p.parameters} for p in setup.policies],
        "provenance": setup.provenance, "approximations": [*setup.approximations, *said]}


def _print(setup: "Setup", placed: dict[str, list[int]], told: dict[str, Any], whole: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    screen, config = console(), setup.config
    screen.print(f"{config.name}: sound", markup=False, highlight=False)
    machine, model, trust = told["machine"], told["model"], told["machine"]["confidence"]
    shares = ", ".join(f"{kind.replace('_', ' ')} {share:.0%}" for kind, share in trust["shares"].items())
    screen.print(f"machine {machine['name']}: {len(machine['devices'])} devices, {len(setup.machine.links)} links; "
                 f"constants: {shares} (confidence: {trust['label']})", highlight=False)
    screen.print(f"model {model['name']}: {model['layers']} layers, {model['moe_layers']} of them MoE with "
                 f"{model['experts']} experts, top {model['top_k']}; an expert {model['expert_bytes'] / 1e6:.2f} MB, "
                 f"all else {model['dense_bytes'] / 1e9:.3f} GB", highlight=False)
    for policy in told["policies"]:
        screen.print(f"policy {policy['name']}: {policy['class']} {policy['parameters'] or ''}".rstrip(), markup=False,
                     highlight=False)
    for sentence in told["approximations"]:
        screen.print(f"approximation: {sentence}", markup=False, highlight=False)
    if config.workload.serving is not None and config.workload.serving.is_live:
        screen.print(f"its requests come from clients: start it with `moelab serve {config.name}`", highlight=False)
    given = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    screen.print(f"\n{_yaml(given)}\n(all else is as by default: --all prints it)\n", markup=False, highlight=False)
    screen.print(_memory(setup, placed))
    table = Table("", "constant", "value", "range", "kind", "source", title="Constants")
    table.columns[1].overflow = "fold"
    for row in setup.provenance:
        span = " to ".join(row["range"]) if row["range"] else ""
        table.add_row(MARK if row["kind"] == "assumed" else "", row["path"].removeprefix("hardware."), row["value"],
                      span, row["kind"].replace("_", " "), escape(row["source"]))
    screen.print(table)
    screen.print(f"{MARK} assumed: sweep it over its range before you trust a result that depends on it",
                 highlight=False)
    if whole:
        screen.print(_yaml(told["config"]), markup=False, highlight=False)


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=118).rstrip()


def _memory(setup: "Setup", placed: dict[str, list[int]]) -> "Table":
    """What lies on each device at the start, against what it holds; caches at their fullest."""
    from rich.table import Table

    from cluster.resolve import gigabytes

    table = Table("device", "capacity", "dense and caches", *(f"experts: {name}" for name in placed), title="Memory")
    for i, (device, room) in enumerate(zip(setup.machine.devices, setup.setting.budget_bytes.tolist(), strict=True)):
        if device.memory_bytes:
            table.add_row(device.name, gigabytes(device.memory_bytes, 3), gigabytes(device.memory_bytes - room, 3),
                          *(gigabytes(used[i], 3) for used in placed.values()))
    return table
