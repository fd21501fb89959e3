"""The service-level agreement: what is read, what is refused."""

import re

import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.sla import SLA


@pytest.mark.parametrize(
    ("text", "percentile", "latency_ns"),
    [
        ("p95=10ms", 95.0, 10_000_000),
        ("p99.9=2.5s", 99.9, 2_500_000_000),
        (" p50=7us ", 50.0, 7_000),
        ("p1=1ns", 1.0, 1),
    ],
)
def test_parse(text, percentile, latency_ns):
    assert SLA.parse(text) == SLA(percentile, latency_ns)


@pytest.mark.parametrize(
    "text",
    ["", "95=10ms", "p95", "p95=10", "p95=-1ms", "p101=1ms", "p100=1ms", "p0=1ms", "p95=0ms"],
)
def test_parse_refuses(text):
    with pytest.raises(ConfigError, match=re.escape(f"--sla: got {text!r}; allowed: ")):
        SLA.parse(text)


@pytest.mark.parametrize(("text", "part"), [("p0=1ms", "percentile"), ("p95=0ms", "limit")])
def test_parse_names_what_was_typed_and_no_field(text, part):
    with pytest.raises(ConfigError, match=f" as the {part}$"):
        SLA.parse(text)


def test_text_form_reads_back():
    sla = SLA(99.5, 12_500_000)
    assert SLA.parse(str(sla)) == sla
