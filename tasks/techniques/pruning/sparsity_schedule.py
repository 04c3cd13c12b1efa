"""How many weights are zero at which step of a training: a pure function of the step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CubicSchedule:
    """s(t) = s_f + (s_i - s_f) (1 - (t - t0) / (t1 - t0))^3 (Zhu & Gupta 2017, arXiv:1710.01878, equation 1).

    Many weights go early, while the network has them to spare and time to recover; few go late. t1 - t0 is
    the paper's n Δt. The last update comes before the last step at the latest, so that training ends
    with the final masks.
    """

    initial: float
    """s_i, share of zeros at `begin`."""
    final: float
    """s_f, share of zeros from `end` on."""
    begin: float
    """Share of the steps before the first update, t0."""
    end: float
    """Share of the steps before the last update, t1."""
    update_every: int
    """Δt, steps between two updates."""

    def is_update(self, step: int, num_steps: int) -> bool:
        """Tell whether masks change before optimizer step `step` (from 0) of `num_steps`."""
        first, last = self._window(num_steps)
        return first <= step <= last and (step == last or (step - first) % self.update_every == 0)

    def sparsity_at(self, step: int, num_steps: int) -> float:
        """Return s(t), `initial` before the window and `final` after it."""
        first, last = self._window(num_steps)
        if step >= last:
            return self.final
        progress = max(0, step - first) / (last - first)
        return self.final + (self.initial - self.final) * (1 - progress) ** 3

    def _window(self, num_steps: int) -> tuple[int, int]:
        last = min(int(self.end * num_steps), num_steps - 1)
        return min(int(self.begin * num_steps), last), last
