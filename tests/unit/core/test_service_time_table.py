"""The service-time table interpolates between measured points and refuses the rest."""

import json

import numpy as np
import pytest

from tailrank.core import service_time
from tailrank.core.errors import ConfigError, DataError, OutsideProfile
from tailrank.core.service_time import ServiceTimeTable

AXES = {
    "num_parts": (1.0, 2.0),
    "num_items": (1.0, 10.0, 100.0),
    "ids_per_item": (8.0,),
    "busy_workers": (1.0, 2.0),
}


def make_table(**changes) -> ServiceTimeTable:
    parts, items, _, busy = np.meshgrid(*AXES.values(), indexing="ij")
    median_ns = 1000.0 * parts + 50.0 * items + 200.0 * busy
    median_ns[1, 0] = np.nan  # two parts cannot hold one item
    fields = {"device": "cpu", "axes": AXES, "median_ns": median_ns, "spread": np.ones(1)}
    return ServiceTimeTable(**(fields | changes))


def test_linear_between_points_and_exact_on_them():
    table = make_table()
    for parts, items, busy in ((1, 1, 1), (1, 10, 2), (2, 100, 1), (1, 37, 2), (2, 64, 2)):
        expected = 1000 * parts + 50 * items + 200 * busy
        assert table.lookup_ns(parts, items, 8 * items, busy) == expected
        assert table.lookup_ns(parts, items, 8 * items, busy) == expected  # remembered


def test_what_is_remembered_is_bounded_even_where_threads_went_beyond(monkeypatch):
    table = make_table()
    for items in range(1, 9):
        table.lookup_ns(1, items, 8 * items, 1)
    monkeypatch.setattr(service_time, "_KNOWN_MAX", 7)  # one less than there are by now
    for items in range(9, 90):
        assert table.lookup_ns(1, items, 8 * items, 1) == 1200 + 50 * items
        assert len(table._known) <= 7


@pytest.mark.parametrize(
    ("point", "axis"),
    [
        ((3, 10, 80, 1), "num_parts"),
        ((1, 101, 808, 1), "num_items"),
        ((1, 10, 100, 1), "ids_per_item"),
        ((1, 10, 80, 3), "busy_workers"),
    ],
)
def test_refuses_to_extrapolate(point, axis):
    with pytest.raises(OutsideProfile, match=axis):
        make_table().lookup_ns(*point)


def test_refuses_a_point_that_nobody_measured():
    with pytest.raises(OutsideProfile, match="2 parts with 5 items"):
        make_table().lookup_ns(2, 5, 40, 1)


def test_interpolates_beside_a_corner_that_cannot_exist():
    """3 parts with 3 items lie between (2, 2), (2, 4) and (4, 4); (4, 2) cannot be."""
    axes = AXES | {"num_parts": (2.0, 4.0), "num_items": (2.0, 4.0)}
    median_ns = np.array([[2200.0, 2300.0], [np.nan, 4300.0]])[:, :, None, None]
    table = make_table(axes=axes, median_ns=np.repeat(median_ns, 2, axis=3))
    assert table.lookup_ns(3, 3, 24, 1) == 3250
    assert table.lookup_ns(3, 4, 32, 2) == 3300
    with pytest.raises(OutsideProfile, match="4 parts with 3 items"):
        table.lookup_ns(4, 3, 24, 1)


def test_a_single_ids_point_stands_for_one_id_more_or_less():
    assert make_table().lookup_ns(1, 10, 85, 1) == make_table().lookup_ns(1, 10, 80, 1)


def test_axes_must_rise_and_fit():
    with pytest.raises(ConfigError, match="busy_workers"):
        make_table(axes=AXES | {"busy_workers": (2.0, 1.0)})
    with pytest.raises(ConfigError, match="shape"):
        make_table(median_ns=np.ones((1, 1, 1, 1)))


def test_save_and_load(tmp_path):
    table = make_table(spread=np.array([0.9, 1.0, 1.4]))
    table.save(tmp_path / "table.json")
    loaded = ServiceTimeTable.load(tmp_path / "table.json")
    assert (loaded.device, loaded.axes) == ("cpu", AXES)
    np.testing.assert_array_equal(loaded.median_ns, table.median_ns)
    np.testing.assert_array_equal(loaded.spread, table.spread)


@pytest.mark.parametrize("damage", ["absent", "empty", "binary", "cut", "version", "shape"])
def test_load_refuses_damage(tmp_path, damage):
    path = tmp_path / "table.json"
    make_table().save(path)
    record = json.loads(path.read_text())
    content = {
        "empty": b"",
        "binary": bytes(range(256)),
        "cut": path.read_bytes()[:-40],
        "version": json.dumps(record | {"format_version": 99}).encode(),
        "shape": json.dumps(record | {"median_ns": [1.0]}).encode(),
    }
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    with pytest.raises(DataError, match=r"table\.json"):
        ServiceTimeTable.load(path)


def test_waking_up_costs_more_the_longer_a_worker_was_idle():
    table = make_table(wake_up=((100.0, 40.0), (300.0, 60.0)))
    costs = [table.wake_up_ns(idle_ns) for idle_ns in (0, 50, 100, 200, 300, 10**9)]
    assert costs == [0.0, 20.0, 40.0, 50.0, 60.0, 60.0]
    assert make_table().wake_up_ns(10**9) == 0.0
    assert ServiceTimeTable.from_record(table.to_record()).wake_up == table.wake_up
    older = {name: it for name, it in table.to_record().items() if name != "wake_up"}
    assert ServiceTimeTable.from_record(older).wake_up == ()


@pytest.mark.parametrize("idle_ns", [(0.0, 5.0), (5.0, 5.0), (6.0, 5.0)])
def test_refuses_idle_times_that_do_not_rise(idle_ns):
    with pytest.raises(ConfigError, match="wake_up"):
        make_table(wake_up=tuple((idle, 1.0) for idle in idle_ns))
