import json

import pytest
from model_world import digest_of

from tasks.contracts.errors import UserError


def test_lineage_shows_what_is_missing_and_ends_with_1(run):
    code, output = run("model", "lineage", "digits/1", "--json")
    shown = json.loads(output)

    assert (code, shown["complete"]) == (1, False)
    assert shown["missing"] == ["run unknown: the version does not name it, and no record names it"]
    assert shown["lineage"]["rests_on"][0] == {
        "kind": "model", "name": digest_of(1), "facts": {}, "missing": "", "rests_on": [],
    }  # fmt: skip

    code, tree = run("model", "lineage", digest_of(1))
    assert code == 1
    assert "missing links: 1" in tree
    assert "the [first] one" in tree


def test_lineage_of_a_request_names_the_log_when_it_is_not_there(run):
    with pytest.raises(UserError, match="holds request 'r1'"):
        run("model", "lineage", "request:r1")
