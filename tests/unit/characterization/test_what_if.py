"""What-if: other workers, other devices and other traffic, from tables of known service times."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.characterization.profiles import profile

from tailrank.characterization.what_if import ProfiledWorkers, WhatIf, WhatIfFleet, ask_what_if
from tailrank.core.errors import ConfigError, OutsideProfile, RequestError
from tailrank.core.sla import SLA
from tailrank.scheduling.policies import PolicyConfig

QUESTION = WhatIf(
    sla=SLA(95.0, 20_000_000),
    sizes="fixed:10",
    arrivals="poisson",
    policy=PolicyConfig(policy="static", batch_items_max=10),
    seconds=1.0,
)


@pytest.fixture
def cpu(tmp_path: Path) -> Path:
    return profile(tmp_path / "cpu.json", 1e5)  # 1 ms for the 10 items of a query


def load(path: Path, count: int, **options: bool) -> WhatIfFleet:
    return WhatIfFleet.load([ProfiledWorkers(profile=path, count=count)], **options)


def test_latency_of_one_worker_is_that_of_a_queue_with_constant_service(cpu: Path) -> None:
    """M/D/1 at 60 %: mean wait rho S / 2(1-rho) = 0.75 ms (Pollaczek-Khinchine)."""
    found = ask_what_if(replace(QUESTION, qps=600.0, seconds=20.0), load(cpu, 1))
    assert found.capacity is None
    assert found.measurement.summary.mean_ns == pytest.approx(1.75e6, rel=0.05)


def test_two_workers_hold_twice_what_one_holds_and_more(cpu: Path) -> None:
    one, two = (ask_what_if(QUESTION, load(cpu, count)).capacity for count in (1, 2))
    assert 850 < one.capacity_qps < 1000
    assert 2.0 < two.capacity_qps / one.capacity_qps < 2000 / 850


def test_a_device_twice_as_fast_beside_it_adds_its_own_share(cpu: Path, tmp_path: Path) -> None:
    fast = profile(tmp_path / "fast.json", 5e4)
    fleet = WhatIfFleet.load(
        [ProfiledWorkers.parse(f"cpu={cpu}:1"), ProfiledWorkers.parse(f"fast={fast}:1")]
    )
    capacity = ask_what_if(QUESTION, fleet).capacity
    assert 2600 < capacity.capacity_qps < 3000


def test_bursts_cost_capacity(cpu: Path) -> None:
    plain = ask_what_if(QUESTION, load(cpu, 2)).capacity
    bursts = ask_what_if(replace(QUESTION, arrivals="mmpp:4,0.2,200ms"), load(cpu, 2)).capacity
    assert bursts.capacity_qps < 0.7 * plain.capacity_qps


def test_more_workers_than_measured_are_refused_unless_assumed_and_said(cpu: Path) -> None:
    with pytest.raises(OutsideProfile, match=r"measured 1 to 2 busy workers, 8 were asked for"):
        load(cpu, 8)
    fleet = load(cpu, 8, extrapolate_workers=True)
    found = ask_what_if(replace(QUESTION, qps=7000.0, seconds=1.0), fleet)
    assert found.measurement.achieved_qps == pytest.approx(7000, rel=0.05)
    assert "contention beyond 2 busy workers is taken as measured at 2" in found.notes[0]
    assert fleet.fleet.tables["", "cpu"].lookup_ns(1, 10, 30, 5) == 1_000_000


def test_a_trace_is_run_as_long_as_it_is(cpu: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{0.002 * row},{1 + row % 7}\n" for row in range(500))
    trace.write_text("time,size\n" + rows)
    question = replace(
        QUESTION, sizes=f"trace:{trace}", arrivals=f"trace:{trace}", qps=250.0, seconds=None
    )
    found = ask_what_if(question, load(cpu, 2))
    assert found.run.queries.num_items.tolist() == [1 + row % 7 for row in range(500)]
    assert found.run.queries.scheduled_ns[-1] == pytest.approx(499 / 250 * 1e9)
    assert "stretched 2 times" in found.notes[0]
    longer = ask_what_if(replace(question, seconds=5.0), load(cpu, 2))
    assert "repeated 2.5 times" in longer.notes[1]


def test_a_day_is_counted_whole_though_a_run_begins_with_its_busiest_hour(cpu: Path) -> None:
    """Without the warm-up's share of the peak, the mean rate would be 8 % below what is offered."""
    day = replace(QUESTION, arrivals="diurnal:20s,10,1,1,1,1,1,1,1,1,1", qps=300.0, seconds=None)
    found = ask_what_if(day, load(cpu, 2))
    assert found.measurement.achieved_qps == pytest.approx(300, rel=0.03)
    assert found.notes == ()


def test_notes_say_what_the_arrivals_are(cpu: Path) -> None:
    question = replace(QUESTION, qps=500.0, seconds=1.0)
    legacy, short = (
        ask_what_if(replace(question, arrivals=arrivals), load(cpu, 2)).notes
        for arrivals in ("legacy-deeprecsys", "diurnal:60s,0.5")
    )
    assert "legacy arrivals" in legacy[0]
    assert "runs of 1 s are too short for diurnal:60s,0.5" in short[0]


@pytest.mark.parametrize("text", ["gpu=:1", "=x:1", "gpu=x", "gpu=x:0", "gpu=x:two"])
def test_profiles_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="DEVICE=FILE:COUNT"):
        ProfiledWorkers.parse(text)


def test_profiles_that_do_not_go_together_are_refused(cpu: Path, tmp_path: Path) -> None:
    other = profile(tmp_path / "other.json", 1e5, ids_per_item=9.0)
    with pytest.raises(RequestError, match="one model"):
        WhatIfFleet.load([ProfiledWorkers(profile=cpu), ProfiledWorkers(profile=other, device="b")])
    with pytest.raises(RequestError, match="named twice"):
        WhatIfFleet.load([ProfiledWorkers(profile=cpu), ProfiledWorkers(profile=cpu)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"qps": 0.0}, "--qps"),
        ({"qps": float("nan")}, "--qps"),
        ({"sizes": "fixed:101"}, "sizes up to 100 items"),
        ({"qps": 1e6, "seconds": 10.0}, "10,000,000 queries"),
    ],
)
def test_refuses(cpu: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, RequestError), match=said):
        ask_what_if(replace(QUESTION, **changes), load(cpu, 1))
