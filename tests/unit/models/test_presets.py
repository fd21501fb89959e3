"""Presets against the sizes that the literature gives them (gathered bytes per item in fp32)."""

from importlib.resources import files

import pytest

from tailrank.core.errors import ConfigError, RequestError
from tailrank.models.memory import available_bytes, check_fits, format_bytes
from tailrank.models.presets import load_preset, preset_names


@pytest.mark.parametrize(
    ("name", "table_gb", "gathered_kb_per_item"),
    [
        ("dlrm-rmc1", 4.10, 81.9),
        ("dlrm-rmc2", 4.10, 983),
        ("dlrm-rmc3", 2.56, 25.6),
        ("mt-wide-and-deep", 3.90, 5.5),
        ("ncf", 0.09, 1.0),
        ("wide-and-deep", 3.46, 3.5),
        ("din", 2.70, 33.3),  # with the history of 250 that the paper's table gives
        ("dien", 3.90, 5.5),
    ],
)
def test_sizes_match_the_literature(name, table_gb, gathered_kb_per_item) -> None:
    spec = load_preset(name).spec
    assert spec.table_bytes / 1e9 == pytest.approx(table_gb, abs=0.01)
    ids = spec.ids_per_row("user") + spec.ids_per_row("item")
    gathered = ids * 4 * spec.tables[0].embedding_dim
    assert gathered / 1e3 == pytest.approx(gathered_kb_per_item, rel=0.03)


def test_every_preset_loads_and_cites() -> None:
    dlrm = [f"dlrm-rmc{number}" for number in (1, 2, 3)]
    others = ["mt-wide-and-deep", "ncf", "wide-and-deep"]
    assert preset_names() == ["dien", "din", *dlrm, *others]
    folder = files("tailrank.models.presets")
    for name in preset_names():
        config = load_preset(name, scale=0.001)
        assert bool(config.spec.sparse("user")) == (name in ("ncf", "din", "dien"))
        assert "# Source: " in folder.joinpath(f"{name}.toml").read_text("utf-8")


def test_a_preset_is_the_model_that_its_file_describes() -> None:
    dlrm, ncf = load_preset("dlrm-rmc1"), load_preset("ncf")
    wide = load_preset("wide-and-deep")
    assert (wide.top_mlp, wide.crosses) == ((1024, 512, 256, 1), ())
    assert wide.spec.dense_width("item") == 512
    assert (dlrm.bottom_mlp, dlrm.top_mlp, dlrm.interaction) == ((64, 32), (256, 64, 1), "cat")
    assert dlrm.num_dense == 128
    assert [table.num_embeddings for table in dlrm.spec.tables] == [4_000_000] * 8
    assert [feature.table for feature in dlrm.spec.sparse("item")] == [
        f"table_{number}" for number in range(8)
    ]
    several = load_preset("mt-wide-and-deep")
    assert (several.bottom_mlp, several.top_mlp) == ((1024, 512), (256, 128, 1))
    assert several.spec.dense_width("item") == 512
    assert len(several.tasks) == 2
    assert (ncf.factors, ncf.mlp_width, ncf.tower) == (64, 64, (256, 256, 128, 64, 64))


def test_scale_multiplies_rows_and_user_tables_move_sides() -> None:
    config = load_preset("dlrm-rmc1", scale=0.25, user_tables=3)
    assert {table.num_embeddings for table in config.spec.tables} == {1_000_000}
    assert len(config.spec.sparse("user")) == 3
    assert len(config.spec.sparse("item")) == 5


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "dlrm-rmc9"}, "preset"),
        ({"name": "dlrm-rmc1", "scale": 0.0}, "--scale"),
        ({"name": "dlrm-rmc1", "scale": float("nan")}, "--scale"),
        ({"name": "dlrm-rmc1", "user_tables": 9}, "--user-tables"),
        ({"name": "ncf", "user_tables": 2}, "features"),
    ],
)
def test_what_no_preset_can_be_is_refused(arguments, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_preset(**arguments)
    assert error.value.field == field


def test_a_model_beyond_memory_is_refused_before_it_is_allocated() -> None:
    check_fits(1)
    with pytest.raises(RequestError, match=r"needed.*on this host"):
        check_fits(available_bytes() + 1)
    assert format_bytes(4.096e9) == "4.1 GB"
    assert format_bytes(12) == "12 B"
