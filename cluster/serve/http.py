"""The HTTP front door: it opens on a port, and closes with grace."""

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Iterator

import uvicorn

from cluster.serve.connection import Connection
from cluster.serve.contract import Machine
from cluster.serve.openai.app import app
from cluster.serve.options import ServeOptions, check_binding
from emulation.errors import ConfigError, MoelabError

SPARE_CONNECTIONS = 256
"""Open connections beside answers: probes, metrics, and clients that keep theirs."""
IDLE_S = 30
"""How long a connection may stay open with nothing asked."""
BACKLOG = 1024


class _Server(uvicorn.Server):
    """uvicorn, in a loop whose signals are somebody else's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.opened = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.opened.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpDoor:
    """The open door. port, url: where it listens."""

    def __init__(self, server: _Server, serving: "asyncio.Task[None]", port: int, url: str) -> None:
        self.port, self.url = port, url
        self._server, self._serving = server, serving

    async def close(self) -> None:
        """Take no connection any more, let answers under way end for as long as `drain_s`, cut off the rest."""
        self._server.should_exit = True
        await self._serving

    async def wait(self) -> None:
        """Return when it is closed."""
        await asyncio.wait([self._serving])


async def serve_http(machine: Machine, options: ServeOptions) -> HttpDoor:
    """Open the door on `options.http_host` and `options.http_port`.

    ConfigError where it would be open to others without TLS and a token, or where the certificate is wrong; MoelabError
    where it cannot listen there.
    """
    check_binding(options)
    config = uvicorn.Config(
        app(machine, options), log_config=None, log_level="critical", access_log=False, http=Connection, ws="none",
        lifespan="off", server_header=False, timeout_keep_alive=IDLE_S, backlog=BACKLOG,
        limit_concurrency=options.max_streams + SPARE_CONNECTIONS,
        timeout_graceful_shutdown=max(1, math.ceil(options.drain_s)),
        ssl_certfile=options.tls_cert, ssl_keyfile=options.tls_key)
    _load(config, options)
    listener = _listen(options)
    port = int(listener.getsockname()[1])
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await asyncio.wait([serving, opened := asyncio.create_task(server.opened.wait())],
                       return_when=asyncio.FIRST_COMPLETED)
    opened.cancel()
    if serving.done():
        serving.result()
    host = f"[{options.http_host}]" if ":" in options.http_host else options.http_host
    return HttpDoor(server, serving, port, f"{'https' if options.tls_cert else 'http'}://{host}:{port}")


def _load(config: uvicorn.Config, options: ServeOptions) -> None:
    try:
        config.load()
    except ssl.SSLError as error:
        raise ConfigError(f"{options.tls_cert} and {options.tls_key} are no PEM certificate and its key: "
                          f"{error.reason or error}") from None
    except OSError as error:
        raise ConfigError(f"the TLS certificate {options.tls_cert} or key {options.tls_key} cannot be read: "
                          f"{error.strerror}") from None


def _listen(options: ServeOptions) -> socket.socket:
    host, port = options.http_host.strip("[]"), options.http_port or 0
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM,
                                                                flags=socket.AI_PASSIVE)
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MoelabError(f"HTTP cannot listen on {host} port {port}: {reason}") from None
    listener.setblocking(False)
    return listener
