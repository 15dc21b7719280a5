"""Measures presets in the product as it serves: document questions at once, in rounds, under borrowed switches.

What it computes is on the ledger as the lab's. The switches of before come back, whatever happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from backend.engine.messages import SamplingParams
from backend.engine.protocol import EngineClient
from backend.engine.switches import Switches
from backend.errors import TenfoldError
from backend.generation.request import TextRequest
from backend.generation.service import GenerationService
from backend.generation.stream import Generation
from backend.lab.estimate import estimate
from backend.lab.preset_figures import FiguresStore, PresetFigures
from backend.lab.standing import Standing, standing
from backend.lab.workload import question_messages
from backend.metering.account import Account
from backend.metering.percentiles import percentiles
from backend.metering.sums import Sums
from backend.store.database import Database
from backend.store.ids import new_id
from backend.switchboard.borrowed_run import BorrowedRun, BorrowedRuns
from backend.switchboard.presets import PRESETS

ROUNDS, REQUESTS, ANSWER_TOKENS = 4, 6, 48
LOAD_TIMEOUT = 300.0
"""Seconds that weights may take to be put in force."""
PAUSE = 0.1


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a measurement is.

    Attributes:
        preset: being measured; empty while none is.
        done: rounds, of all presets asked for.
        total: the same.
        error: why the last measurement ended early; empty where it did not.
    """

    preset: str = ""
    done: int = 0
    total: int = 0
    error: str = ""

    @property
    def running(self) -> bool:
        """Whether something is being measured."""
        return bool(self.preset)


class Round(NamedTuple):
    """One round: the account of each request, the machine's busy seconds, and those of the clock."""

    accounts: list[Account]
    busy: float
    wall: float
    disturbed: bool


class PresetMeasuring:
    """Measures presets in the background.

    Args:
        engine: who computes.
        runs: measure one thing at a time, under switches that they borrow.
        generations: sends the questions.
        database: where the figures are kept.
    """

    def __init__(
        self, engine: Callable[[], EngineClient], runs: BorrowedRuns, generations: GenerationService,
        database: Database,
    ) -> None:  # fmt: skip
        self._engine, self._runs, self._generations = engine, runs, generations
        self._store = FiguresStore(database)
        self._run: BorrowedRun | None = None
        self.progress = Progress()

    def figures(self) -> dict[str, PresetFigures]:
        """By preset, what was measured with the weights that serve."""
        info = self._engine().info
        return {} if info is None else self._store.all(info.fingerprint)

    def standing(self, sums: Sums, per_hour: float) -> Standing | None:
        """What this traffic cost beside what Baseline would have; see `standing.standing`."""
        return standing(sums, self.figures().get("Baseline"), per_hour)

    def start(self, presets: list[str]) -> None:
        """Measure these presets, one after the other; returns at once.

        Raises:
            ConflictError: something is being measured already, or the engine is not ready.
        """
        def begun() -> None:
            self.progress = Progress(presets[0], 0, len(presets) * ROUNDS)

        def ended(error: str) -> None:
            self.progress = Progress(error=error)

        self._run = self._runs.begin(
            _named(presets[0]), lambda run: self._work(run, presets), begun=begun, ended=ended
        )

    def cancel(self) -> None:
        """End the measurement; what was measured whole is kept."""
        if self._run is not None:
            self._run.cancel()

    def _work(self, run: BorrowedRun, presets: list[str]) -> None:
        with run.borrow() as lend:
            for name in presets:
                run.what, self.progress = _named(name), replace(self.progress, preset=name)
                self._put_in_force(run, lend, PRESETS[name])
                self._store.keep(self._measure(run, name))

    def _put_in_force(self, run: BorrowedRun, lend: Callable[[Switches], None], switches: Switches) -> None:
        before = self._engine().applied
        lend(switches)
        deadline = time.monotonic() + LOAD_TIMEOUT
        while time.monotonic() < deadline:
            applied = self._engine().applied
            if applied is not None and applied.error and applied is not before:  # else of a former change
                raise TenfoldError(applied.error)
            report = self._engine().known().precision
            chosen = switches.quantization != "auto" or report is None or report.state not in ("waiting", "measuring")
            if applied is not None and applied.switches == switches and applied.loading is None and chosen:
                return
            run.pause(PAUSE)
        raise TenfoldError("The switches did not come into force in time.")

    def _measure(self, run: BorrowedRun, name: str) -> PresetFigures:
        self._serve(run, question_messages()[:1])  # warms what is loaded lazily
        rounds = []
        for _ in range(ROUNDS):
            rounds.append(self._serve(run, question_messages()[:REQUESTS]))
            self.progress = replace(self.progress, done=self.progress.done + 1)
        info, applied = self._engine().known(), self._engine().applied
        return PresetFigures(
            preset=name,
            when=time.time(),
            fingerprint=info.fingerprint,
            device=info.device,
            variant=applied.variant if applied is not None else info.variant,
            rounds=ROUNDS,
            requests=REQUESTS,
            seconds_per_token=estimate([r.busy / _sum(r, "prompt_tokens", "output_tokens") for r in rounds]),
            prefill_seconds_per_token=estimate([_sum(r, "prefill_seconds") / _sum(r, "prompt_tokens") for r in rounds]),
            decode_seconds_per_token=estimate([_sum(r, "decode_seconds") / _sum(r, "output_tokens") for r in rounds]),
            ttft=estimate([_median_ttft(r) for r in rounds]),
            tokens_per_second=estimate([_sum(r, "output_tokens") / r.wall for r in rounds]),
            disturbed=sum(r.disturbed for r in rounds),
        )

    def _serve(self, run: BorrowedRun, questions: list[list[dict[str, str]]]) -> Round:
        """Ask at once, as somebody whom no cache knows yet; wait until each was answered."""
        run.check()
        sampling, tenant = SamplingParams(temperature=0.0), f"lab-{new_id()}"
        requests = [
            TextRequest(
                messages=messages, sampling=sampling, max_tokens=ANSWER_TOKENS, source="lab", tenant=tenant, fresh=True
            )
            for messages in questions
        ]
        prepared = [self._generations.prepare(request) for request in requests]
        engine = self._engine()
        before, began = engine.ping(30), time.monotonic()
        others = bool(self._generations.active)
        own = [self._generations.start(one) for one in prepared]
        while any(not generation.ended for generation in own):
            others = others or len(self._generations.active) > sum(not generation.ended for generation in own)
            if run.cancelled:
                for generation in own:
                    self._generations.cancel(generation)
            time.sleep(PAUSE / 10)
        wall = time.monotonic() - began
        run.check()
        return Round([_account(generation) for generation in own], engine.ping(30).busy_seconds - before.busy_seconds,
                     wall, others)  # fmt: skip


def _named(preset: str) -> str:
    return f"The preset {preset}"


def _account(generation: Generation) -> Account:
    if generation.account is None:
        raise generation.error or TenfoldError("A request of the measurement failed.")
    return generation.account


def _sum(one: Round, *names: str) -> float:
    return float(sum(getattr(account, name) for account in one.accounts for name in names))


def _median_ttft(one: Round) -> float:
    found = percentiles([account.ttft for account in one.accounts if account.ttft is not None])
    return found.p50 if found is not None else 0.0
