"""The methods of `moelab.v1`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from cluster.config.load import parse_yaml
from cluster.serve.contract import Answer, Ask, BusyError, End, Machine
from cluster.serve.offered import offered_run
from cluster.serve.options import STALL_S
from cluster.serve.protos.moelab.v1 import admin_pb2, admin_pb2_grpc, moelab_pb2_grpc
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.rpc.errors import FieldError, NotServed, StalledError, end
from cluster.serve.rpc.messages import ask_of, end_message, run_message, status_message, token_message
from cluster.serve.runs import Runs

SMALL = 4096
"""Bytes of a message that is read on the spot; a larger one is read beside the loop."""

Made = TypeVar("Made")


class Moelab(moelab_pb2_grpc.MoelabServiceServicer):
    """Answers, runs and the machine's status. max_streams: answers under way at once."""

    def __init__(self, machine: Machine, runs: Runs, max_streams: int) -> None:
        self.machine, self.runs, self.max_streams = machine, runs, max_streams
        self.streams = 0

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> None:
        """Tokens as they are made, then how the answer ended."""
        if request.model not in ("", self.machine.model):
            raise NotServed(f"model {request.model!r} is not served here: {self.machine.model!r} is")
        if self.streams >= self.max_streams:
            raise BusyError(f"{self.max_streams} answers are under way, as many as this server gives at once")
        self.streams += 1
        try:
            async with deadline(context):
                ask = await beside(request.ByteSize(), lambda: ask_of(request, self.machine))
                answer = await self._submitted(ask)
                try:
                    async for piece in answer:
                        if isinstance(piece, End):
                            await write(context, end_message(piece, self.machine, self.machine.status()))
                            return
                        await write(context, token_message(piece))
                finally:
                    answer.cancel()
        finally:
            self.streams -= 1

    async def _submitted(self, ask: Ask) -> Answer:
        """The answer to a request; where its client leaves meanwhile, it is cancelled as soon as it is taken."""
        task = asyncio.ensure_future(self.machine.submit(ask))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_cancel)
            raise

    async def Run(self, request: pb.RunRequest, context: Any) -> None:
        """Progress of a run, then its results."""
        way = request.WhichOneof("config")
        if way is None:
            raise FieldError("config", "a run is asked for by name or as the text of its config")
        async with deadline(context):
            config = await asyncio.to_thread(offered_run, request.name if way == "name" else None,
                                             request.text if way == "text" else None, list(request.settings))
            if request.compare and not config.against:
                raise FieldError("compare", "a comparison needs two policies or more: name others in the config's "
                                            "`against`")
            async with contextlib.aclosing(self.runs.carry_out(config, request.compare)) as events:
                async for event in events:
                    await write(context, run_message(event))

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """How the machine is."""
        return status_message(self.machine, self.runs.under_way)


class Admin(admin_pb2_grpc.AdminServiceServicer):
    """What changes the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    async def InjectFault(self, request: admin_pb2.InjectFaultRequest, context: Any) -> admin_pb2.InjectFaultResponse:
        """A fault, now."""
        async with deadline(context):
            fault = await asyncio.to_thread(parse_yaml, request.fault, "fault")
            return admin_pb2.InjectFaultResponse(told=await self.machine.inject(fault))


@contextlib.asynccontextmanager
async def deadline(context: Any) -> AsyncIterator[None]:
    """Leave the block when the client's deadline passes, and say so."""
    left = context.time_remaining()
    limit = asyncio.timeout(None if left is None else max(left, 0.0))
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        await end(context, grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call has passed")


async def write(context: Any, message: Any) -> None:
    """Send a message, but wait no longer than STALL_S for a client that takes none: its call ends."""
    try:
        async with asyncio.timeout(STALL_S):
            await context.write(message)
    except TimeoutError:
        raise StalledError(f"the client has taken nothing of the answer for {STALL_S:g} s") from None


async def beside(size_bytes: int, work: Callable[[], Made]) -> Made:
    """Work on a message: a large one on a thread, so that nobody waits for it."""
    return work() if size_bytes <= SMALL else await asyncio.to_thread(work)


def _cancel(task: "asyncio.Future[Answer]") -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().cancel()
