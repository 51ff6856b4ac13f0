"""The gRPC door on a real machine: answers, deadlines, cancellation, limits, health, faults, runs."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.config.reading import load_run
from cluster.run import compare
from cluster.serve.options import ServeOptions
from cluster.serve.protos.moelab.v1 import admin_pb2, admin_pb2_grpc
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.rpc.client import Client, Place, results
from cluster.serve.rpc.server import GrpcDoor
from tests.cluster.serve.grpc_rig import House, ask, house, refused, stub

Code = grpc.StatusCode
TINY = """
machine: edge-gpu-ndp
model: embedded
policy: expert_parallel
against: [tensor_parallel]
workload: {work: synthetic, generator: balanced, prompt_tokens: 8, output_tokens: 4}
"""


@pytest.fixture(scope="module")
def home() -> Iterator[House]:
    with house() as made:
        yield made


@pytest.fixture(scope="module")
def door(home: House) -> GrpcDoor:
    return home.open(ServeOptions(drain_s=1.0, max_body_bytes=64 << 10), waiting=1)


def status(home: House) -> Any:
    return home.machine.status()


def quiet(home: House) -> None:
    home.until(lambda: status(home).running == status(home).waiting == status(home).kv_blocks_used == 0)


# Answers


def test_tokens_come_one_by_one_with_emulated_times_and_an_end_that_agrees(door: GrpcDoor) -> None:
    with stub(door) as calls:
        *tokens, last = calls.Generate(ask(5))
    times = [message.token.emulated_ps for message in tokens]
    end = last.end
    assert [message.token.index for message in tokens] == [0, 1, 2, 3, 4]
    assert times == sorted(set(times))
    assert (end.reason, end.usage.output_tokens, end.real_tokens) == (pb.REASON_LENGTH, 5, False)
    assert (end.first_token_ps, end.end_ps) == (times[0], times[-1])
    assert end.ttft_s == pytest.approx((times[0] - end.arrival_ps) / 1e12)
    assert end.tpot_s == pytest.approx((times[-1] - times[0]) / 4e12)
    assert end.clock == pb.CLOCK_VIRTUAL
    assert not end.HasField("dilation")


def test_prompts_are_texts_token_ids_or_chats(door: GrpcDoor) -> None:
    ids = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]), max_tokens=1)
    chat = pb.GenerateRequest(chat=pb.Chat(messages=[pb.ChatMessage(role="user", content="Hi")]), max_tokens=1)
    with stub(door) as calls:
        assert [list(calls.Generate(request))[-1].end.usage.prompt_tokens > 0 for request in (ids, chat)] == [True] * 2
        assert list(calls.Generate(ids))[-1].end.usage.prompt_tokens == 3


@pytest.mark.parametrize(("request_", "code", "field"), [
    (pb.GenerateRequest(), Code.INVALID_ARGUMENT, "prompt"),
    (ask(0), Code.INVALID_ARGUMENT, "max_tokens"),
    (ask(1, temperature=-1.0), Code.INVALID_ARGUMENT, "temperature"),
    (ask(1, temperature=float("nan")), Code.INVALID_ARGUMENT, "temperature"),
    (ask(1, stop=[""]), Code.INVALID_ARGUMENT, "stop"),
    (ask(1, stop=["x"] * 17), Code.INVALID_ARGUMENT, "stop"),
    (ask(2**32 - 1), Code.INVALID_ARGUMENT, None),
    (ask(1, model="gpt-4"), Code.NOT_FOUND, None),
])
def test_a_wrong_field_is_named_in_a_sentence_and_in_details(
        door: GrpcDoor, request_: pb.GenerateRequest, code: Any, field: str | None) -> None:
    with stub(door) as calls:
        found, sentence, details = refused(lambda: calls.Generate(request_))
    assert found == code
    assert "\n" not in sentence
    assert details["ErrorInfo"].domain == "moelab"
    if field is not None:
        assert details["BadRequest"].field_violations[0].field == field


def test_sixty_four_streams_at_once_are_batched_in_bounded_memory(home: House, door: GrpcDoor) -> None:
    before = status(home).steps
    lengths: list[int] = []

    def one(i: int) -> None:
        with stub(door) as calls:
            lengths.append(sum(1 for _ in calls.Generate(ask(20, f"prompt {i}"))) - 1)

    one(0)
    process = psutil.Process()
    memory = process.memory_info().rss
    threads = [threading.Thread(target=one, args=(i,)) for i in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lengths == [20] * 65
    assert status(home).steps - before < 64 * 20 / 2
    assert process.memory_info().rss - memory < 256 << 20
    quiet(home)


# Deadlines and cancellation


def test_a_client_that_leaves_frees_its_cache(home: House, door: GrpcDoor) -> None:
    with stub(door) as calls:
        call = calls.Generate(ask(2000))
        next(call)
        assert status(home).kv_blocks_used > 0
        call.cancel()
        quiet(home)
        assert status(home).output_tokens < 2000


def test_a_deadline_that_passes_ends_the_answer(home: House, door: GrpcDoor) -> None:
    with stub(door) as calls:
        assert refused(lambda: calls.Generate(ask(2000), timeout=0.1))[0] == Code.DEADLINE_EXCEEDED
    quiet(home)


# Limits


def test_beyond_its_answers_at_once_it_says_when_to_come_again(home: House) -> None:
    with stub(home.open(ServeOptions(drain_s=0.0, max_streams=1))) as calls:
        first = calls.Generate(ask(2000))
        next(first)
        code, _, details = refused(lambda: calls.Generate(ask(1)))
        assert (code, details["RetryInfo"].retry_delay.seconds) == (Code.RESOURCE_EXHAUSTED, 1)
        first.cancel()
        quiet(home)
        assert len(list(calls.Generate(ask(1)))) == 2


def test_an_oversize_message_is_refused(door: GrpcDoor) -> None:
    with stub(door) as calls:
        assert refused(lambda: calls.Generate(ask(1, "x" * (65 << 10))))[0] == Code.RESOURCE_EXHAUSTED


def outcome(call: Callable[[], Any]) -> Any:
    """The code of a call that fails; None of one that is answered."""
    try:
        assert list(call())
    except grpc.RpcError as error:
        return error.code()
    return None


METHODS = ("MoelabService/Generate", "MoelabService/Run", "MoelabService/Status")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(METHODS), st.binary(max_size=64))
def test_any_bytes_get_an_answer_or_a_sentence(door: GrpcDoor, method: str, data: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        assert outcome(lambda: channel.unary_stream(f"/moelab.v1.{method}")(data, timeout=20)) in (
            None, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED)


FIELDS = st.builds(
    pb.GenerateRequest, text=st.text(max_size=50),
    max_tokens=st.one_of(st.integers(0, 5), st.integers(2**12, 2**32 - 1)),
    temperature=st.floats(), seed=st.integers(0, 2**64 - 1), stop=st.lists(st.text(max_size=300), max_size=3),
    token_ids=st.one_of(st.none(), st.builds(pb.TokenIds, ids=st.lists(st.integers(0, 2**32 - 1), max_size=9))),
    chat=st.one_of(st.none(), st.builds(pb.Chat, messages=st.lists(st.builds(
        pb.ChatMessage, role=st.sampled_from(["user", "system", "", "x"]), content=st.text(max_size=20)), max_size=3))))


@settings(max_examples=60, deadline=None)
@given(FIELDS)
def test_any_fields_get_an_answer_or_a_sentence(door: GrpcDoor, request_: pb.GenerateRequest) -> None:
    with stub(door) as calls:
        assert outcome(lambda: calls.Generate(request_, timeout=20)) in (None, Code.INVALID_ARGUMENT)


# Who is there


def test_reflection_lists_the_services_and_admin_is_absent_unless_it_is_on(home: House, door: GrpcDoor) -> None:
    def services(port: int) -> set[str]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    fault = admin_pb2.InjectFaultRequest(fault="name: nothing")
    common = {"moelab.v1.MoelabService", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert services(door.port) == common
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        assert refused(lambda: admin_pb2_grpc.AdminServiceStub(channel).InjectFault(fault))[0] == Code.UNIMPLEMENTED
    opened = home.open(ServeOptions(drain_s=0.0, admin=True))
    assert services(opened.port) == common | {"moelab.v1.AdminService"}
    with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        code, sentence, _ = refused(lambda: admin_pb2_grpc.AdminServiceStub(channel).InjectFault(fault))
        assert (code, "\n" in sentence) == (Code.INVALID_ARGUMENT, False)


def test_status_tells_how_the_machine_is(home: House, door: GrpcDoor) -> None:
    quiet(home)
    with stub(door) as calls:
        told = calls.Status(pb.StatusRequest())
    now = status(home)
    assert (told.model, told.state, told.running, told.runs) == (home.machine.model, pb.STATE_READY, 0, 0)
    assert (told.steps, told.kv_blocks, told.output_tokens) == (now.steps, now.kv_blocks, now.output_tokens)


# Runs


def test_a_run_over_the_network_has_the_digests_of_one_here_and_no_path(door: GrpcDoor) -> None:
    with Client(Place(f"127.0.0.1:{door.port}")) as client:
        heard: list[tuple[int, int, str]] = []
        found = results(client.run(pb.RunRequest(text=TINY, settings=["seed=5"], compare=True)),
                        lambda *told: heard.append(told))
    from cluster.serve.offered import offered_run

    here = compare(offered_run(None, TINY, ["seed=5"]))
    assert {policy: result["digest"] for policy, result in found.items()} == {
        policy: result.digest for policy, result in here.items()}
    assert len(found) == 2
    assert heard
    assert all("host" not in result for result in found.values())
    assert str(load_run("demo").folder.parent) not in json.dumps(found)


def test_a_run_that_is_left_frees_its_process_and_the_next_gets_its_turn(door: GrpcDoor) -> None:
    long = pb.RunRequest(text=TINY, settings=["workload.output_tokens=100000"])
    process = psutil.Process()
    with stub(door) as calls:
        first = calls.Run(long)
        next(first)  # it has begun, so the second waits behind it
        second = calls.Run(long)
        assert next(second).queued.before == 1
        code, _, details = refused(lambda: calls.Run(long))
        assert (code, "RetryInfo" in details) == (Code.RESOURCE_EXHAUSTED, True)
        second.cancel()
        first.cancel()
        end = time.monotonic() + 20
        while calls.Status(pb.StatusRequest()).runs or any(
                "run_worker" in " ".join(child.cmdline()) for child in process.children()
                if child.status() != psutil.STATUS_ZOMBIE):
            assert time.monotonic() < end
            time.sleep(0.05)


@pytest.mark.parametrize(("request_", "part"), [
    (pb.RunRequest(), "config"), (pb.RunRequest(name="nothing"), "nothing"), (pb.RunRequest(name="../demo"), "file"),
    (pb.RunRequest(text=TINY, settings=["policy=os:system"]), "os:system"),
    (pb.RunRequest(text=TINY, settings=["machine.constants={nothing: 1}"]), "nothing"),
])
def test_a_wrong_run_is_refused_in_a_sentence(door: GrpcDoor, request_: pb.RunRequest, part: str) -> None:
    with stub(door) as calls:
        code, sentence, details = refused(lambda: calls.Run(request_))
    assert code == Code.INVALID_ARGUMENT
    assert part in sentence
    assert "\n" not in sentence
    assert "BadRequest" in details


def test_a_run_ends_at_its_limit_of_time(home: House) -> None:
    long = pb.RunRequest(text=TINY, settings=["workload.output_tokens=1000000"])
    with stub(home.open(limit_s=0.5)) as calls:
        code, sentence, _ = refused(lambda: calls.Run(long))
    assert (code, "0.5 s" in sentence) == (Code.DEADLINE_EXCEEDED, True)


@pytest.mark.soak
def test_a_run_ends_at_its_limit_of_memory(home: House) -> None:
    large = pb.RunRequest(text=TINY, settings=["workload.output_tokens=3000000"])
    with stub(home.open(memory_bytes=700 << 20)) as calls:
        code, sentence, _ = refused(lambda: calls.Run(large))
    assert (code, f"{700 << 20} bytes" in sentence) == (Code.INVALID_ARGUMENT, True)


# Health


def test_health_follows_the_machine_and_answers_under_way_may_end() -> None:
    with house() as other:
        opened = other.open(ServeOptions(drain_s=20.0))
        with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
            watched = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(service="moelab.v1.MoelabService"))
            assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
            with stub(opened) as calls:
                call = calls.Generate(ask(300))
                next(call)
                closing = threading.Thread(target=lambda: other.do(opened.close()))
                closing.start()
                assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
                watched.cancel()
                assert list(call)[-1].end.usage.output_tokens == 300
                closing.join(30)
            assert not closing.is_alive()
