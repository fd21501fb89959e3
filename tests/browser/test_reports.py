"""Every verb's report in a real headless Chromium: silent, self-contained, fits phone and print.

The browser is Debian's package `chromium`; without one on the path these tests are skipped.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.browser.chromium import Chromium
from tests.unit.reporting.report_samples import samples

from tailrank.reporting.report import render

PHONE, DESKTOP = 380, 1400
VERBS = sorted(samples())
BLUE_STROKE = b"0 .4471 .698 RG"  # #0072B2 as PDF has it
LIGHT_PAGE, DARK_PAGE = (0xFB, 0xFB, 0xFA), (0x14, 0x17, 0x1A)

# Elements that stick out of the screen; what is inside a drawing is looked at below.
STICKING_OUT = """
[...document.body.querySelectorAll('*')].filter(element => element instanceof HTMLElement
    || element.classList.contains('main-svg')).filter(element => {
  const box = element.getBoundingClientRect();
  return box.width && box.height && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(element => element.tagName + '.' + element.getAttribute('class'))
"""
# Text of a chart that its own drawing cuts off.
CUT_OFF = """
[...document.querySelectorAll('.chart')].flatMap(chart => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width && (box.right > frame.right + 1 || box.left < frame.left - 1
      || box.bottom > frame.bottom + 1 || box.top < frame.top - 1);
  }).map(text => chart.id + ': ' + text.textContent);
})
"""
# Labels of one axis, or entries of a legend, that run into one another.
OVERLAPPING = """
[...document.querySelectorAll('.chart')].flatMap(chart => {
  const found = [];
  for (const axis of ['.xtick', '.ytick', '.x2tick', '.y2tick', '.legendtext']) {
    const boxes = [...chart.querySelectorAll(axis)].map(tick => tick.getBoundingClientRect());
    for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
      const a = boxes[i], b = boxes[j];
      if (a.left < b.right - 1 && b.left < a.right - 1 &&
          a.top < b.bottom - 1 && b.top < a.bottom - 1) found.push(chart.id + axis);
    }
  }
  return found;
})
"""
# Marks that a chart drew: lines, points, bars.
DRAWN = """
[...document.querySelectorAll('.chart')].map(chart =>
  [chart.id, chart.querySelectorAll('.scatterlayer .trace, .barlayer .point').length])
"""
# The faintest mark or text of a chart where its contrast with the card below is under 3, which
# WCAG asks of graphics.
FAINT = """
(() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(c => c / 255)
      .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const marks = [...document.querySelectorAll(
    '.chart text, .chart .js-line, .chart .line, .chart .points path')];
  const low = marks.map(mark => {
    const style = getComputedStyle(mark), card = getComputedStyle(mark.closest('section'));
    const stroked = style.stroke !== 'none' && parseFloat(style.strokeWidth) > 0;
    const color = mark.tagName !== 'text' && stroked ? style.stroke : style.fill;
    // A hatched bar is filled with a pattern that has no one colour.
    const known = color.startsWith('rgb');
    return [known ? contrast(color, card.backgroundColor) : 99, mark.outerHTML];
  }).sort((a, b) => a[0] - b[0])[0];
  return low[0] < 3 ? low : [];
})()
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    written = {}
    for verb, (result, columns) in samples().items():
        written[verb] = folder / f"{verb}.html"
        written[verb].write_text(render(result, columns, f"{verb}-run"))
    return written


def pixel(png: bytes) -> tuple[int, ...]:
    """The colour of a picture's first pixel, whose line no filter of PNG can change but Sub's."""
    data, place = b"", 8
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        if kind == b"IDAT":
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    return tuple(zlib.decompress(data)[1:4])


def streams(pdf: bytes) -> Iterator[bytes]:
    """The compressed streams of a PDF, unpacked: what it draws."""
    for start in re.finditer(rb"stream\r?\n", pdf):
        with suppress(zlib.error):  # fonts and the ends of streams look alike
            yield zlib.decompressobj().decompress(pdf[start.end() :])


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("verb", VERBS)
def test_a_report_is_silent_self_contained_and_fits(
    verb: str, width: int, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages[verb], width=width)
    assert browser.requests() == [pages[verb].as_uri()]
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    assert browser.evaluate(STICKING_OUT) == []
    assert browser.evaluate(CUT_OFF) == []
    assert browser.evaluate(OVERLAPPING) == []
    drawn = browser.evaluate(DRAWN)
    assert drawn
    assert all(marks > 0 for _, marks in drawn), drawn
    for dark, paper in ((False, LIGHT_PAGE), (True, DARK_PAGE)):
        browser.prefer(dark=dark)
        assert pixel(browser.screenshot(full=False)) == paper
        assert browser.evaluate(FAINT) == []
    assert browser.complaints() == []


def test_opened_details_fit_a_phone(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["demo"], width=PHONE)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate(STICKING_OUT) == []


@pytest.mark.parametrize("verb", ["demo", "compare"])
def test_a_report_prints_with_its_charts_on_light_paper(
    verb: str, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages[verb], width=DESKTOP)
    browser.prefer(dark=True)
    widths = "[...document.querySelectorAll('.chart .main-svg')].map(svg => svg.clientWidth)"
    before = browser.evaluate(widths)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF-")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 5
    assert any(BLUE_STROKE in stream for stream in streams(printed)), "a chart's first series"
    assert browser.evaluate(widths) == before, "the screen is as it was before printing"
    assert browser.complaints() == []
    browser.prefer(dark=True, media="print")
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    browser.prefer(dark=False)
    assert paper == "rgb(255, 255, 255)"


def test_the_page_itself_refuses_to_load_anything(
    browser: Chromium, pages: dict[str, Path], tmp_path: Path
) -> None:
    page = tmp_path / "tampered.html"
    image = tmp_path / "image.svg"
    image.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text = pages["export"].read_text()
    page.write_text(text.replace("<main>", f"<img src='{image.as_uri()}'><main>"))
    browser.open(page, width=DESKTOP)
    assert any("Content Security Policy" in complaint for complaint in browser.complaints())
