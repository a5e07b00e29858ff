"""People: whose accounts are linked, the codes for that, who has opted out, and who is to be forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "person_link",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("other_platform", sa.Text(), nullable=False),
        sa.Column("other_account", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "account", "other_platform", name="pk_person_link"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "link_code",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("for_platform", sa.Text(), nullable=False),
        sa.Column("for_account", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "account", name="pk_link_code"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_link_code_for_platform_for_account", "link_code", ["for_platform", "for_account"])
    op.create_table(
        "opted_out",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("platform", "account", name="pk_opted_out"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "forgetting",
        sa.Column("platform", sa.Text(), nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("copies", sa.Boolean(), nullable=False),
        sa.Column("position", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.PrimaryKeyConstraint("platform", "account", name="pk_forgetting"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the tables. Links are lost. Refused if people have opted out: what they write would cross again."""
    for table, whom in (("opted_out", "opted out"), ("forgetting", "asked to be forgotten, which is not done yet")):
        if op.get_bind().execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar():
            raise ValueError(
                f"some people have {whom}, and an older relay would know nothing of it",
                "go back to 0014 at most",
            )
    for table in ("forgetting", "opted_out", "link_code", "person_link"):
        op.drop_table(table)
