"""What counts as a change of a served model, and how sure one has to be."""

from typing import Self

from pydantic import Field, model_validator

from tasks.contracts.value import Value


class MonitoringPolicy(Value):
    """Limits and error rates of monitoring. `docs/monitoring.md` has the false-alarm rates that the defaults reach."""

    drift_alpha: float = Field(
        default=0.002, gt=0.0, lt=0.5, description="Chance that a window without drift fails any drift check."
    )
    min_ks: float = Field(
        default=0.1, ge=0.0, lt=1.0, description="Kolmogorov-Smirnov distance below which a change does not matter."
    )
    min_psi: float = Field(
        default=0.1, ge=0.0, description="Population stability index, chance taken off, that matters."
    )
    min_class_effect: float = Field(
        default=0.15, ge=0.0, description="Cohen's w of the predicted classes' frequencies that matters."
    )
    min_mmd: float = Field(default=0.1, ge=0.0, description="Discrepancy of the input sketch that matters.")
    alpha: float = Field(
        default=0.001, gt=0.0, lt=0.5, description="Error rate of each other kind of check in one window."
    )
    max_accuracy_drop: float = Field(
        default=0.03, ge=0.0, lt=1.0, description="Tolerated drop of accuracy below the reference's, as a fraction."
    )
    correct_within: float | None = Field(
        default=None, ge=0.0, description="Regression: an answer is correct when it is off by at most this."
    )
    max_latency_ratio: float = Field(
        default=1.3, gt=1.0, description="Tolerated latency as a multiple of the reference's."
    )
    latency_quantiles: tuple[float, ...] = Field(
        default=(0.5, 0.95, 0.99), min_length=1, description="Latency quantiles that are guarded."
    )
    max_error_increase: float = Field(
        default=0.01, ge=0.0, lt=1.0, description="Tolerated increase of the share of failed requests."
    )
    min_rows: int = Field(default=100, ge=20, description="Rows below which a window or a reference is not judged.")
    max_rows: int = Field(default=5000, ge=100, description="Rows of a window that are drawn for the drift tests.")
    mmd_rows: int = Field(
        default=500, ge=50, description="Rows of each sample in the kernel test; its cost is the square."
    )
    rows_per_request: int = Field(
        default=1, ge=1, description="Rows drawn per request: rows of one request are rarely independent."
    )
    failing_windows: int = Field(default=2, ge=1, description="Failed windows that make an alarm, ...")
    of_windows: int = Field(default=3, ge=1, description="... among so many in a row that had an answer.")
    cooldown_hours: float = Field(
        default=24.0, ge=0.0, description="Time after an alarm's end in which its kind raises no new one."
    )
    label_hours: float = Field(
        default=24.0, gt=0.0, description="How long after an answer its label may arrive and still be counted."
    )
    reference_hours: float = Field(
        default=2.0, gt=0.0, description="Traffic after a promotion from which latency and errors are learnt."
    )

    @model_validator(mode="after")
    def _windows_can_fail(self) -> Self:
        if self.failing_windows > self.of_windows:
            raise ValueError(f"failing_windows {self.failing_windows} cannot exceed of_windows {self.of_windows}")
        if any(not 0.0 < quantile < 1.0 for quantile in self.latency_quantiles):
            raise ValueError(f"latency_quantiles {self.latency_quantiles} must lie between 0 and 1; 0.95 is p95")
        return self
