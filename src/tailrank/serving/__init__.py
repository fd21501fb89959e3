"""Answers ranking queries over a network: the engine, and the protocols in front of it."""

from importlib.util import find_spec

from tailrank.core.errors import BackendUnavailable

for _name in ("grpc", "httptools", "orjson", "prometheus_client", "starlette", "uvicorn"):
    if find_spec(_name) is None:
        raise BackendUnavailable(
            f"serving needs the package {_name}; pip install 'tailrank[serve]'"
        )
