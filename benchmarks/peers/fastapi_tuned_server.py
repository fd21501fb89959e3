"""The same server tuned: orjson, one torch thread a process, two processes, no validation.

python benchmarks/peers/fastapi_tuned_server.py --users u.parquet --items i.parquet --port 8001
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import orjson
import torch
import uvicorn
from fastapi import FastAPI, Request, Response

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers.fastapi_server import EagerServer, arguments_of


def main() -> None:
    arguments = arguments_of(__doc__)
    torch.set_num_threads(1)
    server = EagerServer(arguments.users, arguments.items)
    app = FastAPI()

    # On the loop's own thread: with one torch thread a pool would only add switches.
    @app.post("/v1/rank")
    async def rank(request: Request) -> Response:
        asked = orjson.loads(await request.body())
        answer = server.rank(asked["user_id"], asked["item_ids"])
        return Response(orjson.dumps(answer), media_type="application/json")

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response(b"{}", media_type="application/json")

    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop")
    # The model is loaded once, and its pages are shared; a core for each process. Each listens for
    # itself, and the system deals connections out.
    place = int(os.fork() == 0)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[place % len(cores)]})
    address = ("127.0.0.1", arguments.port)
    with socket.create_server(address, backlog=2048, reuse_port=True) as sock:
        uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()
