"""`moelab bench`: what this checkout manages on this machine, measured again."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console

ROOT = Path(__file__).resolve().parent.parent.parent

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None,
                  help="Measure speed on this machine: engine, replay, execute, serve, startup, growth, sweep.")

Repeats = Annotated[int, typer.Option("--repeats", min=1, help="How often each figure is measured.")]
Listed = Annotated[str | None, typer.Option(metavar="A,B", help="Only these, with commas between them.")]


def module(name: str) -> ModuleType:
    """A benchmark by name; they lie beside the packages, in a checkout only."""
    from emulation.errors import ConfigError

    if not (ROOT / "benchmarks").is_dir():
        raise ConfigError(f"benchmarks are part of a checkout, and {ROOT} is none: it has no folder benchmarks; clone "
                          "the repository, run make setup there and use its .venv/bin/moelab")
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(f"benchmarks.{name}")


def told(name: str, report: dict[str, Any], as_json: bool) -> None:
    """A report as JSON, or as a table."""
    if as_json:
        print(json.dumps(report, indent=1))
        return
    console().print(module("table").table(module(name).rows(report)))


@app.command()
def engine(repeats: Repeats = 5, as_json: Json = False) -> None:
    """Operations a second of the timing engine, beside a SimPy model of the same plan."""
    measure = module("suite")
    told("suite", measure.engine(repeats), as_json)


@app.command()
def replay(repeats: Repeats = 3, machines: Listed = None, policies: Listed = None, routings: Listed = None,
           requests: Annotated[int, typer.Option(min=1, help="Requests that arrive at once.")] = 300,
           layers: Annotated[int | None, typer.Option(min=1, help="Cut the model to its first MoE layers.")] = None,
           limit_s: Annotated[float, typer.Option(min=1, help="Seconds after which a case is given up.")] = 120.0,
           as_json: Json = False) -> None:
    """Output tokens a wall second of replayed serving, from process start to result.json, by case."""
    measure = module("replay")
    chosen = measure.cases(*(_listed(asked, known, what) for asked, known, what in (
        (machines, measure.MACHINES, "machine"), (policies, measure.POLICIES, "policy"),
        (routings, measure.ROUTINGS, "routing"))))
    with Bar() as bar:
        told("replay", measure.bench_replay(measure.Size(requests, layers, repeats, limit_s), chosen, bar.update),
             as_json)


@app.command()
def execute(repeats: Repeats = 5,
            tokens: Annotated[int, typer.Option(min=2, help="Tokens that each prompt is answered with.")] = 64,
            transports: Listed = None, as_json: Json = False) -> None:
    """`execute` beside plain transformers on the embedded model, and beside its transports' own calls."""
    from emulation.extras import require

    measure = module("execute")
    require("bench execute", "models")
    told("execute", measure.bench_execute(repeats, tokens, _listed(transports, measure.TRANSPORTS, "transport")),
         as_json)


@app.command()
def serve(requests: Annotated[int, typer.Option(min=1, help="Requests of the real model.")] = 2000,
          filler: Annotated[int, typer.Option(min=1, help="Requests with filler tokens.")] = 64,
          tokens: Annotated[int, typer.Option(min=4, help="Tokens that each is answered with.")] = 8,
          as_json: Json = False) -> None:
    """64 streams at a served machine: memory before and after, tokens a second, a step beside the bare model's."""
    measure = module("serve")
    told("serve", measure.report(requests, filler, tokens), as_json)


@app.command()
def startup(repeats: Repeats = 3, as_json: Json = False) -> None:
    """How long a run takes from nothing, by transport, and how soon the first operation is timed."""
    measure = module("startup")
    told("startup", measure.bench_startup(repeats), as_json)


@app.command()
def growth(repeats: Repeats = 3, axes: Listed = None,
           plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the measurements.")] = None,
           as_json: Json = False) -> None:
    """Replay time against units, tokens a step, experts and layers: log-log slopes with their intervals."""
    measure = module("growth")
    with Bar() as bar:
        report = measure.bench_growth(repeats, _listed(axes, tuple(measure.AXES), "axis"), bar.update)
    if plot is not None:
        from cluster.observe.files import write_texts

        write_texts(plot.parent, {plot.name: module("plot").growth_svg(report)})
    told("growth", report, as_json)


@app.command()
def sweep(repeats: Repeats = 3, as_json: Json = False) -> None:
    """Points a second of a sweep on one worker and on two."""
    measure = module("sweep")
    told("sweep", measure.bench_sweep(repeats), as_json)


@app.command("all")
def all_(out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the JSON goes.")]
         = Path("out/bench.json"),
         markdown: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write the table for the docs, too.")]
         = None,
         quick: Annotated[bool, typer.Option("--quick", help="Tiny sizes, to see that all of it runs.")] = False,
         as_json: Json = False) -> None:
    """Everything, as one table; the JSON is kept."""
    from cluster.observe.files import write_texts

    with Bar() as bar:
        report = module("suite").bench_all(quick, bar.update)
    write_texts(out.parent, {out.name: json.dumps(report, indent=1)})
    if markdown is not None:
        page = module("table").markdown(module("suite").rows(report), report["host"])
        write_texts(markdown.parent, {markdown.name: page})
    told("suite", report, as_json)


def _listed(asked: str | None, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """The names that an option lists; all that are known where it is not given."""
    from emulation.errors import ConfigError, unknown

    if asked is None:
        return known
    names = tuple(name.strip() for name in asked.split(",") if name.strip())
    for name in names:
        if name not in known:
            raise ConfigError(unknown(what, name, known))
    if not names:
        raise ConfigError(f"no {what} is named: choose from {', '.join(known)}")
    return names
