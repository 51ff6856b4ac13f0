"""Errors as OpenAI's API tells them: a code of HTTP, and an object with one sentence."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from cluster.config.load import told
from cluster.serve.contract import AskError, BusyError, StoppedError
from emulation.errors import MoelabError

RETRY_S = 1
"""When to ask again, in real seconds."""
LONGEST = 900
"""Letters of a sentence: some quote what was sent."""

KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error",
         405: "invalid_request_error", 408: "timeout_error", 413: "invalid_request_error", 429: "rate_limit_error",
         500: "server_error", 503: "service_unavailable_error"}
CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "body_too_large",
         429: "rate_limit_exceeded", 500: "internal_error", 503: "unavailable"}


class Refusal(MoelabError):
    """A request that is refused. status: of HTTP. param: the key of the body that is wrong."""

    def __init__(self, status: int, text: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(text)
        self.status, self.param, self.code = status, param, code or CODES.get(status)


def refusal(error: MoelabError) -> Refusal:
    """An error of the machine's, or of ours, as what a client is told."""
    if isinstance(error, Refusal):
        return error
    status = 400 if isinstance(error, AskError) else 429 if isinstance(error, BusyError) else (
        503 if isinstance(error, StoppedError) else 500)
    return Refusal(status, str(error))


def wrong_body(details: Sequence[Any]) -> Refusal:
    """What pydantic found wrong with a body."""
    first = details[0]
    if first["type"] == "json_invalid" or (first["loc"] == ("body",) and first["type"] != "refused"):
        why = first.get("ctx", {}).get("error") or "it should be a JSON object, sent as application/json"
        return Refusal(400, f"the body is not what is read here: {why}")
    inner: list[Any] = [{**detail, "loc": tuple(detail["loc"][1:])} for detail in details]
    return Refusal(400, told(inner, "the body"), param=str(inner[0]["loc"][0]) if inner[0]["loc"] else None)


def error_object(refused: Refusal) -> dict[str, object]:
    """The body of an error; it can be encoded whatever it quotes."""
    text = " ".join(str(refused).split())
    shown = text if len(text) <= LONGEST else text[:LONGEST] + "..."
    return {"error": {"message": shown, "type": KINDS.get(refused.status, "invalid_request_error"),
                      "param": refused.param, "code": refused.code}}


def error_response(refused: Refusal) -> Response:
    """The whole answer to a request that is refused."""
    headers: Mapping[str, str] = {
        401: {"WWW-Authenticate": "Bearer"}, 408: {"x-should-retry": "false"},
        429: {"Retry-After": str(RETRY_S)}, 503: {"Retry-After": str(RETRY_S)}}.get(refused.status, {})
    return json_response(error_object(refused), refused.status, headers)


def json_response(body: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A body as ASCII JSON: a text that is no UTF-8 cannot break it."""
    return Response(dumped(body), status, headers, media_type="application/json")


def dumped(body: Mapping[str, object]) -> bytes:
    """JSON on one line."""
    return json.dumps(body, separators=(",", ":")).encode("ascii")
