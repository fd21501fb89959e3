"""The server's live page in a real headless Chromium, while somebody asks the server."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.browser.chromium import Chromium
from tests.browser.test_reports import CUT_OFF, FAINT, OVERLAPPING, STICKING_OUT
from tests.unit.serving.listening import listening
from tests.unit.serving.served import PlainRanker, engine_of, served
from tests.unit.serving.test_stages import MovieRanker, light

from tailrank.serving import http as http_module
from tailrank.serving.http import build_app
from tailrank.serving.recent import RecentSeconds
from tailrank.serving.stages import Filter

PHONE, DESKTOP = 390, 1200
MOVIES = list(range(20))
QUERY = {
    "user": {"age": 41.5, "seen": []},
    "items": {"movie": MOVIES, "tags": [[]] * 20, "sizes": [[0, 0]] * 20},
    "deadline_ms": 60_000,
}
TOO_LATE = QUERY | {"deadline_ms": 1e-6}
# What a figure says, by its name, and the sum since the start.
FIGURES = """Object.fromEntries([...document.querySelectorAll('#figures div')].map(
  box => [box.querySelector('dt').textContent, box.querySelector('dd').textContent]))"""
ANSWERED = """Number([...document.querySelectorAll('#totals div')].find(
  row => row.textContent.startsWith('Queries answered')).lastChild.textContent.replace(/,/g, ''))"""
TEXT = "document.body.innerText"
INSIDE = "inside the SLA of 100\u00a0s"


@pytest.fixture(autouse=True)
def quick_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "RecentSeconds", partial(RecentSeconds, period_s=0.05))


@contextmanager
def serving(
    port: int = 0, token: bytes | None = None, **settings: Any
) -> Generator[str, None, None]:
    """The address of a server whose models rank in two stages."""
    filters = [Filter(model=light(MovieRanker()), keep=5)]
    engine = engine_of(served(PlainRanker(), "heavy"), filters=filters, **settings)
    engine.start()
    try:
        app = build_app(engine, token=token)
        with listening(app, port, lifespan="on", timeout_graceful_shutdown=1) as url:
            yield url
    finally:
        engine.drain()


@contextmanager
def asked(url: str, *bodies: Any) -> Iterator[None]:
    """Somebody asks the server as fast as it answers."""
    over = threading.Event()

    def ask() -> None:
        place = urlsplit(url)
        with closing(http.client.HTTPConnection(str(place.hostname), place.port)) as connection:
            while not over.is_set():
                for body in bodies:
                    connection.request("POST", "/v1/rank", json.dumps(body))
                    connection.getresponse().read()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def wait_for(browser: Chromium, condition: str) -> None:
    """Until an expression is true on the page, which looks anew every 10 ms."""
    browser.evaluate(
        "new Promise((done, fail) => { const end = Date.now() + 30000, look = () => "
        f"({condition}) ? done() : Date.now() > end ? fail(document.body.innerText) "
        ": setTimeout(look, 10); look(); })"
    )


def has(text: str) -> str:
    return f"{TEXT}.includes({json.dumps(text)})"


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_shows_live_numbers_and_fits(browser: Chromium, width: int) -> None:
    with serving(limit="p99=100s") as url, asked(url, QUERY, TOO_LATE):
        browser.open(f"{url}/", width=width)
        wait_for(browser, f"document.querySelector('#totals dd') && {ANSWERED} > 0")
        before = browser.evaluate(ANSWERED)
        wait_for(browser, f"{ANSWERED} > {before} && {has(INSIDE)}")
        wait_for(browser, f"!({FIGURES})['Queries answered'].startsWith('0')")
        figures = browser.evaluate(FIGURES)
        assert {"p50", "p95", "p99, SLA 100\u00a0s"} <= set(figures)
        # Two stages, of 20 items and of the 5 that are kept.
        sizes = browser.evaluate(
            "[...document.querySelectorAll('#batches rect')].map(bar => bar.height.baseVal.value)"
        )
        assert len(sizes) == 2
        text = browser.evaluate(TEXT)
        for said in ("light → heavy", "would be late", "SLA: p99 within 100\u00a0s", "core "):
            assert said in text, said
        assert "41.5" not in text
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
        for script in (STICKING_OUT, CUT_OFF, OVERLAPPING):
            assert browser.evaluate(script) == []
        for dark in (False, True):
            browser.prefer(dark=dark)
            assert browser.evaluate(FAINT) == []
        assert browser.complaints() == []
        elsewhere = [u for u in browser.requests() if not u.startswith((f"{url}/", "data:"))]
        assert elsewhere == []
        assert any("/v1/stats?since=" in u for u in browser.requests())


def test_a_missed_sla_is_said_and_a_pointer_asks_for_an_earlier_time(browser: Chromium) -> None:
    with serving(limit="p50=0.001ms") as url, asked(url, QUERY):
        browser.open(f"{url}/", width=DESKTOP)
        wait_for(browser, has("above the SLA of 0.001\u00a0ms"))
        assert browser.evaluate("document.getElementById('verdict').className") == "bad"
        wait_for(browser, "seconds.length > 3")
        browser.evaluate(
            "(() => { const svg = document.querySelector('#latency svg'), "
            "box = svg.getBoundingClientRect(); svg.dispatchEvent(new PointerEvent('pointermove', "
            "{clientX: box.right - 20, clientY: box.top + 20})); })()"
        )
        assert browser.evaluate(
            "document.querySelector('#latency .caption').textContent"
        ).startswith("at ")
        assert browser.complaints() == []


def test_without_its_token_no_number_is_shown(browser: Chromium) -> None:
    def enter(token: str) -> None:
        browser.evaluate(
            f"document.getElementById('token').value = {json.dumps(token)}; "
            "document.querySelector('#door button').click()"
        )

    with serving(token=b"s3cret") as url:
        browser.open(f"{url}/", width=PHONE)
        wait_for(browser, has("asks for a token"))
        enter("wrong")
        wait_for(browser, has("does not take that token"))
        assert "heavy" not in browser.evaluate(TEXT)
        enter("s3cret")
        wait_for(browser, f"{has('light → heavy')} && {has('Since the start')}")
        assert browser.evaluate("localStorage.length + sessionStorage.length") == 0
        assert browser.evaluate("document.cookie") == ""
        assert not any("s3cret" in u for u in browser.requests())
    # Nor what was known before, once the token is no longer the right one.
    with serving(port=urlsplit(url).port or 0, token=b"another"):
        wait_for(browser, has("does not take that token"))
        assert browser.evaluate("seconds.length") == 0
        for text in (TEXT, "document.title", "document.querySelector('main').textContent"):
            assert "heavy" not in browser.evaluate(text)
        assert browser.evaluate("document.querySelectorAll('dd, td, path, circle').length") == 0


def test_it_says_that_the_server_is_gone_and_finds_it_again(browser: Chromium) -> None:
    with serving() as url:
        browser.open(f"{url}/", width=PHONE)
        wait_for(browser, has("Since the start"))
    wait_for(browser, f"{has('it is gone, or out of reach')} && {has('No answer since')}")
    assert browser.evaluate("getComputedStyle(document.getElementById('page')).opacity < 1")
    with serving(port=urlsplit(url).port or 0), asked(url, QUERY):
        wait_for(browser, f"{has('inside the SLA')} && document.getElementById('notice').hidden")
        assert browser.evaluate("getComputedStyle(document.getElementById('page')).opacity") == "1"


def test_the_browser_itself_refuses_what_is_elsewhere(browser: Chromium) -> None:
    with serving() as url, serving() as other:
        browser.open(f"{url}/", width=DESKTOP)
        wait_for(browser, has("Since the start"))
        refused = f"fetch('{other}/v1/stats').then(() => 'answered', () => 'refused')"
        assert browser.evaluate(refused) == "refused"
        browser.evaluate(
            "(() => { const script = document.createElement('script'); "
            "script.textContent = 'window.wasRun = true'; document.body.append(script); })()"
        )
        assert browser.evaluate("window.wasRun === undefined")
        assert any("Content Security Policy" in complaint for complaint in browser.complaints())
