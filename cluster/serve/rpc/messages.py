"""Requests and answers, from messages and to them."""

import math
from collections.abc import Callable

from cluster.serve.contract import Ask, AskError, End, Machine, Status, Token
from cluster.serve.protos.moelab.v1 import moelab_pb2 as pb
from cluster.serve.rpc.errors import FieldError
from cluster.serve.runs import Progress, Queued, ResultPart

MAX_TOKENS = 16
"""Of an answer, where its request does not say."""
MOST_STOPS, LONGEST_STOP = 16, 256
PS = 10**12
REASONS = {"stop": pb.REASON_STOP, "length": pb.REASON_LENGTH, "cancelled": pb.REASON_CANCELLED}
CLOCKS = {"virtual": pb.CLOCK_VIRTUAL, "wall": pb.CLOCK_WALL}
STATES = {"starting": pb.STATE_STARTING, "ready": pb.STATE_READY, "stopping": pb.STATE_STOPPING,
          "failed": pb.STATE_FAILED}


def ask_of(request: pb.GenerateRequest, machine: Machine) -> Ask:
    """What a message asks; FieldError where a field is wrong."""
    if request.HasField("max_tokens") and request.max_tokens < 1:
        raise FieldError("max_tokens", "0 should be a whole number above 0")
    if not (math.isfinite(request.temperature) and request.temperature >= 0):
        raise FieldError("temperature", f"{request.temperature} should be a number from 0 up")
    if len(request.stop) > MOST_STOPS:
        raise FieldError("stop", f"{len(request.stop)} texts are given: {MOST_STOPS} at most")
    for text in request.stop:
        if not 0 < len(text) <= LONGEST_STOP:
            raise FieldError("stop", f"a text of {len(text)} characters should have 1 to {LONGEST_STOP}")
    return Ask(tuple(_prompt(request, machine)), request.max_tokens if request.HasField("max_tokens") else MAX_TOKENS,
               request.temperature, request.seed, tuple(request.stop), request.ignore_eos)


def _prompt(request: pb.GenerateRequest, machine: Machine) -> list[int]:
    way = request.WhichOneof("prompt")
    if way is None:
        raise FieldError("prompt", "a request has a text, token_ids or a chat")
    if way == "token_ids":
        found = list(request.token_ids.ids)
    elif way == "text":
        found = _encoded("text", lambda: machine.encode(request.text))
    else:
        found = _encoded("chat", lambda: machine.encode_chat(
            [{"role": message.role, "content": message.content} for message in request.chat.messages]))
    if not found:
        raise FieldError(way, "the prompt is empty: a model needs at least one token to begin with")
    return found


def _encoded(field: str, encode: Callable[[], list[int]]) -> list[int]:
    try:
        return encode()
    except AskError as error:
        raise FieldError(field, str(error)) from None


def token_message(token: Token) -> pb.GenerateResponse:
    """A token of an answer."""
    return pb.GenerateResponse(token=pb.Token(index=token.index, id=token.token, text=_sound(token.text),
                                              emulated_ps=token.emulated_ps))


def end_message(end: End, machine: Machine, status: Status) -> pb.GenerateResponse:
    """How an answer ended, with its times in seconds."""
    told = pb.End(reason=REASONS[end.reason], arrival_ps=end.arrival_ps, scheduled_ps=end.scheduled_ps,
                  first_token_ps=end.first_token_ps, end_ps=end.end_ps, real_tokens=machine.real_tokens,
                  usage=pb.Usage(prompt_tokens=end.prompt_tokens, output_tokens=end.output_tokens),
                  queue_s=(end.scheduled_ps - end.arrival_ps) / PS, clock=CLOCKS[status.clock],
                  dilation=status.dilation)
    if end.output_tokens >= 1:
        told.ttft_s = (end.first_token_ps - end.arrival_ps) / PS
    if end.output_tokens >= 2:
        told.tpot_s = (end.end_ps - end.first_token_ps) / (end.output_tokens - 1) / PS
    return pb.GenerateResponse(end=told)


def status_message(machine: Machine, runs: int) -> pb.StatusResponse:
    """How the machine is."""
    status = machine.status()
    return pb.StatusResponse(
        model=machine.model, real_tokens=machine.real_tokens, context_tokens=machine.context_tokens,
        state=STATES[status.state], clock=CLOCKS[status.clock], dilation=status.dilation,
        emulated_ps=status.emulated_ps, running=status.running, waiting=status.waiting, steps=status.steps,
        prompt_tokens=status.prompt_tokens, output_tokens=status.output_tokens, kv_blocks=status.kv_blocks,
        kv_blocks_used=status.kv_blocks_used, faults=status.faults, runs=runs)


def run_message(event: Queued | Progress | ResultPart) -> pb.RunResponse:
    """What a run tells."""
    if isinstance(event, Queued):
        return pb.RunResponse(queued=pb.Queued(before=event.before))
    if isinstance(event, Progress):
        return pb.RunResponse(progress=pb.Progress(done=event.done, total=event.total, text=_sound(event.text)))
    return pb.RunResponse(result=pb.ResultPart(policy=event.policy, digest=event.digest, json=event.json,
                                               last=event.last))


def _sound(text: str) -> str:
    """A text without halves of letters, which UTF-8 cannot carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
