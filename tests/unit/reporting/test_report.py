"""The report is one file that loads nothing, shows what there is and survives strange text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs
from tests.unit.reporting.report_samples import TYPED, full_columns, full_result, samples

from tailrank.core.errors import DataError
from tailrank.core.measurement import Validity
from tailrank.reporting.report import render, write_page, write_report
from tailrank.reporting.report_data import ReportData, SLALimit
from tailrank.reporting.result import Result, write_result

CHARTS = [
    "latency-cdf",
    "capacity-by-batch",
    "query-time",
    "promises",
    "busy-batches",
    "learning-curve",
]


class Page(HTMLParser):
    """Tags with their attributes, and the ids of charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    @property
    def charts(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.tags if attrs.get("class") == "chart"]


@pytest.fixture(scope="module")
def page() -> str:
    return render(full_result(), full_columns(), "tuned")


def test_the_page_loads_nothing_and_forbids_the_browser_to(page: str) -> None:
    tags = Page(page).tags
    for tag, attrs in tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base"), tag
        assert not {"src", "href", "srcset", "action", "background"} & set(attrs), (tag, attrs)
    own = page.replace(get_plotlyjs(), "")
    assert not re.search(r"url\(|@import|https?://|fetch\(", own)
    policy = next(a["content"] for t, a in tags if a.get("http-equiv", "").startswith("Content-S"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_chart_library_is_embedded_once(page: str) -> None:
    assert page.count(get_plotlyjs()) == 1


def test_every_section_is_there(page: str) -> None:
    assert Page(page).charts == CHARTS
    assert "static baseline" in page
    assert "1,438" in page
    assert "∞" in page
    assert "This measurement is not valid" not in page


def test_sections_without_columns_are_left_out() -> None:
    columns = ReportData(learning_curve=full_columns().learning_curve)
    assert Page(render(full_result(), columns, "trained")).charts == ["learning-curve"]


def test_a_run_with_nothing_to_draw_needs_no_chart_library() -> None:
    bare = render(Result(command="export", config={}, metrics={}), ReportData(), "exported")
    assert Page(bare).charts == []
    assert len(bare) < 50_000


def test_an_invalid_measurement_says_so_first() -> None:
    invalid = replace(full_result(), validity=Validity(("generator_late: 4 ms at p99",)))
    text = render(invalid, full_columns(), "tuned")
    assert text.index("generator_late: 4 ms at p99") < text.index("<main>")


def test_the_words_that_repeat_it_and_every_metric_are_there(page: str) -> None:
    typed = re.search(r'<pre class="typed">(.*?)</pre>', page)
    assert typed is not None
    assert re.sub("<[^>]*>", "", typed[1]) == TYPED
    assert "<td>tuned.capacity_qps</td><td>1,438</td><td>1,400 to ∞</td>" in page
    assert "<td>auc_test</td><td>0.7702</td><td></td>" in page


def test_findings_stand_with_their_fix() -> None:
    text = render(*samples()["doctor"], "host")
    assert "sudo tee /proc/sys/vm/compact_memory" in text
    assert text.count('class="costs"') == 2
    assert text.count('class="ok"') == 1


def test_text_from_outside_stays_text() -> None:
    evil = '</script><script src="http://x">'
    columns = full_columns()
    curve = replace(columns.latency_cdf[0], name=evil)
    result = replace(full_result(), config={"data": evil})
    text = render(result, replace(columns, latency_cdf=[curve]), evil)
    assert evil not in text
    assert Page(text).charts == CHARTS


def test_the_file_is_written_where_asked_for(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_result(run / "result.json", full_result())
    full_columns().save(run)
    assert write_report(run) == run / "report.html"
    write_page(tmp_path / "page.html", full_result(), full_columns(), "page")
    assert "<title>page · tailrank demo</title>" in (tmp_path / "page.html").read_text()
    assert write_report(run, tmp_path / "deep/own.html").read_text().startswith("<!doctype html>")


def test_a_folder_without_a_result_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"result\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_settings_of_a_result_that_was_never_on_disk_are_shown_alike() -> None:
    limit = SLALimit(percentile=95.0, latency_ms=10.0)
    result = replace(full_result(), config={"sla": limit, "out": Path("runs/x")})
    text = render(result, ReportData(), "tuned")
    assert "sla.percentile = 95.0\nsla.latency_ms = 10.0\nout = &#34;runs/x&#34;" in text


def test_settings_are_shown_one_per_line() -> None:
    result = replace(full_result(), config={"tune": {"sla": "p95=10ms", "layers": [64, 1]}})
    text = render(result, ReportData(), "tuned")
    assert "tune.sla = &#34;p95=10ms&#34;\ntune.layers = [64, 1]" in text
