"""versions of documents, answers given again"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    op.create_table('answer',
    sa.Column('key', text(), nullable=False),
    sa.Column('scope', text(), nullable=False),
    sa.Column('question', text(), nullable=False),
    sa.Column('vector', sa.LargeBinary(), nullable=True),
    sa.Column('token_ids', sa.JSON(), nullable=False),
    sa.Column('finish_reason', text(), nullable=False),
    sa.Column('citations', sa.JSON(), nullable=False),
    sa.Column('prompt_tokens', sa.Integer(), nullable=False),
    sa.Column('compute_seconds', sa.Float(), nullable=False),
    sa.Column('hits', sa.Integer(), nullable=False),
    sa.Column('created', sa.Float(), nullable=False),
    sa.Column('used', sa.Float(), nullable=False),
    sa.PrimaryKeyConstraint('key')
    )
    op.create_index('ix_answer_scope', 'answer', ['scope'])
    op.create_index('ix_answer_used', 'answer', ['used'])
    op.create_table('document_version',
    sa.Column('document_id', text(), nullable=False),
    sa.Column('number', sa.Integer(), nullable=False),
    sa.Column('sha256', text(), nullable=False),
    sa.Column('size', sa.Integer(), nullable=False),
    sa.Column('build', sa.Integer(), nullable=False),
    sa.Column('chunk_count', sa.Integer(), nullable=False),
    sa.Column('embedded', sa.Integer(), nullable=False),
    sa.Column('reused', sa.Integer(), nullable=False),
    sa.Column('seconds', sa.Float(), nullable=False),
    sa.Column('chunker', text(), nullable=False),
    sa.Column('created', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['document_id'], ['document.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('document_id', 'number')
    )
    op.create_index('ix_document_version_sha256', 'document_version', ['sha256'])
    with op.batch_alter_table('document') as batch:
        batch.add_column(sa.Column('latest', sa.Integer(), nullable=False, server_default='1'))
        batch.add_column(sa.Column('version', sa.Integer(), nullable=False, server_default='0'))
        batch.add_column(sa.Column('build', sa.Integer(), nullable=False, server_default='0'))
    op.execute("UPDATE document SET version = 1, build = 1 WHERE state = 'ready'")
    op.execute(
        "INSERT INTO document_version (document_id, number, sha256, size, build, chunk_count, embedded, reused, "
        "seconds, chunker, created) SELECT id, 1, sha256, size, build, chunk_count, embedded, reused, seconds, '', "
        "created FROM document"
    )
    # The old constraint was given no name: SQLite has none, so the table is made anew without it and its rows come along;
    # PostgreSQL chose one.
    naming = {'uq': 'uq_%(table_name)s_%(column_0_name)s_%(column_1_name)s'}
    postgres = op.get_bind().dialect.name == 'postgresql'
    unnamed = 'chunk_document_id_position_key' if postgres else 'uq_chunk_document_id_position'
    with op.batch_alter_table('chunk', naming_convention=naming) as batch:
        batch.add_column(sa.Column('build', sa.Integer(), nullable=False, server_default='1'))
        batch.drop_constraint(unnamed, type_='unique')
        batch.create_unique_constraint('uq_chunk_place', ['document_id', 'build', 'position'])
