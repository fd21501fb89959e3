"""The records that flow."""

import dataclasses

import pytest

from tailrank.core.query import Batch, BatchPart, Query

QUERY = Query(3, "m", 10, None, num_items=7, num_ids=70, payload=object())


def test_batch_adds_up_its_parts():
    other = Query(4, "m", 11, None, num_items=2, num_ids=5)
    batch = Batch(0, 1, (BatchPart(QUERY, 0, 3), BatchPart(other, 0, 2)))
    assert batch.num_items == 5
    assert batch.num_ids == 30 + 5


def test_payload_is_opaque_to_comparison_and_text():
    assert dataclasses.replace(QUERY, payload=None) == QUERY
    assert "object" not in repr(QUERY)


def test_records_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        QUERY.num_items = 8
