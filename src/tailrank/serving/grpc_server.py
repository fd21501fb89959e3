"""The engine over gRPC: `inference.GRPCInferenceService` of the Open Inference Protocol.

Every fault of a request is a status with a reason, as HTTP has it: INVALID_ARGUMENT, and
RESOURCE_EXHAUSTED, with `retry-after` in the trailing metadata, for what is turned away. The
deadline of a call is the query's. No feature value is ever logged.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from tailrank import __version__
from tailrank.core.errors import ConfigError, Overloaded, RequestError, ServingError
from tailrank.serving.answers import ranked_by
from tailrank.serving.engine import Engine
from tailrank.serving.grpc_inference import infer_response, metadata_response, read_infer
from tailrank.serving.grpc_library import grpc
from tailrank.serving.grpc_messages import SERVICE, message
from tailrank.serving.open_inference import unknown_model
from tailrank.serving.rank_request import RequestLimits, fault, fault_text
from tailrank.serving.server import ServerConfig
from tailrank.serving.tensors import candidates_of, scores_of
from tailrank.serving.turns import Turns

_log = logging.getLogger(__name__)
_OPEN_TO_ALL = ("ServerLive", "ServerReady")  # probes bring no token
# What a client may be told in the head of an answer; its end is cut off.
_DETAILS_MAX = 2000
_HANDSHAKE_MS = 10_000
_IDENTITY_ONLY = 1
# What a call costs the loop, under load. gRPC keeps those that the loop has not taken yet, and does
# not say since when: as many as would be late anyway it is told to cancel.
_CALL_NS = 1_000_000
_PENDING_MIN, _PENDING_MAX = 32, 3000
# The library takes one call after another, each in some three looks of the loop. With more of them
# than queries have turns, those that are too many wait here, where it is known for how long.
_LOOKS = 10
_CAME_NS: ContextVar[int] = ContextVar("came_ns")
Method = Callable[[Any, "grpc.aio.ServicerContext"], Awaitable[Any]]
Handler = Callable[[AsyncIterator[bytes], "grpc.aio.ServicerContext"], Awaitable[bytes]]
Metadata = tuple[tuple[str, str], ...]


class GrpcServer:
    """Answers on a port from `start` to `stop`.

    Args:
        engine: ranks; others start and drain it.
        limits: what a client may ask for.
        token: what clients have to bring as `authorization: Bearer …`; None: nothing.
        config: where to listen, with which certificate, and for how many at once.
        held: the port; see `hold_grpc_port`.
    """

    def __init__(
        self,
        engine: Engine,
        limits: RequestLimits,
        token: bytes | None,
        config: ServerConfig,
        held: socket.socket,
    ) -> None:
        self._service, self._limits = InferenceService(engine, limits), limits
        self._token, self._config, self._held = token, config, held
        self._server: grpc.aio.Server

    async def start(self) -> None:
        """Listen, in the running event loop.

        Raises:
            RequestError: somebody else has just taken the port.
        """
        config, port = self._config, self._held.getsockname()[1]
        in_time = self._service.engine.config.sla.latency_ns // _CALL_NS
        pending_max = min(max(_PENDING_MIN, in_time), _PENDING_MAX)
        options = {
            "grpc.max_receive_message_length": self._limits.body_bytes_max,
            # A few bytes that become many when they are unpacked would pass that limit.
            "grpc.compression_enabled_algorithms_bitset": _IDENTITY_ONLY,
            "grpc.max_allowed_incoming_connections": config.connections_max,
            "grpc.server_handshake_timeout_ms": _HANDSHAKE_MS,
            "grpc.so_reuseport": 0,
            # From the first on some are, from the second on all.
            "grpc.server.max_pending_requests": pending_max // 2,
            "grpc.server.max_pending_requests_hard_limit": pending_max,
        }
        self._server = grpc.aio.server(
            interceptors=[_Clock(), *([] if self._token is None else [_BearerToken(self._token)])],
            options=list(options.items()),
            maximum_concurrent_rpcs=config.connections_max,
        )
        self._server.add_generic_rpc_handlers((self._service.handler(),))
        self._held.close()
        try:
            self._listen(f"{f'[{config.host}]' if ':' in config.host else config.host}:{port}")
        except RuntimeError as error:
            raise RequestError("--grpc-port", f"cannot listen on port {port}: {error}") from None
        await self._server.start()

    def _listen(self, place: str) -> None:
        cert, key = self._config.tls_cert, self._config.tls_key
        if cert is None or key is None:
            self._server.add_insecure_port(place)
        else:
            pair = (key.read_bytes(), cert.read_bytes())
            self._server.add_secure_port(place, grpc.ssl_server_credentials((pair,)))

    async def stop(self, grace_seconds: float) -> None:
        """Take no new call, and let those that have come end."""
        await self._server.stop(grace_seconds)


@dataclass(frozen=True, slots=True)
class InferenceService:
    """The calls of the protocol.

    Args:
        engine: ranks.
        limits: what a client may ask for.
        turns: in which queries come to the engine.
    """

    engine: Engine
    limits: RequestLimits
    turns: Turns = field(default_factory=lambda: Turns(_LOOKS))

    def handler(self) -> grpc.GenericRpcHandler:
        """All of them, as a server takes them."""
        methods: dict[str, Method] = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            # Bytes in: what cannot be read is to be told why. As a stream, of which one message is
            # read: for a single one gRPC would wait for ever.
            {
                name: grpc.stream_unary_rpc_method_handler(
                    _answered(method, message(f"{name}Request"), self.limits.body_seconds_max)
                )
                for name, method in methods.items()
            },
        )

    async def server_live(self, asked: Any, context: object) -> Any:
        """Whether the workers run."""
        return message("ServerLiveResponse")(live=self.engine.is_alive)

    async def server_ready(self, asked: Any, context: object) -> Any:
        """Whether queries are taken."""
        return message("ServerReadyResponse")(ready=self.engine.is_ready)

    async def model_ready(self, asked: Any, context: object) -> Any:
        """Whether a model is served, and queries are taken."""
        unknown = unknown_model(self.engine.model, asked.name, asked.version or None)
        ready = unknown is None and self.engine.is_ready
        return message("ModelReadyResponse")(ready=ready)

    async def server_metadata(self, asked: Any, context: object) -> Any:
        """What runs."""
        return message("ServerMetadataResponse")(name="tailrank", version=__version__)

    async def model_metadata(self, asked: Any, context: object) -> Any:
        """What a model takes and gives."""
        self._check_model(asked.name, asked.version)
        return metadata_response(self.engine.model)

    async def model_infer(self, asked: Any, context: grpc.aio.ServicerContext) -> Any:
        """Scores."""
        async with self.turns:
            self._check_model(asked.model_name, asked.model_version)
            served = self.engine.model
            request = read_infer(asked, served, self.limits)
            candidates = candidates_of(
                request.tensors, served, self.limits, unknown_default=request.unknown_default
            )
            waited_ns = time.monotonic_ns() - _CAME_NS.get()
            left = context.time_remaining()
            times = [] if request.deadline_ns is None else [request.deadline_ns]
            times += [] if left is None else [max(1, round(left * 1e9)) + waited_ns]
            future = self.engine.submit(candidates, min(times, default=None), waited_ns)
        ranked = await ranked_by(future)
        answer = infer_response(request, ranked.model, scores_of(ranked))
        self.engine.told(ranked)
        return answer

    def _check_model(self, name: str, version: str) -> None:
        reason = unknown_model(self.engine.model, name, version or None)
        if reason is not None:
            raise _Refused(grpc.StatusCode.NOT_FOUND, reason)


class _Refused(Exception):
    """A status and a reason."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Clock(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Notes when the loop took a call: what it waits for then counts as waiting."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call."""
        _CAME_NS.set(time.monotonic_ns())
        return await continuation(details)


class _BearerToken(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets those pass that bring the token; compares in constant time."""

    def __init__(self, token: bytes) -> None:
        self._wanted = b"Bearer " + token

        async def refuse(messages: object, context: grpc.aio.ServicerContext) -> None:
            reason = "expected metadata authorization: Bearer TOKEN"
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)

        # As if it took a stream of messages: so none is read.
        self._refuse = grpc.stream_unary_rpc_method_handler(refuse)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        """The handler of a call."""
        if not details.method.endswith(tuple(f"/{name}" for name in _OPEN_TO_ALL)):
            given = dict(details.invocation_metadata).get("authorization", "")
            given = given.encode() if isinstance(given, str) else given
            if not hmac.compare_digest(given, self._wanted):
                return self._refuse
        return await continuation(details)


