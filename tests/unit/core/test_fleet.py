"""A fleet: which table a batch is looked up in, what is refused, and its way into JSON and back."""

import json

import numpy as np
import pytest

from tailrank.core.errors import ConfigError
from tailrank.core.fleet import Fleet
from tailrank.core.query import Batch, BatchPart, Query
from tailrank.core.service_time import ServiceTimeTable


def make_table(item_ns: float) -> ServiceTimeTable:
    """Service times of `item_ns` per item, for 1 to 100 items in one part."""
    axes = {
        "num_parts": (1.0,),
        "num_items": (1.0, 100.0),
        "ids_per_item": (0.0,),
        "busy_workers": (1.0, 2.0),
    }
    median_ns = item_ns * np.array([1.0, 100.0]).reshape(1, 2, 1, 1) * np.ones((1, 1, 1, 2))
    return ServiceTimeTable("", axes, median_ns, np.array([1.0]))


def make_batch(model: str, slot: int, num_items: int) -> Batch:
    query = Query(0, model, 0, None, num_items, 0)
    return Batch(0, slot, (BatchPart(query, 0, num_items),))


TABLES = {
    ("a", "cpu"): make_table(10.0),
    ("a", "cuda"): make_table(2.0),
    ("b", "cpu"): make_table(30.0),
    ("b", "cuda"): make_table(3.0),
}


def test_a_batch_is_looked_up_by_its_model_and_its_slots_device():
    fleet = Fleet(("cpu", "cpu", "cuda"), TABLES)
    predicted = [
        fleet.predict_ns(make_batch(model, slot, 50), 1) for model in "ab" for slot in (1, 2)
    ]
    assert predicted == [500, 100, 1500, 150]


def test_a_uniform_fleet_has_one_table():
    fleet = Fleet.uniform(make_table(4.0), 3, model="m")
    assert len(fleet.devices) == 3
    assert fleet.predict_ns(make_batch("m", 2, 10), 2) == 40


def test_a_record_of_it_reads_back():
    fleet = Fleet(("cpu", "cuda"), TABLES)
    again = Fleet.from_record(json.loads(json.dumps(fleet.to_record())))
    assert again.devices == fleet.devices
    batches = [make_batch(model, slot, 7) for model in "ab" for slot in (0, 1)]
    assert [again.predict_ns(it, 1) for it in batches] == [
        fleet.predict_ns(it, 1) for it in batches
    ]


@pytest.mark.parametrize(
    ("field", "devices", "tables"),
    [
        ("fleet.devices", (), TABLES),
        ("fleet.tables", ("cpu",), {}),
        ("fleet.devices: got 'tpu'", ("cpu", "tpu"), TABLES),
        ("'cuda'", ("cpu", "cuda"), {("a", "cpu"): TABLES["a", "cpu"]}),
    ],
)
def test_refuses_what_no_batch_could_be_looked_up_in(field, devices, tables):
    with pytest.raises(ConfigError, match=field):
        Fleet(devices, tables)


def test_names_the_models_and_slots_that_it_has():
    fleet = Fleet(("cpu",), TABLES)
    with pytest.raises(ConfigError, match="'a', 'b'"):
        fleet.table("c", 0)
    with pytest.raises(ConfigError, match=r"slot: got 1; .* 0 to 0"):
        fleet.table("a", 1)
