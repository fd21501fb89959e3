"""The engine over HTTP: `/v1/rank`, health, metrics and the document that describes them."""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrank.serving import open_inference_http
from tailrank.serving.answers import answered, json_answer, read_body
from tailrank.serving.engine import Engine
from tailrank.serving.metrics import EngineMetrics
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits, answer, parse_rank

_OPEN_TO_ALL = ("/health/", "/v2/health/")  # probes bring no token


def build_app(
    engine: Engine, limits: RequestLimits | None = None, token: bytes | None = None
) -> ASGIApp:
    """The application in front of an engine, which others start and drain.

    Args:
        engine: ranks.
        limits: what a client may ask for; None: the defaults.
        token: what clients have to bring as `Authorization: Bearer …`; None: nothing.
    """
    limits = limits or RequestLimits()
    metrics = EngineMetrics(engine)

    async def rank(request: Request) -> Response:
        asked = parse_rank(await read_body(request, limits), engine.models, limits)
        future = engine.rank(asked.candidates, asked.deadline_ns)
        ranked = await asyncio.wrap_future(future)
        return Response(answer(asked, ranked), media_type="application/json")

    async def live(request: Request) -> Response:
        return json_answer({"live": engine.is_alive}, 200 if engine.is_alive else 503)

    async def ready(request: Request) -> Response:
        return json_answer({"ready": engine.is_ready}, 200 if engine.is_ready else 503)

    async def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        return json_answer(describe(engine.models, limits, with_token=token is not None))

    app: ASGIApp = Starlette(
        routes=[
            Route("/v1/rank", answered(rank), methods=["POST"]),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", scrape),
            Route("/openapi.json", openapi),
            *open_inference_http.routes(engine, limits),
        ],
        exception_handlers={HTTPException: _http_error, ClientDisconnect: _gone},
    )
    return app if token is None else _BearerToken(app, token)


class _BearerToken:
    """Lets those pass that bring the token; compares in constant time."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._wanted = app, b"Bearer " + token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_OPEN_TO_ALL):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                reason = {"error": {"reason": "expected a header Authorization: Bearer TOKEN"}}
                await json_answer(reason, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown path, wrong method, a body too large or too slow."""
    return json_answer({"error": {"reason": error.detail}}, error.status_code, error.headers)


async def _gone(request: Request, error: Any) -> Response:
    """The client left before its body was there: nobody reads this, and it is no fault of ours."""
    return Response(status_code=400)
