"""`moelab report`: results on disk or at URLs as one page."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.observe.layers import Layers
    from cluster.observe.result import Result

Results = Annotated[list[str], typer.Argument(metavar="RESULT...", help="A result.json, the folder of a run or of a "
                                                                        "comparison, or a run's URL; several are set "
                                                                        "side by side.")]
Out = Annotated[str | None, typer.Option("--out", metavar="FILE|URL",
                                         help="The page to write (default: report.html beside the one RESULT; in the "
                                              "current folder for several).")]


def report(results: Results, out: Out = None) -> None:
    """Write results as one page to look at (docs/report.md): open it in a browser, print it, send it on."""
    from cluster.observe.files import write_texts
    from cluster.observe.report.gantt import SCRIPT, pictures
    from cluster.observe.report.report import report as page_of
    from cluster.observe.result import REPORT_FILE
    from cluster.observe.store import folder_of
    from emulation.errors import ConfigError

    places = [place for text in results for place in found(text)]
    runs = named([read(place) for place in places], places)
    drawn = pictures({name: stored(place, run.digest)
                      for place, (name, run) in zip(places, runs.items(), strict=True)})
    page = page_of(runs, drawn, (SCRIPT,) if drawn else ())
    if out is None:
        beside = results[0].removesuffix("/").removesuffix("/result.json") if len(results) == 1 else "."
        out = f"{'.' if beside == 'result.json' else beside}/{REPORT_FILE}"
    folder, _, name = out.rpartition("/")
    if not name or (not folder and Path(out).is_dir()):
        raise ConfigError(f"--out {out} is a folder: name the file in it, like {out.rstrip('/')}/{REPORT_FILE}")
    write_texts(folder_of(folder or ("/" if out.startswith("/") else ".")), {name: page})
    print(f"{out}: {len(places)} result{'s' if len(places) > 1 else ''}, {len(page.encode('utf-8')):,} bytes")


def found(text: str) -> list[str]:
    """Where results lie: the place itself, or, of a comparison's folder, the folders of its runs."""
    from cluster.observe.result import RESULT_FILE
    from cluster.observe.store import Store, folder_of
    from emulation.errors import InputError

    place = text.removesuffix(f"/{RESULT_FILE}")
    at = folder_of(place)
    if isinstance(at, Store):
        return [place]
    if not at.is_dir() or (at / RESULT_FILE).is_file():
        return [str(at)]
    inside = [str(file.parent) for file in sorted(at.glob(f"*/{RESULT_FILE}"))]
    if not inside:
        raise InputError(f"{at} has no {RESULT_FILE}, nor has any folder in it: name the folder that `moelab run` or "
                         "`moelab compare` wrote")
    return inside


def read(place: str) -> "Result":
    """The result at a place."""
    from cluster.observe.result import Result

    return Result.read(place)


def stored(place: str, digest: str) -> "Layers | None":
    """The layers beside a result; none, and a word on stderr, where they are another result's, or no such file."""
    from cluster.observe.layers import stored_layers
    from emulation.errors import InputError

    try:
        return stored_layers(place, digest)
    except InputError as error:
        print(f"moelab: no layer is drawn: {error}", file=sys.stderr)
        return None


def named(results: "Sequence[Result]", places: "Sequence[str]") -> "dict[str, Result]":
    """Results by the shortest name that tells them apart: policy; with machine, model or precision; or place."""
    for words in (("policy",), ("policy", "machine"), ("policy", "machine", "model"),
                  ("policy", "machine", "model", "precision")):
        names = [" on ".join([_word(result, words[0]), ", ".join(_word(result, word) for word in words[1:])]
                             if words[1:] else [_word(result, words[0])]) for result in results]
        if len(dict.fromkeys(names)) == len(names):
            return dict(zip(names, results, strict=True))
    folders = [place.rstrip("/").rpartition("/")[2] for place in places]
    names = folders if len(dict.fromkeys(folders)) == len(folders) else list(places)
    return dict(zip(names, results, strict=True))


def _word(result: "Result", of: str) -> str:
    return str(result.config.get("precision", "")) if of == "precision" else str(getattr(result, of))
