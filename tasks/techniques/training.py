"""The training loop: one for baselines, distillation and fine-tuning. What is learned is the loss, an argument.

Dimension legend: N rows of the split, B rows of a batch, K outputs of the network.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.contracts.data import Task
from tasks.contracts.errors import TechniqueError
from tasks.contracts.model import EpochRecord
from tasks.techniques.augmentation import Views
from tasks.techniques.compiling import Forward, compiled, survives_compiling
from tasks.techniques.crew import ShardedState
from tasks.techniques.forms import is_open
from tasks.techniques.layout import survives_channels_last
from tasks.techniques.loss import Batch, Loss, is_labelled
from tasks.techniques.precision import computing_in, widened
from tasks.techniques.schedule import Schedule
from tasks.techniques.technique import Arrays, StageContext

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn
    from torch.optim import Optimizer


def device_for(num_gpus: float) -> str:
    """Return the torch device of a stage that asked for `num_gpus`: CUDA if it asked and there is one."""
    import torch

    return "cuda" if num_gpus > 0 and torch.cuda.is_available() else "cpu"


def fit(
    module: "nn.Module",
    split: Arrays,
    loss: Loss,
    schedule: Schedule,
    context: StageContext,
    *,
    first_step: int = 1,
    device: str = "cpu",
    before_step: Callable[[int, int], None] | None = None,
) -> None:
    """Train `module` in place, report every epoch, and leave the module on the CPU in eval mode.

    Continues from the stage's checkpoint if it fits this very call (module layout, schedule, rows,
    `first_step`), after reporting the epochs that are already done; the final weights are then
    bit-identical to those of an uninterrupted run. All randomness comes from `context.seed` and `first_step`.
    The processes of `context.crew` share every batch, and end with the same weights.

    Args:
        module: the network; parameters that do not require gradients stay as they are.
        split: the training rows, at least two.
        loss: what to minimise.
        schedule: how long and how fast.
        context: seed, checkpoints, reports and the memory limit; it loads nothing here.
        first_step: the `step` of the first epoch's record, for stages that train more than once.
        device: torch device to train on.
        before_step: called as `before_step(step, num_steps)` before each optimizer step, counted from 0 over the
            whole training, to change masks or observers; what it changes must be in the module's buffers, and it
            must depend on nothing else, so that a resumed run goes on the same way.

    Raises:
        TechniqueError: the split or the augmentation does not fit, nothing is trainable, or the loss diverged.
    """
    import torch

    from tasks.techniques.training_state import TrainingState

    _check(module, split, schedule, context)
    inputs = torch.from_numpy(split.x).to(device)
    labels_N = torch.from_numpy(split.y).to(device)
    module.to(device)
    if schedule.channels_last and survives_channels_last(module, device):
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = inputs.to(memory_format=torch.channels_last)
    with _reproducible(context.seed, first_step, device) as generator, forward_of(module, schedule) as forward:
        optimizer = make_optimizer(module, schedule)
        purpose = f"{schedule.value_digest()}/{len(split.y)}/{first_step}"
        state = TrainingState(module, optimizer, generator, purpose)
        views = schedule.augmentation.fixed_views(len(split.y), split.x.shape[1:])
        loop = _Loop(
            module,
            forward,
            inputs,
            labels_N,
            loss,
            schedule,
            context,
            optimizer,
            generator,
            before_step,
            shard_seed=_mixed(context.seed, first_step),
            fixed_views=views,
        )
        records = state.restore(context.checkpoints.load())
        for record in records:
            context.report(record)
        for epoch in range(len(records), schedule.epochs):
            records.append(EpochRecord(step=first_step + epoch, metrics=loop.run_epoch(epoch)))
            context.report(records[-1])
            if (epoch + 1) % schedule.checkpoint_every == 0 or epoch + 1 == schedule.epochs:
                context.checkpoints.save(state.to_bytes(records))
    module.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]


def forward_of(module: "nn.Module", schedule: Schedule) -> AbstractContextManager[Forward]:
    """Return the block in which `module` is called as the schedule says: compiled, or layer by layer.

    A network whose layers somebody listens to is called layer by layer in any case.
    """
    return compiled(module) if schedule.compile and survives_compiling(module) else nullcontext(module)


def make_optimizer(module: "nn.Module", schedule: Schedule) -> "Optimizer":
    """Return the schedule's optimizer over the trainable parameters; vectors and scalars do not decay."""
    import torch

    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": schedule.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


