"""The requests of a served workload, from its config: recorded, or drawn from the run's seed."""

from pathlib import Path

import numpy as np

from cluster.config.run import RunConfig
from cluster.config.serving import Length
from emulation.errors import ConfigError, InputError
from workloads.recorded import read_requests
from workloads.requests import NO_PREFIX, Arrivals, Lengths, Prefixes, Requests, coming, draw


def requests_of(config: RunConfig, base: Path, *, live: bool = False) -> Requests | None:
    """The requests of a served workload, recorded or drawn from the run's seed; None of static batches.

    live: clients ask; then as many as run at once, each as large as one may be, stand for what memory must hold.
    """
    asked = config.workload.serving
    if asked is None:
        return None
    if live:
        each, most = np.ones(asked.max_batch, np.int64), config.serve
        return Requests(0 * each, each * most.max_prompt_tokens, each * most.max_output_tokens, 0 * each + NO_PREFIX,
                        0 * each)
    if asked.is_live:
        raise ConfigError("workload.serving names no requests, so they come from clients: start this run with `moelab "
                          "serve`, or set serving.requests, prompt_tokens and output_tokens")
    arrivals = Arrivals() if asked.arrivals is None else Arrivals(
        asked.arrivals.name, asked.arrivals.rate_per_s or 1.0, asked.arrivals.cv or 1.0)
    if asked.recorded is not None:
        found = read_requests(existing(base / asked.recorded, "serving.recorded"), asked.requests,
                              arrivals=asked.arrivals is None)
        return found if asked.arrivals is None else coming(found, arrivals, config.seed)
    prefixes = None if asked.prefixes is None else Prefixes(asked.prefixes.groups, asked.prefixes.tokens)
    assert asked.requests is not None
    return draw(asked.requests, arrivals, _lengths(asked.prompt_tokens), _lengths(asked.output_tokens), prefixes,
                config.seed)


def _lengths(length: Length | None) -> Lengths:
    assert length is not None
    return Lengths(length.mean, length.cv, length.min, length.max)


def existing(path: Path, what: str) -> Path:
    """The path, if there is a file."""
    if not path.is_file():
        raise InputError(f"workload.{what}: there is no file {path.absolute()} (paths in a run are relative to its "
                         "file)")
    return path
