import subprocess
import sys
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from tasks.datasets import SHIPPED, Source
from tasks.datasets.csv import Csv
from tasks.datasets.digits import Digits
from tasks.datasets.npz import Npz
from tasks.datasets.source import Expectations, ShippedSource, SplitFractions
from tasks.datasets.text import Text

FIELDS = {
    "digits": {},
    "npz": {"name": "images", "path": "images.npz"},
    "csv": {"name": "houses", "path": "houses.csv", "task": "regression", "target": "price"},
}


@pytest.mark.parametrize("kind", sorted(FIELDS))
def test_source_keeps_its_kind_and_digest_when_it_goes_through_json(kind):
    adapter = TypeAdapter(Source)
    source = adapter.validate_python({"source": kind} | FIELDS[kind])

    assert source.source == kind
    assert adapter.validate_json(source.canonical_json()).value_digest() == source.value_digest()


def test_shipped_lists_every_shipped_source_of_the_union():
    members = get_args(get_args(Source)[0])

    assert {type(source) for source in SHIPPED} == {member for member in members if issubclass(member, ShippedSource)}
    assert {Digits, Npz, Csv, Text} == set(members)


@pytest.mark.parametrize(
    "fractions",
    [{"train": 0.7}, {"train": 0.0, "calibration": 0.3, "validation": 0.3, "test": 0.4}, {"train": 1.0, "test": -0.2}],
)
def test_split_fractions_are_refused_when_they_do_not_share_out_everything(fractions):
    with pytest.raises(ValidationError, match=r"sum to|greater than 0|less than 1"):
        SplitFractions(**fractions)


def test_expectations_are_refused_when_a_range_is_empty():
    with pytest.raises(ValidationError, match="value_min 2 is above value_max 1"):
        Expectations(value_min=2, value_max=1)


def test_importing_the_union_loads_no_heavy_module():
    heavy = {"sklearn", "torch", "pandas", "dvc", "great_expectations"}
    code = f"import sys, tasks.datasets; print(sorted({heavy!r} & set(sys.modules)))"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
