"""A client that nobody here wrote: NVIDIA's for Triton, which speaks the same protocol."""

from urllib.parse import urlsplit

import numpy as np
import onnxruntime as ort
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def triton(start, site, models):
    """A gateway with two versions, and the client of it."""
    http = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    gateway = start()
    site.wait_for(site.route(site.put(models.linear()), site.put(models.linear(2.0)), weight=0.0, salt="s"))
    with http.InferenceServerClient(urlsplit(gateway.server.url).netloc) as client:
        yield client, http
    gateway.stop()


@pytest.fixture
def expected(models):
    def by_onnxruntime(rows, scale=1.0):
        session = ort.InferenceSession(models.linear(scale), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"x": rows})[0]

    return by_onnxruntime


def test_tritons_client_reads_health_metadata_and_statistics(triton):
    client, _ = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "2")
    assert not client.is_model_ready("digits", "3")
    assert not client.is_model_ready("unknown")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["versions"] == ["1", "2"]
    statistics = client.get_inference_statistics("digits")["model_stats"]
    assert [(one["version"], one["inference_count"]) for one in statistics] == [("1", 0), ("2", 0)]


@pytest.mark.parametrize("binary_input", [False, True], ids=["JSON in", "bytes in"])
@pytest.mark.parametrize("binary_output", [False, True], ids=["JSON out", "bytes out"])
def test_tritons_client_is_answered_as_onnxruntime_answers(triton, expected, binary_input, binary_output):
    client, http = triton
    random = np.random.default_rng(7)
    num_calls = 0
    for version, scale in (("", 1.0), ("1", 1.0), ("2", 2.0)):
        for num_rows in (1, 2, 33):
            rows = random.normal(size=(num_rows, 4)).astype(np.float32)
            tensor = http.InferInput("x", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows, binary_data=binary_input)
            wanted = http.InferRequestedOutput("logits", binary_data=binary_output)
            result = client.infer("digits", [tensor], model_version=version, outputs=[wanted], request_id="r")
            np.testing.assert_allclose(result.as_numpy("logits"), expected(rows, scale), rtol=1e-5, atol=1e-6)
            assert result.get_response()["id"] == "r"
            num_calls += 1
    assert num_calls == 9


def test_tritons_client_is_told_what_is_wrong(triton):
    client, http = triton
    from tritonclient.utils import InferenceServerException

    tensor = http.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match="must have shape"):
        client.infer("digits", [tensor])
    with pytest.raises(InferenceServerException, match="no such model"):
        client.get_model_metadata("unknown")
