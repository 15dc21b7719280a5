"""one message a place in its conversation, the ledger's windows by kind"""

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    doubled = connection.execute(sa.text(
        "SELECT DISTINCT conversation_id FROM message GROUP BY conversation_id, position HAVING COUNT(*) > 1"
    )).scalars().all()
    for conversation in doubled:  # two tabs once asked at the same moment: one after the other, as they came
        rows = connection.execute(sa.text(
            "SELECT id FROM message WHERE conversation_id = :conversation ORDER BY position, created, id"
        ), {"conversation": conversation}).scalars().all()
        for position, identifier in enumerate(rows):
            connection.execute(sa.text("UPDATE message SET position = :position WHERE id = :id"),
                               {"position": position, "id": identifier})
    op.create_index('uq_message_place', 'message', ['conversation_id', 'position'], unique=True)
    op.create_index('ix_usage_kind_finished', 'usage', ['kind', 'finished'])
