"""The images hold what their programs import, run as nobody special, and are pinned."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from infra.gateway.__main__ import _parser
from infra.gateway.access import Access
from infra.gateway.admission import Admission
from infra.gateway.app import create_app
from infra.gateway.config import GatewayConfig
from infra.images.list_requirements import requirements
from tasks.runtime.source import _imports, _source_file
from tests.infra.manifests import IMAGES, ROOT

FILES = sorted(IMAGES.glob("*.Containerfile"))
OPTIONAL = {"opentelemetry"}
"""What the gateway imports only when it is asked for; its image does without."""

LOADED_BY_NAME = {"uvicorn[standard]": {"uvloop", "httptools"}}


def lines(path: Path) -> list[str]:
    """A Containerfile's instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def copied(path: Path) -> list[str]:
    """What a Containerfile takes from the repository."""
    copies = [line.split()[1:] for line in lines(path) if line.startswith("COPY ") and "--from=" not in line]
    return [source for words in copies for source in words[:-1]]


def gateway_modules() -> dict[str, Path]:
    """Every module of ours that a gateway imports, wherever in its code."""
    found: dict[str, Path] = {}
    pending = ["infra.gateway.__main__"]
    while pending:
        name = pending.pop()
        path = None if name in found else _source_file(name)
        if path is not None:
            found[name] = path
            parents = [name.rpartition(".")[0]] if "." in name else []
            pending += parents + [one for one in imports(name, path) if one.partition(".")[0] in ("infra", "tasks")]
    return found


def imports(name: str, path: Path) -> tuple[str, ...]:
    return _imports(str(path), name, path.name == "__init__.py", 0, 0)


def for_types_only(path: Path) -> set[str]:
    """Top-level names that are imported under `if TYPE_CHECKING:` and nowhere else in the file."""
    hidden, seen = set(), set()
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            (hidden if id(node) in guarded else seen).update(one.partition(".")[0] for one in names)
    return hidden - seen


def test_the_gateways_image_installs_exactly_what_the_gateway_imports():
    modules = gateway_modules()
    imported = {
        one.partition(".")[0]
        for name, path in modules.items()
        for one in imports(name, path)
        if one.partition(".")[0] not in for_types_only(path)
    }
    third_party = imported - set(sys.stdlib_module_names) - {"infra", "tasks", ""} - OPTIONAL
    distributions = importlib.metadata.packages_distributions()
    needed = {canonical(distributions[name][0]) for name in third_party}

    listed = {Requirement(line).name for line in listing("gateway-requirements.txt")}
    by_name = {canonical(name) for names in LOADED_BY_NAME.values() for name in names}
    assert needed - by_name == {canonical(name) for name in listed}


def test_the_gateways_image_holds_every_module_that_the_gateway_imports_and_nothing_that_it_must_not():
    places = [ROOT / source for source in copied(IMAGES / "gateway.Containerfile")]

    missing = {
        name
        for name, path in gateway_modules().items()
        if not any(path == place or place in path.parents for place in places)
    }
    assert missing == set()
    assert not {"torch", "prefect", "mlflow", "boto3"} & {Requirement(line).name for line in listing("gateway-requirements.txt")}


@pytest.mark.parametrize("name", ["gateway-requirements.txt", "server-requirements.txt"])
def test_every_package_of_an_image_is_pinned(name):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert {Requirement(line).name for line in listing(name)} <= pins.keys()


def test_every_package_of_the_workers_image_is_pinned():
    pins = {canonical(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = requirements(ROOT / "pyproject.toml", worker_extras())
    assert {canonical(Requirement(line).name) for line in wanted} <= pins


def worker_extras() -> list[str]:
    (line,) = [line for line in lines(IMAGES / "worker.Containerfile") if "list_requirements.py pyproject.toml" in line]
    return line.partition("pyproject.toml")[2].partition(">")[0].split()


def listing(name: str) -> list[str]:
    return [line for line in (IMAGES / name).read_text().splitlines() if line and not line.startswith("#")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_base_is_named_by_an_argument_with_a_version(path):
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)", path.read_text(), re.MULTILINE))
    bases = [line.split()[1] for line in lines(path) if line.startswith("FROM ")]
    stages = {line.split()[3] for line in lines(path) if line.startswith("FROM ") and " AS " in line}

    outside = {base for base in bases if base not in stages}
    assert outside == {"${PYTHON_IMAGE}"}
    assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", arguments["PYTHON_IMAGE"])


def test_all_images_have_the_same_base():
    assert len({re.search(r"^ARG PYTHON_IMAGE=(\S+)", path.read_text(), re.MULTILINE)[1] for path in FILES}) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_image_runs_as_a_numbered_user_says_when_it_is_well_and_what_it_is(path):
    text = path.read_text()
    users = [line.split()[1] for line in lines(path) if line.startswith("USER ")]

    assert users == ["10001:10001"]
    assert "HEALTHCHECK" in text
    assert re.search(r'^ENTRYPOINT \["with-secrets"', text, re.MULTILINE)
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in text
    assert not re.search(r"^(ADD|MAINTAINER) |:latest|curl .*\| *(ba)?sh", text, re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_an_image_copies_is_there_and_reaches_the_builder(path):
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    for source in copied(path):
        assert (ROOT / source).exists(), source
        assert any(source == place or source.startswith(f"{place}/") for place in let_in), source


def test_the_gateways_image_asks_a_route_that_needs_no_token_and_starts_with_options_that_exist(tmp_path):
    text = (IMAGES / "gateway.Containerfile").read_text()
    config = GatewayConfig(store=tmp_path, traffic=tmp_path)
    admission = Admission(**config.model_dump(include={"num_threads", "max_queue", "max_uploads", "deadline_s"}))
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text("admin: []\n")
    paths = {route.path for route in create_app(config, admission, Access(tokens)).routes}

    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", text).groups()
    options = re.findall(r'"([^"]+)"', re.search(r"^CMD (.*)", text, re.MULTILINE)[1])
    assert path in paths
    assert _parser().parse_args(options).port == int(port) == GatewayConfig.model_fields["port"].default


def run(script: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(IMAGES / script), *command],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_with_secrets_gives_the_command_a_files_content_as_it_is(tmp_path):
    (tmp_path / "secret").write_text("a b$HOME'\"`x`\nsecond\n")
    done = run("with-secrets", "sh", "-c", 'printf %s "$TOKEN"; env | grep -c TOKEN__FILE', TOKEN__FILE=str(tmp_path / "secret"))

    assert done.stdout == "a b$HOME'\"`x`\nsecond0\n"


@pytest.mark.parametrize("content", [None, ""])
def test_with_secrets_names_a_secret_that_is_missing_or_empty_and_starts_nothing(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_text(content)
    done = run("with-secrets", "echo", "started", TOKEN__FILE=str(file))

    assert (done.returncode, done.stdout) == (78, "")
    assert f"TOKEN__FILE={file}" in done.stderr


def test_with_secrets_passes_the_commands_exit_code_on():
    assert run("with-secrets", "sh", "-c", "exit 3").returncode == 3
