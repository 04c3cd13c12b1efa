"""Classifiers of Hugging Face's transformers, rebuilt from their configuration; weights from safetensors alone.

A model folder (`config.json` and `model.safetensors`, as `save_pretrained` writes it) becomes an ordinary
Stillhouse model: the configuration is the recipe, so that nothing is fetched and no code of the folder runs.
transformers is an optional dependency, imported when such a model is built.
"""

import importlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError
from tasks.contracts.model import Architecture
from tasks.models.architecture import Network

FACTORY = f"{__name__}:from_config"

_ATTENTION = "eager"
"""Plain matrix products: fused attention hides them from quantisers, and answers otherwise for a row of padding."""

_AUTO_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
}
_WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")


class TextClassifier(nn.Module):
    """Takes token ids alone: what is padding follows from the id."""

    def __init__(self, model: nn.Module, pad: int) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return logits [B, K] for int64 token ids [B, T]."""
        return cast(Tensor, self.model(input_ids=ids_BT, attention_mask=ids_BT.ne(self.pad).long()).logits)


class ImageClassifier(nn.Module):
    """Takes images alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return logits [B, K]."""
        return cast(Tensor, self.model(pixel_values=images_BCHW).logits)


def from_config(config: dict[str, Any]) -> nn.Module:
    """Build an untrained classifier.

    Args:
        config: What `config.json` holds; `architectures` says which kind of classifier it is.

    Raises:
        ModelError: transformers is missing, or it knows no such model.
    """
    transformers = _transformers()
    auto_class = getattr(transformers, _auto_class(config))
    try:
        settings = transformers.AutoConfig.for_model(**config)
        model = auto_class.from_config(settings, attn_implementation=_ATTENTION, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(f"transformers cannot build the model {config.get('model_type')!r}: {error}") from error
    return _wrapped(model)


def network_from_folder(folder: Path) -> Network:
    """Read a model folder; the weights' names are translated by transformers, as it does for published models.

    Raises:
        ModelError: the folder has no configuration or no safetensors weights, is no classifier, or lacks weights.
    """
    config = _read_config(folder)
    auto_class = getattr(_transformers(), _auto_class(config))
    if not any((folder / name).is_file() for name in _WEIGHT_FILES):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        found = f"only {', '.join(pickled)}, which are pickles and never opened" if pickled else "no weights"
        raise ModelError(
            f"model folder {folder} has {found}; save the model with save_pretrained(..., safe_serialization=True)"
        )
    try:
        model, report = auto_class.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=_ATTENTION,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise ModelError(f"transformers cannot load the model folder {folder}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"model folder {folder} has no weights for {', '.join(missing[:5])}, which would stay random; "
            "fine-tune the classifier and save it whole before you compress it"
        )
    return Network(Architecture(factory=FACTORY, kwargs={"config": _recipe(config)}), _wrapped(model).eval())


def class_names(module: nn.Module) -> tuple[str, ...]:
    """Return the classes that such a model declares, in the order of its outputs; none if it only numbers them."""
    if not isinstance(module, (TextClassifier, ImageClassifier)):
        return ()
    names = tuple(str(name) for _, name in sorted(cast(Any, module.model).config.id2label.items()))
    return () if names == tuple(f"LABEL_{index}" for index in range(len(names))) else names


def _wrapped(model: Any) -> nn.Module:
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return ImageClassifier(model)
    pad = model.config.pad_token_id
    if pad is None:
        raise ModelError(
            f"the configuration of {type(model).__name__} has no pad_token_id, so padding cannot be told from text; "
            "set it in config.json"
        )
    return TextClassifier(model, int(pad))


def _recipe(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what says where the model came from and which code should be fetched for it."""
    return {name: value for name, value in config.items() if name not in ("auto_map", "_name_or_path")}


def _auto_class(config: dict[str, Any]) -> str:
    kinds = config.get("architectures") or []
    for kind in kinds:
        for suffix, auto_class in _AUTO_CLASSES.items():
            if str(kind).endswith(suffix):
                return auto_class
    raise ModelError(
        f"the configuration names the architectures {kinds}; a classifier is needed, whose class ends in "
        f"{' or '.join(_AUTO_CLASSES)}"
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); a Hugging Face model folder holds config.json and model.safetensors"
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path} names no model_type; it must be the configuration of a transformers model")
    return config


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise ModelError(
            f"a Hugging Face model needs the package {error.name}, which is not installed; "
            "install Stillhouse with its extra: pip install 'stillhouse[huggingface]'"
        ) from error
