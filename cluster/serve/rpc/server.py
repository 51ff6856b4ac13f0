"""The gRPC front door: it opens, tells whether the machine is ready, and closes with grace."""

import asyncio
import contextlib
import ssl
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cluster.serve.contract import Machine
from cluster.serve.options import ServeOptions, check_binding
from cluster.serve.protos.moelab.v1 import admin_pb2, admin_pb2_grpc, moelab_pb2, moelab_pb2_grpc
from cluster.serve.rpc.guard import Guard
from cluster.serve.rpc.service import Admin, Moelab
from cluster.serve.runs import Runs
from emulation.errors import ConfigError, MoelabError

HEALTH_S = 0.25
"""How often the machine's state is looked at, for who watches health."""
SPARE_CALLS = 64
"""Calls at once beside answers: health, status, runs, reflection."""
OLD_MS = 3_600_000
"""When clients are told to connect anew, and how much later what still hangs on the old connection is cut off: calls
that send no request, or take no status, end so."""
HANDSHAKE_MS = 10_000
MOELAB = moelab_pb2.DESCRIPTOR.services_by_name["MoelabService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # grpc has no types
    """SERVING while the machine is ready."""

    def __init__(self, machine: Machine, services: tuple[str, ...]) -> None:
        super().__init__()
        self._machine, self._services, self._last = machine, ("", *services), -1

    async def Check(self, request: Any, context: Any) -> Any:
        """The state just now."""
        await self.look()
        return await super().Check(request, context)

    async def look(self) -> None:
        """Take over the machine's state; who watches hears of a change."""
        ready = self._machine.status().state == "ready"
        state = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        if state != self._last:
            self._last = state
            for service in self._services:
                await self.set(service, state)

    async def follow(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(HEALTH_S)


class GrpcDoor:
    """The open door. port: where it listens."""

    def __init__(self, server: Any, port: int, health_: Health, runs: Runs, drain_s: float) -> None:
        self.port = port
        self._server, self._health, self._runs, self._drain_s = server, health_, runs, drain_s
        self._following = asyncio.create_task(health_.follow())

    async def close(self) -> None:
        """Say that nobody is served any more, let answers under way end for as long as `drain_s`, cut off the rest."""
        self._following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._following
        await self._health.enter_graceful_shutdown()
        await self._runs.close()
        await self._server.stop(self._drain_s)

    async def wait(self) -> None:
        """Return when it is closed."""
        await self._server.wait_for_termination()


async def serve_grpc(machine: Machine, options: ServeOptions, runs: Runs | None = None) -> GrpcDoor:
    """Open the door on `options.grpc_host` and `options.grpc_port`.

    ConfigError where it would be open to others without TLS and a token, or where the certificate is wrong; MoelabError
    where it cannot listen there.
    """
    check_binding(options)
    calls = options.max_streams + SPARE_CALLS
    server = grpc.aio.server(interceptors=(Guard(options.token),), maximum_concurrent_rpcs=calls, options=(
        ("grpc.max_receive_message_length", options.max_body_bytes),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.so_reuseport", 0),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_idle_ms", 600_000),
        ("grpc.max_connection_age_ms", OLD_MS),
        ("grpc.max_connection_age_grace_ms", OLD_MS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ))
    runs = Runs() if runs is None else runs
    moelab_pb2_grpc.add_MoelabServiceServicer_to_server(Moelab(machine, runs, options.max_streams), server)
    services = [MOELAB]
    if options.admin:
        admin_pb2_grpc.add_AdminServiceServicer_to_server(Admin(machine), server)
        services.append(ADMIN)
    health_ = Health(machine, tuple(services))
    health_pb2_grpc.add_HealthServicer_to_server(health_, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    port = _listen(server, options)
    await health_.look()
    await server.start()
    return GrpcDoor(server, port, health_, runs, options.drain_s)


def _listen(server: Any, options: ServeOptions) -> int:
    host = options.grpc_host
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    address = f"{place}:{options.grpc_port or 0}"
    try:
        if options.tls_cert is None or options.tls_key is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, _credentials(options)))
    except RuntimeError:
        raise MoelabError(f"gRPC cannot listen on {address}: the port is taken, or the address is not this "
                          "machine's") from None


def _credentials(options: ServeOptions) -> Any:
    """The server's certificate and key, after a look whether they are what they should be."""
    assert options.tls_cert is not None
    assert options.tls_key is not None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key)
        return grpc.ssl_server_credentials([(options.tls_key.read_bytes(), options.tls_cert.read_bytes())])
    except ssl.SSLError as error:
        raise ConfigError(f"{options.tls_cert} and {options.tls_key} are no PEM certificate and its key: "
                          f"{error.reason or error}") from None
    except OSError as error:
        raise ConfigError(f"the TLS certificate {options.tls_cert} or key {options.tls_key} cannot be read: "
                          f"{error.strerror}") from None
