"""Figures of a run for Ray's own metrics: Ray's agents export them, no port of ours is opened."""

import time
from collections.abc import Mapping
from typing import Any

COUNTED = {"emulated_seconds": "Seconds of emulated time that runs have covered.",
           "output_tokens": "Tokens that runs have emitted.",
           "steps": "Steps that runs have timed; a prefill is one."}
"""What is counted, as `ray_moelab_NAME_total`."""

SLACK_S = 0.5


def count(run: str, policies: Mapping[str, Mapping[str, float]]) -> None:
    """Add what each policy of a run came to."""
    from ray.util.metrics import Counter

    for name, text in COUNTED.items():
        counter = Counter(f"moelab_{name}", text, ("run", "policy"))
        for policy, found in policies.items():
            if found[name] > 0:  # Ray refuses to add nothing
                counter.inc(found[name], {"run": run, "policy": policy})


def flush() -> None:
    """Return when Ray's agent has what was counted so far: it is told once in a report interval."""
    from ray import _raylet

    raylet: Any = _raylet
    time.sleep(raylet.Config.metrics_report_interval_ms() / 1000 + SLACK_S)
