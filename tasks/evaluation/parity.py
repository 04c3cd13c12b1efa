"""Whether two forms of one model answer alike: torch against its ONNX, FP32 against int8."""

from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc

from tasks.contracts.errors import ModelError

_FALSE_ALARM_RATE = 0.001
"""How often a copy that agrees on exactly the least share of rows may be stopped by the luck of the rows."""


@dataclass(frozen=True, kw_only=True)
class ParityTolerance:
    """How far a copy may be from its original. The defaults allow for another order of float32 sums."""

    max_relative_difference: float = 1e-3
    """Largest |difference| of any output, as a share of the original's range of outputs."""
    min_agreement: float = 0.995
    """Smallest share of rows with the same top class; rows in a near-tie may differ. Broken where the rows prove a
    smaller share: of a few hundred rows two or three in a near-tie prove nothing."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How close a copy's outputs are to its original's."""

    num_rows: int
    max_relative_difference: float
    """max |copy - original| / (max original - min original), over all rows and outputs."""
    agreement: float | None
    """Share of rows with the same largest output; None for a single output, which has no class."""

    def details(self) -> dict[str, float | int | str]:
        """Return the figures as a stage's details."""
        figures: dict[str, float | int | str] = {
            "parity_rows": self.num_rows,
            "parity_max_relative_difference": self.max_relative_difference,
        }
        return figures if self.agreement is None else figures | {"parity_agreement": self.agreement}


def measure_parity(original: np.ndarray, copy: np.ndarray) -> Parity:
    """Compare the outputs [N, K] of two forms of one model on the same rows.

    Raises:
        ModelError: the shapes differ, there are no rows, or an output is not finite.
    """
    if original.shape != copy.shape or not len(original):
        raise ModelError(f"outputs of shape {original.shape} and {copy.shape} cannot be compared row by row")
    for name, outputs in (("original", original), ("copy", copy)):
        if not np.isfinite(outputs).all():
            raise ModelError(
                f"the {name} gives NaN or infinite outputs for {_count_broken(outputs)} of {len(outputs)} rows"
            )
    # in float64: the difference of two large float32 overflows
    difference = float(np.abs(copy.astype(np.float64) - original).max())
    output_range = float(np.ptp(original.astype(np.float64)))
    agreement = None
    if original.ndim == 2 and original.shape[1] > 1:
        agreement = float(np.mean(original.argmax(axis=1) == copy.argmax(axis=1)))
    return Parity(
        num_rows=len(original),
        max_relative_difference=_ratio(difference, output_range),
        agreement=agreement,
    )


def require_parity(parity: Parity, tolerance: ParityTolerance) -> None:
    """Stop a copy that does not answer as its original does.

    Raises:
        ModelError: a tolerance is broken; the message has the figures.
    """
    if parity.max_relative_difference > tolerance.max_relative_difference:
        raise ModelError(
            f"parity is broken: outputs differ by up to {parity.max_relative_difference:.3%} of their range on "
            f"{parity.num_rows} rows, {tolerance.max_relative_difference:.3%} is allowed; look for an operation in "
            "forward() that is random or that the export computes otherwise"
        )
    if parity.agreement is not None and _is_proved_smaller(parity.agreement, parity.num_rows, tolerance.min_agreement):
        raise ModelError(
            f"parity is broken: the top class agrees on {parity.agreement:.2%} of {parity.num_rows} rows, too few for "
            f"a copy that agrees on {tolerance.min_agreement:.2%}, though outputs differ by at most "
            f"{parity.max_relative_difference:.3%} of their range"
        )


def _is_proved_smaller(share: float, num_rows: int, smallest: float) -> bool:
    """Test the hypothesis that the true share is `smallest` or more: exact binomial, one-sided."""
    num_failures = round((1.0 - share) * num_rows)
    chance: float = bdtrc(num_failures - 1, num_rows, 1.0 - smallest) if num_failures else 1.0
    return chance < _FALSE_ALARM_RATE


def _count_broken(outputs: np.ndarray) -> int:
    return int((~np.isfinite(outputs.reshape(len(outputs), -1))).any(axis=1).sum())


def _ratio(difference: float, output_range: float) -> float:
    """Divide, where equal constants differ by 0 and unequal ones by infinity."""
    if difference == 0.0:
        return 0.0
    return difference / output_range if output_range > 0.0 else float("inf")
