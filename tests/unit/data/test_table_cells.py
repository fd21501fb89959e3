"""What stands in cells."""

import polars as pl
import pytest

from tailrank.data.table_cells import moments


@pytest.mark.parametrize(
    "text", ["2024-02-01", "2024-02-01 10:30:00", "2024-02-01T10:30:00", "2024/02/01"]
)
def test_dates_that_begin_with_the_year_are_read(text: str) -> None:
    moment = moments(pl.Series([text, None, ""]))
    assert (moment[0].year, moment[0].month, moment[0].day) == (2024, 2, 1)
    assert moment.null_count() == 2


@pytest.mark.parametrize("text", ["01/02/2024", "1.2.2024", "Feb 1 2024", "soon"])
def test_dates_that_could_be_read_in_two_ways_are_none(text: str) -> None:
    assert moments(pl.Series([text, text])).null_count() == 2
