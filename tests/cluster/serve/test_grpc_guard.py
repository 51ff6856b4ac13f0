"""Who may come in: TLS, the token, and where the gRPC door may listen; and `moelab remote` through it."""

import datetime
import ipaddress
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.main import enter
from cluster.serve.options import ServeOptions
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.rpc.client import Client, Place
from emulation.errors import ConfigError, MoelabError, TransportError
from tests.cluster.serve.grpc_rig import House, ask, house, refused, stub

Code = grpc.StatusCode
TOKEN = "correct-horse-battery"


@dataclass
class Files:
    cert: Path
    key: Path
    token: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A self-signed certificate of 127.0.0.1, its key, and a token."""
    folder = tmp_path_factory.mktemp("tls")
    made = Files(folder / "cert.pem", folder / "key.pem", folder / "token")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    cert = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1)).add_extension(names, critical=False)
            .sign(key, hashes.SHA256()))
    made.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption()))
    made.token.write_text(TOKEN + "\n")
    return made


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house() as made:
        yield made


@pytest.fixture(scope="module")
def address(home: House, files: Files) -> str:
    options = ServeOptions(tls_cert=files.cert, tls_key=files.key, token=TOKEN, drain_s=0.0)
    return f"127.0.0.1:{home.open(options).port}"


def test_only_who_has_the_token_is_answered_over_tls(address: str, files: Files) -> None:
    with Client(Place(address, tls_ca=files.cert, token=TOKEN)) as client:
        assert client.status().state == pb.STATE_READY
        assert len(list(client.generate(ask(2)))) == 3
    for token in (None, "wrong-horse-battery", TOKEN + "x", TOKEN.upper()):
        with Client(Place(address, tls_ca=files.cert, token=token)) as client:
            with pytest.raises(ConfigError, match="token is missing or wrong"):
                client.status()
            with pytest.raises(ConfigError, match="token is missing or wrong"):
                list(client.generate(ask(2)))


def test_without_tls_or_with_another_authority_nothing_answers(address: str) -> None:
    for place in (Place(address, token=TOKEN, timeout_s=5.0), Place(address, tls=True, token=TOKEN, timeout_s=5.0)):
        with Client(place) as client, pytest.raises(TransportError):
            client.status()


def test_probes_need_no_token_and_who_watches_does(home: House) -> None:
    opened = home.open(ServeOptions(token=TOKEN, drain_s=0.0))
    with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        assert refused(lambda: health.Watch(health_pb2.HealthCheckRequest()))[0] == Code.UNAUTHENTICATED
        unknown = channel.unary_unary("/moelab.v1.AdminService/InjectFault")
        assert refused(lambda: unknown(b"", timeout=5))[0] == Code.UNAUTHENTICATED
    with stub(opened) as calls:
        twice = (("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x"))
        assert refused(lambda: calls.Status(pb.StatusRequest(), metadata=twice))[0] == Code.UNAUTHENTICATED


def test_it_listens_for_others_with_tls_and_a_token_only(home: House, files: Files) -> None:
    for options in (ServeOptions(grpc_host="0.0.0.0"), ServeOptions(grpc_host="0.0.0.0", token=TOKEN),
                    ServeOptions(grpc_host="::", tls_cert=files.cert, tls_key=files.key),
                    ServeOptions(tls_cert=files.cert), ServeOptions(tls_cert=files.token, tls_key=files.key)):
        with pytest.raises(ConfigError):
            home.open(options)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(MoelabError, match="cannot listen"):
            home.open(ServeOptions(grpc_port=taken.getsockname()[1]))


def test_a_token_does_not_travel_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="TLS"):
        Client(Place("example.org:50051", token=TOKEN))
    for address in ("", "x", ":1", "x:0", "x:99999", "x:y"):
        with pytest.raises(ConfigError, match="HOST:PORT"):
            Client(Place(address))


def test_the_command_answers_tells_runs_and_fails_in_a_sentence(
        address: str, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--grpc", address, "--tls-ca", str(files.cert), "--token-file", str(files.token)]
    assert enter(["remote", "generate", "Hello", "--max-tokens", "3", "--json", *there]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [next(iter(line)) for line in lines] == ["token", "token", "token", "end"]
    assert enter(["remote", "generate", "Hello", "--max-tokens", "3", *there]) == 0
    assert "length: 2 tokens in, 3 out" in capsys.readouterr().out
    assert enter(["remote", "status", *there]) == 0
    assert "STATE_READY" in capsys.readouterr().out
    assert enter(["remote", "run", "nothing", *there]) == 2
    assert enter(["remote", "inject", "{}", *there]) == 2
    assert enter(["remote", "status", "--grpc", "127.0.0.1:1"]) == 6
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert "unknown run 'nothing'" in told[0]
    assert "AdminService is off" in told[1]
