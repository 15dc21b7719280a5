"""the ledger in whole nanoseconds and nano-dollars: entries, their sums, spans of uptime, prices and switches once each"""

import hashlib
import json
import time

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None

SUMS = (
    'queue_ns', 'prefill_ns', 'decode_ns', 'compute_ns', 'cost', 'avoided_prefix', 'avoided_embedding',
    'avoided_answer', 'avoided_graph', 'avoided_speculation',
)
TOKENS = ('prompt_tokens', 'cached_tokens', 'output_tokens', 'drafted_tokens', 'accepted_tokens')


def upgrade() -> None:
    text, big = sqlmodel.sql.sqltypes.AutoString, sa.BigInteger

    def words(*names):
        return [sa.Column(name, text(), nullable=False) for name in names]

    def numbers(*names, kind=big):
        return [sa.Column(name, kind(), nullable=False) for name in names]

    op.create_table('ledger_entry',
    sa.Column('id', sa.Integer(), nullable=False),
    *words('request_id', 'kind', 'population', 'state', 'source', 'path', 'model', 'variant', 'key_id', 'tenant',
           'switches', 'outcome', 'finish_reason', 'error'),
    *numbers('arrived_ns', 'finished_ns', 'search_ns', 'latency_ns', *SUMS),
    sa.Column('ttft_ns', big(), nullable=True),
    sa.Column('tpot_ns', big(), nullable=True),
    *numbers(*TOKENS, 'price_id', kind=sa.Integer),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_index('ix_ledger_entry_request_id', 'ledger_entry', ['request_id'])
    op.create_index('ix_ledger_entry_finished', 'ledger_entry', ['finished_ns'])
    op.create_index('ix_ledger_entry_key', 'ledger_entry', ['key_id', 'finished_ns'])
    op.create_index('ix_ledger_entry_whose', 'ledger_entry', ['population', 'state', 'finished_ns'])
    op.create_table('ledger_rollup',
    *numbers('seconds', 'start'),
    *words('population', 'state'),
    *numbers('requests', *TOKENS, *SUMS),
    *[sa.Column(name, sa.LargeBinary(), nullable=False) for name in ('ttft', 'tpot', 'latency', 'queue')],
    sa.PrimaryKeyConstraint('seconds', 'start', 'population', 'state')
    )
    op.create_table('ledger_key_day',
    *words('key_id'),
    *numbers('day', 'requests', 'prompt_tokens', 'output_tokens', 'cost', 'last_ns'),
    sa.PrimaryKeyConstraint('key_id', 'day')
    )
    op.create_table('switch_state',
    *words('fingerprint'),
    sa.Column('switches', sa.JSON(), nullable=False),
    *numbers('seen_ns'),
    sa.PrimaryKeyConstraint('fingerprint')
    )
    op.create_table('price_version',
    sa.Column('id', sa.Integer(), nullable=False),
    *words('name', 'source', 'read'),
    *numbers('per_hour', 'since_ns'),
    sa.Column('basis', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    op.create_table('machine_span',
    *words('id'),
    sa.Column('price_id', sa.Integer(), nullable=False),
    *numbers('started_ns', 'heartbeat_ns', 'uptime_ns', 'due', 'booked_ns', 'booked'),
    sa.Column('closed', sa.Boolean(), nullable=False),
    sa.PrimaryKeyConstraint('id')
    )
    _move(op.get_bind())
    op.drop_table('usage')


def _move(connection: sa.Connection) -> None:
    """The rows that there were: sums of them are made at the next start."""
    prices = sa.table('price_version', *map(sa.column, ('id', 'name', 'source', 'read', 'per_hour', 'since_ns')),
                      sa.column('basis', sa.JSON()))
    for per_hour in connection.execute(sa.text("SELECT DISTINCT price_per_hour FROM usage")).scalars().all():
        connection.execute(prices.insert(), {
            'name': 'before versions', 'source': 'not kept', 'read': '', 'per_hour': round(per_hour * 1e9),
            'since_ns': 0, 'basis': {},
        })
    states = sa.table('switch_state', sa.column('fingerprint'), sa.column('switches', sa.JSON()), sa.column('seen_ns'))
    prints = {}
    for (said,) in connection.execute(sa.text("SELECT DISTINCT CAST(switches AS TEXT) FROM usage")).all():
        switches = json.loads(said)
        prints[said] = ''
        if switches:
            prints[said] = hashlib.sha256(json.dumps(switches, sort_keys=True).encode()).hexdigest()[:16]
    for fingerprint, switches in {prints[said]: json.loads(said) for said in prints if prints[said]}.items():
        connection.execute(states.insert(), {
            'fingerprint': fingerprint, 'switches': switches, 'seen_ns': time.time_ns(),
        })

    def ns(column: str) -> str:
        return f"CAST(ROUND({column} * 1000000000) AS BIGINT)"

    connection.execute(sa.text(f"""
        INSERT INTO ledger_entry (
            request_id, kind, population, state, source, path, model, variant, key_id, tenant, switches, outcome,
            finish_reason, error, arrived_ns, finished_ns, search_ns, latency_ns, queue_ns, prefill_ns, decode_ns,
            compute_ns, cost, avoided_prefix, avoided_embedding, avoided_answer, avoided_graph, avoided_speculation,
            ttft_ns, tpot_ns, prompt_tokens, cached_tokens, output_tokens, drafted_tokens, accepted_tokens, price_id)
        SELECT request_id, kind,
            CASE WHEN kind = 'embed' THEN 'embedding' WHEN source = 'console' THEN 'people'
                 WHEN source IN ('job', 'batch') THEN 'batch' WHEN source IN ('lab', 'test') THEN 'lab' ELSE 'api' END,
            CASE outcome WHEN 'error' THEN 'failed' WHEN 'abort' THEN 'cancelled' WHEN 'cached' THEN 'cached'
                 ELSE 'ok' END,
            source, path, model, variant, '', '', CAST(switches AS TEXT), outcome,
            CASE WHEN kind = 'embed' THEN '' WHEN outcome IN ('cached', 'reply') THEN 'stop' ELSE outcome END, '',
            {ns('arrived')}, {ns('finished')}, 0, {ns('latency')}, {ns('queue_seconds')}, 0, 0,
            {ns('compute_seconds')}, {ns('cost')},
            CASE WHEN kind = 'generate' AND outcome != 'cached' THEN {ns('saved')} ELSE 0 END,
            CASE WHEN kind = 'embed' THEN {ns('saved')} ELSE 0 END,
            CASE WHEN outcome = 'cached' THEN {ns('saved')} ELSE 0 END, 0, 0,
            {ns('ttft')}, {ns('tpot')}, prompt_tokens, cached_tokens, output_tokens, 0, 0,
            (SELECT MIN(id) FROM price_version WHERE per_hour = {ns('usage.price_per_hour')})
        FROM usage ORDER BY id
    """))
    for said, fingerprint in prints.items():
        connection.execute(
            sa.text("UPDATE ledger_entry SET switches = :new WHERE switches = :old"), {'new': fingerprint, 'old': said}
        )
    # What was paid for before uptime was counted: paid for, and nothing else known of it.
    connection.execute(sa.text("""
        INSERT INTO machine_span (id, price_id, started_ns, heartbeat_ns, uptime_ns, due, booked_ns, booked, closed)
        SELECT 'before', price, arrived, finished, computed, paid, computed, paid, TRUE FROM (
            SELECT MIN(price_id) AS price, MIN(arrived_ns) AS arrived, MAX(finished_ns) AS finished,
                SUM(compute_ns) AS computed, SUM(cost) AS paid
            FROM ledger_entry
        ) AS former WHERE price IS NOT NULL
    """))
