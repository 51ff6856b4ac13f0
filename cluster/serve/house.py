"""The machine and its front doors in one loop, from switching on to switching off."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from cluster.config.run import RunConfig
from cluster.observe.files import write_texts
from cluster.serve.machine import Emulated
from cluster.serve.options import ServeOptions, check_binding

Say = Callable[[str], None]


class Door(Protocol):
    """An open front door."""

    port: int

    async def close(self) -> None:
        """Take nobody in any more, let answers under way end for as long as `drain_s`, cut off the rest."""


def keep_house(config: RunConfig, options: ServeOptions, ready_file: Path | None, say: Say) -> None:
    """Serve until SIGINT or SIGTERM, or until the machine fails, which is raised."""
    check_binding(options)
    asyncio.run(_keep(config, options, ready_file, say))


async def _keep(config: RunConfig, options: ServeOptions, ready_file: Path | None, say: Say) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    machine = Emulated(config)
    doors: dict[str, Door] = {}
    _away(ready_file)
    try:
        if not await _unless(stop, machine.start()):
            return
        doors = dict(await _open(machine, options))
        told = {name: address(options, name, door.port) for name, door in doors.items()}
        say(f"{machine.model} is served: {', '.join(told.values())}; {machine.told()}")
        if ready_file is not None:
            write_texts(ready_file.parent, {ready_file.name: json.dumps({"model": machine.model, **told}) + "\n"})
        if not await _unless(stop, machine.ended()):
            say("switching off: answers under way may end, and nobody is taken in any more")
            await machine.drain(options.drain_s)
    finally:
        _away(ready_file)
        await machine.close()
        await asyncio.gather(*(door.close() for door in doors.values()))
    if machine.error is not None:
        raise machine.error


def _away(ready_file: Path | None) -> None:
    """Whoever waits for the file must not take that of an earlier server for this one's."""
    if ready_file is not None:
        with contextlib.suppress(OSError):
            ready_file.unlink(missing_ok=True)


async def _open(machine: Emulated, options: ServeOptions) -> list[tuple[str, Door]]:
    doors: list[tuple[str, Door]] = []
    try:
        if options.http_port is not None:
            from cluster.serve.http import serve_http

            doors.append(("http", await serve_http(machine, options)))
        if options.metrics_port is not None:
            from cluster.serve.http import serve_metrics

            doors.append(("metrics", await serve_metrics(machine, options)))
        if options.grpc_port is not None:
            from cluster.serve.rpc.server import serve_grpc

            doors.append(("grpc", await serve_grpc(machine, options)))
    except BaseException:
        await asyncio.gather(*(door.close() for _, door in doors))
        raise
    return doors


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Await work, unless it is time to stop before; whether it was done."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await doing
    return False


def address(options: ServeOptions, door: str, port: int) -> str:
    """Where a door is, as clients write it."""
    host = options.grpc_host if door == "grpc" else options.http_host
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    scheme = "grpc://" if door == "grpc" else f"http{'s' if options.tls_cert else ''}://"
    return f"{scheme}{host}:{port}" + ("/metrics" if door == "metrics" else "")
