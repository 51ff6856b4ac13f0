"""A served machine behind the gRPC door, in a loop on a thread of its own."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cluster.config.reading import load_run
from cluster.serve.machine import Emulated
from cluster.serve.options import ServeOptions
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.protos.moelab.v1 import moelab_pb2_grpc
from cluster.serve.rpc.server import GrpcDoor, serve_grpc
from cluster.serve.runs import Runs

SMALL = ("machine=edge-gpu-ndp", "model=embedded", "policy=expert_parallel", "serve.max_output_tokens=2048",
         "workload.serving.max_batch=64")


@dataclass
class House:
    """A machine, and the loop in which doors to it are opened."""

    loop: asyncio.AbstractEventLoop
    machine: Any
    doors: list[GrpcDoor] = field(default_factory=list)

    def do(self, work: Any, patience_s: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(patience_s)

    def open(self, options: ServeOptions | None = None, **runs: Any) -> GrpcDoor:
        async def opened() -> GrpcDoor:
            return await serve_grpc(self.machine, options or ServeOptions(drain_s=1.0), Runs(**runs))

        door: GrpcDoor = self.do(opened())
        self.doors.append(door)
        return door

    def until(self, what: Callable[[], bool], patience_s: float = 20.0) -> None:
        end = time.monotonic() + patience_s
        while not what():
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.02)


@contextlib.contextmanager
def house(*settings: str) -> Iterator[House]:
    """A small machine that answers with filler tokens."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    made = House(loop, Emulated(load_run("serve_qwen3", [*SMALL, *settings])))
    try:
        made.do(made.machine.start(), 240.0)
        yield made
    finally:
        for door in made.doors:
            made.do(door.close())
        made.do(made.machine.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextlib.contextmanager
def stub(door: GrpcDoor) -> Iterator[Any]:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        yield moelab_pb2_grpc.MoelabServiceStub(channel)


def ask(tokens: int, text: str = "Hello", **more: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, max_tokens=tokens, **more)


def refused(call: Callable[[], Any]) -> tuple[Any, str, dict[str, Any]]:
    """The code, the sentence and the details by kind of a call that fails."""
    try:
        done = call()
        list(done) if hasattr(done, "__iter__") else done
    except grpc.RpcError as error:
        return told(error)
    raise AssertionError("it was not refused")


def told(error: Any) -> tuple[Any, str, dict[str, Any]]:
    status = rpc_status.from_call(error)
    details = {}
    for packed in () if status is None else status.details:
        detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        packed.Unpack(detail)
        details[type(detail).__name__] = detail
    return error.code(), error.details(), details
