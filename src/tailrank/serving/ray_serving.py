"""The engine as a deployment of Ray Serve: a replica on each node, and the way to them.

Ray Serve starts replicas, sees that they live and replaces those that do not. Requests come from
`front`, in the process that deployed, and not through Ray's own proxies: those answer 500 for
whatever was under way when a replica died.

Source: Ray's documentation, "End-to-end fault tolerance" and "DeploymentHandle".
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tailrank.characterization.target import PRESET_PREFIX
from tailrank.core.errors import ConfigError, RequestError, ServingError
from tailrank.serving.buffers import keep_freed_memory
from tailrank.serving.engine_setup import EngineSetup, open_engine, shown
from tailrank.serving.forwarding import Forwarded, Replied, replied
from tailrank.serving.front import ReplicaLost
from tailrank.serving.http import build_app
from tailrank.serving.rank_request import RequestLimits
from tailrank.serving.ray_library import ray, serve

_log = logging.getLogger(__name__)

_OWN_CLUSTER = "local"
# Of a cluster of our own: requests and answers of more than 100 KB pass through it.
_OBJECT_STORE_BYTES = 512 << 20
_HEALTH_PERIOD_S, _HEALTH_TIMEOUT_S = 2.0, 30.0
_DRAIN_S = 30.0
_ERROR_LINE = re.compile(r"^(?:tailrank\.core\.errors\.)?\w*(?:Error|Unavailable|Died): .+", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayConfig:
    """Where replicas run.

    Args:
        address: of a cluster, `HOST:PORT` or `auto`; None: one of our own, of this machine.
        num_replicas: how many; None: one on each node that has the cores.
        open_max: requests that are open at once, >= 1.
    """

    address: str | None = None
    num_replicas: int | None = None
    open_max: int = 1000


class Replica:
    """An engine and the application in front of it, as Ray Serve starts them on a node.

    Args:
        setup: what to serve; files are read on the node.
        limits: see `build_app`.
        token: likewise.
    """

    def __init__(self, setup: EngineSetup, limits: RequestLimits, token: bytes | None) -> None:
        keep_freed_memory()
        self._engine = open_engine(setup, _log.info)
        self._engine.start()
        self._app = build_app(self._engine, limits, token)
        self._name = serve.get_replica_context().replica_id.unique_id

    async def ask(self, asked: Forwarded) -> Replied:
        """Answer a request, or end: Ray Serve then asks another replica, and replaces this one."""
        if not self._engine.is_alive:
            os._exit(1)
        return await replied(self._app, asked)

    async def ask_named(self, asked: Forwarded) -> tuple[str, Replied]:
        """The same, with the name of who answers."""
        return self._name, await self.ask(asked)

    def shown(self) -> str:
        """What is served, in words."""
        return shown(self._engine)

    def check_health(self) -> None:
        """Raise if queries are ranked no more: asked of nobody, the replica is replaced too."""
        if not self._engine.is_alive:
            raise ServingError("the engine has died")

    def __del__(self) -> None:
        """Answer what has come: Ray Serve is done with the replica, and sends no more."""
        with suppress(AttributeError):  # it never started
            self._engine.drain()


class RayReplicas:
    """The replicas of a deployment, see `front.Replicas`.

    Args:
        handle: of the deployment.
        num_replicas: as many as there are when all live.
    """

    def __init__(self, handle: Any, num_replicas: int) -> None:
        self._handle, self.num_replicas = handle, num_replicas
        self._ask = handle.ask  # makes a new one each time

    async def ask(self, asked: Forwarded) -> Replied:
        """See `front.Replicas`."""
        try:
            return Replied(*await self._ask.remote(asked))
        except ray.exceptions.RayActorError as error:
            has_died = isinstance(error, ray.exceptions.ActorDiedError)
            raise ReplicaLost(has_died) from None
        except ray.exceptions.ObjectLostError:  # a large answer, whose node has gone with it
            raise ReplicaLost(has_died=True) from None
        except serve.exceptions.DeploymentUnavailableError:
            raise ServingError("no replica can be started") from None

    async def ask_all(self, asked: Forwarded) -> Mapping[str, Replied]:
        """See `front.Replicas`."""
        try:
            answers = self._handle.broadcast("ask_named", asked)
            found = await answers.results_async(return_exceptions=True)
        except serve.exceptions.DeploymentUnavailableError:
            found = []
        named = dict(each for each in found if not isinstance(each, BaseException))
        if not named:
            raise ServingError("no replica answers")
        return named

    def shown(self) -> str:
        """What they serve, in words."""
        text = self._handle.shown.remote().result()
        assert isinstance(text, str)
        return text


@contextmanager
def deployed(
    setup: EngineSetup, limits: RequestLimits, token: bytes | None, config: RayConfig
) -> Generator[RayReplicas, None, None]:
    """Replicas that rank, until the block ends; then they answer what they have taken, and end.

    Args:
        setup: what each serves; workers in threads.
        limits: see `build_app`.
        token: likewise.
        config: where.

    Raises:
        RequestError: the cluster cannot be joined, has no node with so many cores, serves such a
            model already, or a replica could not start.
        ConfigError: more replicas than such nodes, or no address of a node.
    """
    assert setup.config.executor == "threads", "a process of Ray's has threads, and is not forked"
    name = f"tailrank-{Path(setup.targets[-1].target.removeprefix(PRESET_PREFIX)).name}"
    with _connected(config, setup.config.num_workers):
        if name in serve.status().applications:
            reason = f"serves {name} already; end it there, or by Ray's serve.delete({name!r})"
            raise RequestError("--ray-address", reason)
        num_replicas = _num_replicas(config, setup.config.num_workers)
        application = (
            serve.deployment(Replica)
            .options(
                name="Replica",
                num_replicas=num_replicas,
                # Workers are pinned to the first cores of a node: a second one would share them.
                max_replicas_per_node=1,
                ray_actor_options={"num_cpus": setup.config.num_workers},
                # The door of an engine says what is too much, and not Ray.
                max_ongoing_requests=config.open_max,
                health_check_period_s=_HEALTH_PERIOD_S,
                health_check_timeout_s=_HEALTH_TIMEOUT_S,
                graceful_shutdown_timeout_s=_DRAIN_S,
                max_constructor_retry_count=1,
                logging_config={"log_level": "WARNING", "enable_access_log": False},
            )
            .bind(_with_whole_paths(setup), limits, token)
        )
        try:
            try:
                handle = serve.run(application, name=name, route_prefix=None)
            except RuntimeError as error:
                raise RequestError("--ray", _reason(name) or str(error)) from None
            yield RayReplicas(handle, num_replicas)
        finally:
            # One of our own ends at once: what came has been answered, and whoever told all our
            # processes to stop has stopped those as well that Ray Serve would ask.
            if config.address is not None:
                serve.delete(name)


@contextmanager
def _connected(config: RayConfig, num_workers: int) -> Generator[None, None, None]:
    """A cluster with Ray Serve, which ends with the block if it is ours."""
    address = config.address or _OWN_CLUSTER
    if "://" in address:  # a client that is on no node, by which handles work otherwise
        raise ConfigError("--ray-address", address, "HOST:PORT or auto, typed on a node of it")
    own = {}
    if config.address is None:
        own = {
            "num_cpus": num_workers,
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise RequestError("--ray-address", f"{address} cannot be used: {error}") from None
    try:
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(proxy_location="Disabled")
        yield
    finally:
        ray.shutdown()


def _with_whole_paths(setup: EngineSetup) -> EngineSetup:
    """The same files, wherever a replica is started: it has a working folder of its own."""
    targets = [
        each
        if each.target.startswith(PRESET_PREFIX)
        else replace(each, target=str(Path(each.target).absolute()))
        for each in setup.targets
    ]
    files = [replace(file, path=file.path.absolute()) for file in setup.files]
    return replace(setup, targets=targets, files=files)


def _num_replicas(config: RayConfig, num_workers: int) -> int:
    """How many replicas there are to be.

    Raises:
        RequestError, ConfigError: no node has the cores, or fewer have them than there are to be.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    num_fit = sum(node["Resources"].get("CPU", 0) >= num_workers for node in nodes)
    if not num_fit:
        reason = f"none of {len(nodes)} nodes has {num_workers} cores; name fewer"
        raise RequestError("--workers", reason)
    wanted = num_fit if config.num_replicas is None else config.num_replicas
    if not 1 <= wanted <= num_fit:
        allowed = f"1 to {num_fit}, one on each node with {num_workers} cores"
        raise ConfigError("--replicas", wanted, allowed)
    return wanted


def _reason(name: str) -> str | None:
    """Why a replica did not start: the last error that it raised, without where."""
    application = serve.status().applications.get(name)
    told = (
        [] if application is None else [each.message for each in application.deployments.values()]
    )
    found = _ERROR_LINE.findall("\n".join(told))
    return found[-1].partition(": ")[2] if found else None
