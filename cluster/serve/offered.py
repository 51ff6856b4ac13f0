"""Runs that come over a network: they name what ships with moelab, and no file, no code and no place to write to."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.config.load import parse_yaml, read_yaml, validate
from cluster.config.names import CONFIGS, locate, names, traces
from cluster.config.overrides import override
from cluster.config.reading import load_workload
from cluster.config.run import EMBEDDED, RunConfig
from emulation.errors import ConfigError, unknown

LONGEST_TEXT = 64 << 10
MOST_SETTINGS = 100
NO_FILE = "a run over the network names what ships with the server, and no file"


def offered_run(name: str | None, text: str | None, settings: Sequence[str]) -> RunConfig:
    """The run that a client offers, by the name of one that ships or as text in YAML or JSON (64 KiB at most).

    It is carried out on the `local` transport, whichever it names; that does not change its result. ConfigError where
    it is wrong, or reaches beyond what ships.
    """
    if name is not None:
        where, data = f"run {name!r}", read_yaml(locate("run", "run", _shipped("run", name, names("run"))))
    else:
        where, data = "config", parse_yaml(_short(text or "", "the config"), "config")
    if len(settings) > MOST_SETTINGS:
        raise ConfigError(f"{len(settings)} settings are given: {MOST_SETTINGS} at most are read")
    for setting in settings:
        _short(setting, "a setting")
    workload = data.get("workload")
    if isinstance(workload, str):
        data["workload"] = load_workload(_shipped("workload", workload, names("workload")), CONFIGS / "run")
    config = validate(RunConfig, override(RunConfig, data, settings), where)
    _check(config)
    carried_out = {"transport": "local", "workers": None, "devices_per_actor": 1}
    return config.model_copy(update=carried_out).placed(name or "remote", CONFIGS / "run")


def dumped(config: RunConfig) -> dict[str, Any]:
    """A run as JSON can hold it, to be read again by `undumped`."""
    return {"name": config.name, "folder": str(config.folder),
            "config": config.model_dump(mode="json", by_alias=True, exclude_unset=True)}


def undumped(data: dict[str, Any]) -> RunConfig:
    """The run that was dumped."""
    return validate(RunConfig, data["config"], "config").placed(data["name"], Path(data["folder"]))


def _check(config: RunConfig) -> None:
    """Refuse what leads to a file, to code that does not ship, to a folder, or keeps the host busy for its own sake."""
    from cluster.feed import BATCHERS
    from moe.shapes import names as shapes

    _shipped("machine", config.machine.name, names("hardware"))
    _shipped("precision", config.precision, names("precision"))
    for policy in (config.policy, *config.against):
        _shipped("policy", policy.name, names("policy"))
    for what, path in (("model.config", config.model.config), ("model.checkpoint", config.model.checkpoint),
                       ("out", config.out)):
        if path is not None:
            raise ConfigError(f"{what} {path!r}: {NO_FILE}")
    _shipped("model", config.model.name or "", (*shapes(), EMBEDDED))
    work = config.workload
    if work.trace is not None and work.trace not in traces():
        _inside("workload.trace", work.trace)
    _inside("workload.prompts", work.prompts)
    if work.generator is not None:
        _inside("workload.generator.fitted", work.generator.fitted)
    if work.serving is not None:
        _inside("workload.serving.recorded", work.serving.recorded)
        _shipped("batcher", work.serving.batcher.name, BATCHERS.names())
    if config.clock == "wall":
        raise ConfigError("clock: wall is played on the host that asks for it: a run over the network is timed at "
                          "clock: virtual, which gives the same result")


def _shipped(what: str, name: str, known: Iterable[str]) -> str:
    if name not in known:
        reason = NO_FILE if set(name) & set("/\\:.") else unknown(what, name, known)
        raise ConfigError(reason if reason != NO_FILE else f"{what} {name!r}: {NO_FILE}")
    return name


def _inside(what: str, name: str | None) -> None:
    """Refuse a file that does not lie among the configs that ship."""
    if name is None:
        return
    try:
        place = (CONFIGS / "run" / name).resolve()
    except (OSError, ValueError, RuntimeError):
        place = Path("/")
    if "~" in name or not place.is_relative_to(CONFIGS.resolve()):
        raise ConfigError(f"{what} {name!r}: {NO_FILE}")


def _short(text: str, what: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise ConfigError(f"{what} is {len(text)} characters long: {LONGEST_TEXT} at most are read over the network")
    return text
