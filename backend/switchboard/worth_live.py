"""Measures a switch on the requests that come anyway: on and off in turn, under borrowed switches, in the background.

Each block is washed out first, counts who arrives within it, and lasts until those are answered, so that nobody who is
counted was served under both states. The switches of before come back, whatever happens.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace

from backend.engine.protocol import EngineClient, Phase
from backend.engine.switches import Switches
from backend.errors import InvalidInputError, TenfoldError
from backend.metering.entry import fingerprint
from backend.metering.happenings import LABELS, Happenings
from backend.metering.ledger import Ledger
from backend.store.database import Database
from backend.store.tables.happenings import HappeningKind
from backend.switchboard.borrowed_run import BorrowedRun, BorrowedRuns
from backend.switchboard.service import Switchboard
from backend.switchboard.worth import LEAST_PAIRS, LEAST_REQUESTS, Block, Verdict
from backend.switchboard.worth_caches import arms_of
from backend.switchboard.worth_course import AwayError, Course, LateError, Task, TimeOverError, Timing
from backend.switchboard.worth_kept import Worth, WorthStore
from backend.switchboard.worth_traffic import Unended, arrived, late, served
from backend.switchboard.worth_trial import SAME_PAIRS, Standing, Trial

MINUTES, LONGEST = 10.0, 24 * 60.0
TTFT_LIMIT = 5.0


class LiveWorth:
    """Measures switches in the background.

    Args:
        engine: whose switch it is.
        switchboard: knows how the user has them.
        runs: measure one thing at a time, under switches that they borrow.
        ledger: knows what was served.
        database: of the ledger, and where results are kept.
        happenings: told of beginning and end.
        unended: what is being generated.
        timing: how long things take.
    """

    def __init__(
        self, engine: Callable[[], EngineClient], switchboard: Switchboard, runs: BorrowedRuns, ledger: Ledger,
        database: Database, happenings: Happenings, unended: Unended, timing: Timing | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._switchboard, self._runs = engine, switchboard, runs
        self._ledger, self._database = ledger, database
        self._happenings, self._unended, self._timing = happenings, unended, timing or Timing()
        self._store = WorthStore(database)
        self._run: BorrowedRun | None = None
        self.course = Course()

    def results(self) -> dict[str, Worth]:
        """By switch, what was measured with the model that serves, on this machine."""
        info = self._engine().info
        return {} if info is None else self._store.all(info.fingerprint, info.device)

    def can_measure(self, name: str) -> bool:
        """Whether a switch goes on and off between two steps."""
        return arms_of(name, self._engine().switches) is not None

    def start(
        self, name: str, *, minutes: float = MINUTES, ttft_limit: float = TTFT_LIMIT, who: str = "",
        seed: int | None = None,
    ) -> None:  # fmt: skip
        """Measure a switch on the requests that come; returns at once.

        Args:
            name: of the switch.
            minutes: most that it may take.
            ttft_limit: seconds to the first token; while more than one in twenty of people's and the API's requests
                wait longer, the switch is as the user has it.
            who: wants it, for the record.
            seed: of the order of blocks; drawn where left out.

        Raises:
            InvalidInputError: the switch does not go on and off at once, or a number is out of range.
            ConflictError: something is being measured already, or the engine is not ready.
        """
        if not 0 < minutes <= LONGEST or not ttft_limit > 0:
            raise InvalidInputError(f"A measurement takes up to {LONGEST:.0f} minutes, and a limit above 0 s.")
        own = self._switchboard.own
        arms = arms_of(name, own)
        if arms is None:
            raise InvalidInputError(f"{name} has no on and off that act at once, so it is not measured live.")
        trial, label = Trial(random.randrange(1 << 31) if seed is None else seed, arms.measure), LABELS[name]

        def begun() -> None:
            self.course = Course(name, "about to begin", left=minutes * 60, given=minutes * 60)
            self._happenings.note(HappeningKind.MEASURED, f"{label} goes on and off to be measured.", who=who)

        def work(run: BorrowedRun) -> None:
            now = time.monotonic()
            with run.borrow() as lend:
                task = Task(run, lend, name, arms, own, trial, ttft_limit, now, now + minutes * 60, asked=own)
                self._measure(task)
            self._keep(task)

        def ended(error: str) -> None:
            said = f"{label}: {error or self.course.verdict}"
            self._happenings.note(HappeningKind.MEASURED, said, who=who, seed=trial.seed)
            self.course = replace(self.course, doing="", error=error, left=0.0)

        self._run = self._runs.begin(label, work, begun=begun, ended=ended)

    def cancel(self) -> None:
        """End the measurement; the former result stays."""
        if self._run is not None:
            self._run.cancel()

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _measure(self, task: Task) -> None:
        """Blocks, until it is decided or the time is over."""
        while True:
            try:
                block = self._block(task)
            except TimeOverError:
                return
            except AwayError:
                task.trial.drop()
                self._wait_for_engine(task)
                continue
            except LateError:
                task.trial.drop()
                self._give_way(task)
                continue
            if block.requests < LEAST_REQUESTS:
                task.trial.drop()
                continue
            paired = task.trial.add(block)
            self.course = replace(self.course, blocks=task.trial.done)
            if paired and task.trial.pairs:
                standing = task.trial.standing()
                self.course = replace(
                    self.course, verdict=standing.verdict, effects=standing.effects,
                    more_minutes=self._more_minutes(task, standing),
                )  # fmt: skip
                if standing.verdict is not Verdict.NOT_RESOLVED:
                    return

    def _block(self, task: Task) -> Block:
        timing, arm, engine = self._timing, task.trial.arm, self._engine()
        length = min(max((task.until - task.began) / 30, timing.shortest), timing.longest)
        self._put(task, task.own.updated({task.name: task.arms.with_it if arm else task.arms.without}))
        doing = "learning the noise, with it" if task.trial.learning else "with it" if arm else "without it"
        state, restarts = fingerprint(task.asked), engine.state.restarts
        washed = min(task.arms.wash_out, timing.wash_out)
        self._wait(task, f"{doing}: washing out", lambda waited: waited >= washed)
        begin = time.time()

        most = max(length * timing.patience, (task.until - task.began) / 16)

        def enough(waited: float) -> bool:
            if waited < length or waited > most:
                return waited >= length
            still = sum(one.created >= begin for one in self._unended())
            return still + len(arrived(self._database, begin, time.time(), state)) >= timing.wanted

        self._wait(task, doing, enough)
        end = time.time()

        def answered(waited: float) -> bool:
            counted = any(begin <= one.created < end for one in self._unended())
            return not counted or waited > timing.drain

        self._wait(task, f"{doing}: waiting for the last answers", answered, timed=False)
        self._ledger.flush()
        found = served(arrived(self._database, begin, end, state), reading=task.arms.counts_reading)
        if engine.state.restarts != restarts:
            raise AwayError
        if not task.trial.learning:
            self.course = replace(
                self.course, requests_with=self.course.requests_with + arm * len(found),
                requests_without=self.course.requests_without + (not arm) * len(found),
            )  # fmt: skip
        return Block.of(found, split_again=not task.arms.decides_again)

    def _put(self, task: Task, switches: Switches) -> None:
        """Ask for switches, and wait until they are in force."""
        before = self._engine().applied
        task.lend(switches)
        task.asked = switches

        def acts(waited: float) -> bool:
            applied = self._engine().applied
            if applied is not None and applied.error and applied is not before:
                raise TenfoldError(applied.error)
            return applied is not None and applied.switches == switches and self._engine().in_force == switches

        self._wait(task, "changing the switch", acts, timed=False)

    def _wait(self, task: Task, doing: str, done: Callable[[float], bool], *, timed: bool = True) -> None:
        """Until `done` of the seconds waited, unless something comes between."""
        began = time.monotonic()
        while not done(time.monotonic() - began):
            self.course = replace(self.course, doing=doing, left=max(task.until - time.monotonic(), 0.0))
            task.run.pause(self._timing.tick)
            engine = self._engine()
            if engine.state.phase is not Phase.READY:
                raise AwayError
            if engine.switches != task.asked:
                task.lend(task.asked)  # refused where somebody else changed them
                raise TenfoldError("The engine did not take the switch.")
            if timed and time.monotonic() >= task.until:
                raise TimeOverError
            if self._late(task):
                raise LateError

    def _late(self, task: Task) -> bool:
        now = time.monotonic()
        if now - task.checked < 1.0:
            return False
        task.checked = now
        stamp = time.time()
        since = max(stamp - self._timing.window, task.calm_since)
        return late(arrived(self._database, since, stamp), self._unended(), stamp, task.limit)

    def _give_way(self, task: Task) -> None:
        """Leave the switch as the user has it until nobody waits too long any more."""
        task.lend(task.own)
        task.asked, began = task.own, time.monotonic()
        task.gave_way += 1
        task.calm_since = time.time()
        doing = f"giving way: first tokens take longer than {task.limit:g} s"
        while time.monotonic() < task.until:
            self.course = replace(self.course, doing=doing, left=max(task.until - time.monotonic(), 0.0))
            task.run.pause(self._timing.tick)
            task.checked = 0.0
            if time.monotonic() - began >= self._timing.calm and not self._late(task):
                break
        task.calm_since = time.time()

    def _wait_for_engine(self, task: Task) -> None:
        self.course = replace(self.course, doing="waiting for the engine")
        deadline = time.monotonic() + self._timing.away
        while self._engine().state.phase is not Phase.READY:
            task.run.pause(self._timing.tick)
            if time.monotonic() > deadline:
                raise TenfoldError("The engine was away for too long.")

    # ---- the end -------------------------------------------------------------------------------------------------

    def _more_minutes(self, task: Task, standing: Standing) -> float | None:
        """That would decide it at the rate of pairs, or before there are some, at that of requests."""
        minutes = (time.monotonic() - task.began) / 60
        done = max((effect.pairs for effect in standing.effects.values()), default=0)
        if standing.more_pairs is not None and done:
            return standing.more_pairs * minutes / (done + len(task.trial.same))
        came = self.course.requests_with + self.course.requests_without
        if standing.verdict is not Verdict.NOT_RESOLVED or done >= 2 or not came:
            return None
        needed = 2 * (LEAST_PAIRS + SAME_PAIRS) * self._timing.wanted
        return max(needed / came * minutes - minutes, minutes)

    def _keep(self, task: Task) -> None:
        """Store the result."""
        standing, info, applied = task.trial.standing(), self._engine().known(), self._engine().applied
        note = f"{task.arms.note} It gave way {task.gave_way} ×: people waited." if task.gave_way else task.arms.note
        worth = Worth(
            task.name, standing.verdict, task.arms.measure, time.time(), info.fingerprint, info.device,
            applied.variant if applied is not None else info.variant, (time.monotonic() - task.began) / 60,
            task.trial.seed, self.course.requests_with, self.course.requests_without, standing.effects,
            standing.noise, self._more_minutes(task, standing), note.strip(),
        )  # fmt: skip
        self._store.keep(worth)
        self.course = replace(
            self.course, verdict=worth.verdict, effects=worth.effects, more_minutes=worth.more_minutes
        )
