"""which key made a job, and which began a run: whose limits hold, and who pays"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ('job', 'job_run'):
        op.add_column(table, sa.Column('key_id', sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default=''))
