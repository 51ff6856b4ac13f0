"""`moelab list`: what ships with moelab, by kind."""

import json
from typing import Annotated

import typer

from cluster.commands.run import Json

KINDS = ("machines", "models", "policies", "precisions", "workloads", "generators", "traces", "runs", "studies",
         "decisions")


def list_(kind: Annotated[str | None, typer.Argument(metavar="KIND", help=(
        f"What to list: {', '.join(KINDS)} (default: everything)."))] = None,
          as_json: Json = False) -> None:
    """List machines, models, policies, precisions, workloads, generators, traces, runs, studies and decisions."""
    from emulation.errors import ConfigError, unknown

    if kind is not None and kind not in KINDS:
        raise ConfigError(unknown("kind", kind, KINDS))
    listed = {name: rows(name) for name in ([kind] if kind else KINDS)}
    if as_json:
        print(json.dumps(listed, indent=2))
        return
    for name, entries in listed.items():
        if kind is None:
            print(f"{name}:")
        width = max((len(entry) for entry in entries), default=0)
        for entry, title in entries.items():
            print(f"  {entry:{width}}  {title}".rstrip())


def rows(kind: str) -> dict[str, str]:
    """Name -> title of everything of a kind."""
    from cluster.config.names import CONFIGS, names, traces
    from moe import shapes

    if kind == "models":
        return {**dict.fromkeys(shapes.names(), ""), "embedded": "small and trained: has weights to execute"}
    if kind == "generators":
        return generators()
    if kind == "traces":
        return dict.fromkeys(traces(), "")
    folder = {"machines": "hardware", "policies": "policy", "precisions": "precision", "workloads": "workload",
              "runs": "run", "studies": "study", "decisions": "decide"}[kind]
    return {name: _title((CONFIGS / folder / f"{name}.yaml").read_text(encoding="utf-8")) for name in names(folder)}


def generators() -> dict[str, str]:
    """Name -> its parameters and what it draws."""
    from cluster.config.routing import parameters
    from workloads.routing.kinds import KINDS

    told = {name: (", ".join(parameters(name)[0]), (kind.__doc__ or "").splitlines()[0]) for name, kind in
            KINDS.items()}
    return {name: f"({given}) {what}" if given else what for name, (given, what) in told.items()}


def _title(text: str) -> str:
    """The title of a config, or its first comment: found without parsing all of it."""
    lines = text.splitlines()
    titles = [line.removeprefix("title:").strip().strip('"') for line in lines if line.startswith("title:")]
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return (titles or comments or [""])[0]
