"""What clients talk to where replicas elsewhere rank: takes requests, and forwards them.

A query whose replica dies is asked of another one, for ranking changes nothing. This module must
not know where replicas run, nor what they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tailrank.core.errors import ServingError, WorkerDied
from tailrank.serving.answers import answered, read_body
from tailrank.serving.forwarding import Forwarded, Replied, forwarded
from tailrank.serving.http import BearerToken, http_error
from tailrank.serving.rank_request import RequestLimits

_log = logging.getLogger(__name__)

# As for worker processes: what has ended two would end the third, too.
_DEATHS_MAX = 2
# A replica that nobody reaches for the moment.
_PAUSE_S = 0.02
# A new replica loads its model in less, unless that is large.
_PATIENCE_S, _PROBE_S = 30.0, 5.0
# They tell of one engine, from one second to the next.
_OF_ONE_ENGINE = ("/", "/v1/stats")
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class ReplicaLost(WorkerDied):
    """A replica gave no answer, and gives none to this request any more.

    Args:
        has_died: it is gone; else it could not be reached.
    """

    def __init__(self, has_died: bool) -> None:
        super().__init__("a replica died" if has_died else "a replica cannot be reached")
        self.has_died = has_died


class Replicas(Protocol):
    """All that rank."""

    async def ask(self, asked: Forwarded) -> Replied:
        """One of them; waits while there is none.

        Raises:
            ReplicaLost: it ended before it answered, or could not be reached.
            ServingError: there will be none.
        """

    async def ask_all(self, asked: Forwarded) -> Mapping[str, Replied]:
        """All that answer, by their names; raises `ServingError` if there are none."""


def build_front(
    replicas: Replicas, limits: RequestLimits | None = None, token: bytes | None = None
) -> ASGIApp:
    """The application in front of replicas, each of which has that of `http.build_app`.

    Args:
        replicas: rank.
        limits: what a client may ask for, as replicas have them; None: the defaults.
        token: what clients have to bring, as replicas have it.
    """
    limits = limits or RequestLimits()
    asked_again = _Again()

    async def forward(request: Request) -> Response:
        asked = forwarded(request, await read_body(request, limits))
        return _response(await _insist(replicas, asked, asked_again))

    async def scrape(request: Request) -> Response:
        try:
            async with asyncio.timeout(_PROBE_S):
                found = await replicas.ask_all(forwarded(request, b""))
        except TimeoutError:
            raise ServingError("no replica answers") from None
        texts = {name: reply.body.decode() for name, reply in found.items() if reply.status == 200}
        return Response(
            merged(texts, asked_again.num_queries),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    async def nowhere(request: Request) -> Response:
        raise HTTPException(404, "each replica counts for itself; /metrics has all of them")

    app: ASGIApp = Starlette(
        routes=[
            Route("/metrics", answered(scrape)),
            *(Route(path, nowhere) for path in _OF_ONE_ENGINE),
            Route("/v2/{path:path}", answered(forward, in_one_text=True), methods=_METHODS),
            Route("/{path:path}", answered(forward), methods=_METHODS),
        ],
        exception_handlers={HTTPException: http_error},
    )
    return app if token is None else BearerToken(app, token)


class _Again:
    """Counts queries that were asked again."""

    num_queries = 0


async def _insist(replicas: Replicas, asked: Forwarded, again: _Again) -> Replied:
    """Ask, and ask another replica if one is lost.

    Raises:
        ServingError: nobody answers.
    """
    num_deaths = 0
    try:
        async with asyncio.timeout(_PROBE_S if "/health/" in asked.path else _PATIENCE_S):
            while True:
                try:
                    return await replicas.ask(asked)
                except ReplicaLost as error:
                    num_deaths += error.has_died
                    if num_deaths == _DEATHS_MAX:
                        raise
                    _log.warning("%s: a request is sent to another", error)
                    again.num_queries += 1
                # It may have been taken in before. So the next one is not to turn it away because
                # it is late by now.
                asked = asked._replace(waited_ns=0)
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise ServingError("no replica answers") from None


def _response(reply: Replied) -> Response:
    response = Response(reply.body, reply.status)
    response.raw_headers = list(reply.headers)
    return response


def merged(texts: Mapping[str, str], num_asked_again: int) -> bytes:
    """The metrics of all replicas in Prometheus' text format, each with a label `replica`.

    Args:
        texts: of each replica, by its name.
        num_asked_again: queries whose replica was lost.
    """
    registry = CollectorRegistry()
    registry.register(_Merged(texts, num_asked_again))
    return generate_latest(registry)


class _Merged(Collector):
    def __init__(self, texts: Mapping[str, str], num_asked_again: int) -> None:
        self._texts, self._num_asked_again = texts, num_asked_again

    def collect(self) -> list[Metric]:
        families: dict[str, Metric] = {}
        for name, text in self._texts.items():
            for family in text_string_to_metric_families(text):
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                known.samples += [
                    sample._replace(labels={**sample.labels, "replica": name})
                    for sample in family.samples
                ]
        replicas = GaugeMetricFamily("tailrank_replicas", "Replicas that answer.")
        replicas.add_metric([], len(self._texts))
        again = CounterMetricFamily(
            "tailrank_asked_again", "Requests sent to another replica because one was lost."
        )
        again.add_metric([], self._num_asked_again)
        return [*families.values(), replicas, again]
