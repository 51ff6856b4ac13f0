"""What the gRPC door costs: concurrent answers over it, and the same asked of the machine itself in the same process.

    python -m benchmarks.doors [STREAMS TOKENS]
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import grpc
import psutil

from benchmarks.harness import ROOT, Spread
from cluster.config.reading import load_run
from cluster.serve.contract import Ask, Token
from cluster.serve.machine import Emulated
from cluster.serve.options import ServeOptions
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.protos.moelab.v1 import moelab_pb2_grpc
from cluster.serve.rpc.server import serve_grpc

PROMPT = "How fast is a machine that does not exist?"
SETTINGS = ("machine=edge-gpu-ndp", "model=embedded", "policy=expert_parallel")
ROUNDS = 3


async def many(streams: int, one: Callable[[int], Awaitable[int]]) -> tuple[float, float]:
    """Tokens a second of so many answers at once, and the CPU seconds of this process for a token."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    tokens = sum(await asyncio.gather(*(one(i) for i in range(streams))))
    return tokens / (time.perf_counter() - began_s), (time.process_time() - cpu_s) / tokens


async def client(port: int, streams: int, tokens: int) -> None:
    """The clients, in a process of their own."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = moelab_pb2_grpc.MoelabServiceStub(channel)  # type: ignore[no-untyped-call]

        async def one(i: int) -> int:
            return sum([1 async for _ in stub.Generate(pb.GenerateRequest(text=f"{PROMPT} {i}", max_tokens=tokens))])

        await many(streams, one)


async def main(streams: int, tokens: int) -> None:
    """Measure in turn, and print."""
    machine = Emulated(load_run("serve_qwen3", SETTINGS))
    await machine.start()
    door = await serve_grpc(machine, ServeOptions(drain_s=0.0))

    async def bare(i: int) -> int:
        answer = await machine.submit(Ask(tuple(machine.encode(f"{PROMPT} {i}")), tokens))
        return sum([1 async for piece in answer if isinstance(piece, Token)])

    async def over(_: int) -> int:
        command = [sys.executable, "-m", "benchmarks.doors", "--client", str(door.port), str(streams), str(tokens)]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.DEVNULL)
        if await process.wait():
            raise SystemExit("the clients failed")
        return streams * tokens

    rates: dict[str, list[float]] = {"machine alone": [], "over gRPC": []}
    costs: dict[str, list[float]] = {"machine alone": [], "over gRPC": []}
    await many(4, bare)
    memory = psutil.Process().memory_info().rss
    for _ in range(ROUNDS):
        for name, count, one in (("machine alone", streams, bare), ("over gRPC", 1, over)):
            rate, cost = await many(count, one)
            rates[name].append(rate)
            costs[name].append(cost * 1e6)
    grown = psutil.Process().memory_info().rss - memory
    print(f"{streams} answers of {tokens} tokens at once, {ROUNDS} rounds, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f}")
    for name in rates:
        rate, cost = Spread.of(rates[name]), Spread.of(costs[name])
        print(f"{name}: {rate.median:.0f} tokens/s ({rate.low:.0f} to {rate.high:.0f}); the server's CPU "
              f"{cost.median:.0f} us a token ({cost.low:.0f} to {cost.high:.0f})")
    print(f"memory of the server grew by {grown / 2**20:.1f} MiB")
    await door.close()
    await machine.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--client"]:
        asyncio.run(client(*map(int, sys.argv[2:5])))
    else:
        asyncio.run(main(*(map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (64, 200))))
