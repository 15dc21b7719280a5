"""roles of keys, sign-ins of people, whose a chat is"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    with op.batch_alter_table('api_key') as batch:
        batch.add_column(sa.Column('role', text(), nullable=False, server_default='admin'))
        batch.add_column(sa.Column('tenant', text(), nullable=False, server_default=''))
    # A key that is there already could do everything, and its prompt cache was its own. Chats were common to all:
    # they stay with the oldest key, whose owner set the server up, as they do with whoever sits at the machine.
    op.execute(
        "UPDATE api_key SET tenant = id WHERE id != (SELECT id FROM api_key ORDER BY created, id LIMIT 1)"
    )
    op.create_table('sign_in',
    sa.Column('digest', text(), nullable=False),
    sa.Column('key_id', text(), nullable=False),
    sa.Column('created', sa.Float(), nullable=False),
    sa.Column('expires', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['api_key.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('digest')
    )
    op.create_index('ix_sign_in_key_id', 'sign_in', ['key_id'])
    op.create_index('ix_sign_in_expires', 'sign_in', ['expires'])
    with op.batch_alter_table('conversation') as batch:
        batch.add_column(sa.Column('tenant', text(), nullable=False, server_default=''))
    op.create_index('ix_conversation_tenant', 'conversation', ['tenant'])
