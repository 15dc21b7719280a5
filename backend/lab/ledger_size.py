"""How quick the ledger stays: `python -m backend.lab.ledger_size --rows 1000000 --days 30`.

Fills a scratch database by the real writer's code with made-up requests, then times every query that a page asks, over
ranges from five minutes to everything. Prints JSON lines. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from backend.metering.booking import Batch, idle_entry, store
from backend.metering.entry import SECOND, Entry
from backend.metering.percentiles import percentiles
from backend.metering.queries import LedgerQueries
from backend.metering.rollup import DAY
from backend.store.database import Database
from backend.store.tables.usage import Outcome, Population, State, UsageKind

TOGETHER = 1000
RANGES = (
    ("5 min", 300, 5), ("1 h", 3600, 60), ("1 day", DAY, 300), ("7 days", 7 * DAY, 3600), ("30 days", 30 * DAY, 3600),
)  # fmt: skip
KEYS = ["", *(f"key{number}" for number in range(20))]


def entries(count: int, days: float, now: int) -> Iterator[Entry]:
    """Made-up requests of every kind in order of time, the latest just now."""
    rng = random.Random(0)
    outcomes = [Outcome.STOP] * 80 + [Outcome.LENGTH] * 10 + [Outcome.ABORT] * 4 + [Outcome.CACHED] * 5
    outcomes.append(Outcome.ERROR)
    gap = days * DAY * SECOND / count
    for number in range(count):
        end = now * SECOND - int((count - number) * gap)
        prefill, decode = int(rng.lognormvariate(-2, 1) * SECOND), int(rng.lognormvariate(0, 0.6) * SECOND)
        queue, tokens = int(rng.expovariate(20) * SECOND), rng.randrange(1, 400)
        latency = queue + prefill + decode
        yield Entry(
            f"{rng.getrandbits(128):032x}", rng.choice([UsageKind.GENERATE] * 4 + [UsageKind.EMBED]),
            rng.choice(["console", "api", "api", "api", "job", "lab"]), "realtime", "model", rng.choice(outcomes),
            end - latency, end, 1, (prefill + decode) // 36, variant="int8", key_id=rng.choice(KEYS),
            finish_reason="stop", queue_ns=queue, prefill_ns=prefill, decode_ns=decode, compute_ns=prefill + decode,
            latency_ns=latency, ttft_ns=queue + prefill, tpot_ns=decode // tokens, prompt_tokens=rng.randrange(2000),
            output_tokens=tokens, avoided_prefix=prefill // 72,
        )  # fmt: skip


def fill(database: Database, count: int, days: float, now: int) -> dict[str, Any]:
    """Store them, with idle time each minute; how long that took."""
    batch: list[Entry] = []
    started, minute = time.perf_counter(), 0
    for entry in entries(count, days, now):
        batch.append(entry)
        at = entry.finished_ns // SECOND // 60
        if at != minute:
            batch.append(idle_entry("span", 1, at * 60 * SECOND, (at * 60 + 30) * SECOND, SECOND, 36))
            minute = at
        if len(batch) >= TOGETHER:
            with database.session() as session:
                store(session, Batch(tuple(batch)))
            batch = []
    with database.session() as session:
        store(session, Batch(tuple(batch)))
    seconds = time.perf_counter() - started
    rate = round(count / seconds)
    return {"rows": count, "days": days, "seconds_to_fill": round(seconds, 1), "rows_per_second": rate}


def asked(queries: LedgerQueries, now: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every query of a page, over every range that its picker has."""
    api, failed = [Population.API], [State.FAILED]
    for name, span, step in RANGES:
        since = now - span + 0.5
        yield f"sums {name}", partial(queries.sums, since, now)
        yield f"sums {name}, the period before", partial(queries.sums, since - span, since)
        yield f"buckets {name}", partial(queries.buckets, since, now, step)
        for measure in ("ttft", "tpot", "latency", "queue"):
            yield f"{measure} {name}", partial(queries.latency, since, now, measure=measure)
        yield f"ttft by bucket {name}", partial(queries.latency_buckets, since, now, step)
        yield f"requests {name}", partial(queries.requests, since, now, limit=50)
        yield f"failed of the API {name}", partial(queries.requests, since, now, api, states=failed, limit=50)
        yield f"keys {name}", partial(queries.by_key, since, now)
    some = queries.requests(limit=1, offset=500)[0].entry.request_id
    yield "everything", queries.sums
    yield "requests from the 5,000th", partial(queries.requests, limit=50, offset=5000)
    yield "search by id", partial(queries.requests, search=some[:9], limit=50)
    yield "search by key", partial(queries.requests, search="key7", limit=50)
    yield "one request", partial(queries.request, some)
    yield "balance", queries.balance


def measure(rows: int, days: float, repeats: int) -> None:
    """Fill a database and print what each query takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite3"
        database, now = Database(f"sqlite:///{path}"), int(time.time())
        database.migrate()
        print(json.dumps({"workload": "ledger size", **fill(database, rows, days, now)}), flush=True)
        queries, everything = LedgerQueries(database, keep_days=max(int(days), 1)), []
        for name, query in asked(queries, float(now)):
            times = []
            for _ in range(repeats):
                started = time.perf_counter()
                query()
                times.append((time.perf_counter() - started) * 1000)
            everything += times
            found = percentiles(times)
            if found is not None:
                row = {"query": name, "ms_p50": round(found.p50, 1), "ms_p95": round(found.p95, 1)}
                print(json.dumps(row), flush=True)
        whole = percentiles(everything)
        if whole is not None:
            size = round(path.stat().st_size / 1e6)
            summary = {"query": "all", "ms_p50": round(whole.p50, 1), "ms_p95": round(whole.p95, 1), "megabytes": size}
            print(json.dumps(summary), flush=True)
        database.close()


def main() -> None:
    """Parse arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    measure(arguments.rows, arguments.days, arguments.repeats)


if __name__ == "__main__":
    main()
