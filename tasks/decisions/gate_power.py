"""What a test split can settle under a plan's assumptions, told before any work."""

from tasks.decisions.gate_policy import Constraints, GatePolicy
from tasks.decisions.paired_power import rows_for_power, settling_power


def rows_to_settle(constraints: Constraints, policy: GatePolicy, num_candidates: int) -> int | None:
    """Return the test rows that settle the accuracy margin under the policy's assumptions; None if no number does."""
    return rows_for_power(
        policy.assumed_discordance,
        policy.assumed_drop,
        constraints.max_accuracy_drop,
        policy.candidate_alpha(num_candidates),
        policy.power,
    )


def chance_to_settle(num_rows: int, constraints: Constraints, policy: GatePolicy, num_candidates: int) -> float:
    """Return the power of the accuracy check on a test split of `num_rows` rows under the policy's assumptions."""
    return settling_power(
        num_rows,
        policy.assumed_discordance,
        policy.assumed_drop,
        constraints.max_accuracy_drop,
        policy.candidate_alpha(num_candidates),
    )


def too_few_rows(num_rows: int, constraints: Constraints, policy: GatePolicy, num_candidates: int) -> str | None:
    """Say why a test split of `num_rows` rows cannot settle the accuracy margin; None if it can."""
    needed = rows_to_settle(constraints, policy, num_candidates)
    margin = constraints.max_accuracy_drop
    if needed is None:
        return (
            f"no number of test rows settles a margin of {margin:g} for a candidate whose accuracy drops by "
            f"{policy.assumed_drop:g}; raise constraints.max_accuracy_drop or lower gate.assumed_drop"
        )
    if num_rows >= needed:
        return None
    chance = chance_to_settle(num_rows, constraints, policy, num_candidates)
    return (
        f"this test split of {num_rows} rows settles a margin of {margin:g} with a probability of {chance:.0%}: needs "
        f"about {needed} rows ({num_candidates} candidates, alpha {policy.alpha:g}, power {policy.power:g}, "
        f"{policy.assumed_discordance:.1%} of the rows answered right by only one model); raise "
        "constraints.max_accuracy_drop, use more test rows, or compare fewer candidates"
    )
