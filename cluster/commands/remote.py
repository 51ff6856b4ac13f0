"""`moelab remote`: what a server of `moelab serve` answers over gRPC."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.run import Json
from cluster.commands.show import Bar, console, printable

if TYPE_CHECKING:
    from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
    from cluster.serve.rpc.client import Client

TOKEN = "MOELAB_TOKEN"
app = typer.Typer(no_args_is_help=True, help="Call a server of `moelab serve` over gRPC.")

Server = Annotated[str, typer.Option("--grpc", metavar="HOST:PORT", help="Where the server is.")]
Tls = Annotated[bool, typer.Option("--tls", help="TLS, with the authorities that this host trusts.")]
TlsCa = Annotated[Path | None, typer.Option("--tls-ca", metavar="FILE",
                                            help="TLS, with the authority in this PEM file.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", metavar="FILE",
                                                help=f"Holds the token to send (default: what {TOKEN} holds).")]
Timeout = Annotated[float | None, typer.Option("--timeout", metavar="S", help="Give up after so many seconds.")]


def connect(server: str, tls: bool, tls_ca: Path | None, token_file: Path | None, timeout: float | None) -> "Client":
    """A client of the server that a command line names."""
    from cluster.serve.options import read_token
    from cluster.serve.rpc.client import Client, Place

    token = read_token(token_file, os.environ.get(TOKEN) or None)
    return Client(Place(server, tls, tls_ca, token, timeout))


@app.command("generate")
def generate(text: Annotated[str, typer.Argument(help="What the model is asked.")], server: Server,
             max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=2**32 - 1,
                                                     help="Tokens of the answer at most.")] = 64,
             temperature: Annotated[float, typer.Option("--temperature", min=0.0,
                                                        help="0 takes the likeliest token.")] = 0.0,
             seed: Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Of what is drawn.")] = 0,
             stop: Annotated[list[str] | None, typer.Option("--stop", metavar="TEXT", help="Ends the answer; may be "
                                                                                           "given again.")] = None,
             ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="An end token does not end it.")] = False,
             chat: Annotated[bool, typer.Option("--chat", help="The text is a user's message in a chat.")] = False,
             times: Annotated[bool, typer.Option("--times", help="A line a token, with its emulated time.")] = False,
             tls: Tls = False, tls_ca: TlsCa = None, token_file: TokenFile = None, timeout: Timeout = None,
             as_json: Annotated[bool, typer.Option("--json", help="Print each message as a line of JSON.")] = False
             ) -> None:
    """Let the emulated machine answer a prompt, token by token."""
    from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
    from cluster.serve.rpc.client import plain

    asked = pb.GenerateRequest(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop or (),
                               ignore_eos=ignore_eos)
    if chat:
        asked.chat.messages.add(role="user", content=text)
    else:
        asked.text = text
    with connect(server, tls, tls_ca, token_file, timeout) as client:
        for message in client.generate(asked):
            if as_json:
                print(json.dumps(plain(message)), flush=True)
            elif message.HasField("token") and times:
                print(f"{message.token.emulated_ps / 1e12:14.9f} s  {printable(message.token.text)}", flush=True)
            elif message.HasField("token"):
                print(_shown(message.token.text), end="", flush=True)
            else:
                print("" if times else "\n", end="")
                print(_ended(message.end))


@app.command("run")
def run(name: Annotated[str, typer.Argument(metavar="RUN", help="A run that ships with the server, or the path of a "
                                                                "config that names no file.")],
        server: Server,
        settings: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Put a value into the "
                                                           "config; may be given again.")] = None,
        compare: Annotated[bool, typer.Option("--compare", help="Time the policies of `against` beside it.")] = False,
        tls: Tls = False, tls_ca: TlsCa = None, token_file: TokenFile = None, timeout: Timeout = None,
        as_json: Json = False) -> None:
    """Let the server carry out a run, and print its results."""
    from cluster.config.names import is_path
    from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
    from cluster.serve.rpc.client import results

    asked = pb.RunRequest(settings=settings or (), compare=compare)
    if is_path(name):
        asked.text = _text(Path(name))
    else:
        asked.name = name
    with connect(server, tls, tls_ca, token_file, timeout) as client, Bar() as bar:
        found = results(client.run(asked), bar.update)
    if as_json:
        print(json.dumps(found if compare else next(iter(found.values())), indent=1, sort_keys=True))
        return
    for policy, result in found.items():
        tpot = result["tpot"]["p50_s"] if result["tpot"] else None
        pace = "" if tpot is None else f"; TPOT P50 {tpot:.6g} s"
        console().print(f"{policy}: {result['makespan_ps'] / 1e12:.9g} s{pace}; digest {result['digest']}",
                        markup=False, highlight=False)


@app.command("status")
def status(server: Server, tls: Tls = False, tls_ca: TlsCa = None, token_file: TokenFile = None,
           timeout: Timeout = None, as_json: Json = False) -> None:
    """How the emulated machine is."""
    from cluster.serve.rpc.client import plain

    with connect(server, tls, tls_ca, token_file, timeout) as client:
        told = plain(client.status())
    if as_json:
        print(json.dumps(told, indent=1))
        return
    for key, value in told.items():
        print(f"{key:16}  {', '.join(value) or 'none' if isinstance(value, list) else value}")


@app.command("inject")
def inject(fault: Annotated[str, typer.Argument(help="One fault as `faults` of a run's config holds it, in YAML.")],
           server: Server, tls: Tls = False, tls_ca: TlsCa = None, token_file: TokenFile = None,
           timeout: Timeout = None) -> None:
    """Let a fault happen on the emulated machine, now (its server has --admin)."""
    with connect(server, tls, tls_ca, token_file, timeout) as client:
        print(client.inject(fault))


def _ended(end: "pb.End") -> str:
    from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb

    first = f"; TTFT {end.ttft_s:.6g} s" if end.HasField("ttft_s") else ""
    pace = f"; TPOT {end.tpot_s:.6g} s" if end.HasField("tpot_s") else ""
    filler = "" if end.real_tokens else "; the tokens are filler: the model has no weights here"
    return (f"{pb.Reason.Name(end.reason).removeprefix('REASON_').lower()}: {end.usage.prompt_tokens} tokens in, "
            f"{end.usage.output_tokens} out; queued {end.queue_s:.6g} s{first}{pace} (emulated){filler}")


def _shown(text: str) -> str:
    """A text as it is, but for what would steer a terminal."""
    return "".join(printable(part) if not part.isspace() else part for part in text)


def _text(path: Path) -> str:
    from emulation.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} cannot be read: {reason}") from None
