"""Clients that send or take too slowly: each is cut off after a bounded time, and frees what it held."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest

from cluster.serve import connection
from cluster.serve.protos.moelab.v1 import moelab_pb2_grpc
from cluster.serve.rpc import service
from tests.cluster.serve.grpc_rig import ask, house
from tests.cluster.serve.http_rig import Behind, behind_http
from tests.cluster.serve.serve_rig import config

SHORT_S, PATIENCE_S = 0.3, 20.0
FLOOD = {"prompt": [1], "max_tokens": 512, "n": 16, "stream": True, "ignore_eos": True}


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[Behind]:
    """A door that loses patience soon."""
    monkeypatch.setattr(connection, "HEAD_S", SHORT_S)
    monkeypatch.setattr(connection, "STALL_S", SHORT_S)
    with behind_http(config(serve={"max_output_tokens": 512}), max_streams=32) as found:
        yield found


def closed(client: socket.socket) -> bool:
    """Whether the other side closes, within the patience of a test."""
    client.settimeout(PATIENCE_S)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "],
                         ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_closes_the_connection(behind: Behind, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", behind.door.port)) as client:
        client.sendall(sent)
        assert closed(client)


def test_bytes_that_trickle_do_not_renew_the_patience(behind: Behind) -> None:
    with socket.create_connection(("127.0.0.1", behind.door.port)) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")  # the second head on one connection counts as well
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + PATIENCE_S:
                client.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() < began + PATIENCE_S / 2


def streams(behind: Behind) -> float:
    """Answers under way over HTTP, as /metrics tells."""
    (found,) = re.findall(r"^moelab_http_streams(?:\{.*\})? (\S+)$", httpx.get(f"{behind.url}/metrics").text, re.M)
    return float(found)


def test_a_stream_that_nobody_reads_is_cut_off_and_its_answers_cancelled(behind: Behind) -> None:
    body = json.dumps(FLOOD).encode()
    before = behind.machine.figures()["requests"]["cancelled"]  # type: ignore[index]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", behind.door.port))
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        until = time.monotonic() + PATIENCE_S
        while streams(behind) != 16:
            assert time.monotonic() < until
        while streams(behind) != 0:
            assert time.monotonic() < until, "its answers are still under way"
            time.sleep(0.05)
    assert behind.machine.figures()["requests"]["cancelled"] > before  # type: ignore[index]
    assert behind.machine.status().running == 0


def test_a_call_whose_client_takes_nothing_ends_and_frees_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STALL_S", SHORT_S)
    narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024)]
    with house() as home, grpc.insecure_channel(f"127.0.0.1:{home.open().port}", options=narrow) as channel:
        call = moelab_pb2_grpc.MoelabServiceStub(channel).Generate(ask(2000, ignore_eos=True))
        home.until(lambda: home.machine.status().running == 1)
        home.until(lambda: home.machine.status().running == 0)
        assert home.machine.status().output_tokens < 2000
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "has taken nothing" in caught.value.details()
