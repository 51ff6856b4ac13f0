"""The command line: `moelab`. Commands import what they need when they run, so that help and lists come at once."""

import errno
import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import typer

from cluster.commands import (
    bench,
    calibrate,
    check,
    decide,
    doctor,
    ending,
    explain,
    fidelity,
    gantt,
    listing,
    matrix,
    metrics,
    price,
    remote,
    report,
    reproduce,
    run,
    schema,
    serve,
    sweep,
    trace,
)
from cluster.entry import INTERRUPTED
from emulation.errors import ConfigError, InputError, MoelabError, PlanError
from emulation.extras import extra_of

INTERNAL = 70
BROKEN_PIPE = 1
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

EXIT_CODES = ("Exit codes: 0 done; 1 doctor found a fault, points of a sweep failed, or something could not be written;"
              " 2 a config, option or name is wrong; 3 a trace, checkpoint or model file is wrong; 4 a policy's plan "
              f"was refused; 5 deadlock; 6 an actor or connection failed; {INTERNAL} a fault of moelab's; "
              f"{INTERRUPTED} interrupted, {ending.TERMINATED} by SIGTERM.")

app = typer.Typer(name="moelab", no_args_is_help=True, add_completion=False, rich_markup_mode=None,
                  pretty_exceptions_enable=False, epilog=EXIT_CODES,
                  help="Emulates Mixture-of-Experts inference on machines that do not exist yet.")
app.command("run")(run.run)
app.command("compare")(run.compare)
app.command("explain")(explain.explain)
app.command("diff")(explain.diff)
app.command("metrics")(metrics.metrics)
app.command("gantt")(gantt.gantt)
app.command("report")(report.report)
app.command("check")(check.check)
app.command("list")(listing.list_)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)
app.command("calibrate")(calibrate.calibrate)
app.command("fidelity")(fidelity.fidelity)
app.command("matrix")(matrix.matrix)
app.command("decide")(decide.decide)
app.command("reproduce")(reproduce.reproduce)
app.command("price")(price.price)
app.command("serve")(serve.serve)
app.add_typer(sweep.app, name="sweep")
app.add_typer(trace.app, name="trace")
app.add_typer(remote.app, name="remote")
app.add_typer(bench.app, name="bench")


@app.callback()
def options(debug: bool = typer.Option(False, "--debug", help="Show the traceback of every error.")) -> None:
    """Options of every command; `enter` takes --debug out wherever it stands."""


def enter(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code; errors become one sentence on stderr."""
    debug = "--debug" in arguments
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    command = typer.main.get_command(app)
    try:
        code = command.main([a for a in arguments if a != "--debug"], prog_name="moelab", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            return _interrupted()
        return code if isinstance(code, int) else 0
    except MoelabError as error:
        if debug:
            traceback.print_exc()
        return _say(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SystemExit as stop:
        foreign = _foreign(stop)
        if foreign is not None:
            return _say(f"{foreign} ended the program, which is not part of moelab", PlanError.exit_code)
        return BROKEN_PIPE  # typer's own, for a reader that has gone
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 (the last stop: told as ours, with its traceback)
        usage = _usage(error)
        if usage is not None:
            return _say(*usage)
        if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename is None:
            _drop_output()
            return _say(f"standard output cannot be written: {error.strerror}", BROKEN_PIPE)
        if isinstance(error, OSError) and error.filename is not None and _foreign(error) is None:
            if debug:
                traceback.print_exc()
            return _say(f"{error.filename} cannot be used: {error.strerror}", InputError.exit_code)
        if isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name or "")):
            if debug:
                traceback.print_exc()
            return _say(f"this needs {str(error.name).partition('.')[0]}: pip install 'moelab[{extra}]'",
                        ConfigError.exit_code)
        traceback.print_exc()
        foreign = _foreign(error)
        if foreign is not None:
            return _say(f"{type(error).__name__} was raised in {foreign}, which is not part of moelab",
                        PlanError.exit_code)
        return _say(f"this is a fault of moelab's, not of your config: {type(error).__name__}; please report it with "
                    "the text above, the config and the output of `moelab doctor`", INTERNAL)


def _drop_output() -> None:
    """What Python still holds for standard output goes nowhere: it must not be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: Exception) -> tuple[str, int] | None:
    """Sentence and exit code of a command line that cannot be read (a click exception, whichever click it is)."""
    message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if not callable(message) or not isinstance(code, int):
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message(), file=sys.stderr)
        return "a command is missing", code
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", "moelab")
    return f"{message()} (see `{path} --help`)", code


def _foreign(error: BaseException) -> str | None:
    """The last file and line on the way to the error that are neither ours nor a library's: a policy from outside."""
    homes = (Path(__file__).resolve().parent.parent, Path(sys.prefix), Path(sys.base_prefix))
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        places.append((error.filename, error.lineno))
    for filename, line in reversed(places):
        path = Path(filename)
        if path.is_absolute() and not any(path.resolve().is_relative_to(home.resolve()) for home in homes):
            return f"{path} line {line}"
    return None


def _interrupted() -> int:
    return _say("ended by SIGTERM", ending.TERMINATED) if ending.was_terminated() else _say("interrupted", INTERRUPTED)


def _say(text: str, code: int) -> int:
    print(f"moelab: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code


def main() -> None:
    """The console script. Where the terminal knows fewer characters than we write, it gets question marks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    ending.heed_sigterm()
    ending.hear_again()
    sys.exit(enter(sys.argv[1:]))


if __name__ == "__main__":
    main()
