"""Errors a user can mend: each is one sentence that names what, where, the value and the remedy.

    MoelabError                exit code 1
    |- ConfigError             2   a config, option or name is wrong
    |- InputError              3   a trace, checkpoint or model file is wrong
    |- PlanError               4   a policy (or a batcher) returned what is refused
    |  `- CycleError               a plan whose operations wait for each other
    |- DeadlockError           5   nothing is in flight and the decision op cannot start
    `- TransportError          6   an actor, a process or a connection failed
"""

import difflib
from collections.abc import Iterable


class MoelabError(Exception):
    """An error the user can mend; its text is one sentence."""

    exit_code = 1


class ConfigError(MoelabError):
    """A config, an option or a name is wrong."""

    exit_code = 2


class InputError(MoelabError):
    """A trace, checkpoint or model file is wrong."""

    exit_code = 3


class PlanError(MoelabError):
    """A policy returned a plan that the scheduler refuses."""

    exit_code = 4


class CycleError(PlanError):
    """Operations of one plan wait for each other."""


class DeadlockError(MoelabError):
    """Nothing is in flight and the decision op cannot start."""

    exit_code = 5


class TransportError(MoelabError):
    """An actor, a process or a connection failed."""

    exit_code = 6


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with a suggestion where one is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"


def brief(value: object, most: int = 60) -> str:
    """A value as it is shown in a sentence: as Python writes it, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, a nest of thousands of lists
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= most else text[:most - 3] + "..."
