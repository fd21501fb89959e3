"""The engine over HTTP: `/v1/rank`, health, metrics and the document that describes them.

Every fault of a request is a 4xx whose body names the field and what is allowed; what is turned
away is a 429 that says when to come again. No feature value is ever logged.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrank.core.errors import ConfigError, Overloaded, RequestError, ServingError
from tailrank.serving.engine import Engine
from tailrank.serving.metrics import EngineMetrics
from tailrank.serving.openapi import describe
from tailrank.serving.rank_request import RequestLimits, answer, fault, parse_rank

_log = logging.getLogger(__name__)
_OPEN_TO_ALL = "/health/"  # probes bring no token
Endpoint = Callable[[Request], Awaitable[Response]]


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
        asked = parse_rank(await read_body(request, limits), [engine.model], limits)
        features = asked.candidates.features(engine.model)
        future = engine.submit(features, asked.deadline_ns)
        ranked = await asyncio.wrap_future(future)
        return Response(answer(asked, ranked), media_type="application/json")

    async def live(request: Request) -> Response:
        return _json({"live": engine.is_alive}, 200 if engine.is_alive else 503)

    async def ready(request: Request) -> Response:
        return _json({"ready": engine.is_ready}, 200 if engine.is_ready else 503)

    async def scrape(request: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(request: Request) -> Response:
        return _json(describe(engine.model, limits, with_token=token is not None))

    app: ASGIApp = Starlette(
        routes=[
            Route("/v1/rank", in_words(rank), methods=["POST"]),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", scrape),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    return app if token is None else _BearerToken(app, token)


def in_words(endpoint: Endpoint) -> Endpoint:
    """The endpoint, with whatever it raises as a status and a reason."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ConfigError, RequestError) as error:
            return _json({"error": fault(error)}, 400)
        except Overloaded as error:
            body = {
                "reason": str(error),
                "code": error.reason,
                "retry_after_ms": error.retry_after_ns / 1e6,
            }
            seconds = max(1, math.ceil(error.retry_after_ns / 1e9))
            return _json({"error": body}, 429, {"Retry-After": str(seconds)})
        except ServingError as error:
            return _json({"error": {"reason": str(error)}}, 503)
        except (HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            # Its text may hold feature values.
            _log.error("a query failed: %s", type(error).__name__)
            return _json({"error": {"reason": "the query could not be ranked"}}, 500)

    return told


async def read_body(request: Request, limits: RequestLimits) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: 413, it is too large; 408, it does not arrive in time.
    """
    most = limits.body_bytes_max
    too_large = HTTPException(413, f"the body is larger than {most} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds_max):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        reason = f"the body did not arrive within {limits.body_seconds_max:g} s"
        raise HTTPException(408, reason) from None
    return bytes(body)


class _BearerToken:
    """Lets those pass that bring the token; compares in constant time."""

    def __init__(self, app: ASGIApp, token: bytes) -> None:
        self._app, self._wanted = app, b"Bearer " + token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(_OPEN_TO_ALL):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._wanted):
                reason = {"error": {"reason": "expected a header Authorization: Bearer TOKEN"}}
                await _json(reason, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


async def _http_error(request: Request, error: Any) -> Response:
    """Unknown path, wrong method, a body too large or too slow."""
    return _json({"error": {"reason": error.detail}}, error.status_code, error.headers)