def _check(module: "nn.Module", split: Arrays, schedule: Schedule, context: StageContext) -> None:
    if len(split.y) < 2 or len(split.x) != len(split.y):
        raise TechniqueError(
            f"training needs at least 2 rows and a label for each, but the split has {len(split.x)} rows and "
            f"{len(split.y)} labels; give it more data"
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise TechniqueError(f"{type(module).__name__} has no trainable parameter; train a network that has some")
    if is_open(schedule):
        raise TechniqueError(
            f"schedule leaves open how it trains (precision {schedule.precision}, channels_last "
            f"{schedule.channels_last}, compile {schedule.compile}, micro_batch {schedule.micro_batch}); a run settles "
            "this by a probe, a stage called on its own needs it stated"
        )
    schedule.augmentation.check(split.x.shape[1:], split.x.dtype.name, context.special_tokens)
    if schedule.channels_last and split.x.ndim != 4:
        raise TechniqueError(
            f"schedule.channels_last needs images of shape [C, H, W], but the rows have shape "
            f"{list(split.x.shape[1:])}; leave it out"
        )


def _mixed(seed: int, first_step: int) -> int:
    return (seed * 1_000_003 + first_step) % 2**63


@contextmanager
def _reproducible(seed: int, first_step: int, device: str) -> Iterator["Generator"]:
    """Seed everything random, yield the loop's own generator, and leave the process's generators as they were."""
    import torch

    mixed = _mixed(seed, first_step)
    devices = [torch.cuda.current_device()] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=True, deterministic=True):
        torch.manual_seed(mixed)  # for dropout, which draws from the global generator
        yield torch.Generator().manual_seed(mixed)


