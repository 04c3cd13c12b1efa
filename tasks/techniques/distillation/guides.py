"""What a student is charged for features that differ from its teacher's.

Dimension legend: B rows of a batch, C channels, H height, W width, T positions of a sequence, F features,
P pairs of rows.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tasks.contracts.errors import TechniqueError
from tasks.techniques.distillation.layer_pairs import LayerPair

Features = Sequence[Tensor]
"""One tensor for each pair of layers."""


class Guide(nn.Module, ABC):
    """A loss on the features of student and teacher. What it trains beside the student is thrown away afterwards."""

    def forward(self, student: Features, teacher: Features) -> Tensor:
        """Return the mean over the pairs of layers, a scalar."""
        losses = [self.loss(index, *pair) for index, pair in enumerate(zip(student, teacher, strict=True))]
        return torch.stack(losses).mean()

    @abstractmethod
    def loss(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of pair `index`, a scalar."""


class HintGuide(Guide):
    """FitNets: mean over the elements of (r(s) - u)^2, u = (t - mean t) / sigma (Romero et al. 2015, arXiv:1412.6550).

    s and t are the features of student and teacher, at the lower of their two resolutions, and r is a learned
    regressor: a 1x1 convolution with batch norm for maps [B, C, H, W], a linear layer for sequences [B, T, F] and
    features [B, F]. The means of the channels, and sigma^2, the mean over the channels of their variances, are
    measured once. So the loss is the share of the teacher's variance that the regression leaves unexplained, and
    the regressors start at the right scale, whatever the unit of the features.
    """

    def __init__(self, pairs: Sequence[LayerPair], student: Features, teacher: Features) -> None:
        """Draw the regressors from torch's global generator, and measure the teacher's features.

        Args:
            pairs: for the error messages.
            student: features of a few rows.
            teacher: features of the rows over which means and variances are measured.

        Raises:
            TechniqueError: the features of a pair cannot be compared, or the teacher's are all the same.
        """
        super().__init__()
        self.hints = nn.ModuleList(_Hint(*members) for members in zip(pairs, student, teacher, strict=True))

    def loss(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """See `Guide.loss`."""
        loss: Tensor = self.hints[index](student, teacher)
        return loss


class _Hint(nn.Module):
    """The regression of one pair of layers."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, pair: LayerPair, student: Tensor, teacher: Tensor) -> None:
        super().__init__()
        _check_comparable(pair, student, teacher)
        channels = _channels_last(_pooled_alike(teacher, student)).double()
        mean = channels.flatten(0, -2).mean(dim=0)
        variance = (channels - mean).square().mean()
        if not variance > 0:
            raise TechniqueError(
                f"pairs: {pair}: the teacher's features are the same for all calibration rows; choose another layer"
            )
        self.regressor = _regressor(student, teacher)
        self.register_buffer("mean", mean.to(teacher.dtype))
        self.register_buffer("deviation", variance.sqrt().to(teacher.dtype))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared error, a scalar."""
        target = (_channels_last(_pooled_alike(teacher, student)) - self.mean) / self.deviation
        predicted = _channels_last(self.regressor(_pooled_alike(student, teacher)))
        return functional.mse_loss(predicted, target)


class AttentionGuide(Guide):
    """`attention_distance` of every pair."""

    def __init__(self, pairs: Sequence[LayerPair], student: Features, teacher: Features) -> None:
        """Check that the features of `pairs` are maps.

        Raises:
            TechniqueError: they are not.
        """
        super().__init__()
        for pair, one in itertools.chain(zip(pairs, student, strict=True), zip(pairs, teacher, strict=True)):
            if one.ndim != 4 or one.shape[2:] == (1, 1):
                raise TechniqueError(
                    f"pairs: attention transfer compares where maps [C, H, W] are large, but {pair} gives "
                    f"{list(one.shape[1:])} for each row; choose convolutions before the pooling, or use "
                    "distill_features or distill_relations"
                )

    def loss(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """See `Guide.loss`."""
        return attention_distance(student, teacher)


class RelationGuide(Guide):
    """Weighted `distance_relation` and `angle_relation` of every pair's embeddings."""

    def __init__(self, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self._distance_weight, self._angle_weight = distance_weight, angle_weight

    def loss(self, index: int, student: Tensor, teacher: Tensor) -> Tensor:
        """See `Guide.loss`."""
        student_BF, teacher_BF = embeddings(student), embeddings(teacher)
        distance = distance_relation(student_BF, teacher_BF)
        return self._distance_weight * distance + self._angle_weight * angle_relation(student_BF, teacher_BF)


def attention_distance(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """||q_s - q_t||^2, the mean over the rows (Zagoruyko & Komodakis 2017, arXiv:1612.03928).

    q = a / ||a|| over all positions, where a is the mean over the channels of the squared features: the paper's
    attention map F_sum^2, at the lower of the two resolutions. Between 0 and 2, since a has no negative
    entries. The paper writes the norm, its authors' code squares it, as is done here.
    """
    energies = (features.square().mean(dim=1, keepdim=True) for features in (student_BCHW, teacher_BCHW))
    student, teacher = energies
    student_BP = functional.normalize(_pooled_alike(student, teacher).flatten(1), dim=1)
    teacher_BP = functional.normalize(_pooled_alike(teacher, student).flatten(1), dim=1)
    return (student_BP - teacher_BP).square().sum(dim=1).mean()


def embeddings(features: Tensor) -> Tensor:
    """Return [B, F]: the mean over the positions of maps [B, F, H, W] and sequences [B, T, F]."""
    if features.ndim == 3:
        return features.mean(dim=1)
    return features.flatten(2).mean(dim=2) if features.ndim > 3 else features


def distance_relation(student_BF: Tensor, teacher_BF: Tensor) -> Tensor:
    """RKD-D: Huber(d_s / mean d_s, d_t / mean d_t), the mean over all pairs of rows (Park et al. 2019, equation 6).

    d are the Euclidean distances of the pairs (arXiv:1904.05068). Rows that all coincide have relative distances
    of 0. The loss stays the same when the student's features are scaled, moved, turned or mirrored.
    """
    return functional.smooth_l1_loss(_relative_distances(student_BF), _relative_distances(teacher_BF))


def angle_relation(student_BF: Tensor, teacher_BF: Tensor) -> Tensor:
    """RKD-A: Huber(cos_s, cos_t), the mean over all triplets of different rows (Park et al. 2019, equation 9).

    cos is the cosine of the angle at row j between rows i and k; it is 0 where i or k coincides with j
    (arXiv:1904.05068). It takes B^2 (F + B / 2) floats for each network.
    """
    num_rows = len(student_BF)
    if num_rows < 3:
        return student_BF.sum() * 0.0
    total = functional.smooth_l1_loss(_cosines(student_BF), _cosines(teacher_BF), reduction="sum")
    # i < k, for every j; those with j = i or j = k are 0 in both networks
    return total / (num_rows * (num_rows - 1) * (num_rows - 2) / 2)


def _relative_distances(features_BF: Tensor) -> Tensor:
    """Return the distances [P] of all P = B (B - 1) / 2 pairs, divided by their mean."""
    distances_P = functional.pdist(features_BF)
    mean = distances_P.mean()
    return distances_P / torch.where(mean > 0, mean, 1.0)


def _cosines(features_BF: Tensor) -> Tensor:
    """Return [B, P]: the cosine at row j between rows i < k."""
    differences_BBF = features_BF[None] - features_BF[:, None]  # from j to i
    lengths_BB1 = differences_BBF.norm(dim=2, keepdim=True)
    units_BBF = differences_BBF / torch.where(lengths_BB1 > 0, lengths_BB1, 1.0)
    i_P, k_P = torch.triu_indices(len(features_BF), len(features_BF), offset=1, device=features_BF.device)
    return (units_BBF @ units_BBF.transpose(1, 2))[:, i_P, k_P]


def _pooled_alike(features: Tensor, other: Tensor) -> Tensor:
    """Average maps [B, C, H, W] down to the lower of the two resolutions; leave anything else as it is."""
    if features.ndim != 4:
        return features
    size = (min(features.shape[2], other.shape[2]), min(features.shape[3], other.shape[3]))
    return features if size == features.shape[2:] else functional.adaptive_avg_pool2d(features, size)


def _check_comparable(pair: LayerPair, student: Tensor, teacher: Tensor) -> None:
    both = f"the teacher's {list(teacher.shape[1:])} and the student's {list(student.shape[1:])} for each row"
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
        raise TechniqueError(
            f"pairs: {pair} compares {both}; both must be maps [C, H, W], sequences [T, F] or features [F]"
        )
    if student.ndim == 3 and student.shape[1] != teacher.shape[1]:
        raise TechniqueError(
            f"pairs: {pair} compares sequences of different lengths, {both}; choose layers of one length"
        )
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise TechniqueError(
            f"pairs: {pair} compares {student.dtype} with {teacher.dtype}; choose layers that give floats"
        )


def _regressor(student: Tensor, teacher: Tensor) -> nn.Module:
    if student.ndim == 4:
        num_channels = teacher.shape[1]
        convolution = nn.Conv2d(student.shape[1], num_channels, kernel_size=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(num_channels))
    return nn.Linear(student.shape[-1], teacher.shape[-1])


def _channels_last(features: Tensor) -> Tensor:
    """Return maps as [B, H, W, C]; sequences and features have their channels last."""
    return features.movedim(1, -1) if features.ndim == 4 else features
