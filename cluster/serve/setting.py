"""What is served, from a run's config: its requests come from clients, whatever it says of its own."""

from cluster.config.run import Limits, RunConfig
from cluster.config.serving import OF_REQUESTS, Serving
from cluster.resolve import Setup, resolve
from emulation.errors import ConfigError
from moe.shapes import read_config


def live_setup(config: RunConfig) -> Setup:
    """The run, resolved with requests of clients in place of its own; refuses what cannot be served."""
    work = config.workload
    serving = (work.serving or Serving()).model_copy(update=dict.fromkeys(OF_REQUESTS))
    live = {"serving": serving, "texts": (), "prompts": None, "batch": 1, "requests": None, "prompt_tokens": None,
            "output_tokens": None, "context_tokens": 0, "history": None, "forced": False}
    served = config.model_copy(update={"workload": work.model_copy(update=live), "against": (), "limits": Limits()})
    if served.transport == "ray":
        raise ConfigError("transport: ray carries no requests of clients: serve over local or processes (--transport "
                          "processes)")
    return resolve(served.placed(config.name, config.folder), live=True)


def setup_of(config: RunConfig) -> Setup:
    """The run, resolved: with requests of clients where it names none of its own."""
    serving = config.workload.serving
    return live_setup(config) if serving is not None and serving.is_live else resolve(config)


def context_of(setup: Setup) -> int | None:
    """The most tokens, in and out, that the model's config allows; None of a shape without weights."""
    if setup.checkpoint is None:
        return None
    found = read_config(setup.checkpoint).get("max_position_embeddings")
    return found if isinstance(found, int) else None
