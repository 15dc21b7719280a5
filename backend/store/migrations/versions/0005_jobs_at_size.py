"""prompts of jobs as rows, counts and holders of runs, one open run a job, schedules in the job's own row"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None

TOGETHER = 1000


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString
    connection = op.get_bind()
    op.create_table('job_prompt',
    sa.Column('job_id', text(), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('text', text(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['job.id'], ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('job_id', 'position')
    )
    op.add_column('job', sa.Column('total', sa.Integer(), nullable=False, server_default='0'))
    op.add_column('job', sa.Column('next_run', sa.Float(), nullable=True))  # worked out when the server starts
    op.add_column('job', sa.Column('note', text(), nullable=False, server_default=''))
    op.create_index('ix_job_next_run', 'job', ['next_run'])
    _move_prompts(connection)
    # Not as a batch: that makes the table anew, and with the old one every run would be deleted.
    op.drop_column('job', 'prompts')

    for column in (
        sa.Column('done', sa.Integer(), nullable=False, server_default='0'),
        sa.Column('failed', sa.Integer(), nullable=False, server_default='0'),
        sa.Column('cost', sa.Float(), nullable=False, server_default='0'),
        sa.Column('output_tokens', sa.Integer(), nullable=False, server_default='0'),
        sa.Column('holder', text(), nullable=False, server_default=''),
        sa.Column('heard', sa.Float(), nullable=False, server_default='0'),
    ):
        op.add_column('job_run', column)
    op.execute(
        "UPDATE job_run SET "
        "done = (SELECT COUNT(*) FROM job_result WHERE run_id = job_run.id), "
        "failed = (SELECT COUNT(*) FROM job_result WHERE run_id = job_run.id AND error != ''), "
        "cost = (SELECT COALESCE(SUM(cost), 0) FROM job_result WHERE run_id = job_run.id), "
        "output_tokens = (SELECT COALESCE(SUM(output_tokens), 0) FROM job_result WHERE run_id = job_run.id)"
    )
    # From here on a job has one open run at most: the one that is furthest goes on.
    op.execute("UPDATE job_run SET finished = created WHERE finished IS NULL AND state NOT IN ('queued', 'running')")
    seen = set()
    for run, job in connection.execute(sa.text(
        "SELECT id, job_id FROM job_run WHERE finished IS NULL ORDER BY done DESC, created, id"
    )).all():
        if job in seen:
            connection.execute(sa.text(
                "UPDATE job_run SET state = 'cancelled', finished = created, "
                "reason = 'Another run of this job was going on.' WHERE id = :run"
            ), {"run": run})
        seen.add(job)
    op.create_index(
        'uq_job_run_open', 'job_run', ['job_id'], unique=True,
        sqlite_where=sa.text('finished IS NULL'), postgresql_where=sa.text('finished IS NULL'),
    )
    if sa.inspect(connection).has_table('apscheduler_jobs'):  # its triggers said once more what the jobs say
        op.drop_table('apscheduler_jobs')


def _move_prompts(connection: sa.Connection) -> None:
    """One job at a time: its prompts were one JSON value."""
    jobs = sa.table('job', sa.column('id'), sa.column('total'), sa.column('prompts', sa.JSON()))
    rows = sa.table('job_prompt', sa.column('job_id'), sa.column('position'), sa.column('text'))
    for job in connection.execute(sa.select(jobs.c.id)).scalars().all():
        prompts = connection.execute(sa.select(jobs.c.prompts).where(jobs.c.id == job)).scalar_one()
        for start in range(0, len(prompts), TOGETHER):
            connection.execute(rows.insert(), [
                {'job_id': job, 'position': start + offset, 'text': prompt}
                for offset, prompt in enumerate(prompts[start : start + TOGETHER])
            ])
        connection.execute(jobs.update().where(jobs.c.id == job).values(total=len(prompts)))
