"""Multi-head self-attention and the encoder block around it, for images and for texts.

Dimension legend: B rows, T tokens, F features of a token, H heads, D features of a head, M hidden features.

No shape but the batch's is dynamic and control flow depends on no data, so that torch.fx traces the
modules and the ONNX exporter sees one static graph. The products are plain ones: quantisers know
MatMul and know nothing of fused attention.
"""

from typing import cast

import torch
from torch import Tensor, nn

from tasks.contracts.errors import ModelError

_HIDDEN_SCORE = -1e4
"""Score of a hidden token: its softmax is exactly 0 in float32, and float16 can hold it."""


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(D)) V for each head, joined by a linear layer (Vaswani et al. 2017, arXiv:1706.03762).

    The inner width H D may differ from F, so that whole heads can be removed: take their rows out of
    `query`, `key` and `value` and their columns out of `out`, and lower `num_heads`. Head h owns the
    inner features h D to (h + 1) D - 1.
    """

    def __init__(self, width: int, num_heads: int, head_width: int | None = None) -> None:
        """Build with `width` F; without `head_width` D it is F / H.

        Raises:
            ModelError: the heads do not divide the width, or a size is below 1.
        """
        super().__init__()
        if width < 1 or num_heads < 1 or (head_width is None and width % num_heads) or head_width == 0:
            raise ModelError(
                f"attention got width={width}, num_heads={num_heads}, head_width={head_width}; all must be at least "
                "1, and without head_width the width must be a multiple of num_heads"
            )
        self.num_heads = num_heads
        self.head_width = head_width or width // num_heads
        inner = self.num_heads * self.head_width
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)

    def forward(self, x_BTF: Tensor, keep_BT: Tensor | None = None) -> Tensor:
        """Return [B, T, F].

        Args:
            x_BTF: the tokens.
            keep_BT: bool, False for tokens that nobody attends to (padding). A row without a single real
                token attends to all its tokens alike instead of giving NaN.
        """
        # scaling the queries instead of the scores is T D products instead of T T
        query_BHTD = self._by_head(self.query(x_BTF) * self.head_width**-0.5)
        key_BHTD = self._by_head(self.key(x_BTF))
        value_BHTD = self._by_head(self.value(x_BTF))
        scores_BHTT = query_BHTD @ key_BHTD.transpose(2, 3)
        if keep_BT is not None:
            hidden_B11T = keep_BT.logical_not()[:, None, None, :]
            # not a sum with a large negative: that would widen the int8 range of the scores beyond use
            scores_BHTT = scores_BHTT.masked_fill(hidden_B11T, _HIDDEN_SCORE)
        weights_BHTT = scores_BHTT.softmax(dim=3)
        joined_BTI = (weights_BHTT @ value_BHTD).transpose(1, 2).flatten(2)
        return cast(Tensor, self.out(joined_BTI))

    def _by_head(self, x_BTI: Tensor) -> Tensor:
        return torch.unflatten(x_BTI, 2, (self.num_heads, self.head_width)).transpose(1, 2)


class EncoderBlock(nn.Module):
    """y = x + attention(norm1(x)), then y + contract(gelu(expand(norm2(y)))).

    Norms stand before the branches, which trains without warm-up (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float = 0.0) -> None:
        """Build.

        Args:
            width: F.
            num_heads: H; divides F.
            hidden: M, the width between `expand` and `contract`.
            dropout: probability of dropping a feature of what either branch adds.

        Raises:
            ModelError: a size is below 1, or `num_heads` does not divide `width`.
        """
        super().__init__()
        if hidden < 1:
            raise ModelError(f"an encoder block got hidden={hidden}; it must be at least 1")
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.GELU()
        self.contract = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTF: Tensor, keep_BT: Tensor | None = None) -> Tensor:
        """Return [B, T, F]; for `keep_BT` see `SelfAttention.forward`."""
        attended_BTF = x_BTF + self.dropout(self.attention(self.norm1(x_BTF), keep_BT))
        branch_BTF = self.contract(self.activation(self.expand(self.norm2(attended_BTF))))
        return cast(Tensor, attended_BTF + self.dropout(branch_BTF))
