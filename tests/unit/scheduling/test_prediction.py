"""What policies that look ahead are told, worked out by hand: 100 ns a batch and 10 ns an item."""

from tests.fleets import line_fleet

from tailrank.core.fleet import Fleet
from tailrank.core.query import Query
from tailrank.scheduling import prediction
from tailrank.scheduling.prediction import Prediction, predict

FLEET = line_fleet(2, 100.0, 10.0)


def query(num_items: int) -> Query:
    return Query(0, "", 0, None, num_items, 0)


def test_a_rest_is_a_line_and_the_cut_that_takes_the_least_work():
    rest = Prediction(FLEET, "cpu", 300, 8).of(query(800)).rest(700)
    assert (rest.num_parts, rest.part_items) == (3, 234)  # no batch has more than 300
    assert rest.work_ns == 3 * (100 + 10 * 234)
    assert (rest.items_max, rest.fixed_ns, rest.item_ns) == (300, 100.0, 10.0)
    assert rest.alone_ns == 100 + 10 * 700


def test_what_is_remembered_is_bounded_and_what_is_forgotten_is_found_again(monkeypatch):
    monkeypatch.setattr(prediction, "_KNOWN_MAX", 50)
    small = Prediction(FLEET, "cpu", 1000, 8)
    held = small.of(query(1))
    for num_items in range(1, 200):
        assert small.of(query(num_items)).part_ns(num_items) == 100 + 10 * num_items
        assert len(small._known) <= 50
    assert small.of(query(1)) is not held
    assert small.of(query(1)).whole == held.whole


def test_runs_on_one_fleet_share_what_is_known_of_it():
    again = Fleet(FLEET.devices, dict(FLEET.tables))  # as a search makes one for each run
    assert predict(again, "cpu", 300, 8) is predict(FLEET, "cpu", 300, 8)
    fewer = Fleet(FLEET.devices[:1], FLEET.tables)
    assert predict(fewer, "cpu", 300, 8) is not predict(FLEET, "cpu", 300, 8)
    assert predict(FLEET, "cpu", 300, 8) is predict(FLEET, "cpu", 300, 8)
    assert predict(FLEET, "cpu", 300, 8) is not predict(FLEET, "cpu", 200, 8)
    assert predict(line_fleet(2, 100.0, 10.0), "cpu", 300, 8) is not predict(FLEET, "cpu", 300, 8)
