"""what a key may use: requests a minute, money a day and a month"""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0009'
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table('api_key') as batch:
        batch.add_column(sa.Column('requests_per_minute', sa.Integer(), nullable=True))
        batch.add_column(sa.Column('day_limit', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('month_limit', sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column('warn_percent', sa.Integer(), nullable=False, server_default='80'))
