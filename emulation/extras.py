"""What moelab can be installed with beside its core, and the sentence where something needs what is not installed.

`pip install moelab` is the core: replays and sweeps, in this process or in several. Each extra brings what more needs.
"""

from collections.abc import Mapping
from importlib.util import find_spec

from emulation.errors import ConfigError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "core": ("numpy", "scipy", "pydantic", "yaml", "rich", "typer", "numba", "psutil", "fsspec"),
    "models": ("torch", "transformers", "tokenizers", "safetensors"),
    "ray": ("ray",),
    "service": ("fastapi", "uvicorn", "grpc", "grpc_health", "grpc_reflection", "grpc_status", "google.protobuf",
                "google.rpc", "prometheus_client", "httpx"),
    "decide": ("optuna",),
    "tables": ("pandas",),
    "parquet": ("pyarrow",),
}
"""Extra -> what is imported of it, by the names that import it, first what is told of first."""


def installed(package: str) -> bool:
    """Whether a package could be imported; nothing is imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def require(what: str, extra: str, *packages: str) -> None:
    """Refuse, in a sentence, what needs packages that are not installed. packages: those of the extra that are used;
    all of them where none is named. Raises ConfigError."""
    wanted = packages or EXTRAS[extra]
    if missing := [name for name in wanted if not installed(name)]:
        named = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
        raise ConfigError(f"{what} needs {named}: pip install 'moelab[{extra}]'")


def extra_of(package: str) -> str | None:
    """The extra that brings a package, or one that lies in it (`grpc.aio`); None of a package that is not used."""
    top = package.partition(".")[0]
    tops = {name.partition(".")[0]: extra for extra, packages in EXTRAS.items() for name in packages}
    return tops.get(top)
