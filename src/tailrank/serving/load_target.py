"""Where a load test sends its queries: a server's address, and what it says of itself."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tailrank.core.errors import RequestError

_TIMEOUT_S = 10.0
_SHOWN = 200
Pieces = Sequence[bytes | memoryview]
Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTarget:
    """A server.

    Args:
        url: as it was typed, without a path.
        host: name or address.
        port: where it listens.
        tls: how it is trusted; None: no TLS.
        ca_file: certificates that it is trusted by; None: those of the system.
        token: what it wants as `Authorization: Bearer …`; None: nothing.
    """

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    ca_file: Path | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, token: str | None = None, ca_file: Path | None = None) -> LoadTarget:
        """Read an address such as `http://127.0.0.1:8000`.

        Raises:
            RequestError: it is none, or the certificate cannot be used.
        """
        wanted = "expected http://HOST:PORT or https://HOST:PORT"
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise RequestError("--url", f"got {url!r}; {wanted}") from None
        beyond = parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or beyond:
            raise RequestError("--url", f"got {url!r}; {wanted}")
        tls = None
        if parts.scheme == "https":
            try:
                tls = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                raise RequestError("--tls-ca", f"{ca_file} cannot be used: {error}") from None
        elif ca_file is not None:
            raise RequestError("--tls-ca", "goes with https://")
        address = f"{parts.scheme}://{parts.netloc}"
        return cls(
            url=address, host=parts.hostname, port=port, tls=tls, ca_file=ca_file, token=token
        )

    def document(self) -> dict[str, Any]:
        """What the server says of itself in `/openapi.json`.

        Raises:
            RequestError: it cannot be reached, or says nothing of the kind.
        """
        return self.read("/openapi.json")

    def read(self, path: str) -> dict[str, Any]:
        """The JSON object that the server gives at `path`.

        Raises:
            RequestError: it cannot be reached, or gives nothing of the kind.
        """
        status, body = self._exchange("GET", path, b"", {})
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if status != 200 or not isinstance(found, dict):
            raise RequestError("--url", f"{self.url}{path}: {_in_short(status, body)}")
        return found

    def try_once(self, path: str, body: Pieces, headers: Headers | None = None) -> None:
        """Ask once, to see that requests of this kind are understood.

        Raises:
            RequestError: the answer was neither good nor *too busy*; says what it was.
        """
        status, answer = self._exchange("POST", path, b"".join(body), headers)
        if status not in (200, 429):
            raise RequestError("--url", f"{self.url}{path}: {_in_short(status, answer)}")

    def request(self, path: str, body: Pieces, headers: Headers | None = None) -> Pieces:
        """The pieces of a POST, headers first.

        Args:
            path: on the server.
            body: in pieces.
            headers: those that say what the body is; None: it is JSON.
        """
        lines = [f"POST {path} HTTP/1.1", f"Host: {self.url.partition('://')[2]}"]
        lines += [f"{name}: {value}" for name, value in self._headers(headers).items()]
        lines += [f"Content-Length: {sum(map(len, body))}", "", ""]
        return ["\r\n".join(lines).encode(), *body]

    def _headers(self, headers: Headers | None) -> dict[str, str]:
        found = {"Content-Type": "application/json"} if headers is None else dict(headers)
        if self.token is not None:
            found["Authorization"] = f"Bearer {self.token}"
        return found

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Headers | None
    ) -> tuple[int, bytes]:
        """Status and body of one answer."""
        if self.tls is None:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S)
        else:
            connection = http.client.HTTPSConnection(
                self.host, self.port, timeout=_TIMEOUT_S, context=self.tls
            )
        try:
            connection.request(method, path, body, self._headers(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            reason = f"{self.url} cannot be reached: {error or type(error).__name__}"
            raise RequestError("--url", reason) from None
        finally:
            connection.close()


def _in_short(status: int, body: bytes) -> str:
    return f"answered {status}: {body.decode(errors='replace')[:_SHOWN]}"
