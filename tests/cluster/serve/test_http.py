"""The HTTP front door, asked through the official client and by strangers."""

import asyncio
import datetime
import json
import socket
import ssl
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.serve.http import serve_metrics
from cluster.serve.options import ServeOptions
from emulation.errors import ConfigError, MoelabError
from tests.cluster.serve.http_rig import Behind, behind_http
from tests.cluster.serve.serve_rig import config
from tests.scraped import value

TOKEN = "correct-horse-battery-staple"
LONG = 400


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    limits = {"max_prompt_tokens": 256, "max_output_tokens": 512}
    with behind_http(config(serve=limits), max_streams=24, max_body_bytes=64 << 10) as found:
        yield found


@pytest.fixture(scope="module")
def client(behind: Behind) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{behind.url}/v1", api_key="none", max_retries=0) as found:
        yield found


def told(error: openai.APIStatusError) -> str:
    return str(error.body["message"])  # type: ignore[index,call-overload]


def idle(behind: Behind, within_s: float = 20.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        status = behind.machine.status()
        if status.running + status.waiting == 0 and (
                value(httpx.get(f"{behind.url}/metrics").text, "moelab_http_streams") == 0):
            return True
        time.sleep(0.02)
    return False


# What is answered


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedded"]
    assert client.models.retrieve("embedded").owned_by == "moelab"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_completion_tells_usage_and_emulated_times(client: openai.OpenAI) -> None:
    found: Any = client.completions.create(model="embedded", prompt="one two three four", max_tokens=6, echo=True)
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].text.startswith("one two three four")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 6, 11)
    times = found.moelab
    assert times["e2e_s"] == pytest.approx(times["ttft_s"] + 5 * times["tpot_s"])
    assert 0 < times["tpot_s"] < times["e2e_s"]
    assert times["clock"] == "virtual"
    assert "mean nothing" in times["note"]


def test_a_stream_says_the_same_as_the_whole_answer(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "embedded", "prompt": [1, 2, 3], "max_tokens": 7, "temperature": 0.9, "seed": 5}
    whole = client.completions.create(**asked)
    chunks: list[Any] = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks[:-1]) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 6 + ["length"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    emulated = [c.moelab["emulated_s"] for c in chunks[:-1]]
    last = chunks[-2].moelab
    assert emulated == sorted(emulated)
    assert emulated[0] == pytest.approx(last["arrival_s"] + last["ttft_s"])
    assert emulated[-1] == pytest.approx(last["arrival_s"] + last["e2e_s"])


def test_the_stream_ends_with_done(behind: Behind) -> None:
    asked = {"model": "embedded", "prompt": "a", "max_tokens": 2, "stream": True,  # as `vllm bench serve` writes it
             "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "temperature": 0.0,
             "repetition_penalty": 1.0, "logprobs": None, "ignore_eos": True}
    found = httpx.post(f"{behind.url}/v1/completions", json=asked)
    lines = [line for line in found.text.splitlines() if line]
    assert found.headers["content-type"].startswith("text/event-stream")
    assert lines[-1] == "data: [DONE]"
    counts = [json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"] for line in lines[:-1]]
    assert counts == [1, 2, 2]


def test_a_chat_is_answered_and_streamed_alike(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "embedded", "max_completion_tokens": 5, "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}
    whole = client.chat.completions.create(**asked)
    chunks: list[Any] = list(client.chat.completions.create(**asked, stream=True))
    assert whole.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"


def test_a_stop_text_ends_an_answer_before_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "embedded", "prompt": "x", "max_tokens": 12}
    words = client.completions.create(**asked).choices[0].text.split()
    found = client.completions.create(**asked, stop=[f" {words[3]}"])
    assert found.choices[0].finish_reason == "stop"
    assert found.choices[0].text.split() == words[:words.index(words[3], 1)]


def test_prompts_and_n_make_several_answers(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "embedded", "prompt": ["a", "b c d e f"], "n": 2, "max_tokens": 3,
                             "temperature": 1.0}
    found: Any = client.completions.create(**asked)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert found.usage.completion_tokens == 12
    assert len(found.moelab["answers"]) == 4
    texts = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in found.choices]


def test_the_async_client_gets_as_many_answers_at_once_as_it_asks_for(behind: Behind) -> None:
    async def all_of_them() -> list[int]:
        async with openai.AsyncOpenAI(base_url=f"{behind.url}/v1", api_key="none", max_retries=0) as client:
            async def one(number: int) -> int:
                stream = await client.completions.create(model="embedded", prompt=[number], max_tokens=16, stream=True)
                return sum([1 async for _ in stream])
            return await asyncio.gather(*map(one, range(16)))
    assert asyncio.run(all_of_them()) == [16] * 16


# What is refused


@pytest.mark.parametrize(("more", "word"), [
    ({"logprobs": 3}, "logprobs is not offered"), ({"temperature": 9}, "temperature"),
    ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 513}, "513"),
    ({"top_p": 0.5}, "top_p"), ({"prompt": ""}, "empty"), ({"prompt": []}, "prompt"),
    ({"prompt": [-1]}, "no token id"), ({"prompt": [[1], "a", None]}, "prompt"), ({"prompt": list(range(257))}, "257"),
    ({"stop": [""]}, "stop"), ({"stream_options": {"include_usage": True}}, "stream"), ({"echo": True}, "echo"),
    ({"n": 2, "best_of": 3}, "best_of"), ({"extra_body": {"prmpt": 1}}, "did you mean 'prompt'")])
