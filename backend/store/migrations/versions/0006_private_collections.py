"""whose a collection is"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('collection', sa.Column('tenant', sqlmodel.sql.sqltypes.AutoString(), nullable=True))
