"""The tables of the ledger's database, as the newest migration leaves them."""

from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, Text, UniqueConstraint

METADATA = MetaData()

PROMOTIONS = Table(
    "promotions",
    METADATA,
    Column("model_name", String(63), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("action", String(16), nullable=False),
    Column("candidate", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Column("gate_report", String(64), nullable=True),
    Column("expected_champion", String(64), nullable=True),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", String(40), nullable=False),
    Column("run_id", String(64), nullable=True),
    # NULLs differ from each other in a unique key, so entries without a gate report are not held by this one
    UniqueConstraint("model_name", "candidate", "gate_report", name="uq_promotions_evidence"),
)

TICKS = Table(
    "rollout_ticks",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("model_name", String(63), nullable=False),
    Column("rollout_id", String(255), nullable=False),
    Column("tick", Integer, nullable=False),
    Column("state", Text, nullable=False),
    UniqueConstraint("rollout_id", "tick", name="uq_rollout_ticks_tick"),
)

SHARED = MetaData()
"""What only a database that several hosts share has."""

LEASES = Table(
    "leases",
    SHARED,
    Column("name", Text, primary_key=True),
    Column("token", String(32), nullable=False),  # of this taking of the lock, and of no other ever
    Column("holder", Text, nullable=False),  # host and process, for people
    Column("acquired_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)

STAGE_RECORDS = Table(
    "stage_records",
    SHARED,
    Column("stage_key", Text, primary_key=True),
    Column("token", String(32), nullable=False),  # of the lease under which the record was written
    Column("committed_at", DateTime(timezone=True), nullable=False),
)
