"""The app: OpenAI's endpoints in front of an emulated machine, its health and its metrics."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cluster.observe.metrics import Metrics
from cluster.serve.contract import Machine
from cluster.serve.openai.answers import Answers, Events, Gone, Slots, unless_gone
from cluster.serve.openai.errors import Refusal, error_response, json_response, refusal, wrong_body
from cluster.serve.openai.gate import Gate
from cluster.serve.openai.replies import Reply
from cluster.serve.openai.schema import ChatRequest, CompletionRequest
from cluster.serve.options import ServeOptions
from cluster.serve.page.watch import HEADERS, Watch, shell
from emulation.errors import MoelabError

LEFT = 499
"""What is counted, and sent to nobody, where a client has left."""


class Endpoints:
    """What the paths of one machine answer."""

    def __init__(self, machine: Machine, slots: Slots) -> None:
        self.machine, self._slots = machine, slots
        self._encoding = asyncio.Lock()

    def model(self, name: str) -> dict[str, object]:
        """The one model, as the list of models tells it."""
        if name != self.machine.model:
            raise Refusal(404, f"there is no model {name!r} here: {self.machine.model!r} is served", param="model",
                          code="model_not_found")
        return {"id": name, "object": "model", "created": 0, "owned_by": "moelab",
                "max_model_len": self.machine.context_tokens, "real_tokens": self.machine.real_tokens}

    async def completion(self, body: CompletionRequest, request: Request) -> Response:
        """Continue each prompt."""
        self.model(body.model or self.machine.model)
        prompts = [prompt if isinstance(prompt, tuple) else await self._encoded(self.machine.encode, prompt)
                   for prompt in body.prompt]
        prefixes = [prompt if body.echo else "" for prompt in body.prompt]
        return await self._reply(body, request, prompts, prefixes)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Answer a conversation."""
        self.model(body.model or self.machine.model)
        prompt = await self._encoded(self.machine.encode_chat, body.conversation())
        return await self._reply(body, request, [prompt], [""])

    async def _encoded(self, encode: Any, text: object) -> tuple[int, ...]:
        """Token ids, worked out beside the loop: a long text keeps nobody else waiting."""
        async with self._encoding:
            return tuple(await asyncio.to_thread(encode, text))

    async def _reply(self, body: CompletionRequest | ChatRequest, request: Request,
                     prompts: list[tuple[int, ...]], prefixes: Sequence[str]) -> Response:
        reply = Reply(self.machine, body, prefixes, [len(prompt) for prompt in prompts])
        asks = body.asks(prompts)
        answers = Answers(self._slots, len(asks))
        await answers.submit(self.machine, asks)
        if body.stream:
            return Events(reply.events(answers), answers.close)
        try:
            return json_response(await unless_gone(request.receive, reply.whole(answers)))
        except Gone:
            return Response(status_code=LEFT)
        finally:
            answers.close()

    def health(self) -> Response:
        """200 while the machine is ready, else 503; both say how it is."""
        state = self.machine.status().state
        return json_response({"status": state}, 200 if state == "ready" else 503)


def app(machine: Machine, options: ServeOptions) -> FastAPI:
    """The app of a machine: of options it reads the token and the limits."""
    made = FastAPI(title="moelab", docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    slots = Slots(options.max_streams)
    at, metrics = Endpoints(machine, slots), Metrics(machine, lambda: slots.taken)

    @made.post("/v1/completions", response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await at.completion(body, request)

    @made.post("/v1/chat/completions", response_class=Response)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await at.chat(body, request)

    @made.get("/v1/models")
    async def models() -> Response:
        return json_response({"object": "list", "data": [at.model(machine.model)]})

    @made.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return json_response(at.model(name))

    @made.get("/health")
    async def health() -> Response:
        return at.health()

    page, watch = shell().encode("utf-8"), Watch(machine)

    @made.get("/", include_in_schema=False)
    async def front() -> Response:
        return Response(page, headers=HEADERS, media_type="text/html")

    @made.get("/live", include_in_schema=False)
    async def live() -> Response:
        return Response(await watch.look(), headers=HEADERS, media_type="text/html")

    @made.get("/metrics")
    async def told(request: Request) -> Response:
        body, kind = metrics.text(request.headers.get("accept", ""))
        return Response(body, media_type=None, headers={"Content-Type": kind})

    known = {getattr(route, "path", "") for route in made.routes}
    made.add_middleware(Gate, token=options.token, max_body_bytes=options.max_body_bytes,
                        heard=lambda path, status: metrics.answered(path if path in known else "other", status))
    _tell_errors(made)
    return made


def _tell_errors(made: FastAPI) -> None:
    """Every error is an object of OpenAI's."""
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, MoelabError)
        return error_response(refusal(error))

    async def wrong(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(wrong_body(error.errors()))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = {404: f"there is nothing at {request.url.path}",
                405: f"{request.url.path} is not asked by {request.method}",
                400: "the body is not what is read here: it should be a JSON object"}.get(error.status_code)
        return error_response(Refusal(error.status_code, text or str(error.detail)))

    made.add_exception_handler(MoelabError, ours)
    made.add_exception_handler(RequestValidationError, wrong)
    made.add_exception_handler(HTTPException, http)
