"""chats as trees, their settings, and answers that can be written on"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.add_column('message', sa.Column('parent_id', text(), nullable=True))
    op.add_column('conversation', sa.Column('leaf', text(), nullable=False, server_default=''))
    op.add_column('conversation', sa.Column('settings', sa.JSON(), nullable=False, server_default='{}'))
    op.create_table(
        'cut_answer',
        sa.Column('message_id', text(), nullable=False),
        sa.Column('fingerprint', text(), nullable=False),
        sa.Column('tokens', sa.LargeBinary(), nullable=False),
        sa.Column('written', sa.Integer(), nullable=False),
        sa.Column('text', text(), nullable=False),
        sa.ForeignKeyConstraint(['message_id'], ['message.id'], ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('message_id'),
    )
    # A chat was a line: each message follows the one before it, and the last is where it stands.
    op.execute("""
        UPDATE message SET parent_id = (
            SELECT earlier.id FROM message AS earlier
            WHERE earlier.conversation_id = message.conversation_id AND earlier.position < message.position
            ORDER BY earlier.position DESC LIMIT 1
        )
    """)
    op.execute("""
        UPDATE conversation SET leaf = COALESCE((
            SELECT message.id FROM message WHERE message.conversation_id = conversation.id
            ORDER BY message.position DESC LIMIT 1
        ), '')
    """)
