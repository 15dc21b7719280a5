"""files and batches of the API, and webhooks that tell how a batch ended"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0013'
down_revision = '0012'
branch_labels = None
depends_on = None

Text = sqlmodel.sql.sqltypes.AutoString


def upgrade() -> None:
    op.create_table(
        'stored_file',
        sa.Column('id', Text(), nullable=False),
        sa.Column('tenant', Text(), nullable=False),
        sa.Column('name', Text(), nullable=False),
        sa.Column('purpose', Text(), nullable=False),
        sa.Column('sha256', Text(), nullable=False),
        sa.Column('size', sa.BigInteger(), nullable=False),
        sa.Column('listed', sa.Boolean(), nullable=False),
        sa.Column('created', sa.Float(), nullable=False),
        sa.Column('expires', sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint('id'),
    )
    for column in ('tenant', 'sha256', 'expires'):
        op.create_index(f'ix_stored_file_{column}', 'stored_file', [column])
    op.create_table(
        'batch',
        *(
            sa.Column(name, Text(), nullable=False)
            for name in (
                'id', 'tenant', 'key_id', 'endpoint', 'input_file_id', 'input_name', 'source_id', 'completion_window',
                'status', 'model', 'waiting', 'request_digest',
            )
        ),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ('total', 'completed', 'failed')),
        *(
            sa.Column(name, sa.BigInteger(), nullable=False)
            for name in ('input_tokens', 'cached_tokens', 'output_tokens')
        ),
        *(sa.Column(name, sa.Float(), nullable=False) for name in ('cost', 'created', 'expires')),
        sa.Column('errors', sa.JSON(), nullable=False),
        sa.Column('tags', sa.JSON(), nullable=True),
        sa.Column('output_seconds', sa.Integer(), nullable=True),
        *(sa.Column(name, Text(), nullable=True) for name in ('output_file_id', 'error_file_id', 'request_key')),
        *(
            sa.Column(name, sa.Float(), nullable=True)
            for name in ('in_progress_at', 'finalizing_at', 'cancelling_at', 'ended_at')
        ),
        sa.PrimaryKeyConstraint('id'),
        sa.UniqueConstraint('tenant', 'request_key', name='uq_batch_request'),
    )
    for column in ('tenant', 'status', 'request_digest'):
        op.create_index(f'ix_batch_{column}', 'batch', [column])
    op.create_table(
        'batch_line',
        sa.Column('batch_id', Text(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('place', sa.LargeBinary(), nullable=False),
        sa.Column('start', sa.BigInteger(), nullable=False),
        sa.Column('length', sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(['batch_id'], ['batch.id'], ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('batch_id', 'number'),
    )
    op.create_index('ix_batch_line_place', 'batch_line', ['batch_id', 'place', 'number'])
    op.create_table(
        'batch_result',
        sa.Column('batch_id', Text(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('failed', sa.Boolean(), nullable=False),
        sa.Column('text', Text(), nullable=False),
        sa.ForeignKeyConstraint(['batch_id'], ['batch.id'], ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('batch_id', 'number'),
    )
    op.create_table(
        'webhook_endpoint',
        *(sa.Column(name, Text(), nullable=False) for name in ('id', 'tenant', 'name', 'url', 'secret')),
        sa.Column('event_types', sa.JSON(), nullable=False),
        sa.Column('created', sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint('id'),
    )
    op.create_index('ix_webhook_endpoint_tenant', 'webhook_endpoint', ['tenant'])
    op.create_table(
        'webhook_delivery',
        *(sa.Column(name, Text(), nullable=False) for name in ('id', 'endpoint_id', 'type', 'about')),
        sa.Column('created', sa.Float(), nullable=False),
        sa.Column('tries', sa.Integer(), nullable=False),
        sa.Column('due', sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(['endpoint_id'], ['webhook_endpoint.id'], ondelete='CASCADE'),
        sa.PrimaryKeyConstraint('id'),
    )
    for column in ('endpoint_id', 'due'):
        op.create_index(f'ix_webhook_delivery_{column}', 'webhook_delivery', [column])
