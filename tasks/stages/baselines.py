"""The work of getting the baseline: train it, or load it from a file, the store or the registry."""

import re
from dataclasses import replace
from pathlib import Path

from tasks.contracts.data import DatasetRef
from tasks.contracts.errors import ModelError
from tasks.contracts.model import ModelRef, StageResult
from tasks.contracts.registration import CHAMPION_ALIAS
from tasks.contracts.value import Slug, sha256_hex
from tasks.runtime.recipes import read_recipe
from tasks.runtime.services import Services, connect
from tasks.stages.making import make_model
from tasks.stages.training import train_model
from tasks.techniques.baseline import LINEAGE, TrainSpec, WarmStart
from tasks.techniques.forms import stated_form
from tasks.techniques.technique import Applied, StageContext
from tasks.techniques.training import device_for

TORCH_DIGEST_TAG = "stillhouse.torch_digest"
"""Tag of a registered version that names the torch artifact which it was made from."""

BASELINE_TAG = "stillhouse.baseline_torch"
"""Tag of a registered version that names the uncompressed torch model which its run began with."""

_REGISTRY_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


def train_baseline(
    spec: TrainSpec,
    data: DatasetRef,
    seed: int,
    stage_key: str,
    start: ModelRef | None = None,
    micro_batch_limit: int | None = None,
) -> StageResult:
    """Train the baseline, from the weights of `start` if there is one.

    Raises:
        ModelError: `start` is of another architecture.
    """
    device = device_for(spec.resources.num_gpus)
    weights = None if start is None else connect().artifacts.get(start.digest)
    schedule = spec.schedule_in_use

    def work(context: StageContext) -> Applied:
        applied = train_model(spec.model, schedule, context, start=weights, device=device)
        return replace(applied, details=applied.details | stated_form(schedule))

    return make_model(
        work,
        "train",
        "torch",
        data,
        stage_key,
        seed=seed,
        micro_batch_limit=micro_batch_limit,
        num_workers=spec.resources.num_workers,
    )


def find_baseline(place: str, services: Services) -> ModelRef:
    """Bring the model that `place` names into the store and return its identity.

    Args:
        place: Path of a file or of a Hugging Face model folder, `sha256:<digest>`, `models:/<name>@<alias>`
            or `models:/<name>/<version>`.
        services: The store and the registry.

    Raises:
        ModelError: there is no such model, or it is no torch model; the message names the place and the remedy.
        ArtifactMissingError: the store does not hold it.
    """
    if place.startswith("sha256:"):
        data = services.artifacts.get(place.removeprefix("sha256:"))
    elif place.startswith("models:/"):
        data = services.artifacts.get(_digest_in_registry(place, services))
    else:
        data = _read_place(services.settings.project / Path(place).expanduser())
    try:
        read_recipe(data)
    except ModelError as error:
        raise ModelError(f"baseline {place} is {error}") from error
    return ModelRef(digest=services.artifacts.put(data).digest, format="torch", size_bytes=len(data))


def find_start(warm_start: WarmStart, model_name: Slug, services: Services) -> ModelRef:
    """Return the identity of the model whose weights a warm start begins with.

    Raises:
        ModelError: there is none; the message says where it was looked for, and the remedy.
        ArtifactMissingError: the store does not hold it.
    """
    if warm_start.weights != LINEAGE:
        return find_baseline(warm_start.weights, services)
    champion = services.registry.version_of(model_name, CHAMPION_ALIAS)
    tags = {} if champion is None else champion.tags
    own = tags.get(TORCH_DIGEST_TAG) if tags.get("stillhouse.role") == "baseline" else None
    digest = tags.get(BASELINE_TAG) or own
    if not digest:
        lacking = "has no champion" if champion is None else f"has a champion without the tag {BASELINE_TAG}"
        raise ModelError(
            f"model {model_name!r} {lacking}, so that its lineage names no baseline; give warm_start.weights a "
            "sha256:<digest>, or leave warm_start out"
        )
    return find_baseline(f"sha256:{digest}", services)


def load_baseline(model: ModelRef, data: DatasetRef, stage_key: str) -> StageResult:
    """Check that a loaded baseline rebuilds and fits the data, and make it the run's baseline.

    Raises:
        ModelError: it does not rebuild, or its outputs do not fit the data set.
    """

    def work(context: StageContext) -> Applied:
        import torch

        from tasks.models.architecture import Network
        from tasks.models.huggingface import class_names

        blob = connect().artifacts.get(model.digest)
        network = Network.from_bytes(blob)
        _require_same_classes(class_names(network.module), data)
        rows = torch.from_numpy(context.load_split("calibration").x[:2])
        try:
            with torch.inference_mode():
                shape = tuple(network.module(rows).shape)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            raise ModelError(
                f"baseline {sha256_hex(blob)[:12]} cannot run on rows {rows.dtype}{list(rows.shape[1:])} of data set "
                f"{data.name!r} ({error}); load a model for such rows, with the vocabulary of this data set if they "
                "are texts"
            ) from error
        if shape != (len(rows), context.num_outputs):
            raise ModelError(
                f"baseline {sha256_hex(blob)[:12]} gives outputs of shape {shape} for {len(rows)} rows; data set "
                f"{data.name!r} needs ({len(rows)}, {context.num_outputs}). Load a model for this data set."
            )
        return Applied(model=blob)

    return make_model(work, "load", "torch", data, stage_key)


def _read_place(path: Path) -> bytes:
    """Read a torch artifact, or turn a Hugging Face model folder into one."""
    if path.is_dir():
        from tasks.models.huggingface import network_from_folder

        return network_from_folder(path).to_bytes()
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"baseline file {path} cannot be read ({error.strerror}); check baseline.load") from error


def _require_same_classes(declared: tuple[str, ...], data: DatasetRef) -> None:
    """Refuse a model that names its classes otherwise than the data: its outputs would be read in the wrong order."""
    if declared and data.class_names and declared != data.class_names:
        raise ModelError(
            f"the baseline's classes are {list(declared[:5])}... and those of data set {data.name!r} are "
            f"{list(data.class_names[:5])}...; write the baseline's classes in its order as dataset.class_names"
        )


def _digest_in_registry(uri: str, services: Services) -> str:
    match = _REGISTRY_URI.match(uri)
    if match is None:
        raise ModelError(
            f"baseline {uri!r} is not a registry URI; write models:/<name>@<alias> or models:/<name>/<version>"
        )
    if match["alias"]:
        found = services.registry.version_of(match["name"], match["alias"])
    else:
        found = services.registry.version(match["name"], int(match["version"]))
    if found is None:
        raise ModelError(
            f"model {match['name']!r} has no alias {match['alias']!r}; `stillhouse model ls` lists what there is"
        )
    digest = found.tags.get(TORCH_DIGEST_TAG)
    if not digest:
        raise ModelError(
            f"version {found.version} of model {match['name']!r} has no tag {TORCH_DIGEST_TAG}, so it cannot be "
            "trained further; load a version that Stillhouse registered, or a file"
        )
    return digest
