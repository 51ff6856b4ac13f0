"""The requests of a served workload, from its config: recorded, or drawn from the run's seed."""

from pathlib import Path

from cluster.config.run import RunConfig
from cluster.config.serving import Length
from emulation.errors import InputError
from workloads.recorded import read_requests
from workloads.requests import Arrivals, Lengths, Prefixes, Requests, coming, draw


def requests_of(config: RunConfig, base: Path) -> Requests | None:
    """The requests of a served workload, recorded or drawn from the run's seed; None of static batches."""
    asked = config.workload.serving
    if asked is None:
        return None
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
