"""Which configs there are, and where a name leads; nothing is parsed here, so that lists come at once."""

from pathlib import Path

from emulation.errors import ConfigError, unknown

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
TRACES = CONFIGS / "workload" / "traces"


def names(folder: str) -> tuple[str, ...]:
    """Configs of a kind that ship with moelab: `hardware`, `precision`, `policy`, `workload`, `run`."""
    return tuple(sorted(file.stem for file in (CONFIGS / folder).glob("*.yaml") if file.stem != "template"))


def locate(folder: str, what: str, name: str, base: Path = Path()) -> Path:
    """The file of a config by name, or by path (it has a slash or ends in .yaml), relative to `base`."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return base / name
    if name != "template" and name not in names(folder):
        raise ConfigError(unknown(what, name, names(folder)) + "; a file of your own is named by its path")
    return CONFIGS / folder / f"{name}.yaml"


def traces() -> tuple[str, ...]:
    """Traces that ship with moelab."""
    return tuple(sorted(file.stem for file in TRACES.glob("*.npz")))


def is_path(name: str) -> bool:
    """Whether a name is meant as a path: it has a slash or a suffix."""
    return "/" in name or bool(Path(name).suffix)


def trace_path(name: str, base: Path) -> Path:
    """The file of a trace, by name among those that ship with moelab or by path."""
    if is_path(name):
        return base / name
    if name not in traces():
        raise ConfigError(unknown("trace", name, traces()) + "; a file of your own is named by its path")
    return TRACES / f"{name}.npz"
