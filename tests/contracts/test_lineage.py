from tasks.contracts.lineage import Link


def test_gaps_are_told_from_the_top_however_deep_they_lie():
    split = Link(kind="split", name="s", missing="gone")
    data = Link(kind="data", name="d", rests_on=(split, Link(kind="DVC revision", name="r")))
    top = Link(kind="version", name="m/1", missing="odd", rests_on=(data,))

    assert [link.name for link in top.walk()] == ["m/1", "d", "s", "r"]
    assert top.gaps == ["version m/1: odd", "split s: gone"]
    assert data.gaps == ["split s: gone"]
