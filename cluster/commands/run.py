"""`moelab run` and `moelab compare`."""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.show import Bar, console
from cluster.commands.speech import Speech

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.metrics import MetricsChoice
    from cluster.config.run import PolicyChoice, RunConfig
    from cluster.observe.metrics.families import Family
    from cluster.observe.metrics.watch import Watch
    from cluster.observe.result import Result
    from cluster.observe.store import Store

Config = Annotated[str, typer.Argument(metavar="RUN", help="A run by name (`moelab list runs`) or by path.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C",
                                                    help="Put a value into the config; may be given again.")]
Transport = Annotated[str | None, typer.Option("--transport", help="local, processes or ray.")]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR|URL",
                                         help="Where the files go (default: runs/NAME); a URL such as s3://bucket/x.")]
Wait = Annotated[float | None, typer.Option("--wait", min=0, metavar="SECONDS",
                                            help="How long to wait for room on a shared Ray cluster (default: not).")]
Policies = Annotated[str | None, typer.Option("--policies", metavar="A,B",
                                              help="Policies to set side by side, like lru(slots=8),on_demand "
                                                   "(default: the run's own).")]
MetricsPort = Annotated[int | None, typer.Option("--metrics-port", metavar="N", min=0, max=65535, help=(
    "Show the run's metrics at this port of 127.0.0.1 while it lasts (0: any free one)."))]
OpenMetrics = Annotated[bool, typer.Option("--openmetrics", help=(
    "Write metrics over emulated time beside the result, for `promtool tsdb create-blocks-from openmetrics`."))]