@dataclass(frozen=True)
class _Loop:
    """What stays the same from step to step."""

    module: "nn.Module"
    forward: Forward
    """Calls it."""
    inputs: "Tensor"
    """[N, *input_shape]"""
    labels_N: "Tensor"  # noqa: N815
    loss: Loss
    schedule: Schedule
    context: StageContext
    optimizer: "Optimizer"
    generator: "Generator"
    before_step: Callable[[int, int], None] | None
    shard_seed: int
    fixed_views: "Views | None" = None
    """[N * num_views], where the rows have a number of views each; view v of row n is at n * num_views + v."""

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """Show every row once, in a new order, and return the means over the rows."""
        self.module.train()
        num_rows = len(self.labels_N)
        batches = _shuffled_batches(num_rows, self.schedule.batch_size, self.generator)
        sum_loss = sum_score = sum_rate = 0.0
        for position, rows_B in enumerate(batches):
            step = epoch * len(batches) + position
            num_steps = self.schedule.epochs * len(batches)
            rate = self.schedule.learning_rate_at(step, num_steps)
            if self.before_step is not None:
                self.before_step(step, num_steps)
            loss, score = self._step(rows_B.to(self.inputs.device), rate, epoch, step)
            sum_loss += loss * len(rows_B)
            sum_score += score
            sum_rate += rate
        num_labelled = int(is_labelled(self.labels_N).sum())
        score_metric = _score_metric(self.context.task, sum_score / max(1, num_labelled))
        return {"loss": sum_loss / num_rows, "learning_rate": sum_rate / len(batches), **score_metric}

    def _step(self, rows_B: "Tensor", rate: float, epoch: int, step: int) -> tuple[float, float]:
        """Make one optimizer step; return the batch's mean loss and summed score."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        batch = self._batch(rows_B, epoch)
        if self.context.crew.num_shards == 1:
            loss, score = self._accumulate_gradients(batch, len(batch.labels))
        else:
            loss, score = self._share_gradients(batch, step)
        if not math.isfinite(loss):
            raise TechniqueError(
                f"training diverged in epoch {epoch + 1} of {self.schedule.epochs}: the loss is {loss} at learning "
                f"rate {rate:.3g}; lower learning_rate (now {self.schedule.learning_rate:g}) or raise warmup_fraction"
            )
        self.optimizer.step()
        return loss, score

    def _batch(self, rows_B: "Tensor", epoch: int) -> Batch:
        """Gather the rows, vary them, and blend them where the augmentation says so."""
        augmentation = self.schedule.augmentation
        inputs, labels_B, turns_B = self.inputs[rows_B], self.labels_N[rows_B], None
        if self.fixed_views is not None:
            turns_B = (rows_B + epoch) % augmentation.num_views
            views = self.fixed_views[(rows_B * augmentation.num_views + turns_B).cpu()]
        else:
            views = augmentation.draw(len(rows_B), inputs.shape[1:], self.generator)
        inputs = augmentation.view(inputs, views, self.context.special_tokens)
        mix = augmentation.mix(len(rows_B), self.generator)
        if mix is None:
            return Batch(inputs, labels_B, rows_B, views=turns_B)
        return Batch(mix.blend(inputs), labels_B, rows_B, labels_B[mix.partners.to(labels_B.device)], mix.share)

    def _share_gradients(self, batch: Batch, step: int) -> tuple[float, float]:
        """As `_accumulate_gradients`, of a batch that several processes may share."""
        import torch

        crew, num_rows = self.context.crew, len(batch.labels)
        shards = parts_of(batch, math.ceil(num_rows / crew.num_shards))
        state = ShardedState(self.module, crew, self.shard_seed * 1_000_003 + step)
        sums = torch.zeros(2, dtype=torch.float64)
        for position, shard in crew.own(shards):
            with state.shard(position):
                sums += torch.tensor(self._accumulate_gradients(shard, num_rows), dtype=torch.float64)
        state.finish(len(shards))
        crew.add_up([sums])
        crew.add_up_gradients([parameter for group in self.optimizer.param_groups for parameter in group["params"]])
        loss, score = sums.tolist()
        return loss, score

    def _accumulate_gradients(self, batch: Batch, num_rows: int) -> tuple[float, float]:
        """Add up the gradient of these rows' share in the mean loss over `num_rows`; return that share and their score.

        Where fewer may run at once they do so in equal parts.
        """
        loss = score = 0.0
        for part in parts_of(batch, self._rows_at_once(len(batch.labels))):
            with computing_in(self.schedule.precision, self.inputs.device.type):
                outputs_BK = widened(self.forward(part.inputs))
            part_loss = self.loss(outputs_BK, part) * (len(part.labels) / num_rows)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.item()
            score += _summed_score(outputs_BK.detach(), part.labels, self.context.task)
        return loss, score

    def _rows_at_once(self, num_rows: int) -> int:
        """Return the least of what there is, what the schedule says and what is known to fit in memory."""
        micro_batch = self.schedule.micro_batch
        assert micro_batch != "auto", "checked before"
        return min(num_rows, micro_batch or num_rows, self.context.micro_batch_limit or num_rows)


def _shuffled_batches(num_rows: int, batch_size: int, generator: "Generator") -> list["Tensor"]:
    """Split a random permutation into batches; a last single row joins the batch before it (batch norm needs two)."""
    import torch

    rows_N = torch.randperm(num_rows, generator=generator)
    batches = list(torch.split(rows_N, batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def parts_of(batch: Batch, limit: int) -> list[Batch]:
    """Split into near-equal parts of at most `limit` rows, but of no fewer than two (batch norm needs two)."""
    num_rows = len(batch.labels)
    num_parts = max(1, min(math.ceil(num_rows / limit), num_rows // 2))
    edges = [num_rows * part // num_parts for part in range(num_parts + 1)]
    return [batch.part(slice(*pair)) for pair in itertools.pairwise(edges)]


def _summed_score(outputs_BK: "Tensor", labels_B: "Tensor", task: Task) -> float:
    """Sum over the labelled rows: 1 for a right class, or the squared error."""
    if task == "classification":
        return float((outputs_BK.argmax(dim=1) == labels_B).sum())  # -1, for unknown, is no class
    errors_B = outputs_BK.squeeze(1) - labels_B
    return float(errors_B[is_labelled(labels_B)].square().sum())


def _score_metric(task: Task, mean_score: float) -> dict[str, float]:
    if task == "classification":
        return {"train_accuracy": mean_score}
    return {"train_rmse": math.sqrt(mean_score)}
