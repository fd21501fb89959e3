"""The live page at `/`, and `/v1/stats`, which it asks once a second.

The page is one file that loads nothing; the browser is told to refuse everything from elsewhere. It
holds no number, so that it needs no token; its questions do.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import time
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailrank import __version__
from tailrank.core.errors import RequestError
from tailrank.serving.answers import answered, json_answer
from tailrank.serving.engine import Engine
from tailrank.serving.recent import WINDOW_PERIODS, RecentSeconds
from tailrank.serving.stats import BOUNDS_ITEMS

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def routes(engine: Engine, recent: RecentSeconds) -> list[Route]:
    """The page and what it asks.

    Args:
        engine: read, never written.
        recent: its last minutes; somebody keeps it.
    """
    html = resources.files("tailrank.serving").joinpath("live.html").read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _security_policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def page(request: Request) -> Response:
        return Response(html, 200, headers, "text/html; charset=utf-8")

    async def stats(request: Request) -> Response:
        since = _since(request.query_params.get("since", "0"))
        body = now(engine) | {
            "period_seconds": recent.period_s,
            "window_seconds": recent.period_s * WINDOW_PERIODS,
            "up_seconds": recent.up_seconds,
            "seconds": recent.since(since),
        }
        return json_answer(body, headers={"Cache-Control": "no-store"})

    return [Route("/", page), Route("/v1/stats", answered(stats))]


def now(engine: Engine) -> dict[str, Any]:
    """What runs, and what it has done since the start."""
    stats, placed, config = engine.stats, engine.placed, engine.config
    return {
        "at": round(time.time(), 3),
        "ready": engine.is_ready,
        "version": __version__,
        "model": engine.model.name,
        "model_version": engine.model.version,
        "stages": [model.name for model in engine.models],
        "policy": config.policy.policy,
        "batch_items_max": config.policy.batch_items_max,
        "batch_bounds": BOUNDS_ITEMS,
        "workers": config.num_workers,
        "executor": placed.executor,
        "sla": {"percentile": config.sla.percentile, "limit_ms": config.sla.latency_ns / 1e6},
        "totals": {
            "queries": stats.queries,
            "items": stats.items,
            "batches": stats.batches,
            "splits": stats.splits,
            "failed": stats.failed,
            "slo_violations": stats.slo_violations,
            "shed": dict(stats.shed),
            "worker_deaths": stats.worker_deaths + placed.num_died,
            "worker_restarts": stats.worker_restarts + placed.num_replaced,
        },
    }


def _since(text: str) -> float:
    """The time that was asked for."""
    try:
        at = float(text)
    except ValueError:
        at = math.nan
    if not math.isfinite(at):
        raise RequestError("since", "expected seconds of Unix time, as `at` of an answer has them")
    return at


def _security_policy(html: str) -> str:
    """What a browser may do with the page: run its own script, and ask this server."""
    digests: dict[str, str] = {}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        digests[kind] = f"{kind}-src 'sha256-{digest}'"
    return "; ".join(
        (
            *("default-src 'none'", "connect-src 'self'", "img-src data:", *digests.values()),
            *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        )
    )
