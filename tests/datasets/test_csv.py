import numpy as np
import pytest
from pydantic import ValidationError

from tasks.contracts.errors import DataError
from tasks.datasets.csv import Csv

HOUSES = """row,rooms,area,near,price
1,3,70.5,SEA,200000
2,1,30,TOWN,100000
3,,50,SEA,150000
4,2,40,TOWN,120000
"""
PRICES = {"name": "houses", "path": "houses.csv", "task": "regression", "target": "price", "exclude": ("row",)}
NEAR = {"near": ("TOWN", "SEA")}


def houses(folder, text=HOUSES):
    (folder / "houses.csv").write_text(text)
    return folder


def test_load_drops_null_rows_and_writes_one_hot_columns_when_told_to(tmp_path):
    source = Csv(**PRICES, categorical=NEAR, missing="drop", target_scale=1e-5)

    table = source.load(houses(tmp_path))

    np.testing.assert_array_equal(table.x, np.array([[3, 70.5, 0, 1], [1, 30, 1, 0], [2, 40, 1, 0]], dtype=np.float32))
    np.testing.assert_allclose(table.y, [2, 1, 1.2], rtol=1e-6)
    assert table.input_shape == (4,)
    assert len(table.frame) == 4


def test_load_fills_numeric_nulls_when_told_to(tmp_path):
    table = Csv(**PRICES, categorical=NEAR, missing="fill", fill_value=-1).load(houses(tmp_path))

    assert table.x[:, 0].tolist() == [3, 1, -1, 2]


def test_load_names_columns_and_remedies_when_nulls_are_not_provided_for(tmp_path):
    with pytest.raises(DataError, match=r"houses\.csv: columns with nulls.*'rooms': 1.*missing: drop or missing: fill"):
        Csv(**PRICES, categorical=NEAR).load(houses(tmp_path))


@pytest.mark.parametrize("column", ["near", "price"])
def test_load_never_fills_categories_or_targets(tmp_path, column):
    text = HOUSES.replace("TOWN,120000", ",120000" if column == "near" else "TOWN,")

    with pytest.raises(DataError, match=rf"'{column}': 1.*missing: drop"):
        Csv(**PRICES, categorical=NEAR, missing="fill").load(houses(tmp_path, text))


def test_load_suggests_the_vocabulary_when_a_text_column_has_none(tmp_path):
    with pytest.raises(DataError, match=r"'near' holds text.*`categorical: \{near: \['SEA', 'TOWN'\]\}`"):
        Csv(**PRICES, missing="drop").load(houses(tmp_path))


def test_load_names_the_value_that_the_vocabulary_lacks(tmp_path):
    with pytest.raises(DataError, match=r"'near' holds \['SEA'\], which its vocabulary \['TOWN'\] lacks"):
        Csv(**PRICES, categorical={"near": ("TOWN",)}, missing="drop").load(houses(tmp_path))


def test_load_keeps_categories_letter_for_letter_when_they_look_like_numbers(tmp_path):
    (tmp_path / "houses.csv").write_text("zone,price\n01,1\n1,2\n")
    source = Csv(name="h", path="houses.csv", task="regression", target="price", categorical={"zone": ("1", "01")})

    assert source.load(tmp_path).x.tolist() == [[0, 1], [1, 0]]


def test_load_names_classes_by_the_distinct_labels(tmp_path):
    (tmp_path / "houses.csv").write_text("a,kind\n1,flat\n2,villa\n3,flat\n")

    table = Csv(name="h", path="houses.csv", task="classification", target="kind").load(tmp_path)

    assert (table.class_names, table.y.tolist()) == (("flat", "villa"), [0, 1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as CSV"),
        (b"\xff\xfe\x00\x81garbage\x00", r"cannot be read as CSV|has no column"),
        (b"a,b\n1,2\n1,2,3,4\n", "cannot be read as CSV"),
        (b'rooms,price\n1,"2\n3', "cannot be read as CSV"),
        (b"rooms,area\n1,2\n", r"has no column \['price', 'row'\]"),
        (b"row,rooms,price\n", "0 rows"),
        (b"row,price\n1,2\n", "0 inputs"),
        (b"row,rooms,price\n1,2,3\n2,3", r"nulls.*'price': 1"),
        (b"row,rooms,price\n1,2,cheap\n", "'price' holds text"),
    ],
)
def test_load_says_what_is_wrong_when_the_file_is_damaged(tmp_path, content, message):
    (tmp_path / "houses.csv").write_bytes(content)

    with pytest.raises(DataError, match=message) as raised:
        Csv(**PRICES).load(tmp_path)
    assert str(tmp_path / "houses.csv") in str(raised.value)


def test_load_names_the_file_when_it_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"houses\.csv cannot be read"):
        Csv(**PRICES).load(tmp_path)


def test_csv_is_refused_when_a_column_has_two_roles():
    with pytest.raises(ValidationError, match=r"\['price'\] have more than one role"):
        Csv(name="h", path="p", task="regression", target="price", exclude=("price",))
