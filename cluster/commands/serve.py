"""`moelab serve`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.run import Config, Settings, Transport, read

HTTP_PORT, GRPC_PORT = 8000, 50051
TOKEN_VARIABLE = "MOELAB_TOKEN"

HttpPort = Annotated[int | None, typer.Option("--http-port", metavar="N", min=0, max=65535, help=(
    f"Open the HTTP door here (0: any free port). With neither port given, both doors open: {HTTP_PORT} and "
    f"{GRPC_PORT}."))]
GrpcPort = Annotated[int | None, typer.Option("--grpc-port", metavar="N", min=0, max=65535,
                                              help="Open the gRPC door here (0: any free port).")]
MetricsPort = Annotated[int | None, typer.Option("--metrics-port", metavar="N", min=0, max=65535, help=(
    "Open a door of its own for /metrics here (0: any free port); the HTTP door has them too."))]
Host = Annotated[str, typer.Option("--host", help="Where both listen; beyond loopback only with TLS and a token.")]
Clock = Annotated[str | None, typer.Option("--clock", help="virtual (as fast as it can), or wall (paced).")]
Dilation = Annotated[str | None, typer.Option("--dilation", metavar="X", help=(
    "Real seconds for an emulated one at --clock wall; auto measures what this host manages."))]
Cert = Annotated[Path | None, typer.Option("--tls-cert", metavar="PEM", help="Certificate of both doors.")]
Key = Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its key.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help=(
    f"Clients must send the token in this file (or in ${TOKEN_VARIABLE})."))]
MaxStreams = Annotated[int, typer.Option("--max-streams", min=1, max=65536, help="Answers under way, each door.")]
MaxBody = Annotated[int, typer.Option("--max-body-bytes", min=1024, max=1 << 30, help="Of one request.")]
Drain = Annotated[float, typer.Option("--drain-s", min=0, max=3600,
                                      help="How long answers under way may go on when it is switched off.")]
Admin = Annotated[bool, typer.Option("--admin", help="Offer AdminService (faults) over gRPC.")]
Ready = Annotated[Path | None, typer.Option("--ready-file", metavar="FILE", help="Written as JSON when it is ready.")]


def serve(config: Config = "serve_embedded", http_port: HttpPort = None, grpc_port: GrpcPort = None,
          metrics_port: MetricsPort = None, host: Host = "127.0.0.1", clock: Clock = None, dilation: Dilation = None,
          settings: Settings = None,
          transport: Transport = None, tls_cert: Cert = None, tls_key: Key = None, token_file: TokenFile = None,
          max_streams: MaxStreams = 1024, max_body_bytes: MaxBody = 4 << 20, drain_s: Drain = 10.0,
          admin: Admin = False, ready_file: Ready = None) -> None:
    """Serve an emulated machine to clients: OpenAI-compatible HTTP, and gRPC."""
    from emulation.extras import require

    require("serve", "service")
    from cluster.serve.house import keep_house
    from cluster.serve.options import ServeOptions, read_token

    more = [*(settings or ()), *([] if clock is None else [f"clock={clock}"]),
            *([] if dilation is None else [f"wall.dilation={dilation}"])]
    wanted = read(config, more, transport)
    if http_port is None and grpc_port is None:
        http_port, grpc_port = HTTP_PORT, GRPC_PORT
    options = ServeOptions(
        http_host=host, http_port=http_port, grpc_host=host, grpc_port=grpc_port, metrics_port=metrics_port,
        tls_cert=tls_cert, tls_key=tls_key,
        token=read_token(token_file, os.environ.get(TOKEN_VARIABLE)), max_streams=max_streams,
        max_body_bytes=max_body_bytes, admin=admin, drain_s=drain_s)
    keep_house(wanted, options, ready_file, lambda line: print(line, flush=True, file=sys.stdout))
