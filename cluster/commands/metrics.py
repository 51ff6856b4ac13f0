"""`moelab metrics`: finished runs as OpenMetrics over emulated time, for a Prometheus that could not scrape them."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cluster.observe.metrics.text import Instant
    from cluster.observe.result import Result
    from cluster.observe.store import Store

FILE = "metrics.openmetrics"

Results = Annotated[list[str], typer.Argument(metavar="RESULT...", help="A result.json, or the folder of a run, or of "
                                                                        "a comparison.")]
Names = Annotated[list[str] | None, typer.Option("--run", metavar="NAME", help=(
    "The label `run` of each RESULT, in their order (default: its folder's name)."))]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="When emulated time begins, like "
                                                                    "2026-01-01T00:00:00Z.")]
Dilation = Annotated[str, typer.Option("--dilation", metavar="X", help=(
    "Seconds of Prometheus' time for an emulated one; auto makes 15 s of every shorter slice."))]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write (default: print it).")]
Blocks = Annotated[Path | None, typer.Option("--blocks", metavar="DIR", help=(
    "Let promtool make blocks of it, in this data folder of a Prometheus."))]
SINCE = "2026-01-01T00:00:00Z"


def metrics(results: Results, names: Names = None, since: Since = SINCE, dilation: Dilation = "auto",
            out: OutFile = None, blocks: Blocks = None) -> None:
    """Write finished runs as OpenMetrics with emulated timestamps: what `promtool tsdb create-blocks-from openmetrics`
    reads, so that Prometheus answers for runs too short to scrape."""
    from cluster.observe.files import write_texts
    from cluster.observe.metrics.text import openmetrics

    since_ms, stretch = since_of(since), dilation_asked(dilation)
    found = read_all(results, names)
    told = [instants(run, policy, result, since_ms, stretch) for run, policy, result in found]
    text = "".join(openmetrics([instant for each, _ in told for instant in each]))
    for line in dict.fromkeys(line for _, line in told if line):
        print(f"moelab: {line}", file=sys.stderr)
    if out is not None:
        write_texts(out.parent, {out.name: text})
        print(f"{out}: {len(text.splitlines())} lines of {len(told)} runs")
    if blocks is not None:
        print(make_blocks(text, blocks))
    if out is None and blocks is None:
        sys.stdout.write(text)


def read_all(places: list[str], names: list[str] | None) -> "list[tuple[str, str, Result]]":
    """(run, policy, result) of every result that is named; a comparison's folder has several. ConfigError where two
    would go by the same labels."""
    from emulation.errors import ConfigError

    if names is not None and len(names) != len(places):
        raise ConfigError(f"--run names {len(names)} runs, and there are {len(places)} results: give one name each")
    found: dict[tuple[str, str], tuple[str, Result]] = {}
    for i, place in enumerate(places):
        for at, result in _results(place):
            run, policy = labels_of(at, result)
            run = run if names is None else names[i]
            if (run, policy) in found:
                raise ConfigError(f"{found[run, policy][0]} and {at} are both of run {run!r} and policy {policy!r}: "
                                  "tell them apart with --run, once for each RESULT")
            found[run, policy] = str(at), result
    return [(run, policy, result) for (run, policy), (_, result) in found.items()]


def _results(place: str) -> "list[tuple[Path | Store, Result]]":
    from cluster.observe.result import RESULT_FILE, Result
    from cluster.observe.store import Store, folder_of

    at = folder_of(place)
    if isinstance(at, Path) and at.is_dir() and not (at / RESULT_FILE).exists():
        inside = sorted(path.parent for path in at.glob(f"*/{RESULT_FILE}"))
        if inside:
            return [(folder, Result.read(folder)) for folder in inside]
    where = at if isinstance(at, Store) or at.is_dir() else at.parent
    return [(where, Result.read(place))]


def labels_of(at: "Path | Store", result: "Result") -> tuple[str, str]:
    """The run and policy that a result's folder says: in a comparison, a folder each by the policy's name."""
    parts = [part for part in str(at.resolve() if isinstance(at, Path) else at).split("/") if part]
    last = parts[-1] if parts else "run"
    if last == result.policy or last.startswith(f"{result.policy}("):
        return (parts[-2] if len(parts) > 1 else "run"), last
    return last, result.policy


def since_of(text: str) -> int:
    """Milliseconds since 1970 of an instant as ISO 8601 writes it; one without a zone is UTC."""
    from datetime import UTC, datetime

    from cluster.observe.metrics.over_time import LATEST_MS
    from emulation.errors import ConfigError

    try:
        at = datetime.fromisoformat(text)
        at_ms = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise ConfigError(f"--since {text!r} is no instant: write it like {SINCE}") from None
    if not 0 <= at_ms < LATEST_MS:
        raise ConfigError(f"--since {text} is not between 1970 and 2100")
    return at_ms


def dilation_asked(text: str) -> Fraction | None:
    """A dilation as a number; None for auto."""
    from emulation.errors import ConfigError

    if text == "auto":
        return None
    try:
        found = Fraction(text)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not 0 < found < 10**18:
        raise ConfigError(f"--dilation {text!r} should be auto, or a number above 0: seconds of Prometheus' time for "
                          "an emulated one, like 1000")
    return found


def instants(run: str, policy: str, result: "Result", since_ms: int, asked: Fraction | None
             ) -> "tuple[list[Instant], str]":
    """A run over time, and a sentence where it is stretched."""
    from cluster.observe.metrics.over_time import dilation_of, over_time

    dilation = dilation_of(result, asked)
    told = "" if dilation == 1 else (
        f"emulated time is stretched {float(dilation):.6g} times for Prometheus, whose clock has milliseconds; rates "
        "are to be divided by that of moelab_emulated_seconds_total, and moelab_dilation_ratio tells the stretch")
    return over_time(result, run, policy, since_ms, dilation), told


def write_beside(folder: "Path | Store", run: str, policy: str, result: "Result") -> list[str]:
    """Write a run's metrics into its folder, with what is the default; returns lines that tell it."""
    from cluster.observe.files import write_texts
    from cluster.observe.metrics.over_time import SINCE_MS
    from cluster.observe.metrics.text import openmetrics

    found, told = instants(run, policy, result, SINCE_MS, None)
    write_texts(folder, {FILE: "".join(openmetrics(found))})
    return [f"beside result.json: {FILE}, metrics over emulated time", *([told] if told else [])]


def make_blocks(text: str, folder: Path) -> str:
    """Let promtool load OpenMetrics text into a data folder; a sentence that tells it. MoelabError where it cannot."""
    import shutil
    import subprocess
    import tempfile

    from emulation.errors import ConfigError, MoelabError

    tool = shutil.which("promtool")
    if tool is None:
        raise ConfigError("--blocks needs promtool, which comes with Prometheus (Debian: apt-get install prometheus)")
    with tempfile.NamedTemporaryFile("w", suffix=".openmetrics", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        done = subprocess.run([tool, "tsdb", "create-blocks-from", "openmetrics", file.name, str(folder)],
                              capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise MoelabError(f"promtool made no blocks in {folder}: {said}")
    made = sum(path.is_dir() and (path / "meta.json").exists() for path in folder.iterdir())
    return f"{folder}: {made} blocks; start Prometheus on it with --storage.tsdb.retention.time=10y"
