"""Champions and rollout ticks. IF NOT EXISTS: ledgers from before there were versions have these tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "promotions",
        sa.Column("model_name", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("candidate", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("gate_report", sa.String(64), nullable=True),
        sa.Column("expected_champion", sa.String(64), nullable=True),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(40), nullable=False),
        sa.UniqueConstraint("model_name", "candidate", "gate_report", name="uq_promotions_evidence"),
        if_not_exists=True,
    )
    op.create_table(
        "rollout_ticks",
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("model_name", sa.String(63), nullable=False),
        sa.Column("rollout_id", sa.String(255), nullable=False),
        sa.Column("tick", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.UniqueConstraint("rollout_id", "tick", name="uq_rollout_ticks_tick"),
        if_not_exists=True,
    )
