"""Which modules a stored torch model executes when it is rebuilt: its factory's and its surgeries'."""

import io
import json
import zipfile

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture, ModelRef
from tasks.runtime.services import connect


def recipe_modules(*models: ModelRef) -> list[str]:
    """Return the modules that the recipes of `models` name, sorted; ONNX models name none."""
    found: set[str] = set()
    for model in models:
        if model.format == "torch":
            recipe = read_recipe(connect().artifacts.get(model.digest))
            found.add(recipe.factory.partition(":")[0])
            found |= {surgery.function.partition(":")[0] for surgery in recipe.surgeries}
    return sorted(found)


def read_recipe(model: bytes) -> Architecture:
    """Return the recipe of a torch artifact, without importing torch.

    Raises:
        ModelError: the bytes are no torch artifact.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return Architecture.model_validate(json.loads(archive.read("architecture.json")))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(
            f"not a torch model of Stillhouse ({error}); it must be a zip of architecture.json and weights.safetensors"
        ) from error