def _answered(method: Method, asked_class: Any, seconds_max: float) -> Handler:
    """A method on bytes, with whatever it raises as a status and a reason."""

    async def told(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> bytes:
        try:
            raw = await _only(messages, seconds_max)
            answer = await method(asked_class.FromString(raw), context)
            content: bytes = answer.SerializeToString()
            return content
        except Exception as error:
            code, reason, metadata = _status_of(error)
        await context.abort(code, reason[:_DETAILS_MAX], metadata)
        raise AssertionError("abort raises")

    return told


async def _only(messages: AsyncIterator[bytes], seconds_max: float) -> bytes:
    """The message of a call."""
    try:
        async with asyncio.timeout(seconds_max):
            async for one in messages:
                return one
    except TimeoutError:
        reason = f"the message did not arrive within {seconds_max:g} s"
        raise _Refused(grpc.StatusCode.DEADLINE_EXCEEDED, reason) from None
    raise _Refused(grpc.StatusCode.INVALID_ARGUMENT, "there is no message")


def _status_of(error: Exception) -> tuple[grpc.StatusCode, str, Metadata]:
    """What a client is told of a fault."""
    if isinstance(error, DecodeError):
        return grpc.StatusCode.INVALID_ARGUMENT, "not a message of the protocol", ()
    if isinstance(error, _Refused):
        return error.code, str(error), ()
    if isinstance(error, ConfigError | RequestError):
        return grpc.StatusCode.INVALID_ARGUMENT, fault_text(fault(error)), ()
    if isinstance(error, Overloaded):
        return grpc.StatusCode.RESOURCE_EXHAUSTED, str(error), _come_again(error)
    if isinstance(error, ServingError):
        return grpc.StatusCode.UNAVAILABLE, str(error), ()
    # Its text may hold feature values.
    _log.error("a query failed: %s", type(error).__name__)
    return grpc.StatusCode.INTERNAL, "the query could not be ranked", ()


def _come_again(error: Overloaded) -> Metadata:
    """When: for people and proxies, and for clients that try again by themselves."""
    seconds = max(1, math.ceil(error.retry_after_ns / 1e9))
    milliseconds = max(1, math.ceil(error.retry_after_ns / 1e6))
    return (
        ("retry-after", str(seconds)),
        ("grpc-retry-pushback-ms", str(milliseconds)),
    )
