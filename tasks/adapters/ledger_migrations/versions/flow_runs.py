"""The flow run that made what became champion, so that a promotion leads to its run without the registry."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; earlier entries have none."""
    op.add_column("promotions", sa.Column("run_id", sa.String(64), nullable=True))
