"""A Ray cluster for the time of a run.

A run of our own starts a private cluster on loopback, with a token of its own and a temporary folder of its own, and
takes both away again: an earlier cluster that died, or one that runs beside it, does not matter. Inside a Ray job
(`ray job submit`) or where RAY_ADDRESS is set, it uses that cluster.
"""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from emulation.errors import MoelabError, TransportError
from emulation.extras import require
from moe.determinism import ENVIRONMENT

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Without the first, Ray 2.60 rewrites 127.0.0.1 to the host's address and listens on all interfaces."""


def attached() -> bool:
    """Whether a cluster is given: inside a Ray job, or by RAY_ADDRESS."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


@cache
def _token() -> str:
    """What private clusters of this process are opened with; Ray keeps the first that a process uses."""
    return secrets.token_hex(32)


@contextmanager
def cluster() -> Iterator[dict[str, object]]:
    """A Ray cluster for the time of a run: the one that is given, or a private one on loopback."""
    require("transport: ray", "ray")
    before = dict(os.environ)
    folder = None
    if not attached():
        os.environ.update(LOOPBACK, **ENVIRONMENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_token())
        folder = tempfile.mkdtemp(prefix="moelab-", dir="/tmp" if os.path.isdir("/tmp") else None)
    import ray
    from ray.job_config import JobConfig

    try:
        if folder is None:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR)
        else:
            # As the job of a client Ray does not put the current folder first on its workers' path: it may hold a moe/.
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                     num_cpus=os.cpu_count(), _temp_dir=folder, job_config=JobConfig(_client_job=True))
        yield {"private": folder is not None, "ray": ray.__version__}
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise TransportError(f"Ray did not start or was lost: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()
        os.environ.clear()
        os.environ.update(before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def options() -> dict[str, Any]:
    """Actors wait for each other, so they reserve no CPU; in a cluster that is not ours they bring the environment."""
    return {"num_cpus": 0, **({"runtime_env": {"env_vars": ENVIRONMENT}} if attached() else {})}


def cause(error: Any) -> Exception:
    """The error that an actor raised: ours as it is, any other with Ray's account of it."""
    raised = error.cause
    if isinstance(raised, MoelabError):
        return type(raised)(str(raised))
    return RuntimeError(f"in an actor: {error}")
