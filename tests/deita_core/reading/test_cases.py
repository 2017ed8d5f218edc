"""Small files after public bug reports on comparable tools, each with the right outcome."""

import warnings

import orjson
import pytest

from deita_core.reading.pool import Sample, read_pool, stream_file
from tests.support.paths import SHARED

CASES = SHARED / "cases"
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"the cases are not at {CASES}")


@pytest.mark.parametrize(
    ("name", "aside"),
    [
        ("folder_with_info", ["dataset_info.json"]),
        ("folder_empty_shard", ["part-00001.parquet"]),
        ("saved_to_disk", ["dataset_info.json", "state.json"]),
    ],
)
def test_twelve_good_rows_are_read_and_the_odd_file_is_named(name, aside):
    with warnings.catch_warnings(record=True, action="always") as told:
        samples, rejects = read_pool(CASES / name)
    assert len(samples) == 12 and rejects.is_empty()
    told = [str(warning.message) for warning in told if warning.category is UserWarning]
    assert [line.split(" ")[2].rsplit("/", 1)[1] for line in told] == aside


def test_nanoseconds_in_a_side_field_cost_no_row():
    samples = list(stream_file(CASES / "ns_timestamps.parquet"))
    assert len(samples) == 8
    times = [orjson.loads(sample.fields)["create_time"] for sample in samples]
    assert all(isinstance(time, str) and time.startswith("20") for time in times) and len(set(times)) == 8


@pytest.mark.parametrize(("name", "rows"), [("array.jsonl", 8), ("columnar.json", 2)])
def test_json_is_read_as_what_it_is(name, rows):
    found = list(stream_file(CASES / name))
    assert [row.line for row in found] == list(range(1, rows + 1))
    assert all(isinstance(row, Sample) for row in found)


def test_a_side_field_a_thousand_levels_deep_costs_its_row():
    found = list(stream_file(CASES / "deep_side_field.jsonl"))
    assert [getattr(row, "reason", "ok") for row in found] == ["unsupported_content", *["ok"] * 7]