def test_what_cannot_be_is_refused_in_one_sentence(client: openai.OpenAI, more: dict[str, Any], word: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": "embedded", "prompt": [1, 2], **more})
    assert word in told(caught.value)
    assert "\n" not in told(caught.value)


def test_an_error_names_the_key_that_is_wrong(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="embedded", messages=[{"role": "wizard", "content": "x"}])  # type: ignore
    assert caught.value.param == "messages"


def test_another_model_another_path_and_another_method_are_told_apart(behind: Behind, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-5", prompt="a")
    assert caught.value.code == "model_not_found"
    assert httpx.get(f"{behind.url}/nowhere").json()["error"]["code"] == "not_found"
    assert httpx.get(f"{behind.url}/v1/completions").status_code == 405


def test_a_body_that_is_too_long_is_not_read(behind: Behind) -> None:
    long = b"x" * (70 << 10)
    assert httpx.post(f"{behind.url}/v1/completions", content=long).status_code == 413
    in_parts = httpx.post(f"{behind.url}/v1/completions", content=iter([long[:1 << 15]] * 3))
    assert (in_parts.status_code, in_parts.json()["error"]["code"]) == (413, "body_too_large")


def test_answers_at_once_are_bounded(behind: Behind, client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        client.completions.create(model="embedded", prompt="a", n=25)
    assert caught.value.response.headers["retry-after"] == "1"
    assert idle(behind)


def test_a_deadline_ends_an_answer(behind: Behind, client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "embedded", "prompt": "a", "max_tokens": 512, "extra_body": {"timeout_s": 0.02}}
    with pytest.raises(openai.APIStatusError) as caught:
        client.completions.create(**asked)
    assert caught.value.status_code == 408
    with pytest.raises(openai.APIError, match="timeout_s"):
        list(client.completions.create(**asked, stream=True))
    assert idle(behind)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8)
KEYS = ("prompt", "messages", "model", "max_tokens", "n", "stop", "stream", "stream_options", "seed", "temperature",
        "echo", "top_p", "logit_bias", "timeout_s", "min_tokens", "ignore_eos", "tools")
BROKEN = [b"", b"{", b"\xff\xfe", b"[" * 5000, b"1" * 5000, b'{"prompt": "\\ud800"}', b'{"\\ud800": 1}', b"null",
          b'{"prompt": "a", "seed": ' + b"9" * 400 + b"}", b'{"prompt": [1], "stop": "\\udfff"}', b'{"prompt": NaN}',
          b'{"prompt": "a", "seed": 1e400}',
          b'{"prompt": {"\\ud800": "\\udfff"}}', b'{"messages": [{"role": "\\ud800", "content": []}]}']


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), json_values, max_size=5) | json_values,
       chat=st.booleans())
def test_no_body_breaks_it(behind: Behind, fuzzing: httpx.Client, body: Any, chat: bool) -> None:
    sent = json.dumps(body).encode()
    check(fuzzing.post(f"{behind.url}/v1/{'chat/' if chat else ''}completions", content=sent))


@pytest.mark.parametrize("body", BROKEN)
def test_no_bytes_break_it(behind: Behind, fuzzing: httpx.Client, body: bytes) -> None:
    for path in ("completions", "chat/completions"):
        assert check(fuzzing.post(f"{behind.url}/v1/{path}", content=body)) == 400


@pytest.fixture(scope="module")
def fuzzing() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"content-type": "application/json"}, timeout=60) as found:
        yield found


def check(answer: httpx.Response) -> int:
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    if answer.status_code != 200:
        message = answer.json()["error"]["message"]
        assert len(message) < 1000
        assert "\n" not in message
        assert "Traceback" not in message
    return answer.status_code


