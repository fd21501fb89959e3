"""The engine over HTTP: `/v1/rank`, health, metrics, the live page, and what describes them."""

from __future__ import annotations

import hmac
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrank.serving import live_page, open_inference_http, repository_http
from tailrank.serving.answers import answered, json_answer, ranked_by, read_body, waited_ns
from tailrank.serving.engine import Engine
from tailrank.serving.metrics import EngineMetrics
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits, answer, parse_rank
from tailrank.serving.recent import RecentSeconds
from tailrank.serving.repository_http import Repository
from tailrank.serving.turns import Turns

_PROBES = ("/health/", "/v2/health/")  # bring no token
_PAGE = "/"  # holds no number: it asks for them, with the token that it was given


def build_app(
    engine: Engine,
    limits: RequestLimits | None = None,
    token: bytes | None = None,
    grpc_port: int | None = None,
    repository: Repository | None = None,
) -> ASGIApp:
    """The application in front of an engine, which others start and drain.

    Args:
        engine: ranks.
        limits: what a client may ask for; None: the defaults.
        token: what clients have to bring as `Authorization: Bearer …`; None: nothing.
        grpc_port: where gRPC is spoken besides, for those who ask; None: nowhere.
        repository: how clients may have other models served; None: they may not.
    """
    limits = limits or RequestLimits()
    metrics, recent, turns = EngineMetrics(engine), RecentSeconds(engine), Turns()

    async def rank(request: Request) -> Response:
        body = await read_body(request, limits)
        async with turns:
            asked = parse_rank(body, engine.models, limits)
            future = engine.rank(asked.candidates, asked.deadline_ns, waited_ns(request))
        ranked = await ranked_by(future)
        content = answer(asked, ranked)
        engine.told(ranked)
        return Response(content, media_type="application/json")

    async def live(request: Request) -> Response:
        return json_answer({"live": engine.is_alive}, 200 if engine.is_alive else 503)

    async def ready(request: Request) -> Response:
        return json_answer({"ready": engine.is_ready}, 200 if engine.is_ready else 503)

    async def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        described = describe(
            engine.models,
            limits,
            with_token=token is not None,
            grpc_port=grpc_port,
            changes="none" if repository is None else repository.changes,
        )
        return json_answer(described)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        with recent.kept():
            yield

    queries = [Route("/v1/rank", answered(rank), methods=["POST"])]
    queries += open_inference_http.infer_routes(engine, limits, turns)
    app: ASGIApp = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", scrape),
            Route("/openapi.json", openapi),
            *live_page.routes(engine, recent),
            *open_inference_http.routes(engine),
            *(repository_http.routes(engine, limits, repository) if repository else ()),
            *queries,
        ],
        exception_handlers={HTTPException: http_error},
    )
    app = _QueriesFirst(app, queries)
    return app if token is None else BearerToken(app, token)


class _QueriesFirst:
    """Answers queries past router and middleware, which take longer than all that is ours.

    Args:
        app: answers everything, queries as well.
        queries: the routes that are asked for each query; their endpoints raise nothing.
    """

    def __init__(self, app: ASGIApp, queries: Sequence[Route]) -> None:
        self._app, self._queries = app, queries

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            for route in self._queries:
                found = route.path_regex.match(scope["path"])
                if found is not None:
                    scope["path_params"] = found.groupdict()
                    response = await route.endpoint(Request(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class BearerToken:
    """Lets those pass that bring the token; compares in constant time.

    Args:
        app: answers them.
        token: what they bring as `Authorization: Bearer …`.
    """

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._wanted = app, b"Bearer " + token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                reason = {"error": {"reason": "expected a header Authorization: Bearer TOKEN"}}
                await json_answer(reason, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(path: str) -> bool:
    """Whether a path needs no token."""
    return path == _PAGE or path.startswith(_PROBES)


async def http_error(request: Request, error: Any) -> Response:
    """Unknown path, or wrong method."""
    return json_answer({"error": {"reason": error.detail}}, error.status_code, error.headers)
