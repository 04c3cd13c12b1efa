import json
import sys
from pathlib import Path

import pytest

from infra.supply_chain.__main__ import main
from infra.supply_chain.vulnerabilities import NotAskedError, Vulnerability, read

CLEAN = {"dependencies": [{"name": "a", "version": "1", "vulns": []}], "fixes": []}
KNOWN = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2", "3"]}]}]}


def test_read_tells_what_is_known() -> None:
    assert read(json.dumps(CLEAN), 0, "") == (1, [])
    assert read(json.dumps(KNOWN), 1, "Found 1 known vulnerability") == (
        1,
        [Vulnerability("a", "1", "PYSEC-1", "2, 3")],
    )


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("", "pip-audit gave no answer \\(exit code 1\\): ERROR: no route to host"),
        ("[]", "gave no answer"),
        ('{"dependencies": []}', "left out everything"),
        ('{"dependencies": [{"name": "a", "skip_reason": "not on PyPI"}]}', "left out a \\(not on PyPI\\)"),
    ],
)
def test_read_does_not_take_silence_for_a_pass(output: str, told: str) -> None:
    with pytest.raises(NotAskedError, match=told):
        read(output, 1, "WARNING: slow\nERROR: no route to host\n\n")


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        (json.dumps(CLEAN), 0, "1 pins, 0 known vulnerabilities"),
        (json.dumps(KNOWN), 1, "a 1: PYSEC-1, fixed in 2, 3"),
        ("", 3, "NOT AUDITED: pip-audit gave no answer"),
    ],
)
def test_the_command_fails_otherwise_for_vulnerabilities_than_for_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: str, code: int, told: str
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!{sys.executable}\nimport sys; print({answer!r}); sys.exit(1)\n")
    tool.chmod(0o755)

    assert main(["vulnerabilities", str(tool), "constraints.txt"]) == code

    written = capsys.readouterr()
    assert told in written.out + written.err


def test_the_command_says_what_it_takes_and_that_its_tool_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["vulnerabilities", "/nonexistent/pip-audit", "constraints.txt"]) == 3
    assert "`make audit` installs it" in capsys.readouterr().err
