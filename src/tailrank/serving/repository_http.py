"""The routes by which other models take over: those of the Open Inference Protocol's extension.

Source: Triton's extension_model_repository.md: `POST /v2/repository/index`, and
`/v2/repository/models/NAME/load`, here with one parameter, `path`. There is no `unload`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tailrank.core.errors import BackendUnavailable, ConfigError, DataError, RequestError
from tailrank.serving.answers import answered, json_answer, read_body
from tailrank.serving.engine import Engine
from tailrank.serving.openapi_v2 import Changes
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.swap import Swaps

_INDEX, _LOAD = "/v2/repository/index", "/v2/repository/models/{name}/load"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """What clients may have served.

    Args:
        swaps: changes models.
        folder: inside which they may name one; None: they may only have it read again.
        is_open: whether they have shown a token, or are on this machine; nobody else may.
    """

    swaps: Swaps
    folder: Path | None
    is_open: bool

    @property
    def changes(self) -> Changes:
        """Which models they may have served."""
        return "by name" if self.folder is None else "any in a folder"

    def find(self, path: object) -> Path | None:
        """The folder of a model by its path inside `folder`.

        Raises:
            ConfigError, RequestError: no path, or none that may be named.
        """
        if path is None:
            return None
        if self.folder is None:
            raise RequestError("path", "models are loaded by name only: start with --model-dir")
        if not isinstance(path, str) or not path or "\0" in path:
            raise ConfigError("path", path, "the path of a model below the folder of models")
        root = self.folder.resolve()
        found = (root / path).resolve()
        if root not in found.parents:
            raise RequestError("path", "leads out of the folder of models")
        return found


def routes(engine: Engine, limits: RequestLimits, repository: Repository) -> list[Route]:
    """The extension's routes in front of an engine."""

    async def index(request: Request) -> Response:
        state = "READY" if engine.is_ready else "UNAVAILABLE"
        return json_answer(
            [
                {"name": model.name, "version": model.version, "state": state, "reason": ""}
                for model in engine.models
            ]
        )

    async def load(request: Request) -> Response:
        _check_may(request, repository)
        name = request.path_params["name"]
        if name not in [model.name for model in engine.models]:
            raise HTTPException(404, f"no model {name[:60]}; there is {engine.model.name}")
        path = repository.find(_path_of(await read_body(request, limits)))
        try:
            lineup = await asyncio.wrap_future(repository.swaps.begin({name: path}))
        except (DataError, BackendUnavailable) as error:
            raise RequestError("model", str(error)) from None
        version = next(model.version for model in lineup.models if model.name == name)
        return json_answer({"name": name, "version": version})

    return [
        Route(path, answered(endpoint, in_one_text=True), methods=["POST"])
        for path, endpoint in ((_INDEX, index), (_LOAD, load))
    ]


def _check_may(request: Request, repository: Repository) -> None:
    """Refuse those who may not change anything.

    Raises:
        HTTPException: 403.
    """
    if not repository.is_open:
        raise HTTPException(403, "only with a token, or from the server's own machine")
    # Any page in a browser of this machine can send a request here, and then names itself.
    if "origin" in request.headers and "authorization" not in request.headers:
        raise HTTPException(403, "not for pages in a browser")


def _path_of(body: bytes) -> object:
    """The parameter `path` of a request; None: it has none.

    Raises:
        RequestError, ConfigError: it has others, or is no such request.
    """
    if not body.strip():
        return None
    try:
        asked = orjson.loads(body)
    except ValueError as error:
        raise RequestError("body", f"not JSON: {error}") from None
    parameters = asked.get("parameters", {}) if isinstance(asked, dict) else None
    if not isinstance(parameters, dict):
        raise RequestError("body", "expected an object, at most with an object `parameters`")
    for key in (*(asked.keys() - {"parameters"}), *(parameters.keys() - {"path"})):
        raise RequestError(key[:60], "unknown; expected parameters: path")
    return parameters.get("path")
