"""A client of the gRPC front door, for the command line and for tests: calls, and errors as one sentence."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cluster.serve.options import is_loopback
from cluster.serve.protos.moelab.v1 import admin_pb2, admin_pb2_grpc, moelab_pb2_grpc
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from emulation.errors import ConfigError, InputError, MoelabError, TransportError

LONGEST_MESSAGE = 16 << 20
PS = 10**12


@dataclass(frozen=True)
class Place:
    """Where a server is. address: HOST:PORT. tls_ca: the PEM file of who signed its certificate; None: no TLS, unless
    `tls` asks for it with the authorities that this host trusts. token: sent with each call. timeout_s: of a call."""

    address: str
    tls: bool = False
    tls_ca: Path | None = None
    token: str | None = field(default=None, repr=False)
    timeout_s: float | None = None


class Client:
    """Calls to one server; a context manager."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._metadata = (("authorization", f"Bearer {place.token}"),) if place.token else ()
        options = (("grpc.max_receive_message_length", LONGEST_MESSAGE), ("grpc.enable_retries", 0))
        if place.timeout_s is not None and not (math.isfinite(place.timeout_s) and place.timeout_s > 0):
            raise ConfigError(f"timeout {place.timeout_s} should be a number of seconds above 0")
        host = _host(place.address)
        if place.tls or place.tls_ca is not None:
            self._channel = grpc.secure_channel(place.address, grpc.ssl_channel_credentials(_read(place.tls_ca)),
                                                options)
        elif place.token and not is_loopback(host):
            raise ConfigError(f"the token would travel to {host} for anyone to read: use TLS")
        else:
            self._channel = grpc.insecure_channel(place.address, options)

    def generate(self, request: pb.GenerateRequest) -> Iterator[pb.GenerateResponse]:
        """Tokens, then the end."""
        return self._stream(moelab_pb2_grpc.MoelabServiceStub, "Generate", request)

    def run(self, request: pb.RunRequest) -> Iterator[pb.RunResponse]:
        """Progress, then pieces of results."""
        return self._stream(moelab_pb2_grpc.MoelabServiceStub, "Run", request)

    def status(self) -> pb.StatusResponse:
        """How the machine is."""
        found: pb.StatusResponse = self._one(moelab_pb2_grpc.MoelabServiceStub, "Status", pb.StatusRequest())
        return found

    def inject(self, fault: str) -> str:
        """Let a fault happen; what the server tells of it."""
        answer = self._one(admin_pb2_grpc.AdminServiceStub, "InjectFault", admin_pb2.InjectFaultRequest(fault=fault))
        return str(answer.told)

    def _one(self, stub: Any, method: str, request: Any) -> Any:
        try:
            return getattr(stub(self._channel), method)(request, metadata=self._metadata,
                                                        timeout=self._place.timeout_s)
        except grpc.RpcError as error:
            raise told(error, self._place.address) from None

    def _stream(self, stub: Any, method: str, request: Any) -> Iterator[Any]:
        call = getattr(stub(self._channel), method)(request, metadata=self._metadata, timeout=self._place.timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise told(error, self._place.address) from None
        finally:
            call.cancel()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self._channel.close()


def results(events: Iterator[pb.RunResponse], hear: Any) -> dict[str, dict[str, Any]]:
    """The results of a run, by policy; `hear(done, total, text)` is told how far it is."""
    texts: dict[str, list[str]] = {}
    for event in events:
        kind = event.WhichOneof("event")
        if kind == "queued":
            hear(0, 1, f"waits for {event.queued.before} other runs")
        elif kind == "progress":
            hear(event.progress.done, event.progress.total, event.progress.text)
        elif kind == "result":
            texts.setdefault(event.result.policy, []).append(event.result.json)
    return {policy: json.loads("".join(pieces)) for policy, pieces in texts.items()}


def plain(message: Any) -> Mapping[str, Any]:
    """A message as JSON has it, with the names of its fields."""
    found: Mapping[str, Any] = MessageToDict(message, preserving_proto_field_name=True,
                                             always_print_fields_with_no_presence=True)
    return found


def told(error: Any, address: str) -> MoelabError:
    """An error of a call as a sentence: the server's own, and when to try again."""
    code, text = error.code(), " ".join(str(error.details()).split())
    if code == grpc.StatusCode.UNAVAILABLE and not _details(error):
        return TransportError(f"nothing answers as it should at {address}: {text}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return ConfigError(f"{address} does not offer this (AdminService is off unless its server has --admin): {text}")
    if code == grpc.StatusCode.DEADLINE_EXCEEDED and not _details(error):
        return TransportError("the time that the call was given has passed")
    for detail in _details(error):
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            text += f" (the server says: again in {retry.retry_delay.ToTimedelta().total_seconds():g} s)"
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAUTHENTICATED):
        return ConfigError(text)
    kind = TransportError if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN,
                                      grpc.StatusCode.UNAVAILABLE) else MoelabError
    return kind(text)


def _details(error: Any) -> list[Any]:
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        return []
    return [] if status is None else list(status.details)


def _host(address: str) -> str:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"{address!r} is not HOST:PORT, like 127.0.0.1:50051")
    return host


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"the certificate {file} cannot be read: {error.strerror}") from None
