"""When a request came, of which a busy loop reads nothing for a while.

A server that is asked for more than it can read would otherwise take each query for a new one, and
turn none away. The system remembers when a connection's last bytes came.
"""

from __future__ import annotations

import ctypes
import socket
import time

# Source: Linux, include/uapi/linux/tcp.h: `tcpi_last_data_recv` of `struct tcp_info`, milliseconds
# since the last data came, is the twelfth of the 32-bit numbers behind eight bytes.
_LAST_DATA, _INFO_BYTES = 13, 56
_MS = 1_000_000
# The system counts in ticks, and this clock with it: what came just before one seems to be a whole
# tick old. Source: Linux, include/uapi/linux/time.h.
_TICK_NS = round(time.clock_getres(6) * 1e9)  # CLOCK_MONOTONIC_COARSE


class Arrivals:
    """Tells when what is read from connections has come."""

    def __init__(self) -> None:
        # With the interpreter lock: to give it up would take longer than the call.
        self._getsockopt = ctypes.PyDLL(None).getsockopt
        self._info = (ctypes.c_uint32 * (_INFO_BYTES // 4))()

    def came_ns(self, file: int) -> int:
        """When the last bytes of a connection came, at the latest, by `time.monotonic_ns`.

        Args:
            file: the descriptor of its socket. Of one that is not TCP, it is now.
        """
        now_ns = time.monotonic_ns()
        size = ctypes.c_uint32(_INFO_BYTES)
        failed = self._getsockopt(
            file, socket.IPPROTO_TCP, socket.TCP_INFO, self._info, ctypes.byref(size)
        )
        if failed or size.value < _INFO_BYTES:
            return now_ns
        return now_ns - max(0, int(self._info[_LAST_DATA]) * _MS - _TICK_NS)
