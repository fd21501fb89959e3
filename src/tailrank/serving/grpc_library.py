"""The library `grpc`, told what a server needs while it is loaded: it listens to nothing else.

Whoever needs it takes it from here.
"""

from __future__ import annotations

import os

# Worker processes are forked from this one, at any time. Handlers that begin gRPC's threads anew in
# them would find none of the files that those wait for, and end the process.
os.putenv("GRPC_ENABLE_FORK_SUPPORT", "0")
# Clients that send what is refused would fill the log.
os.putenv("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

__all__ = ["grpc"]