TOKEN_VARIABLE = "MOELAB_TOKEN"
Report = Annotated[bool | None, typer.Option("--report/--no-report", help="Write report.html beside the results "
                                                                          "(default: as the run says, which is yes).")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")]


def read(config: str, settings: list[str] | None, transport: str | None = None,
         out: str | None = None, wait_s: float | None = None, metrics_port: int | None = None,
         openmetrics: bool = False, report: bool | None = None) -> "RunConfig":
    """The run that a command line asks for."""
    from cluster.config.reading import load_run

    more = list(settings or ())
    if transport is not None:
        more.append(f"transport={transport}")
    if out is not None:
        more.append(f"out={out}")
    if wait_s is not None:
        more.append(f"ray.wait_s={wait_s}")
    if metrics_port is not None:
        more.append(f"metrics.port={metrics_port}")
    if openmetrics:
        more.append("metrics.openmetrics=true")
    if report is not None:
        more.append(f"report={str(report).lower()}")
    return load_run(config, more)


def run(config: Config, settings: Settings = None, transport: Transport = None, out: Out = None,
        wait: Wait = None, metrics_port: MetricsPort = None, openmetrics: OpenMetrics = False, report: Report = None,
        as_json: Json = False) -> None:
    """Carry out a run; one that names policies in `against` compares them."""
    wanted = read(config, settings, transport, out, wait, metrics_port, openmetrics, report)
    _carry_out(wanted, as_json, comparing=bool(wanted.against))


def compare(config: Config, policies: Policies = None, settings: Settings = None, transport: Transport = None,
            out: Out = None, wait: Wait = None, metrics_port: MetricsPort = None, openmetrics: OpenMetrics = False,
            report: Report = None, as_json: Json = False) -> None:
    """Time several policies on one recorded routing."""
    from emulation.errors import ConfigError

    wanted = read(config, settings, transport, out, wait, metrics_port, openmetrics, report)
    if policies is not None:
        wanted = with_policies(wanted, policies)
    if len((wanted.policy, *wanted.against)) < 2:
        raise ConfigError("compare needs two policies or more: name them with --policies a,b or in the run's `against`")
    _carry_out(wanted, as_json, comparing=True)


def with_policies(config: "RunConfig", asked: str) -> "RunConfig":
    """The run with these policies, `a,b(key=value)`; one that the run itself names keeps its parameters."""
    from emulation.errors import ConfigError

    own = {choice.name: choice for choice in (*config.against, config.policy)}
    choices = [_choice(text.strip(), own) for text in re.split(r",(?![^(]*\))", asked) if text.strip()]
    if not choices:
        raise ConfigError("--policies is empty: name two policies or more, with commas between them")
    first, *others = choices
    return config.model_copy(update={"policy": first, "against": tuple(others)}).placed(config.name, config.folder)


def _choice(text: str, own: "dict[str, PolicyChoice]") -> "PolicyChoice":
    """A policy as it is written in the head of a table: its name, and parameters in parentheses."""
    from cluster.config.load import parse_yaml, validate
    from cluster.config.overrides import here
    from cluster.config.run import PolicyChoice
    from emulation.errors import ConfigError

    name, bracket, rest = text.partition("(")
    if not bracket:
        return own.get(name) or PolicyChoice(name=here(name))
    pairs = [pair.partition("=") for pair in rest.removesuffix(")").split(",")]
    if not rest.endswith(")") or not all(key.strip() and equals for key, equals, _ in pairs):
        raise ConfigError(f"--policies {text!r}: parameters are written like lru(slots=8)")
    parameters = parse_yaml("".join(f"{key.strip()}: {value}\n" for key, _, value in pairs), f"--policies {text!r}")
    return validate(PolicyChoice, {"name": here(name.strip()), "parameters": parameters}, f"--policies {text!r}")


@contextmanager
def shown(asked: "MetricsChoice", source: "Callable[[], list[Family]]") -> "Iterator[None]":
    """Where a config or command line asks for it, the door at which metrics are shown meanwhile."""
    if asked.port is None:
        yield
        return
    from cluster.serve.options import read_token
    from emulation.extras import require

    require("--metrics-port", "service", "prometheus_client")
    from cluster.observe.metrics.door import opened

    with opened(asked.port, source, read_token(None, os.environ.get(TOKEN_VARIABLE) or None), asked.linger_s):
        yield


def _carry_out(config: "RunConfig", as_json: bool, comparing: bool) -> None:
    from cluster.observe.metrics.watch import Watch

    watch = Watch(config.name)
    with shown(config.metrics, watch.families):
        _carry_out_watched(config, as_json, comparing, None if config.metrics.port is None else watch)


def _carry_out_watched(config: "RunConfig", as_json: bool, comparing: bool, watch: "Watch | None") -> None:
    from cluster import run as running
    from cluster.observe.files import check_writable, write_texts
    from cluster.observe.store import folder_of
    from cluster.observe.timeline import Extent

    folder = folder_of(config.out or f"runs/{config.name}")
    check_writable(folder)
    speech = None if as_json or comparing or config.clock == "virtual" or config.workload.work != "execute" else \
        Speech(config.workload.texts, config.workload.batch)
    with Bar(quiet=speech is not None) as bar:
        results = running.compare(config, bar, watch) if comparing else {
            config.policy.name: running.run(config, bar, on_token=speech, watch=watch)}
    if speech is not None:
        speech.end()
    window = config.timeline
    notes = []
    places = {name: folder / name if comparing else folder for name in results}
    pages = _pages(config, results)
    for name, result in results.items():
        before = _digest_in(places[name])
        if before not in (None, result.digest):
            notes.append(f"replaced: an earlier result of other digest, {str(before)[:16]}, in {places[name]}/")
        written = result.write(places[name], Extent(window.first_s, window.last_s, window.max_bytes),
                               {} if comparing else pages)
        if written is not None and written.truncated:
            notes.append(f"timeline of {name}: {written.truncated}")
        if config.metrics.openmetrics:
            from cluster.commands.metrics import write_beside

            notes += write_beside(places[name], config.name, name, result)
    if comparing and pages:
        write_texts(folder, pages)
    notes += _stale_page(config, folder)
    if comparing and _digest_in(folder) is not None:
        notes.append(f"beside them in {folder}/: an earlier run's result.json, which this command did not write")
    if cleared(folder):
        notes.append(CLEARED)
    if as_json:
        told = {name: json.loads(result.to_json()) for name, result in results.items()}
        print(json.dumps(told if comparing else told[config.policy.name], indent=1, sort_keys=True))
        return
    _show(config, results, told=speech is not None and speech.is_whole)
    page = f" and {folder}/report.html" if config.report else ""
    notes.append(f"files: {folder}/" + (f"{{{','.join(results)}}}/" if comparing else "") + page)
    for line in dict.fromkeys(notes):
        console().print(line, markup=False, highlight=False)


def _pages(config: "RunConfig", results: "dict[str, Result]") -> dict[str, str]:
    """The page of all results by its file's name, where it is wanted."""
    if not config.report:
        return {}
    from cluster.observe.report.gantt import SCRIPT, pictures
    from cluster.observe.report.report import report
    from cluster.observe.result import REPORT_FILE

    drawn = pictures({name: result.layers() for name, result in results.items()})
    return {REPORT_FILE: report(results, drawn, (SCRIPT,) if drawn else ())}


def _stale_page(config: "RunConfig", folder: "Path | Store") -> list[str]:
    """What is to be said of a page that an earlier run left, where none was written now."""
    from cluster.observe.result import REPORT_FILE
    from cluster.observe.store import Store

    there = not config.report and not isinstance(folder, Store) and (folder / REPORT_FILE).exists()
    return [f"beside them in {folder}/: an earlier run's {REPORT_FILE}"] if there else []


CLEARED = "they lie in the job's working folder, which Ray clears away: --out takes a shared path or a URL"


def cleared(folder: "Path | Store") -> bool:
    """Whether what lies in a folder goes with the Ray job that this is."""
    from pathlib import Path

    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and isinstance(folder, Path) and not folder.is_absolute()


def _digest_in(folder: "Path | Store") -> str | None:
    """The digest of the result that lies in a folder, if one does."""
    from cluster.observe.store import Store

    try:
        found = json.loads((folder.read("result.json") or b"") if isinstance(folder, Store) else
                           (folder / "result.json").read_text(encoding="utf-8"))
        return str(found["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _show(config: "RunConfig", results: "dict[str, Result]", told: bool) -> None:
    """What the model answered, if it was not told yet, then the table: of one run, or of several side by side."""
    from cluster.observe.table import compare_details, compare_table

    screen = console()
    first = next(iter(results.values()))
    prompts = config.workload.texts
    for i, answer in enumerate(() if told else first.text or ()):
        asked = prompts[i % len(prompts)] if prompts else ""
        screen.print(f"[{answer.sequence}] {asked}|{answer.text}", markup=False, highlight=False)
    if len(results) == 1:
        screen.print(first.table())
    else:
        screen.print(compare_table(results), compare_details(results), sep="\n")
