"""What is nearly right at a door: an answer, or one sentence, soon, and the machine stands as before.

A failure names its door and number: `case(DOOR, NUMBER)` gives its bytes again.
"""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import httpx
import pytest
from grpc import StatusCode as Code

from cluster.serve.options import ServeOptions
from cluster.serve.protos.moelab.v1 import admin_pb2
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from tests.cluster.serve.grpc_rig import House, house
from tests.cluster.serve.http_rig import behind_http
from tests.cluster.serve.serve_rig import config
from tests.fuzz.mutate import any_of, bytes_of

SEED = 7
EACH = 32
SOAK_EACH = 1280
PATIENCE_S = 20.0

COMPLETION = {"model": "embedded", "prompt": "Hello", "max_tokens": 3, "n": 2, "temperature": 0.5, "seed": 4,
              "stop": ["\n"], "stream": True, "stream_options": {"include_usage": True}, "echo": False}
CHAT = {"model": "embedded", "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": [
            {"type": "text", "text": "Hello"}]}], "max_completion_tokens": 3, "stop": "x", "stream": False}
FAULTS: tuple[dict[str, str], ...] = (
    {"fault": "straggler", "device": "ndp1", "to": "50 %", "until": "10 s"}, {"fault": "unit_dies", "device": "ndp0"},
    {"fault": "memory_shrinks", "device": "ndp2", "to": "50 %"}, {"fault": "link_slows", "link": "pcie", "to": "50 %"},
    {"fault": "link_flaps", "link": "pcie", "to": "25 %", "period": "10 ms", "duty": "50 %"})
GENERATE = pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Hello there")]), max_tokens=3,
                              temperature=0.5, seed=3, stop=["x"])
TOKENS = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 300]), max_tokens=2)

GOOD: Mapping[str, tuple[bytes, ...]] = {
    "completions": (json.dumps(COMPLETION).encode(), json.dumps({"prompt": [[1, 2], [3]], "max_tokens": 2}).encode()),
    "chat/completions": (json.dumps(CHAT).encode(),),
    "Generate": (GENERATE.SerializeToString(), TOKENS.SerializeToString()),
    "InjectFault": tuple(json.dumps(fault).encode() for fault in FAULTS),
}
SAID = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION)


def case(door: str, number: int) -> bytes:
    """The bytes of a case."""
    draw = random.Random(f"{SEED} {door} {number}")
    good = draw.choice(GOOD[door])
    if door == "Generate":
        return bytes_of(draw, good)
    text = good.decode()
    return any_of(draw, text, json.loads(text))


def over_http(client: httpx.Client) -> Callable[[str, bytes], str | None]:
    def ask(door: str, body: bytes) -> str | None:
        answer = client.post(f"/v1/{door}", content=body)
        if answer.status_code == 200:
            return None
        assert 400 <= answer.status_code < 500, answer.text
        return str(answer.json()["error"]["message"])
    return ask


def over_grpc(port: int) -> Callable[[str, bytes], str | None]:
    def ask(door: str, data: bytes) -> str | None:
        service = "AdminService" if door == "InjectFault" else "MoelabService"
        if door == "InjectFault":
            data = admin_pb2.InjectFaultRequest(fault=data.decode("utf-8", "replace")).SerializeToString()
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                list(channel.unary_stream(f"/moelab.v1.{service}/{door}")(data, timeout=PATIENCE_S))
            except grpc.RpcError as error:
                status: Any = error
                assert status.code() in SAID, f"{status.code()}: {status.details()}"
                return str(status.details())
        return None
    return ask


def try_cases(ask: Callable[[str, bytes], str | None], door: str, numbers: range) -> int:
    """Ask with every case; how many were refused, each in a sentence."""
    refused, wrong = 0, []
    for number in numbers:
        began = time.monotonic()
        try:
            said = ask(door, case(door, number))
            if said is not None:
                refused += 1
                assert said.strip()
                assert len(said) < 1000
                assert "\n" not in said
                assert "Traceback" not in said
                assert "pydantic" not in said
            assert time.monotonic() - began < PATIENCE_S
        except (AssertionError, httpx.HTTPError, KeyError, ValueError) as error:
            wrong.append(f"{door} {number}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, "\n".join(wrong)
    return refused


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (behind_http(config()) as opened,
          httpx.Client(base_url=opened.url, timeout=PATIENCE_S, headers={"content-type": "application/json"}) as made):
        yield made


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house() as made:
        made.open(ServeOptions(drain_s=0.0, admin=True))
        yield made


@pytest.mark.parametrize("door", ["completions", "chat/completions"])
@pytest.mark.parametrize("numbers", [range(EACH), pytest.param(range(EACH, SOAK_EACH), marks=pytest.mark.soak)],
                         ids=["few", "many"])
@pytest.mark.timeout(3600)
def test_http_answers_whatever_is_asked(client: httpx.Client, door: str, numbers: range) -> None:
    ask = over_http(client)
    assert try_cases(ask, door, numbers) > len(numbers) // 8
    assert [ask(door, good) for good in GOOD[door]] == [None] * len(GOOD[door])


@pytest.mark.parametrize("door", ["Generate", "InjectFault"])
@pytest.mark.parametrize("numbers", [range(EACH), pytest.param(range(EACH, SOAK_EACH), marks=pytest.mark.soak)],
                         ids=["few", "many"])
@pytest.mark.timeout(3600)
def test_grpc_answers_whatever_is_asked(home: House, door: str, numbers: range) -> None:
    ask = over_grpc(home.doors[0].port)
    assert [ask(door, good) for good in GOOD[door]] == [None] * len(GOOD[door])
    assert try_cases(ask, door, numbers) > 0
