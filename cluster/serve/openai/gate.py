"""In front of every request: the token, the size of the body and the time it may take, and a count of answers."""

import asyncio
import hmac
import traceback
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.serve.openai.errors import Refusal, error_response

BODY_S = 30.0
"""How long a client may take to send its body."""
OPEN = frozenset({"/", "/health"})
"""What may be asked without the token: probes carry none, and the page holds nothing but a place to enter it."""


class Gate:
    """ASGI around the app. heard(path, status) is told of every answer."""

    def __init__(self, app: ASGIApp, token: str | None, max_body_bytes: int, heard: Callable[[str, int], None]) -> None:
        self._app, self._limit, self._heard = app, max_body_bytes, heard
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                self._heard(scope["path"], message["status"])
            await send(message)

        try:
            self._check_token(scope)
            has_body = scope["method"] in ("POST", "PUT", "PATCH")
            whole = await self._read(Headers(scope=scope), receive) if has_body else b""
            await self._app(scope, _again(whole, receive), sending)
        except Refusal as refused:
            await error_response(refused)(scope, receive, sending)
        except _Left:
            pass
        except Exception as error:  # noqa: BLE001 (the last stop: told as ours, its traceback goes to the log)
            traceback.print_exception(error)
            if not begun:
                fault = Refusal(500, f"this is a fault of moelab's: {type(error).__name__}; its traceback is in the "
                                "server's log")
                await error_response(fault)(scope, receive, sending)
        return None

    def _check_token(self, scope: Scope) -> None:
        """Compared in a time that does not tell how much of it is right."""
        if self._expected is None or scope["path"] in OPEN:
            return
        given = [value for key, value in scope["headers"] if key == b"authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0], self._expected):
            raise Refusal(401, "the token is missing or wrong: send it as `Authorization: Bearer TOKEN`")

    async def _read(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        """The whole body."""
        told = headers.get("content-length", "0")
        if told.isdecimal() and int(told) > self._limit:
            raise self._too_large()
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(BODY_S):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Left
                    part, more = message.get("body", b""), message.get("more_body", False)
                    size += len(part)
                    if size > self._limit:
                        raise self._too_large()
                    parts.append(part)
        except TimeoutError:
            raise Refusal(408, f"the body did not come within {BODY_S:g} s") from None
        return b"".join(parts)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is longer than {self._limit} bytes, which is the most that is read")


class _Left(Exception):
    """The client has left before it was heard."""


def _again(body: bytes, receive: Receive) -> Receive:
    """What the app receives: the body at once, then whatever else comes."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return receiving