# Clients that leave, or are slow


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_machine(behind: Behind, stream: bool) -> None:
    body = json.dumps({"prompt": [1], "max_tokens": 512, "n": 8, "stream": stream}).encode()
    cancelled = behind.machine.figures()["requests"]["cancelled"]  # type: ignore[index]
    with socket.create_connection(("127.0.0.1", behind.door.port)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        if stream:
            connection.recv(100)
        while behind.machine.status().running < 8:
            time.sleep(0.002)
    assert idle(behind)
    assert behind.machine.figures()["requests"]["cancelled"] == cancelled + 8  # type: ignore[index]


def test_a_client_that_reads_nothing_keeps_nobody_waiting(behind: Behind, client: openai.OpenAI) -> None:
    body = json.dumps({"prompt": [1], "max_tokens": 300, "n": 8, "stream": True}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", behind.door.port))
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        for _ in range(3):
            assert client.completions.create(model="embedded", prompt="b", max_tokens=4).usage is not None
    assert idle(behind)


# Health, metrics, doors


def test_health_and_metrics_follow_the_machine(behind: Behind) -> None:
    assert httpx.get(f"{behind.url}/health").json() == {"status": "ready"}
    before = httpx.get(f"{behind.url}/metrics").text
    httpx.post(f"{behind.url}/v1/completions", json={"prompt": "a", "max_tokens": 3})
    after = httpx.get(f"{behind.url}/metrics").text
    tokens = {"name": "moelab_tokens_total", "kind": "output"}
    assert value(after, **tokens) == value(before, **tokens) + 3
    assert value(after, "moelab_emulated_seconds_total") > value(before, "moelab_emulated_seconds_total")
    assert value(after, "moelab_http_responses_total", code="200", path="/v1/completions") >= 1
    steps = [value(after, "moelab_steps_total", phase=phase) for phase in ("prefill", "decode")]
    assert sum(steps) == behind.machine.status().steps
    assert value(after, "moelab_run_info", policy="expert_parallel", model="embedded") == 1


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of its own for loopback, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now,
                                   now + datetime.timedelta(days=1)).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


def test_a_token_and_tls_guard_the_door_and_a_stopped_machine_says_so(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with behind_http(config(), token=TOKEN, tls_cert=cert, tls_key=key) as behind:
        verify = ssl.create_default_context(cafile=str(cert))
        with openai.OpenAI(base_url=f"{behind.url}/v1", api_key=TOKEN, max_retries=0,
                           http_client=httpx.Client(verify=verify)) as client:
            assert client.completions.create(model="embedded", prompt="a", max_tokens=2).usage is not None
            with pytest.raises(openai.AuthenticationError):
                client.with_options(api_key="wrong").models.list()
            assert httpx.get(f"{behind.url}/metrics", verify=verify).status_code == 401
            assert httpx.get(f"{behind.url}/health", verify=verify).status_code == 200
            guarded = ServeOptions(token=TOKEN, tls_cert=cert, tls_key=key, http_port=None, metrics_port=0)
            scraped = behind.do(serve_metrics(behind.machine, guarded))
            try:
                assert httpx.get(f"{scraped.url}/metrics", verify=verify).status_code == 401
                told = httpx.get(f"{scraped.url}/metrics", verify=verify, headers={"Authorization": f"Bearer {TOKEN}"})
                assert value(told.text, "moelab_tokens_total", kind="output") == 2
                assert value(told.text, "moelab_http_responses_total", code="401", path="/metrics") == 1
                asked = httpx.post(f"{scraped.url}/v1/completions", verify=verify, json={"prompt": "a"},
                                   headers={"Authorization": f"Bearer {TOKEN}"})
                assert asked.status_code == 404
            finally:
                behind.do(scraped.close())
            behind.do(behind.machine.close())
            with pytest.raises(openai.InternalServerError) as caught:
                client.completions.create(model="embedded", prompt="a", max_tokens=2)
            assert caught.value.status_code == 503
            assert httpx.get(f"{behind.url}/health", verify=verify).status_code == 503


def test_a_door_that_cannot_open_says_why(behind: Behind, tmp_path: Path) -> None:
    with pytest.raises(MoelabError, match=r"cannot listen on 127\.0\.0\.1 port"), \
            behind_http(config(), http_port=behind.door.port):
        pass
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="no PEM certificate"), \
            behind_http(config(), tls_cert=tmp_path / "bad.pem", tls_key=tmp_path / "bad.pem"):
        pass
    with pytest.raises(ConfigError, match="open to others"), behind_http(config(), http_host="0.0.0.0"):
        pass


# The wall clock


def test_what_a_client_measures_at_the_wall_clock_is_the_emulated_time_times_the_dilation() -> None:
    dilation = 10_000.0  # some seconds a token: a busy host, which CI is, comes tens of milliseconds late
    with behind_http(config(clock="wall", wall={"dilation": dilation})) as behind:
        async def measure() -> tuple[list[float], dict[str, float]]:
            async with httpx.AsyncClient(timeout=60) as client:
                await client.get(f"{behind.url}/health")
                asked = {"prompt": [1] * 40, "max_tokens": 3, "ignore_eos": True, "stream": True}
                began, came, last = time.perf_counter(), [], {}
                async with client.stream("POST", f"{behind.url}/v1/completions", json=asked) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            came.append(time.perf_counter() - began)
                            last = json.loads(line[6:])["moelab"]
                return came, last
        came, times = asyncio.run(measure())
    assert times["dilation"] == dilation
    assert came[0] / dilation == pytest.approx(times["ttft_s"], rel=0.05)
    assert (came[-1] - came[0]) / 2 / dilation == pytest.approx(times["tpot_s"], rel=0.05)
