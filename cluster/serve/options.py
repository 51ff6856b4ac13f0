"""How the front doors are opened: where they listen, who may come in, and how much at once."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from emulation.errors import ConfigError

LOOPBACK = "127.0.0.1"
SHORTEST_TOKEN = 16
STALL_S = 60.0
"""How long a client may take none of what it is sent, over either door."""


@dataclass(frozen=True)
class ServeOptions:
    """Of both front doors. A port of 0 is any that is free; None: this door stays shut.

    tls_cert, tls_key: PEM files. token: what clients send as `Authorization: Bearer`; it is read from a file or from
    the environment, never from a command line. max_streams: answers under way at once, over each door. max_body_bytes:
    of one request. admin: whether `AdminService` is offered. drain_s: how long answers under way may go on when the
    doors close.
    """

    http_host: str = LOOPBACK
    http_port: int | None = 0
    grpc_host: str = LOOPBACK
    grpc_port: int | None = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    max_streams: int = 1024
    max_body_bytes: int = 4 << 20
    admin: bool = False
    drain_s: float = 10.0


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than localhost may be anywhere."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def check_binding(options: ServeOptions) -> None:
    """Refuse to listen where others can reach it without TLS and a token; and TLS of which a half is missing."""
    if (options.tls_cert is None) != (options.tls_key is None):
        given, missing = ("certificate", "key") if options.tls_key is None else ("key", "certificate")
        raise ConfigError(f"a TLS {given} is given and no {missing}: TLS needs both")
    for what, host, port in (("HTTP", options.http_host, options.http_port),
                             ("gRPC", options.grpc_host, options.grpc_port)):
        if port is None or is_loopback(host):
            continue
        lacks = [name for name, there in (("a TLS certificate and key", options.tls_cert is not None),
                                          ("a token", bool(options.token))) if not there]
        if lacks:
            raise ConfigError(f"{what} on {host} would be open to others: without {' and '.join(lacks)} it listens on "
                              f"{LOOPBACK} only")


def read_token(file: Path | None, environment: str | None) -> str | None:
    """The token in a file, or in the environment; None of neither. Refuses one that is empty, or no plain word."""
    if file is not None:
        try:
            found = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"the token file {file} cannot be read: {reason}") from None
    elif environment is not None:
        found = environment.strip()
    else:
        return None
    where = f"the token file {file}" if file is not None else "the token in the environment"
    if len(found) < SHORTEST_TOKEN or not found.isascii() or not found.isprintable() or " " in found:
        raise ConfigError(f"{where} should hold one word of {SHORTEST_TOKEN} or more printable ASCII characters")
    return found
