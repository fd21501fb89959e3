"""The routes of the Open Inference Protocol: `/v2/…`.

Its errors are an object with one text, `{"error": "…"}`.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailrank import __version__
from tailrank.core.errors import RequestError
from tailrank.serving.answers import answered, json_answer, ranked_by, read_body, waited_ns
from tailrank.serving.engine import Engine
from tailrank.serving.open_inference import (
    HEADER_LENGTH,
    describe_model,
    infer_answer,
    parse_infer,
    unknown_model,
)
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.tensors import candidates_of, scores_of
from tailrank.serving.turns import Turns

_EXTENSIONS = ["binary_tensor_data"]


_MODEL_PATHS = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")


def routes(engine: Engine) -> list[Route]:
    """The protocol's routes in front of an engine, but those that rank."""

    async def server(request: Request) -> Response:
        return json_answer({"name": "tailrank", "version": __version__, "extensions": _EXTENSIONS})

    async def live(request: Request) -> Response:
        return json_answer({"live": engine.is_alive}, 200 if engine.is_alive else 503)

    async def ready(request: Request) -> Response:
        return json_answer({"ready": engine.is_ready}, 200 if engine.is_ready else 503)

    async def model(request: Request) -> Response:
        return _unknown(request, engine) or json_answer(describe_model(engine.model))

    async def model_ready(request: Request) -> Response:
        unknown = _unknown(request, engine)
        if unknown is not None:
            return unknown
        return json_answer(
            {"name": engine.model.name, "ready": engine.is_ready}, 200 if engine.is_ready else 503
        )

    found = [
        Route("/v2", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
    ]
    for path in _MODEL_PATHS:
        found += [Route(path, model), Route(f"{path}/ready", model_ready)]
    return found


def infer_routes(engine: Engine, limits: RequestLimits, turns: Turns) -> list[Route]:
    """The protocol's routes that rank."""

    async def infer(request: Request) -> Response:
        unknown = _unknown(request, engine)
        if unknown is not None:
            return unknown
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError("Content-Encoding", "bodies are not taken compressed")
        body = await read_body(request, limits)
        async with turns:
            served = engine.model
            asked = parse_infer(body, request.headers.get(HEADER_LENGTH), served, limits)
            candidates = candidates_of(
                asked.tensors, served, limits, unknown_default=asked.unknown_default
            )
            future = engine.submit(candidates, asked.deadline_ns, waited_ns(request))
        ranked = await ranked_by(future)
        content, headers = infer_answer(asked, ranked.model, scores_of(ranked))
        engine.told(ranked)
        return Response(content, headers=headers)

    endpoint = answered(infer, in_one_text=True)
    return [Route(f"{path}/infer", endpoint, methods=["POST"]) for path in _MODEL_PATHS]


def _unknown(request: Request, engine: Engine) -> Response | None:
    """The answer where another model or version is asked for than the one that is served."""
    name, version = request.path_params["name"], request.path_params.get("version")
    reason = unknown_model(engine.model, name, version)
    return None if reason is None else json_answer({"error": reason}, 404)
