"""Connections of a load test that speak gRPC: calls on one channel.

Knows no HTTP but that the server's `/openapi.json` says where gRPC is spoken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from tailrank.core.errors import RequestError
from tailrank.runtime.record import QueryOutcome
from tailrank.serving.grpc_library import grpc
from tailrank.serving.grpc_messages import SERVICE, ModelInferRequest
from tailrank.serving.load_client import Run
from tailrank.serving.load_queries import Schema
from tailrank.serving.load_target import LoadTarget, Pieces
from tailrank.serving.load_tensors import Tensor
from tailrank.serving.openapi import GRPC_PORT

_METHOD = f"/{SERVICE}/ModelInfer"
_PATIENCE_S = 10.0
_SHOWN = 200


class GrpcTarget(NamedTuple):
    """Where a server speaks gRPC.

    Args:
        address: host and port.
        credentials: how it is trusted; None: no TLS.
        metadata: of every call.
    """

    address: str
    credentials: Any
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, target: LoadTarget, document: Schema) -> GrpcTarget:
        """The port that the server names, on its host.

        Raises:
            RequestError: it names none.
        """
        port = document.get("info", {}).get(GRPC_PORT)
        if not isinstance(port, int):
            raise RequestError("--protocol", "the server has no --grpc-port")
        credentials = None
        if target.tls is not None:
            root = None if target.ca_file is None else target.ca_file.read_bytes()
            credentials = grpc.ssl_channel_credentials(root)
        host = f"[{target.host}]" if ":" in target.host else target.host
        metadata = () if target.token is None else (("authorization", f"Bearer {target.token}"),)
        return cls(f"{host}:{port}", credentials, metadata)

    def channel(self, library: Any) -> Any:
        """A channel of `grpc`, or of `grpc.aio`."""
        if self.credentials is None:
            return library.insecure_channel(self.address)
        return library.secure_channel(self.address, self.credentials)

    def try_once(self, request: bytes) -> None:
        """Ask once, to see that requests of this kind are understood.

        Raises:
            RequestError: the answer was neither good nor *too busy*; says what it was.
        """
        with self.channel(grpc) as channel:
            call = channel.unary_unary(_METHOD)
            try:
                call(request, timeout=_PATIENCE_S, metadata=self.metadata)
            except grpc.RpcError as error:
                if not _is_too_busy(error):
                    reason = f"gRPC at {self.address}: {_in_short(error)}"
                    raise RequestError("--url", reason) from None


def infer_request(model: str, tensors: Sequence[Tensor]) -> bytes:
    """A message that asks for the scores of a query."""
    message = ModelInferRequest(model_name=model)
    for name, datatype, shape, raw in tensors:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
        message.raw_input_contents.append(bytes(raw))
    request: bytes = message.SerializeToString()
    return request


class GrpcConnector:
    """Makes them.

    Args:
        target: the server.
        run: that they are for.
    """

    def __init__(self, target: GrpcTarget, run: Run) -> None:
        self._target, self._run = target, run
        self._channel: Any = None

    async def connect(self) -> None:
        """Make one more."""
        if self._channel is None:
            self._channel = self._target.channel(grpc.aio)
            try:
                await asyncio.wait_for(self._channel.channel_ready(), _PATIENCE_S)
            except TimeoutError:
                raise OSError(f"no gRPC at {self._target.address}") from None
        infer = self._channel.unary_unary(_METHOD)
        self._run.opened(_Calls(self._run, infer, self._target.metadata))

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    def cpu_ns(self) -> int:
        """Of the whole process: gRPC has threads of its own."""
        return time.process_time_ns()


class _Calls:
    """One call after the other."""

    def __init__(self, run: Run, infer: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        self._run, self._infer, self._metadata = run, infer, metadata
        self._task: asyncio.Task[None] | None = None

    def ask(self, place: int, request: Pieces) -> None:
        """Send the request of a query."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._ask(place, b"".join(request)))

    async def _ask(self, place: int, request: bytes) -> None:
        outcome, why = QueryOutcome.ANSWERED, ""
        try:
            await self._infer(request, metadata=self._metadata)
        except grpc.RpcError as error:
            outcome = QueryOutcome.REJECTED if _is_too_busy(error) else QueryOutcome.FAILED
            why = _in_short(error)
        self._run.end(place, outcome, why)
        self._run.free(self)

    def hang_up(self) -> None:
        """Cancel what is open."""
        if self._task is not None:
            self._task.cancel()
        asyncio.get_running_loop().call_soon(self._run.lost, self)


def _is_too_busy(error: Any) -> bool:
    """Whether a query was turned away; what is too large has the same status, but no hint.

    The server's library itself cancels calls, without a word, that wait there in too great numbers.
    """
    if error.code() is grpc.StatusCode.CANCELLED:
        return True
    metadata = dict(error.trailing_metadata() or ())
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "retry-after" in metadata


def _in_short(error: Any) -> str:
    return f"{error.code().name}: {str(error.details())[:_SHOWN]}"
