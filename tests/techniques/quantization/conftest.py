"""What tests of quantisers share: one-layer graphs, and small transformers that have learned something."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from tasks.contracts.model import Architecture
from tasks.models.architecture import Network
from tasks.models.attention import EncoderBlock
from tasks.models.onnx_export import to_onnx
from tasks.models.vit import vit
from tasks.techniques.technique import Arrays, StageContext

MakeContext = Callable[..., StageContext]


class TextEncoder(nn.Module):
    """Embeddings of 200 tokens, one encoder block, the mean over 12 tokens, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(200, 32)
        self.block = EncoderBlock(32, 4, 64)
        self.head = nn.Linear(32, 3)

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.head(self.block(self.tokens(ids_BT)).mean(dim=1))


def token_rows(num_rows: int, seed: int) -> Arrays:
    """Draw rows of 12 tokens; the label is the third of the vocabulary that most of them come from."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_rows, dtype=np.int64) % 3
    ids = generator.integers(0, 200, (num_rows, 12))
    ids[:, :8] = labels[:, None] * 66 + generator.integers(0, 66, (num_rows, 8))
    return Arrays(ids, labels)


def learned(module: nn.Module, rows: Arrays, num_steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(num_steps):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(rows.x)), torch.from_numpy(rows.y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


def exported(module: nn.Module, input_shape: tuple[int, ...], dtype: str = "float32") -> bytes:
    return to_onnx(Network(Architecture(factory="test:network"), module), input_shape, dtype)


@pytest.fixture(scope="session")
def draw_tokens() -> Callable[[int, int], Arrays]:
    return token_rows


@pytest.fixture(scope="session")
def text_encoder() -> bytes:
    """Return a text encoder that has learned the token rows, as ONNX with int64 rows [12]."""
    torch.manual_seed(0)
    return exported(learned(TextEncoder(), token_rows(300, 1), 30), (12,), "int64")


@pytest.fixture(scope="session")
def vision_transformer(draw_images: Callable[[int, int], Arrays]) -> bytes:
    """Return a vision transformer that has learned the striped images, as ONNX."""
    torch.manual_seed(0)
    return exported(learned(vit((1, 8, 8), 3, patch=2, width=32, depth=2), draw_images(96, 1), 25), (1, 8, 8))


@pytest.fixture(scope="session")
def convolutions(draw_images: Callable[[int, int], Arrays]) -> bytes:
    """Return two convolutions and a head that have learned the striped images, as ONNX."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return exported(learned(nn.Sequential(*layers, nn.Linear(24, 3)), draw_images(96, 1), 40), (1, 8, 8))


@pytest.fixture(scope="session")
def product() -> Callable[..., bytes]:
    """Return a function that makes one Gemm called `layer`: input [batch, K] times weight [N, K] transposed."""

    def make(weight: np.ndarray, bias: np.ndarray) -> bytes:
        num_outputs, num_inputs = weight.shape
        model = onnx.parser.parse_model(
            f"""<ir_version: 10, opset_import: ["" : 21]>
            net (float[batch, {num_inputs}] input) => (float[batch, {num_outputs}] output) {{
                output = Gemm <transB = 1> (input, w, b)
            }}"""
        )
        model.graph.node[0].name = "layer"
        for name, value in (("w", weight), ("b", bias)):
            model.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
        return model.SerializeToString()

    return make


@pytest.fixture(scope="session")
def context_on(make_context: MakeContext) -> Callable[..., StageContext]:
    """Return a function that makes a context whose every split is these rows."""

    def make(x: np.ndarray, y: np.ndarray | None = None, **members: object) -> StageContext:
        split = Arrays(x, np.arange(len(x)) % 3 if y is None else y)
        return make_context(input_shape=x.shape[1:], load_split=lambda name: split, **members)

    return make
