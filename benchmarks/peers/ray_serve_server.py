"""The same server on Ray Serve: a replica on each core, orjson, batches of queries by @serve.batch.

Queries that come within two milliseconds are scored in one call, eight at most: what Ray's pages on
dynamic batching say of a wait that is small beside the latency that is allowed. One torch thread a
replica, no access log.

    python benchmarks/peers/ray_serve_server.py --users u.parquet --items i.parquet --port 8001
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import ray
import torch
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers.fastapi_server import EagerServer, arguments_of

NUM_REPLICAS = len(os.sched_getaffinity(0))
BATCH_QUERIES_MAX, BATCH_WAIT_S = 8, 0.002


@serve.deployment(
    num_replicas=NUM_REPLICAS,
    max_ongoing_requests=4 * BATCH_QUERIES_MAX,
    ray_actor_options={"num_cpus": 1},
    logging_config={"enable_access_log": False, "log_level": "WARNING"},
)
class Ranker:
    """Answers questions by eager modules.

    Args:
        users: their features, a Parquet file.
        items: likewise.
    """

    def __init__(self, users: Path, items: Path) -> None:
        torch.set_num_threads(1)
        self._server = EagerServer(users, items)

    async def __call__(self, request: Request) -> Response:
        """One question."""
        if request.url.path == "/health/ready":
            return Response(b"{}", media_type="application/json")
        answer = await self.rank(orjson.loads(await request.body()))
        return Response(orjson.dumps(answer), media_type="application/json")

    @serve.batch(max_batch_size=BATCH_QUERIES_MAX, batch_wait_timeout_s=BATCH_WAIT_S)
    async def rank(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Several of them."""
        return self._server.rank_many([(each["user_id"], each["item_ids"]) for each in asked])


def stop(*signal_given: object) -> None:
    """End as after Ctrl-C."""
    raise KeyboardInterrupt


def main() -> None:
    arguments = arguments_of(__doc__)
    # Replicas are processes of their own, which find their modules by it.
    paths = [sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
    signal.signal(signal.SIGTERM, stop)
    try:
        ray.init("local", num_cpus=NUM_REPLICAS, include_dashboard=False, log_to_driver=False)
        signal.signal(signal.SIGTERM, stop)  # Ray has put its own in its place
        http = {"host": "127.0.0.1", "port": arguments.port}
        serve.start(proxy_location="HeadOnly", http_options=http)
        serve.run(Ranker.bind(arguments.users, arguments.items))
        signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
