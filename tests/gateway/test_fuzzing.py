"""What nobody here wrote: requests made up by schemathesis from the OpenAPI document, and by hypothesis from bytes."""

import json
import os
import subprocess
import sys
from collections import Counter

import httpx
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.gateway.openapi.document import openapi_document

NUMBER = {"type": "number", "minimum": -1e30, "maximum": 1e30}
ROW = {"type": "array", "items": NUMBER, "minItems": 4, "maxItems": 4}
FITTING_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape", "data"],
    "additionalProperties": False,
    "properties": {
        "name": {"const": "x"},
        "datatype": {"const": "FP32"},
        "shape": {"const": [2, 4]},
        "data": {"type": "array", "items": NUMBER, "minItems": 8, "maxItems": 8},
    },
}


def fitted():
    """The document with what the served model's metadata says, so that requests come further than their checks."""
    document = openapi_document("1")
    parts = orjson.loads(orjson.dumps(document))  # a copy
    schemas = parts["components"]["schemas"]
    schemas["InputTensor"] = {"anyOf": [FITTING_TENSOR, FITTING_TENSOR, schemas["InputTensor"]]}
    schemas["WantedOutput"]["properties"]["name"] = {"enum": ["logits", "other"]}
    schemas["Feedback"]["properties"]["labels"]["items"] = {"enum": [0, 1, 2, 3, None]}
    rows = {"type": "array", "items": ROW, "minItems": 1, "maxItems": 3}
    schemas["Invocation"] = {"type": "object", "required": ["inputs"], "properties": {"inputs": rows}}
    for path in parts["paths"].values():
        for parameter in path.get("parameters", []):
            parameter["schema"] = {"enum": ["digits"] if parameter["name"] == "model" else ["1", "2", "3"]}
    return parts


@pytest.fixture
def process(site, models, tmp_path, poll):
    """A gateway in a process of its own that serves two versions and logs every request; gives (address, lines)."""
    site.route(site.put(models.linear(1e-3)), site.put(models.linear(2e-3)), weight=50.0, salt="s")
    command = [sys.executable, "-m", "infra.gateway", "--port", "0", "--access-log", "--log-format", "json"]
    places = {"STILLHOUSE_STORE": str(site.store), "STILLHOUSE_TRAFFIC": str(site.traffic)}
    log = tmp_path / "gateway.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, env=os.environ | places, stdout=subprocess.PIPE, stderr=errors, text=True) as running,
    ):
        url = running.stdout.readline().strip()
        with httpx.Client(base_url=url, trust_env=False) as client:
            poll(lambda: client.get("/v2/health/ready").status_code == 200)
            before = len(log.read_text().splitlines())
            yield url, lambda: log.read_text().splitlines()[before:]
            assert client.get("/v2/health/ready").status_code == 200
        running.terminate()
        assert running.wait(timeout=30) == 0


def statuses(lines):
    """Count the logged requests by status; no line may be anything but JSON, and none may hold a traceback."""
    lines = [json.loads(line) for line in lines]
    assert [line for line in lines if "traceback" in line] == []
    return Counter(line["status"] for line in lines if line["message"] == "request")


@pytest.mark.slow
@pytest.mark.parametrize("served", ["as it is", "fitted to the model"])
def test_the_gateway_answers_as_its_document_says_whatever_schemathesis_sends(process, tmp_path, served):
    url, lines = process
    document = tmp_path / "openapi.json"
    content = httpx.get(f"{url}/openapi.json", trust_env=False).content
    document.write_bytes(content if served == "as it is" else orjson.dumps(fitted()))
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", url, "--seed", "1"]
    # what is right for the document may be wrong for the model
    command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--max-examples", "10"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:]
    counts = statuses(lines())
    print(f"schemathesis, {served}: {counts.total()} calls, {dict(sorted(counts.items()))}")
    assert counts.total() > 500
    assert counts[200] > 50
    assert not [status for status in counts if status >= 500]


TENSORS = st.fixed_dictionaries(
    {"name": st.just("x"), "datatype": st.sampled_from(["FP32", "INT64"])},
    optional={
        "shape": st.lists(st.integers(-1, 5), max_size=3) | st.sampled_from([[1, 4], [2, 4]]),
        "data": st.lists(st.floats(width=32), max_size=9),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-2, 40) | st.floats()}),
    },
)
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(TENSORS, max_size=2)},
    optional={
        "parameters": st.dictionaries(st.just("binary_data_output"), st.booleans() | st.integers()),
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "other"])}), max_size=2),
    },
)
LENGTHS = st.integers(-3, 400).map(str) | st.text("0123456789+-. x", max_size=14) | st.just("exact")
VALUES = st.binary(max_size=40) | st.sampled_from([np.ones((n, 4), "<f4").tobytes() for n in (1, 2)])


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DOCUMENTS.map(orjson.dumps) | st.binary(max_size=60), VALUES, LENGTHS)
def test_any_framing_is_answered_with_200_or_4xx_and_a_json_message(fuzzed, text, values, length):
    length = str(len(text)) if length == "exact" else length
    headers = {"Inference-Header-Content-Length": length.strip()}
    for path in ("/v2/models/digits/infer", "/v2/models/digits/versions/1/infer"):
        reply = fuzzed.http.post(path, content=text + values, headers=headers)
        assert reply.status_code == 200 or 400 <= reply.status_code < 500
        assert b"Traceback" not in reply.content
        if reply.status_code != 200:
            assert set(reply.json()) == {"error"}


@pytest.fixture
def fuzzed(start, site, models):
    running = start()
    site.wait_for(site.route(site.put(models.linear(1e-3))))
    return running
