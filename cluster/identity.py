"""What a run is, as its result says: its config without what only says how it is carried out, and the versions."""

import importlib.metadata
import platform
import sys
from typing import Any

from cluster.resolve import PolicyTarget, Setup

HOST_KEYS = {"transport", "workers", "devices_per_actor", "restarts", "ray", "serve", "out", "timeline", "engine",
             "against", "clock", "wall", "report"}
"""Keys of a run's config that say how it is carried out, not what it is: both engines give the same spans."""


def canonical_config(setup: Setup, target: PolicyTarget) -> dict[str, Any]:
    """What a run is, as it stands in its result: everything that may change it, and nothing that may not."""
    unused = set() if setup.faults else {"faults", "storage"}  # what a run is named by stays
    config = setup.config.model_dump(mode="json", exclude=HOST_KEYS | unused)
    return {**config, "policy": {"name": target.name, "parameters": target.parameters},
            "machine_options": dict(sorted(setup.options.items()))}


def versions() -> dict[str, str]:
    """Versions of what computed a run, of those packages that it loaded."""
    names: tuple[str, ...] = ("numpy", "scipy", "numba", "torch", "transformers", "ray")
    found = {name: str(getattr(sys.modules[name], "__version__", "unknown")) for name in names if name in sys.modules}
    return {"moelab": importlib.metadata.version("moelab"), "python": platform.python_version(), **found}
