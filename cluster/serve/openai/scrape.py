"""The door of a machine that only Prometheus opens: metrics and health, and nothing that can be asked of it."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cluster.observe.metrics.collector import Metrics
from cluster.serve.contract import Machine
from cluster.serve.openai.errors import json_response
from cluster.serve.openai.gate import Gate
from cluster.serve.options import ServeOptions


def scrape_app(machine: Machine, options: ServeOptions) -> Gate:
    """`/metrics` and `/health` of a machine; a token is asked for as at the HTTP door."""
    metrics = Metrics(machine)

    async def told(request: Request) -> Response:
        body, kind = metrics.text(request.headers.get("accept", ""))
        return Response(body, media_type=None, headers={"Content-Type": kind})

    async def health(_: Request) -> Response:
        state = machine.status().state
        return json_response({"status": state}, 200 if state == "ready" else 503)

    paths = {"/metrics": told, "/health": health}
    app = Starlette(routes=[Route(path, answer) for path, answer in paths.items()])
    return Gate(app, options.token, options.max_body_bytes,
                lambda path, status: metrics.answered(path if path in paths else "other", status))
