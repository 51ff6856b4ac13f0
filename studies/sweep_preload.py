"""What the fork server of a sweep's workers imports once, so that each worker starts with all of it; no torch.

One thread a worker: they share the cores among themselves.
"""

import contextlib
import importlib
import os

from moe.determinism import ENVIRONMENT

os.environ.update(ENVIRONMENT)

import actors.device  # noqa: F401
import studies.sweep_work  # noqa: F401
from emulation.bound_program import load_solver
from emulation.engine.choose import warm
from emulation.errors import ConfigError

load_solver()
with contextlib.suppress(ConfigError):  # no numba: a point that needs it says so
    warm()
    for kernels in ("actors.columnar", "cluster.observe.collect", "emulation.engine.straight"):
        importlib.import_module(kernels)
