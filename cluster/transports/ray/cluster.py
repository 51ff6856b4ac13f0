"""A Ray cluster for the time of a run.

A run of our own starts a private cluster on loopback, with a token of its own and a temporary folder of its own, and
takes both away again: an earlier cluster that died, or one that runs beside it, does not matter. Inside a Ray job
(`ray job submit`) or where RAY_ADDRESS is set, it uses that cluster.
"""

import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from emulation.errors import ConfigError, InputError, MoelabError, PlanError, TransportError
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
    return bool(os.environ.get("RAY_ADDRESS") or in_job())


def in_job() -> bool:
    """Whether this process is the entry point of a Ray job."""
    return bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))


@cache
def _token() -> str:
    """What private clusters of this process are opened with; Ray keeps the first that a process uses."""
    return secrets.token_hex(32)


QUIET = "RAY_DEDUP_LOGS_SKIP_REGEX", "."
"""Ray tells of each actor that was killed on the driver's standard output, log_to_driver or not: there stands what we
print. It is read when Ray is imported."""


@contextmanager
def cluster(namespace: str | None = None) -> Iterator[dict[str, object]]:
    """A Ray cluster for the time of a run: the one that is given, or a private one on loopback."""
    require("transport: ray", "ray")
    before, folder = dict(os.environ), None
    try:
        if private := not attached():
            os.environ.update(LOOPBACK, **ENVIRONMENT, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=_token())
        os.environ.setdefault(*QUIET)
        import ray

        try:
            if private:
                folder = tempfile.mkdtemp(prefix="moelab-", dir="/tmp" if os.path.isdir("/tmp") else None)
            _init(folder, namespace)
            yield {"private": private, "ray": ray.__version__}
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise TransportError(f"Ray did not start or was lost: {str(error).splitlines()[0]}") from None
        finally:
            ray.shutdown()
    finally:
        os.environ.clear()
        os.environ.update(before)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _init(folder: str | None, namespace: str | None) -> None:
    """Join the cluster that is given, or start one in a folder; who heeds SIGTERM here goes on heeding it."""
    import ray
    from ray.job_config import JobConfig

    heeds = signal.getsignal(signal.SIGTERM)
    try:
        if folder is None:
            ray.init(address="auto", namespace=namespace, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # As the job of a client Ray does not put the current folder first on its workers' path: it may hold a moe/.
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
                     num_cpus=os.cpu_count(), _temp_dir=folder,
                     job_config=JobConfig(_client_job=True, ray_namespace=namespace))
    except (RuntimeError, ray.exceptions.AuthenticationError) as error:  # other versions of Ray or Python; a token
        raise TransportError(f"Ray cannot be used: {_first_line(error)}") from None
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise TransportError(f"Ray did not start: {_first_line(error)}") from None  # its processes took over 30 s
    except SystemExit:  # Ray's own answer to SIGTERM, which it takes over before it is there
        if callable(heeds):
            heeds(signal.SIGTERM, None)
        raise
    finally:
        if callable(heeds) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, heeds)


def options() -> dict[str, Any]:
    """Actors wait for each other, so they reserve no CPU; in a cluster that is not ours they bring the environment."""
    return {"num_cpus": 0, **({"runtime_env": {"env_vars": ENVIRONMENT}} if attached() else {})}


def cause(error: Any) -> Exception:
    """The error that an actor raised: ours as it is, any other with Ray's account of it."""
    raised = error.cause
    if isinstance(raised, MoelabError):
        return type(raised)(str(raised))
    if (absent := _absent(str(error))) is not None:
        return absent
    return RuntimeError(f"in an actor: {error}")


class DiedError(TransportError):
    """An actor that was there is gone: another one in its place may fare better."""


def lost(who: str, error: Exception) -> Exception:
    """What is said of an actor that has died or never came to be."""
    return _absent(str(error)) or _ours(str(error)) or DiedError(f"{who} died: {_first_line(error)}")


def gone() -> tuple[type[Exception], ...]:
    """What is raised where an actor is gone, or what it answered: its process was killed, or its node is lost."""
    import ray

    return ray.exceptions.RayActorError, ray.exceptions.ObjectLostError


def spent(restarts: int) -> str:
    """What is said behind how an actor or a worker process ended, where no other may take its place."""
    return f" after {restarts} restarts, the most that `restarts` allows" if restarts else ""


def _ours(text: str) -> MoelabError | None:
    """The error of ours that an actor ended with as it began, of which Ray keeps the text."""
    for kind in (ConfigError, InputError, PlanError, TransportError):
        _, named, said = text.rpartition(f"{kind.__module__}.{kind.__name__}: ")
        if named:
            return kind(said.splitlines()[0])
    return None


def _absent(text: str) -> TransportError | None:
    """What to do where an actor could not import what it needs."""
    found = next((line for line in reversed(text.splitlines()) if "ModuleNotFoundError: " in line), None)
    if found is None:
        return None
    missing = found.partition("ModuleNotFoundError: ")[2].strip().rstrip(".")
    return TransportError(f"an actor on the Ray cluster cannot start ({missing}): install moelab with its libraries in "
                          "the cluster's image, and send a module of your own along with --working-dir")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
