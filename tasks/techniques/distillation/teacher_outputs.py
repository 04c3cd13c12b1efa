"""What the teacher says of the training rows: asked once for all epochs where their views repeat, else per batch.

Dimension legend: N rows of the split, V views of each, U answers that are kept, B rows of a batch, K outputs.
"""

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor, nn

from tasks.techniques.augmentation import Views
from tasks.techniques.distillation.teacher import INFERENCE_BATCH
from tasks.techniques.inference import outputs_of
from tasks.techniques.loss import Batch
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import StageContext

CACHE_MIB = 1024
"""Default bound of the memory that a teacher's outputs may take."""

_DIGEST_BYTES = 16


class TeacherOutputs:
    """A frozen teacher's outputs for the batches of `fit`; no row is asked for more than once per epoch.

    The teacher sees the very view that the student sees (Beyer et al. 2022, arXiv:2106.05237). Where the views
    repeat it runs once over all of them, on the first batch, and the answers stay in memory on the stage's device:
    over the distinct rows of the split without augmentation, over every row's `num_views` with. Where each view is
    new, or the answers would not fit into the bound, it runs on every batch; `details` says which.
    """

    def __init__(
        self,
        teacher: nn.Module,
        inputs: np.ndarray,
        context: StageContext,
        schedule: Schedule,
        device: str = "cpu",
        *,
        cache_mib: int = CACHE_MIB,
    ) -> None:
        """Decide whether the outputs are kept; nothing is run yet.

        Args:
            teacher: from [B, *input_shape] to [B, K] float32, on `device`, frozen; an ensemble is one such module.
            inputs: [N, *input_shape], the very rows that `fit` is given, in their order.
            context: gives K, the special tokens of texts, and the memory limit.
            schedule: of the training; its views, precision and memory format are the teacher's too.
            device: torch device of the stage.
            cache_mib: bound of the kept outputs, MiB; 0 keeps none.
        """
        self._teacher = teacher
        self._inputs = inputs
        self._device = device
        self._limit = context.micro_batch_limit or INFERENCE_BATCH
        self._cache_mib = cache_mib
        self._augmentation = augmentation = schedule.augmentation
        self._schedule = schedule
        self._special_tokens = context.special_tokens
        self._num_views = 1 if augmentation.is_identity else augmentation.num_views
        self._kept: tuple[Tensor, Tensor] | None = None
        self._first_U, self._place_N = np.arange(len(inputs)), np.arange(len(inputs))
        if augmentation.is_identity:
            self._first_U, self._place_N = distinct_rows(inputs)
        num_answers = len(self._first_U) * self._num_views
        self._needed_bytes = num_answers * context.num_outputs * 4 + self._place_N.nbytes

    @property
    def is_cached(self) -> bool:
        """Whether the teacher sees every view once in all; otherwise it runs on every batch."""
        return self._augmentation.views_repeat and self._needed_bytes <= self._cache_mib * 2**20

    def outputs_for(self, batch: Batch) -> Tensor:
        """Return the teacher's outputs [B, K] for the rows of `batch` as the student sees them, without gradient."""
        if not self.is_cached:
            return self._outputs_for(batch.inputs)
        if self._kept is None:
            self._kept = self._asked_once()
        known_UK, place_N = self._kept
        place_B = place_N[batch.rows]
        return known_UK[place_B if batch.views is None else place_B * self._num_views + batch.views]

    def details(self) -> dict[str, float | int | str]:
        """Return what is worth showing: the memory that the kept outputs cost, and when the teacher runs."""
        if self.is_cached:
            times = "once" if self._num_views == 1 else f"once on each of {self._num_views} views"
            return {"teacher_cache_bytes": self._needed_bytes, "teacher_runs": times}
        if not self._augmentation.views_repeat:
            reason = "each epoch shows new views; augmentation.num_views would make them repeat"
        else:
            reason = f"keeping its outputs takes {self._needed_bytes / 2**20:.3g} MiB, over {self._cache_mib} MiB"
        return {"teacher_cache_bytes": 0, "teacher_runs": f"on every batch: {reason}"}

    def _asked_once(self) -> tuple[Tensor, Tensor]:
        """Run the teacher over all views; return its outputs [U, K] and every row's place in them [N].

        The order is fixed, whatever batch comes first: how rows are put together moves the last bits of their
        outputs, and a resumed training must see the same.
        """
        place_N = torch.from_numpy(self._place_N).to(self._device)
        views = self._augmentation.fixed_views(len(self._inputs), self._inputs.shape[1:])
        if views is not None:
            places = torch.split(torch.arange(len(self._inputs) * self._num_views), self._limit)
            parts = [self._answers(places_B, views) for places_B in places]
            return torch.cat(parts), place_N
        all_differ = len(self._first_U) == len(self._inputs)
        inputs = self._inputs if all_differ else self._inputs[self._first_U]
        return self._outputs_for(torch.from_numpy(inputs).to(self._device)), place_N

    def _answers(self, places: Tensor, views: Views) -> Tensor:
        """Return the outputs [B, K] for the views at `places` [B], each n * V + v."""
        rows = torch.from_numpy(self._inputs[(places // self._num_views).numpy()]).to(self._device)
        return self._outputs_for(self._augmentation.view(rows, views[places], self._special_tokens))

    def _outputs_for(self, inputs: Tensor) -> Tensor:
        """Run the teacher over inputs [B, *input_shape] as the student runs over them; return [B, K]."""
        if self._schedule.channels_last:
            inputs = inputs.to(memory_format=torch.channels_last)
        return outputs_of(self._teacher, inputs, self._limit, self._schedule.precision)


def distinct_rows(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find equal rows by the digest of their bytes.

    Args:
        inputs: [N, *input_shape].

    Returns:
        The positions [U] of the first of each, in rising order, and for every row [N] the place in them of its first.
    """
    places: dict[bytes, int] = {}
    firsts: list[int] = []
    place_N = np.empty(len(inputs), dtype=np.int64)
    for row, values in enumerate(np.ascontiguousarray(inputs)):
        digest = blake2b(values.tobytes(), digest_size=_DIGEST_BYTES).digest()
        place = places.setdefault(digest, len(firsts))
        if place == len(firsts):
            firsts.append(row)
        place_N[row] = place
    return np.array(firsts, dtype=np.int64), place_N
