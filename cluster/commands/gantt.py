"""`moelab gantt`: a layer of a step, lane by lane, as a page to look at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.show import Bar, console

if TYPE_CHECKING:
    from cluster.observe.layers import Layers
    from cluster.observe.result import Result

MOST_OPS = 1_000_000
"""Operations of a run that are kept whole when it is carried out again for a picture: some hundred MB."""


def gantt(result: Annotated[str, typer.Argument(metavar="RESULT", help="A result.json, or a run's folder; a URL.")],
          step: Annotated[int | None, typer.Option("--step", min=0, help="Of this step (default: the decode and the "
                                                                         "prefill step of median length).")] = None,
          layer: Annotated[int | None, typer.Option("--layer", min=0, help="This layer (default: the middle one with "
                                                                           "experts).")] = None,
          out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page.")] = Path("gantt.html"),
          folder: Annotated[Path, typer.Option("--from", metavar="DIR", help="What relative paths in its config "
                                                                             "start from.")] = Path()) -> None:
    """What held each lane when, in one layer of a step: a picture to zoom into, with the critical path."""
    from cluster.observe.files import write_texts
    from cluster.observe.layers import stored_layers
    from cluster.observe.report.gantt import SCRIPT, gantt, gantts
    from cluster.observe.report.page import page
    from cluster.observe.result import Result

    read = Result.read(result)
    layers = stored_layers(result, read.digest)
    screen, again = console(), layers is None or layers.of(step, layer) is None
    if layers is None or again:
        screen.print("no such layer is kept beside the result: the run goes again", markup=False, highlight=False)
        layers = _again(read, folder.resolve(), step, layer)
    at = layers.of(step, layer)
    assert at is not None
    body = gantts(layers) if step is None and layer is None else gantt(layers, at)
    title = f"{read.model} on {read.machine}, {read.policy}"
    write_texts(out.parent, {out.name: page(title, f"One layer of a step, lane by lane. Result {read.digest[:16]}.",
                                            body, scripts=(SCRIPT,))})
    screen.print(f"page: {out}" + ("" if again else f"; beside the result are {_kept(layers)}"), markup=False,
                 highlight=False)


def _kept(layers: "Layers") -> str:
    """Which layers there are, in words."""
    steps: dict[int, list[str]] = {}
    for each in layers.layers:
        steps.setdefault(each.step, []).append(str(each.layer))
    return " and ".join(f"layers {', '.join(its)} of step {step}" for step, its in steps.items())


def _again(read: "Result", folder: Path, step: int | None, layer: int | None) -> "Layers":
    """The layers of a run that is carried out again. InputError where it has none such, or is another run now."""
    from cluster import run as running
    from cluster.config.run import Timeline
    from cluster.observe.layers import layers_of
    from emulation.errors import ConfigError, InputError
    from studies.what_if import config_of

    config = config_of(read, folder)
    config = config.model_copy(update={"timeline": Timeline(max_ops=MOST_OPS)}).placed(config.name, folder)
    with Bar() as bar:
        try:
            found = running.run(config, bar)
        except (ConfigError, InputError) as error:
            raise type(error)(f"the run of this result cannot be carried out again: {error} (relative paths in its "
                              f"config start from {folder}: --from says from where else)") from None
    if found.digest != read.digest:
        raise InputError(f"the run gives another result now ({found.digest[:16]}, not {read.digest[:16]}): files "
                         "that it names have changed, or this moelab is another one; carry it out anew")
    flight = found._flight
    if flight is None:
        raise InputError("the run keeps no operations: there is nothing to draw")
    layers = layers_of(flight, found.digest, step=step, layer=layer)
    if not layers.layers:
        raise InputError("the run has no step with experts among the operations that are kept")
    return layers
