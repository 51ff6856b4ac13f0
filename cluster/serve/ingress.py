"""The HTTP front door as an ingress of Ray Serve: a replica holds a machine, and Serve's proxies carry its requests.

    serve run cluster.serve.ingress:app run=configs/run/serve_embedded.yaml

Where MOELAB_TOKEN is set for the replica, clients must send it.
"""

import os
from typing import Any

import click
from fastapi import FastAPI
from pydantic import Field
from ray import serve

from cluster.config.load import validate
from cluster.config.quantities import Strict
from cluster.config.reading import load_run
from cluster.config.run import RunConfig
from cluster.serve.machine import Emulated
from cluster.serve.openai.app import app as openai_app
from cluster.serve.options import ServeOptions, read_token
from emulation.errors import ConfigError, MoelabError
from moe.determinism import ENVIRONMENT

SPARE_REQUESTS = 64
"""Requests at once beside answers: probes and metrics."""


class Arguments(Strict):
    """What `serve run` or a RayService gives. run: by name or path. set: KEY=VALUE, or several."""

    run: str = "serve_embedded"
    set: str | list[str] = ()  # type: ignore[assignment]  # an empty default of either
    clock: str | None = None
    dilation: str | float | int | None = None
    max_streams: int = Field(1024, ge=1, strict=False)
    drain_s: float = Field(10.0, ge=0, strict=False)

    def config(self) -> RunConfig:
        """The run to be served."""
        settings = [self.set] if isinstance(self.set, str) else list(self.set)
        settings += [] if self.clock is None else [f"clock={self.clock}"]
        settings += [] if self.dilation is None else [f"wall.dilation={self.dilation}"]
        return load_run(self.run, settings)


class Served:
    """A replica: the machine, from its start to its end."""

    async def __init__(self, arguments: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        told = validate(Arguments, arguments, "the arguments of the app")
        self._options = ServeOptions(grpc_port=None, token=read_token(None, os.environ.get("MOELAB_TOKEN")),
                                     max_streams=told.max_streams, drain_s=told.drain_s)
        self._machine = Emulated(told.config())
        await self._machine.start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return openai_app(self._machine, self._options)

    def check_health(self) -> None:
        """Serve replaces a replica that raises here."""
        if self._machine.status().state == "failed":
            raise RuntimeError("the machine has failed")

    async def __del__(self) -> None:
        if hasattr(self, "_machine"):
            await self._machine.close()


class WrongArguments(ConfigError, click.ClickException):
    """What `serve run` was told is wrong. As an error of click's, too, it is one sentence there, without a traceback.
    """


def app(arguments: dict[str, Any]) -> serve.Application:
    """One replica of a machine. WrongArguments where the arguments, or the run that they name, are wrong."""
    try:
        told = validate(Arguments, arguments, "the arguments of the app")
        told.config()
    except MoelabError as error:
        raise WrongArguments(str(error)) from None
    deployment: Any = serve.deployment(serve.ingress()(Served))
    options = {"runtime_env": {"env_vars": ENVIRONMENT}, "num_cpus": 1}
    bound: serve.Application = deployment.options(
        name="moelab", num_replicas=1, ray_actor_options=options,
        max_ongoing_requests=told.max_streams + SPARE_REQUESTS,
        health_check_period_s=5, graceful_shutdown_timeout_s=told.drain_s).bind(arguments)
    return bound
