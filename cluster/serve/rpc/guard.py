"""Who may call, and what a call that goes wrong is told: in front of every method."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from cluster.serve.contract import AskError
from cluster.serve.rpc.errors import end, tell

OPEN = frozenset({"/grpc.health.v1.Health/Check"})
"""What may be called without the token: probes carry none. `Watch`, which holds a stream, needs it."""


class Malformed:
    """Stands for a message whose bytes are not one."""


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Asks for the token, where there is one, before anything of the request is read; answers bytes that are no message
    and all errors with one sentence."""

    def __init__(self, token: str | None) -> None:
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The handler of a method, guarded; None where there is no such method."""
        if self._expected is not None and details.method not in OPEN and not self._knows(details.invocation_metadata):
            return grpc.stream_stream_rpc_method_handler(_unauthenticated)
        handler = await continuation(details)
        return None if handler is None else guarded(handler)

    def _knows(self, metadata: Any) -> bool:
        """Whether the token is among the metadata, compared in a time that does not tell how much of it is right."""
        given = [value for key, value in metadata or () if key == "authorization"]
        as_bytes = given[0].encode() if len(given) == 1 and isinstance(given[0], str) else b""
        return self._expected is not None and hmac.compare_digest(as_bytes, self._expected)


async def _unauthenticated(_: Any, context: Any) -> None:
    await end(context, grpc.StatusCode.UNAUTHENTICATED,
              "the token is missing or wrong: send it as the metadata `authorization: Bearer TOKEN`")


def guarded(handler: Any) -> Any:
    """The same method, whose errors are told as ours are."""
    read = _reader(handler.request_deserializer)
    if handler.request_streaming:
        return handler._replace(request_deserializer=read, stream_stream=_talk(handler.stream_stream))
    kind = "unary_stream" if handler.response_streaming else "unary_unary"
    return handler._replace(request_deserializer=read, **{kind: _call(getattr(handler, kind))})


def _reader(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def careful(data: bytes) -> Any:
        try:
            return read(data)
        except Exception:  # noqa: BLE001 (protobuf's DecodeError, and whatever else bytes can bring about)
            return Malformed()

    return careful


def _call(method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def careful(request: Any, context: Any) -> Any:
        try:
            return await method(_whole(request), context)
        except grpc.aio.BaseError:
            raise
        except Exception as error:  # noqa: BLE001 (told as ours)
            await tell(context, error)

    return careful


def _talk(method: Callable[[Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def careful(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async def whole() -> AsyncIterator[Any]:
            async for request in requests:
                yield _whole(request)

        try:
            async for response in method(whole(), context):
                yield response
        except grpc.aio.BaseError:
            raise
        except Exception as error:  # noqa: BLE001 (told as ours)
            await tell(context, error)

    return careful


def _whole(request: Any) -> Any:
    if isinstance(request, Malformed):
        raise AskError("the bytes of the request are no message of this method")
    return request
