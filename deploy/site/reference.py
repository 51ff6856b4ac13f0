"""The reference: pages made from what the code itself checks by, so that they cannot differ from it.

`python deploy/site/reference.py FOLDER` writes them for reading without the site.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from fields import about, below, parameters, prose, row, section
from pydantic import BaseModel

from cluster.commands.listing import rows as listed
from cluster.config.hardware import Hardware
from cluster.config.load import load_hardware
from cluster.config.names import CONFIGS, names
from cluster.config.policy import PolicyFile
from cluster.config.precision import Precision
from cluster.config.quantities import SI_UNITS, Quantity, confidence, provenance
from cluster.config.run import RunConfig
from cluster.config.workload import Workload
from cluster.feed import BATCHERS
from cluster.main import EXIT_CODES, app
from cluster.observe.result import Result
from schedulers.registry import policy_class, policy_names
from studies.sweep_study import Study

WIDTH = 110

PAGES: dict[str, tuple[str, type[BaseModel], str]] = {
    "run": ("Run files", RunConfig, "A run names one machine, model, precision, policy and workload, and says how it "
            "is carried out: `configs/run/`, `moelab run FILE.yaml`. `name` alone may be written for a choice that has "
            "no more to say: `machine: h200-host`."),
    "workload": ("Workload files", Workload, "What the model is asked, or which routing stands in for it: "
                 "`configs/workload/`, or the key `workload` of a run."),
    "hardware": ("Hardware files", Hardware, "A machine: `configs/hardware/`, or a file of your own by path. "
                 "[How to write one](../how-to/machine.md)."),
    "precision": ("Precision files", Precision, "How wide weights, activations and caches are: `configs/precision/`."),
    "policy": ("Policies and batchers", PolicyFile, "A policy file names a class and its parameters: `configs/policy/`."
               " [How to write a policy](../how-to/policy.md)."),
    "study": ("Sweep studies", Study, "A run and what of it varies: `configs/study/`, `moelab sweep STUDY` "
              "([sweeps](../sweeps.md))."),
}
"""Page -> its title, the model at its root, and what it is."""

OPTIONAL = {"decide": ("Decision studies", "studies.decide.study", "Decide",
                       "Machines against machines, each with its best policy and parameters: `configs/decide/`, "
                       "`moelab decide STUDY`.")}
"""Pages of parts that a checkout may lack."""


def pages() -> dict[str, str]:
    """Page of the site -> its markdown. The same checkout makes the same text."""
    roots, made = dict(PAGES), {}
    for name, (title, module, attribute, what) in OPTIONAL.items():
        if (found := _there(module)) is not None:
            roots[name] = (title, getattr(found, attribute), what)
    link = _places(roots)
    for name, (title, root, what) in roots.items():
        mine = [model for model in below(root) if link[model].startswith(f"{name}.md#")]
        parts = [f"# {title}", what, *(section(model, link) for model in mine)]
        extra = {"hardware": quantities, "policy": policies, "workload": generators}.get(name)
        made[name] = "\n\n".join([*parts, *([extra()] if extra else [])])
    made |= {"result": result(), "metrics": metrics(), "command-line": command_line(), "shipped": shipped()}
    made["index"] = index(made)
    return {f"reference/{name}.md": text.rstrip() + "\n" for name, text in made.items()}


def index(made: dict[str, str]) -> str:
    """The list of the pages."""
    lines = [f"- [{text.partition(chr(10))[0].lstrip('# ')}]({name}.md)" for name, text in made.items()]
    return ("# Reference\n\nMade from the schemas that configs, results and options are checked by, whenever the site "
            "is built. `moelab schema KIND` prints the same as JSON schema, for editors.\n\n" + "\n".join(lines))


def quantities() -> str:
    """How a constant is written."""
    units = ", ".join(f"{name.replace('_', ' ')} ({unit})" for name, unit in SI_UNITS.items() if unit)
    return section(Quantity, {}).replace("## Quantity", "## Quantities {#quantities}") + (
        f"\nA value carries its unit: {units}. Prefixes are decimal (`k`, `M`, `G`, `T`, `m`, `u`, `n`, `p`) or binary "
        "(`KiB`, `MiB`, `GiB`). `kind` is `paper`, `data_sheet`, `measured`, `computed` (from others) or `assumed`, "
        "and what is assumed needs a `range: [low, high]`.\n")


def policies() -> str:
    """Every policy and batcher that ships, with its parameters."""
    parts = ["## Policies that ship", "Parameters are set in a run: `policy: {name: lru, parameters: {slots: 8}}`, or "
             "on the command line: `--policies 'lru(slots=8)'`."]
    for name in policy_names():
        given = yaml.safe_load((CONFIGS / "policy" / f"{name}.yaml").read_text(encoding="utf-8"))
        found = policy_class(name)
        exact = getattr(found, "exact", None)
        traits = [text for text, is_so in (("exact: serves the routing as routed", exact is True),
                                           ("lossy: declares what it served instead", exact is False),
                                           ("clairvoyant", bool(getattr(found, "clairvoyant", False)))) if is_so]
        said = about(found)
        parts += [f"### {name}", f"{given['title']}." + (f" *{'; '.join(traits)}.*" if traits else ""),
                  *([prose(said)] if said and said.rstrip(".") != given["title"] else []), parameters(found)]
        if given.get("parameters"):
            told = ", ".join(f"`{key}: {value}`" for key, value in given["parameters"].items())
            parts.append(f"Its config sets {told}.")
    parts += ["## Batchers that ship", "`workload.serving.batcher` ([how to write one](../how-to/batcher.md))."]
    for name in BATCHERS.names():
        found = BATCHERS.find(name)
        parts += [f"### {name}", prose(about(found)), parameters(found)]
    return "\n\n".join(part for part in parts if part)


def generators() -> str:
    """The generators of routing."""
    told = [row([f"`{name}`", prose(text)]) for name, text in listed("generators").items()]
    return "## Generators\n\n| name | (parameters) what it draws |\n|---|---|\n" + "\n".join(told)


def result() -> str:
    """result.json, from the classes that read and write it."""
    link = {model: f"#{model.__name__.lower()}" for model in below(Result)}
    parts = ["# result.json", "What `run` and `compare` leave in each policy's folder. Times in `_ps` are whole "
             "picoseconds of emulated time and exact, figures in `_s` are those, divided once. `digest` is the SHA-256 "
             "of everything but `host`, and `Result.read` proves it.",
             "```python\nimport moelab\n\nresult = moelab.Result.read(\"runs/demo/expert_parallel\")\n"
             "print(result.tpot.p50_s, result.bound.times)\n```",
             *(section(model, link, defaults=False) for model in below(Result))]
    return "\n\n".join(parts)


def metrics() -> str:
    """Every metric, from the catalogue that exposes them."""
    head = ("# Metrics\n\nWhat Prometheus is told of runs and of served machines. Times are emulated seconds, unless a "
            "name says real: divide by `moelab_emulated_seconds_total`, never by the scrape's time.\n\n")
    catalogue = _there("cluster.observe.metrics.catalogue")
    if catalogue is None:
        from cluster.observe import metrics as told

        spreads = [row([f"`moelab_{name}_seconds`", "histogram", text]) for name, text in told.SPREADS.values()]
        return head + "| metric | kind | meaning |\n|---|---|---|\n" + "\n".join(spreads) + "\n"
    lines = []
    for metric in catalogue.METRICS:
        labels = ", ".join(f"`{label}` (≤ {catalogue.BOUNDS[label]})" for label in metric.labels)
        lines.append(row([f"`{metric.name}`", metric.kind, metric.unit, labels, prose(metric.text),
                          ", ".join(metric.of)]))
    identity = " and ".join(f"`{label}`" for label in catalogue.IDENTITY)
    return (head + f"Every metric carries the labels {identity}. A label's values are bounded; what lies beyond is "
            f"summed under `{catalogue.OTHER}`. *Of*: a run, a served machine, a sweep.\n\n"
            "| metric | kind | unit | labels | meaning | of |\n|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n")


def command_line() -> str:
    """Every command with its options, as `--help` says them."""
    parts = ["# Command line", "`moelab COMMAND --help` shows the same.", f"## Exit codes\n\n{_codes()}"]
    parts += [f"## {path}\n\n```text\n{text}\n```"
              for path, text in _helps(typer.main.get_command(app), "moelab", None)]
    return "\n\n".join(parts)


def _codes() -> str:
    codes = [part.strip(" .") for part in EXIT_CODES.removeprefix("Exit codes:").split(";")]
    return "| code | meaning |\n|---|---|\n" + "\n".join(
        row([f"`{code}`", " ".join(words)]) for code, *words in map(str.split, codes))


def _helps(command: Any, path: str, parent: Any) -> Iterator[tuple[str, str]]:
    context = command.context_class(command, info_name=path.rpartition(" ")[2], parent=parent,
                                    terminal_width=WIDTH, max_content_width=WIDTH)
    yield path, command.get_help(context).strip()
    for name, inner in getattr(command, "commands", {}).items():
        yield from _helps(inner, f"{path} {name}", context)


def shipped() -> str:
    """What ships, by kind; machines with what they rest on and leave out."""
    parts = ["# What ships", "`moelab list` prints these names.", "## Machines",
             "Constants by kind, and a label for how far they can be trusted (`confidence` in a result): *measured*, "
             "*documented* (at most a quarter assumed) or *assumed*.",
             "| machine | | constants | assumed | label |\n|---|---|--:|--:|---|\n" + "\n".join(
                 row([f"`{name}`", machine.title, str(trust["constants"]),
                      f"{100 * trust['shares'].get('assumed', 0):.0f} %", trust["label"]])
                 for name, machine in _machines() for trust in [confidence(provenance("machine", machine))])]
    for title, kind in (("Models", "models"), ("Precisions", "precisions"), ("Workloads", "workloads"),
                        ("Traces", "traces"), ("Runs", "runs"), ("Studies", "studies")):
        parts += [f"## {title}", "| name | |\n|---|---|\n" + "\n".join(
            row([f"`{name}`", prose(text)]) for name, text in listed(kind).items())]
    parts += ["## What machines leave out", "Each is named in the results, too (`approximations`)."]
    for name, machine in _machines():
        if machine.leaves_out:
            parts.append(f"**{name}**\n\n" + "\n".join(f"- {prose(sentence)}" for sentence in machine.leaves_out))
    return "\n\n".join(parts)


def _machines() -> Iterator[tuple[str, Hardware]]:
    for name in names("hardware"):
        yield name, load_hardware(name)


def _places(roots: dict[str, tuple[str, type[BaseModel], str]]) -> dict[type, str]:
    """Where each model's table is: on its own page if it has one, else on the first that names it."""
    link: dict[type, str] = {root: f"{name}.md#{root.__name__.lower()}" for name, (_, root, _) in roots.items()}
    for name, (_, root, _) in roots.items():
        for model in below(root):
            link.setdefault(model, f"{name}.md#{model.__name__.lower()}")
    taken = below(Workload)  # what a workload holds belongs there, though a run names it first
    return link | {model: f"workload.md#{model.__name__.lower()}" for model in taken}


def _there(module: str) -> Any:
    """A module, or None where the checkout has none."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not module.startswith(error.name or "nothing"):
            raise
        return None


if __name__ == "__main__":
    for uri, text in pages().items():
        place = Path(sys.argv[1]) / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
