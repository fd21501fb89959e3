"""A real browser on a leash: headless Chromium over its own DevTools pipe, without a driver."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

# The browser is slow to start beside other work; a hang should still end within CI's patience.
_TIMEOUT_S = 60.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--remote-debugging-pipe",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
)


class Chromium:
    """One browser with one page.

    Args:
        program: path of the browser.
        profile: an empty folder for its files.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self._command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._buffer, self._last_id = b"", 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Chromium:
        # Chromium reads commands from descriptor 3 and writes answers to 4; the shell puts our
        # pipes there. Numbers above 10 keep the two from overwriting one another.
        theirs_in, ours_out = (_high(fd) for fd in os.pipe())
        ours_in, theirs_out = (_high(fd) for fd in os.pipe())
        shell = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out} {theirs_in}<&- {theirs_out}>&-'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *self._command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        self._session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._out)  # the browser ends when nobody can command it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its answer; what happens meanwhile goes to `events`."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def prefer(self, *, dark: bool, media: str = "") -> None:
        """Ask pages for their light or dark colours, on a screen or another medium."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def open(self, page: Path | str, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a file or an address on a screen of that width; forgets earlier events."""
        self.prefer(dark=dark)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        # A page that still asks its server would go on complaining in the name of the next one.
        self._go("about:blank")
        self.events.clear()
        self._go(page if isinstance(page, str) else page.resolve().as_uri())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page, promises awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Exceptions, console errors and warnings, and log entries since the page was opened."""
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(what["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning"):
                found.append(str([argument.get("value") for argument in what["args"]]))
            elif method == "Log.entryAdded":
                found.append(what["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Addresses that were asked for since the page was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def screenshot(self, *, full: bool = True) -> bytes:
        """The page as PNG, all of it unless only the screen is wanted."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """The page as printed on A4."""
        printed = self.call(
            "Page.printToPDF", printBackground=True, preferCSSPageSize=True,
            paperWidth=8.27, paperHeight=11.69,
        )  # fmt: skip
        return base64.b64decode(printed["data"])

    def _go(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        num_before = len(self.events)
        self.call("Page.navigate", url=url)
        while not any(
            event.get("method") == "Page.loadEventFired" for event in self.events[num_before:]
        ):
            self.events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        """The next message from the browser."""
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(self._in, 1 << 20) if ready else b""
            if not piece:
                raise RuntimeError("the browser does not answer")
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


def _high(descriptor: int) -> int:
    """The same file under a number from 10 on."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return high
