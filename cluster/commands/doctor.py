"""`moelab doctor`: is this host fit to run on? One line a question, with a remedy where the answer is no."""

import importlib
import importlib.metadata
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from cluster.commands.run import Json
from emulation.extras import EXTRAS, installed

WITHOUT = {"models": "work: execute, price, calibrate and trace record", "ray": "transport: ray and work on a cluster",
           "service": "serve"}
"""What does not work where the packages of an extra are missing."""
DISTRIBUTIONS = {"yaml": "pyyaml", "grpc": "grpcio", "grpc_health": "grpcio-health-checking",
                 "grpc_reflection": "grpcio-reflection", "grpc_status": "grpcio-status", "google.protobuf": "protobuf",
                 "google.rpc": "googleapis-common-protos"}
"""What is installed under another name than it is imported by."""
LEAST_FREE_BYTES = 2 << 30


class Answer(NamedTuple):
    """OK, WARN or FAIL; what was found; what to do about it."""

    status: str
    found: str
    remedy: str = ""


def doctor(out: Annotated[Path, typer.Option(help="Where runs are to write.")] = Path("runs"),
           as_json: Json = False) -> None:
    """Look at this host: versions, threads, Ray, loopback, caches, memory, disk. Exit code 1 where something fails."""
    answers = dict(examine(out))
    if as_json:
        print(json.dumps({name: answer._asdict() for name, answer in answers.items()}, indent=2))
    else:
        for name, answer in answers.items():
            print(f"{answer.status:4}  {name}: {answer.found}" + (f"; {answer.remedy}" if answer.remedy else ""))
    if any(answer.status == "FAIL" for answer in answers.values()):
        raise typer.Exit(1)


def examine(out: Path) -> Iterator[tuple[str, Answer]]:
    """Every question with its answer."""
    yield "python", python(sys.version_info[:3])
    for extra in ("core", *WITHOUT):
        for package in EXTRAS[extra]:
            yield package, package_there(package, extra)
    questions: dict[str, Callable[[], Answer]] = {
        "torch threads": torch_threads, "loopback": loopback, "numba cache": numba_cache, "free memory": free_memory,
        "embedded model": embedded_model}
    for name, question in questions.items():
        yield name, question()
    yield "output folder", writable(out)


def python(version: tuple[int, int, int]) -> Answer:
    found = ".".join(map(str, version))
    return Answer("OK", found) if version >= (3, 11, 0) else Answer("FAIL", found, "use Python 3.11 or newer")


def package_there(name: str, extra: str = "core") -> Answer:
    """Whether a package of an extra imports, and its version; one that is installed and does not import is a fault."""
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 (whatever a broken package raises is the answer)
        remedy = f"pip install 'moelab[{extra}]'"
        if extra == "core" or installed(name):
            return Answer("FAIL", f"cannot be imported ({type(error).__name__}: {error})", remedy)
        return Answer("WARN", "not installed", f"{remedy} for {WITHOUT[extra]}")
    return Answer("OK", importlib.metadata.version(DISTRIBUTIONS.get(name, name)))


def torch_threads() -> Answer:
    try:
        import torch
    except ImportError:
        return Answer("WARN", "torch is not installed", "pip install 'moelab[models]' for what needs it")
    threads, arithmetic = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    return Answer("OK", f"{threads} on {os.cpu_count()} cores, {arithmetic} (a run sets one thread a process)")


def loopback() -> Answer:
    """Whether two sockets on this host can talk."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, \
                socket.create_connection(server.getsockname(), timeout=2.0):
            return Answer("OK", "127.0.0.1 answers")
    except OSError as error:
        return Answer("FAIL", f"127.0.0.1 does not answer ({error})",
                      "bring the loopback interface up: ip link set lo up")


def numba_cache() -> Answer:
    """Whether compiled code can be kept from one run to the next."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or Path(__file__).resolve().parent.parent.parent / "emulation")
    remedy = "set NUMBA_CACHE_DIR to a folder you may write, or every run compiles anew"
    return Answer("OK", str(folder)) if os.access(folder, os.W_OK) else Answer("WARN", f"{folder} is read-only", remedy)


def free_memory() -> Answer:
    try:
        import psutil
    except ImportError:
        return Answer("WARN", "unknown, psutil is missing", "pip install psutil")
    free = psutil.virtual_memory().available
    found = f"{free / 1e9:.1f} GB"
    if free >= LEAST_FREE_BYTES:
        return Answer("OK", found)
    return Answer("WARN", found, f"Ray alone takes about 0.5 GB, a run more: have {LEAST_FREE_BYTES / 1e9:.0f} GB free")


def embedded_model() -> Answer:
    from cluster.resolve import EMBEDDED_FOLDER

    missing = [name for name in ("config.json", "model.safetensors", "tokenizer.json")
               if not (EMBEDDED_FOLDER / name).is_file()]
    if missing:
        return Answer("FAIL", f"{EMBEDDED_FOLDER} lacks {', '.join(missing)}", "check the repository out again")
    return Answer("OK", str(EMBEDDED_FOLDER))


def writable(folder: Path) -> Answer:
    """Whether files can be made in a folder, or in the nearest one above it that exists."""
    there = folder.absolute()
    while not there.exists() and there.parent != there:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            return Answer("OK", f"{folder} can be written")
    except OSError as error:
        return Answer("FAIL", f"{folder} cannot be written ({error.strerror})", "choose another with --out")
