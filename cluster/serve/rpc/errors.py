"""Errors as gRPC tells them: a code, one sentence, and details of google.rpc that programs can read."""

import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from cluster.serve.contract import AskError, BusyError, StoppedError
from cluster.serve.runs import LongRun
from emulation.errors import ConfigError, InputError, MoelabError

DOMAIN = "moelab"
RETRY_S = 1.0
LONGEST_BYTES = 900
"""Of a sentence: with its details it has to fit into the 8 KiB that clients take as trailers."""
DETAILS = "grpc-status-details-bin"


class StalledError(MoelabError):
    """A client has taken nothing of what it is sent for too long."""


CODES: tuple[tuple[type[MoelabError], Any, str], ...] = (
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED, "BUSY"),
    (StoppedError, grpc.StatusCode.UNAVAILABLE, "STOPPED"),
    (AskError, grpc.StatusCode.INVALID_ARGUMENT, "WRONG_REQUEST"),
    (ConfigError, grpc.StatusCode.INVALID_ARGUMENT, "WRONG_CONFIG"),
    (InputError, grpc.StatusCode.INVALID_ARGUMENT, "WRONG_INPUT"),
    (StalledError, grpc.StatusCode.DEADLINE_EXCEEDED, "STALLED"),
    (LongRun, grpc.StatusCode.DEADLINE_EXCEEDED, "LONG_RUN"),
    (MoelabError, grpc.StatusCode.FAILED_PRECONDITION, "REFUSED"),
)


class FieldError(AskError):
    """A field of a request is wrong."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(f"{field}: {text}")
        self.field = field


class NotServed(AskError):
    """A model is named that is not served here."""


async def tell(context: Any, error: BaseException) -> NoReturn:
    """End the call with this error; one that is no MoelabError is a fault of ours, whose traceback goes to the log."""
    if isinstance(error, MoelabError):
        code, reason = _code(error)
        await end(context, code, str(error), details_of(error, reason))
    traceback.print_exception(error)
    await end(context, grpc.StatusCode.INTERNAL, f"this is a fault of moelab's: {type(error).__name__}; its traceback "
              "is in the server's log", [_info("FAULT")])


async def end(context: Any, code: Any, text: str, details: Sequence[Message] = ()) -> NoReturn:
    """End the call with this code, sentence and details."""
    text = short(text)
    packed = []
    for detail in details:
        packed.append(Packed())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    await context.abort(code, text, trailing_metadata=((DETAILS, status.SerializeToString()),))
    raise AssertionError("abort raises")


def details_of(error: MoelabError, reason: str) -> list[Message]:
    """What programs can read of an error: why, which field, when to try again."""
    details = [_info(reason)]
    field = error.field if isinstance(error, FieldError) else "config" if isinstance(error, ConfigError) else None
    if field is not None:
        text = short(str(error))
        details.append(error_details_pb2.BadRequest(field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field=field, description=text)]))
    if isinstance(error, BusyError):
        retry = Duration()
        retry.FromMilliseconds(int(RETRY_S * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=retry))
    return details


def short(text: str) -> str:
    """A sentence on one line and in UTF-8, cut where it is too long for a trailer."""
    encoded = " ".join(text.split()).encode("utf-8", "replace")
    if len(encoded) <= LONGEST_BYTES:
        return encoded.decode("utf-8")
    return encoded[:LONGEST_BYTES].decode("utf-8", "ignore") + "..."


def _code(error: MoelabError) -> tuple[Any, str]:
    if isinstance(error, NotServed):
        return grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL"
    return next((code, reason) for kind, code, reason in CODES if isinstance(error, kind))


def _info(reason: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    return info
