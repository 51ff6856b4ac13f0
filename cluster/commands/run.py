"""`moelab run` and `moelab compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from cluster.config.run import RunConfig
    from cluster.observe.result import Result

Config = Annotated[str, typer.Argument(metavar="RUN", help="A run by name (`moelab list runs`) or by path.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C",
                                                    help="Put a value into the config; may be given again.")]
Transport = Annotated[str | None, typer.Option("--transport", help="local, processes or ray.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where the files go (default: runs/NAME).")]
Policies = Annotated[str | None, typer.Option("--policies", metavar="A,B",
                                              help="Policies to set side by side (default: the run's own).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


def read(config: str, settings: list[str] | None, transport: str | None = None,
         out: Path | None = None) -> "RunConfig":
    """The run that a command line asks for."""
    from cluster.config.reading import load_run

    more = list(settings or ())
    if transport is not None:
        more.append(f"transport={transport}")
    if out is not None:
        more.append(f"out={out}")
    return load_run(config, more)


def run(config: Config, settings: Settings = None, transport: Transport = None, out: Out = None,
        as_json: Json = False) -> None:
    """Carry out a run; one that names policies in `against` compares them."""
    wanted = read(config, settings, transport, out)
    _carry_out(wanted, as_json, comparing=bool(wanted.against))


def compare(config: Config, policies: Policies = None, settings: Settings = None, transport: Transport = None,
            out: Out = None, as_json: Json = False) -> None:
    """Time several policies on one recorded routing."""
    from emulation.errors import ConfigError

    names = [name.strip() for name in policies.split(",") if name.strip()] if policies is not None else None
    wanted = read(config, settings, transport, out)
    if names is not None:
        wanted = _with_policies(wanted, names)
    if len((wanted.policy, *wanted.against)) < 2:
        raise ConfigError("compare needs two policies or more: name them with --policies a,b or in the run's `against`")
    _carry_out(wanted, as_json, comparing=True)


def _with_policies(config: "RunConfig", names: list[str]) -> "RunConfig":
    """The run with these policies; one that the run itself names keeps its parameters."""
    from cluster.config.run import PolicyChoice
    from emulation.errors import ConfigError

    if not names:
        raise ConfigError("--policies is empty: name two policies or more, with commas between them")
    own = {choice.name: choice for choice in (*config.against, config.policy)}
    first, *others = (own.get(name) or PolicyChoice(name=name) for name in names)
    return config.model_copy(update={"policy": first, "against": tuple(others)}).placed(config.name, config.folder)


def _carry_out(config: "RunConfig", as_json: bool, comparing: bool) -> None:
    from cluster import run as running
    from cluster.observe.timeline import Extent

    with Bar() as bar:
        results = running.compare(config, bar) if comparing else {config.policy.name: running.run(config, bar)}
    folder = Path(config.out or Path("runs") / config.name)
    window = config.timeline
    notes = []
    for name, result in results.items():
        written = result.write(folder / name if comparing else folder,
                               Extent(window.first_s, window.last_s, window.max_bytes))
        if written is not None and written.truncated:
            notes.append(f"timeline of {name}: {written.truncated}")
    if as_json:
        told = {name: json.loads(result.to_json()) for name, result in results.items()}
        print(json.dumps(told if comparing else told[config.policy.name], indent=1, sort_keys=True))
        return
    _show(config, results)
    for line in (*notes, f"files: {folder}/" + (f"{{{','.join(results)}}}/" if comparing else "")):
        console().print(line, markup=False, highlight=False)


def _show(config: "RunConfig", results: "dict[str, Result]") -> None:
    """What the model answered, then the table: of one run, or of several side by side."""
    from cluster.observe.table import compare_details, compare_table

    screen = console()
    first = next(iter(results.values()))
    prompts = config.workload.texts
    for i, answer in enumerate(first.text or ()):
        asked = prompts[i % len(prompts)] if prompts else ""
        screen.print(f"[{answer.sequence}] {asked}|{answer.text}", markup=False, highlight=False)
    if len(results) == 1:
        screen.print(first.table())
    else:
        screen.print(compare_table(results), compare_details(results), sep="\n")
