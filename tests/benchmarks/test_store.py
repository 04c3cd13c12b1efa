import pytest

from tests.adapters.s3_server import CREDENTIALS


@pytest.mark.slow
def test_measure_compares_both_directions_with_boto3(monkeypatch):
    from benchmarks import store

    for name in (*CREDENTIALS, store.ENDPOINT_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "replaced and put back by the test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "likewise")
    found = store.measure(num_bytes=30_000_000)
    ratios = {figure.name: figure for figure in found.figures if not figure.supporting}
    assert {"rate of put: store / boto3", "rate of get: store / boto3"} <= ratios.keys()
    assert all(figure.median > 0 for figure in ratios.values())
    assert {f"memory of {way} by the store" for way in ("put", "get")} <= ratios.keys()
