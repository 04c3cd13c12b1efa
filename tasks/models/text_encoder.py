"""A small transformer encoder for texts. Dimension legend: B rows, T tokens, F features, K outputs."""

from typing import cast

import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError
from tasks.models.attention import EncoderBlock

_INITIAL_SCALE = 0.02


class TextEncoder(nn.Module):
    """Token and position embeddings, encoder blocks, the mean over real tokens, norm, linear head."""

    def __init__(
        self,
        max_length: int,
        num_outputs: int,
        vocab_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float,
        dropout: float,
        pad: int,
    ) -> None:
        super().__init__()
        self.pad = pad
        self.token = nn.Embedding(vocab_size, width, padding_idx=pad)
        self.position = nn.Parameter(torch.empty(1, max_length, width))
        self.dropout = nn.Dropout(dropout)
        hidden = round(mlp_ratio * width)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_outputs)
        nn.init.trunc_normal_(self.position, std=_INITIAL_SCALE)
        nn.init.normal_(self.token.weight, std=_INITIAL_SCALE)
        with torch.no_grad():
            self.token.weight[pad].zero_()
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return [B, K] for int64 token ids; tokens with the id `pad` are neither attended to nor counted."""
        keep_BT = ids_BT.ne(self.pad)
        x_BTF = self.dropout(self.token(ids_BT) + self.position)
        for block in self.blocks:
            x_BTF = block(x_BTF, keep_BT)
        kept_BT1 = keep_BT.unsqueeze(2).float()
        # a row of padding alone has the mean 0 instead of 0 / 0
        mean_BF = (x_BTF * kept_BT1).sum(dim=1) / kept_BT1.sum(dim=1).clamp(min=1.0)
        return cast(Tensor, self.head(self.norm(mean_BF)))


def text_encoder(
    input_shape: list[int],
    num_outputs: int,
    vocab_size: int,
    width: int = 64,
    depth: int = 2,
    heads: int = 2,
    mlp_ratio: float = 2.0,
    dropout: float = 0.1,
    pad: int = 0,
) -> TextEncoder:
    """Build a text encoder.

    Args:
        input_shape: [T], the length of a row of token ids.
        num_outputs: K.
        vocab_size: Number of token ids.
        width: F; a multiple of `heads`.
        depth: Number of encoder blocks; 0 gives a bag of embeddings.
        heads: Attention heads of each block.
        mlp_ratio: Hidden features of each block over F.
        dropout: Probability of dropping a feature, in training.
        pad: Id of the padding, the tokenizer's where a plan is silent.

    Raises:
        ModelError: the rows are no texts, or a size does not fit.
    """
    if len(input_shape) != 1:
        raise ModelError(
            f"text_encoder needs rows of token ids, shape [T], but the rows have shape {list(input_shape)}; "
            "use it with a text data set"
        )
    if vocab_size < 1 or width < 1 or depth < 0 or not 0 <= pad < vocab_size:
        raise ModelError(
            f"text_encoder got vocab_size={vocab_size}, width={width}, depth={depth}, pad={pad}; vocab_size and width "
            "must be at least 1, depth at least 0, and pad an id below vocab_size"
        )
    if not 0 <= dropout < 1:
        raise ModelError(f"text_encoder got dropout={dropout:g}; it must be at least 0 and below 1")
    return TextEncoder(input_shape[0], num_outputs, vocab_size, width, depth, heads, mlp_ratio, dropout, pad)
