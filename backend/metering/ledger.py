"""The ledger: an entry for whatever reached a model, from every source, failed or not, and for the time between.

Entries are made at once, and stored by a thread of its own (see `bookkeeper`): no stream waits for the disk, and a kill
loses at most the last second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlmodel import Session

from backend.engine.messages import Stats
from backend.engine.messages import Usage as EngineUsage
from backend.metering import rollup
from backend.metering.account import Account, account_of
from backend.metering.booking import close_open_spans
from backend.metering.bookkeeper import Bookkeeper, Clock
from backend.metering.charges import Charges
from backend.metering.entry import SECOND, Asked, Entry
from backend.metering.metrics import Metrics
from backend.metering.percentiles import Percentiles, percentiles
from backend.metering.prices import MachinePrice, Prices
from backend.metering.queries import LedgerQueries
from backend.metering.totals import Ended, Totals, totals_of
from backend.store.database import Database
from backend.store.tables.answers import Answer

log = logging.getLogger(__name__)

HEARTBEAT = 1.0
"""Seconds between two notes of how long the server has run."""
GATHERING = 0.5
"""Seconds that an entry waits for others to share its commit."""
PRUNE_EVERY = 600.0


@dataclass(frozen=True, slots=True)
class Loss:
    """That the server was killed: when it was heard of last (seconds since the epoch), and the most seconds lost."""

    heartbeat: float
    seconds: float


class Ledger:
    """Keeps the entries of one server.

    Args:
        database: where they are kept.
        prices: what an hour of the machine costs.
        metrics: is told of every entry.
        keep_days: days after which entries are deleted; their sums stay.
        clock: what time it is.
        tell: is told in a sentence of entries that could not be stored.

    Attributes:
        lost: of the run before, where that was killed.
    """

    def __init__(
        self, database: Database, prices: Prices, metrics: Metrics, *, keep_days: int = 90, clock: Clock = time,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._database, self._metrics, self._keep_days, self._clock = database, metrics, keep_days, clock
        self._book = Bookkeeper(database, metrics.observe, tell, clock)
        self.charges = Charges(prices, clock.time_ns)
        self.queries = LedgerQueries(database, keep_days)
        self.lost: Loss | None = None
        self._followers: list[Callable[[Entry], None]] = []
        self._closing, self._due = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._pruned = 0.0
        with database.session() as session:
            self.charges.recall(session)
        prices.on_change(self._change_price)

    # ---- life ----------------------------------------------------------------------------------------------------

    def open(self, *, thread: bool = True) -> None:
        """Begin to count uptime, with what a killed run left put right; without `thread` by calls of `tick` alone."""
        self._catch_up()
        with self._database.session() as session:
            killed = close_open_spans(session)
        if killed is not None:
            self.lost = Loss(killed.heartbeat_ns / SECOND, HEARTBEAT)
            log.warning(
                "the server was killed: what ended after %s is not in the ledger (%.0f s at most)",
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.lost.heartbeat)), HEARTBEAT,
            )  # fmt: skip
        self._book.begin(self.charges.price)
        if thread:
            self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the count of uptime: nothing is held back any more. Stored when the database's writer is closed."""
        self._closing.set()
        self._due.set()
        if self._thread is not None:
            self._thread.join()
        self.tick(last=True)

    @property
    def lost_seconds(self) -> float:
        """The most seconds of requests that the last kill cost; 0 where the last run ended in order."""
        return self.lost.seconds if self.lost is not None else 0.0

    @property
    def unstored(self) -> int:
        """Entries of which the database took no more than time and cost, since the start; see `Bookkeeper`."""
        return self._book.unstored

    def heard(self, stats: Stats) -> None:
        """The engine's counters: what it has computed is not idle, though nobody was charged for it yet."""
        self._book.computed(stats.busy_seconds)

    # ---- entries -------------------------------------------------------------------------------------------------

    def on_entry(self, follow: Callable[[Entry], None]) -> None:
        """Have a function called with each entry of a request, as it ends: it must not wait for anything."""
        self._followers.append(follow)

    def record(self, asked: Asked, usage: EngineUsage, *, outcome: str) -> Account:
        """Enter a generation that ended; gives its account at once.

        Args:
            asked: which request.
            usage: what the engine says it took.
            outcome: "stop", "length" or "abort".
        """
        return self._put(asked, self.charges.generation(asked, usage, outcome))

    def record_answer(self, asked: Asked, answer: Answer, *, latency: float) -> Account:
        """Enter an answer that was given again: nothing computed, and what it took the first time avoided."""
        return self._put(asked, self.charges.answer(asked, answer, latency))

    def record_reply(self, asked: Asked, *, latency: float) -> Account:
        """Enter a request that was answered without the model."""
        return self._put(asked, self.charges.reply(asked, latency))

    def record_failure(
        self, asked: Asked, *, prompt_tokens: int, latency: float, error: str = "", usage: EngineUsage | None = None
    ) -> Account:
        """Enter a request that ended in an error, with what the engine says it had taken, where it can."""
        return self._put(asked, self.charges.failure(asked, prompt_tokens, latency, error, usage))

    def record_embedding(
        self, asked: Asked, *, computed_tokens: int, reused_tokens: int, seconds: float, latency: float, error: str = ""
    ) -> Account:
        """Enter an embedding call.

        Args:
            asked: which request.
            computed_tokens: that went through the model.
            reused_tokens: whose vectors were known.
            seconds: of the model.
            latency: of the whole call.
            error: why it failed; empty where it did not.
        """
        return self._put(asked, self.charges.embedding(asked, computed_tokens, reused_tokens, seconds, latency, error))

    def embedding_rate(self) -> float:
        """Seconds that an embedded token takes on this machine, over the latest; 0 before the first."""
        return self.charges.embedding_rate

    def _put(self, asked: Asked, entry: Entry) -> Account:
        self._book.put(entry, asked.switches)
        self._due.set()
        self._metrics.observe(entry)
        for follow in self._followers:
            try:
                follow(entry)
            except Exception:
                log.exception("an entry could not be followed")
        return account_of(entry)

    # ---- storing -------------------------------------------------------------------------------------------------

    def tick(self, *, last: bool = False) -> None:
        """Have what ended, and how long the server has run, stored soon; `last`: uptime ends here."""
        self._book.tick(last=last)

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything recorded so far is stored; False where it is not within `timeout` seconds."""
        self.tick()
        return self._database.writer.flush(timeout)

    def _change_price(self, price: MachinePrice) -> None:
        self._book.change_price(price)
        self._due.set()

    def _work(self) -> None:
        while not self._closing.is_set():
            if self._due.wait(HEARTBEAT):
                self._closing.wait(GATHERING)
            self._due.clear()
            try:
                self.tick()
                self._prune()
            except Exception:
                log.exception("the ledger could not be kept; it goes on")

    def _prune(self) -> None:
        now = time.monotonic()
        if now - self._pruned < PRUNE_EVERY:
            return
        self._pruned = now
        stamp = self._clock.time_ns()
        before = stamp - self._keep_days * rollup.DAY * SECOND

        def work(session: Session) -> None:
            if rollup.prune(session, entries_before=before, now=stamp // SECOND) == rollup.TOGETHER:
                self._pruned = 0.0  # there is more

        self._database.writer.submit(work)

    def _catch_up(self) -> None:
        """Sums of entries that were there before there were sums."""
        more = True
        while more:
            with self._database.session() as session:
                more = rollup.catch_up(session)

    # ---- reading -------------------------------------------------------------------------------------------------

    def window(self, seconds: float) -> list[Ended]:
        """Generations that ended in the last `seconds`, oldest first."""
        since = self._clock.time_ns() - int(seconds * SECOND)
        return [Ended(*row) for row in self.queries.ended(since)]

    @staticmethod
    def first_token(rows: list[Ended]) -> Percentiles | None:
        """Arrival to first token over these rows, in seconds; None where none of them has one."""
        return percentiles([row.ttft for row in rows if row.ttft is not None])

    def totals(self) -> Totals:
        """Sums over everything recorded."""
        return totals_of(self.queries.sums())
