"""The public face: run a config, compare policies, write a policy.

    import moelab
    result = moelab.run("demo", ["transport=local"])
    result.to_pandas()
    results = moelab.compare("mixtral_edge", ["against=[tensor_parallel]"])
"""

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.config.run import RunConfig
    from cluster.observe.result import Result
    from cluster.wall.stream import OnToken, Token
    from emulation.ledger import Start
    from emulation.plan import Plan, Served
    from emulation.view import Setting, View
    from schedulers.contract import Policy

__all__ = ["Plan", "Policy", "Result", "Served", "Setting", "Start", "Token", "View", "compare", "load", "run"]

_HOME = {"Plan": "emulation.plan", "Policy": "schedulers.contract", "Result": "cluster.observe.result",
         "Served": "emulation.plan", "Setting": "emulation.view", "Start": "emulation.ledger",
         "Token": "cluster.wall.stream", "View": "emulation.view"}


def __getattr__(name: str) -> Any:
    """What a policy is written with, imported when it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'moelab' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def load(config: "str | Path | RunConfig", settings: Iterable[str] = ()) -> "RunConfig":
    """A run by name or path, with settings put in as `--set` does; one that is loaded stays as it is."""
    from cluster.config.reading import load_run
    from cluster.config.run import RunConfig
    from emulation.errors import ConfigError

    if isinstance(config, RunConfig):
        if list(settings):
            raise ConfigError("settings go into a run as it is loaded; this one is loaded already")
        return config
    return load_run(config, settings)


def run(config: "str | Path | RunConfig", settings: Iterable[str] = (), *,
        on_token: "OnToken | None" = None) -> "Result":
    """Carry out a run and give its result; `result.write(folder)` leaves it as files. on_token: is called with each
    `Token` of a run with `clock: wall`, when it is time for it."""
    from cluster.run import run as carry_out

    return carry_out(load(config, settings), on_token=on_token)


def compare(config: "str | Path | RunConfig", settings: Iterable[str] = ()) -> "dict[str, Result]":
    """Time a run's policy and all of its `against` on one record; results by policy."""
    from cluster.run import compare as carry_out

    return carry_out(load(config, settings))
