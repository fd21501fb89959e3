"""What clients are told: bodies are read within limits, faults become a status and a reason.

Every fault of a request is a 4xx that names the field and what is allowed; what is turned away is a
429 that says when to come again. No feature value is ever logged.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from tailrank.core.errors import ConfigError, Overloaded, RequestError, ServingError, SwapUnderWay
from tailrank.serving.rank_request import RequestLimits, fault, fault_text
from tailrank.serving.ranking import Ranked

CAME_NS = "tailrank.came_ns"
"""In the state of a request: when it came, by `time.monotonic_ns`."""
_log = logging.getLogger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]


def answered(endpoint: Endpoint, *, in_one_text: bool = False) -> Endpoint:
    """The endpoint, with whatever it raises as a status and a reason.

    Args:
        endpoint: raises what parsing and the engine raise.
        in_one_text: an error is one text, as in the Open Inference Protocol; else an object.
    """

    def error_answer(
        status: int, error: dict[str, Any], headers: Mapping[str, str] | None = None
    ) -> Response:
        told = fault_text(error) if in_one_text else error
        return json_answer({"error": told}, status, headers)

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (ConfigError, RequestError) as error:
            return error_answer(400, fault(error))
        except Overloaded as error:
            body = {
                "reason": str(error),
                "code": error.reason,
                "retry_after_ms": error.retry_after_ns / 1e6,
            }
            seconds = max(1, math.ceil(error.retry_after_ns / 1e9))
            return error_answer(429, body, {"Retry-After": str(seconds)})
        except SwapUnderWay as error:
            return error_answer(409, {"reason": str(error)})
        except ServingError as error:
            return error_answer(503, {"reason": str(error)})
        except HTTPException as error:
            return error_answer(error.status_code, {"reason": error.detail}, error.headers)
        except ClientDisconnect:
            # Nobody reads this, and it is no fault of ours.
            return Response(status_code=400)
        except Exception as error:
            # Its text may hold feature values.
            _log.error("a query failed: %s", type(error).__name__)
            return error_answer(500, {"reason": "the query could not be ranked"})

    return told


async def read_body(request: Request, limits: RequestLimits) -> bytes:
    """The body of a request.

    Raises:
        HTTPException: 413, it is too large; 408, it does not arrive in time.
        ClientDisconnect: the client left in the middle of it.
    """
    most = limits.body_bytes_max
    too_large = HTTPException(413, f"the body is larger than {most} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    chunks, size, more = [], 0, True
    try:
        async with asyncio.timeout(limits.body_seconds_max):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunks.append(message.get("body", b""))
                size, more = size + len(chunks[-1]), message.get("more_body", False)
                if size > most:
                    raise too_large
    except TimeoutError:
        reason = f"the body did not arrive within {limits.body_seconds_max:g} s"
        raise HTTPException(408, reason) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def ranked_by(future: Future[Ranked]) -> Ranked:
    """What an engine answers; `asyncio.wrap_future` takes the loop twice as long.

    Raises:
        Exception: what the future fails with.
    """
    loop = asyncio.get_running_loop()
    answered = loop.create_future()

    def tell(future: Future[Ranked]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(wake)

    def wake() -> None:
        if not answered.done():
            answered.set_result(None)

    future.add_done_callback(tell)
    try:
        await answered
    except asyncio.CancelledError:
        future.cancel()
        raise
    return future.result()


def waited_ns(request: Request) -> int:
    """How long a request has waited for the loop, since it came; 0 where nobody knows."""
    now_ns = time.monotonic_ns()
    came_ns = request.scope.get("state", {}).get(CAME_NS, now_ns)
    assert isinstance(came_ns, int)
    return now_ns - came_ns


def json_answer(
    body: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A body as JSON."""
    return Response(orjson.dumps(body), status, headers, "application/json")
