"""Puts other switches, and the weights loaded for them, in force beneath the requests that are live."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from backend.engine.about import EngineInfo
from backend.engine.messages import InfoChanged, SwitchesApplied
from backend.engine.model.decoder import Decoder
from backend.engine.requests import Requests
from backend.engine.scheduler import Scheduler
from backend.engine.serving.installed import Serving
from backend.engine.switches import Switches

log = logging.getLogger("tenfold.engine")

WORTH_SAYING = 0.1
"""Progress of a load that is worth a message."""


class Change:
    """What serves, and all that must follow it.

    Args:
        serving: what serves.
        scheduler: which hands out its blocks.
        requests: which were accepted under it.
        emit: called with what is to be said of a change.
        info: what the engine says of itself now.
    """

    def __init__(
        self, serving: Serving, scheduler: Scheduler, requests: Requests, emit: Callable[[Any], None],
        info: Callable[[], EngineInfo],
    ) -> None:  # fmt: skip
        self._serving, self._scheduler, self._requests = serving, scheduler, requests
        self._emit, self._info = emit, info
        self._said_progress = 0.0  # of the load on its way
        self._follow()
        self._measure_precision()

    def set_switches(self, switches: Switches) -> None:
        """Apply switches now; a new variant is loaded in the background and swapped in between two steps.

        Raises:
            InvalidSwitchError: a value is none that its switch can have. Nothing is changed.
            Exception: what kept other pages from being put in place. The former ones are in force again.
        """
        serving, former = self._serving, self._serving.switches
        switches = former.updated(switches.as_dict())
        if switches.kv_cache != former.kv_cache:
            self._replace(serving.decoder, switches)
        serving.apply(switches)
        if switches.prefix_cache != former.prefix_cache:
            for seq in self._scheduler.running:
                seq.committed = 0  # from its beginning again, or not at all
        self._follow()
        serving.want(switches.quantization)
        self._measure_precision()
        self.say_switches()

    def say_switches(self, error: str | None = None) -> None:
        """Say which switches are in force, and what is being loaded."""
        serving = self._serving
        self._said_progress = serving.load_progress
        self._emit(
            SwitchesApplied(serving.switches, serving.decoder.variant, serving.loading, error, self._said_progress)
        )

    @property
    def is_due(self) -> bool:
        """Whether `swap` has something to put in place, or to say of how far it is."""
        return self._serving.loaded or self._load_moved

    @property
    def _load_moved(self) -> bool:
        return self._serving.load_progress >= self._said_progress + WORTH_SAYING

    def swap(self) -> None:
        """Between two steps: put in place what the background load brought, if it has ended."""
        load = self._serving.take_loaded()
        if load is None:
            if self._load_moved:
                self.say_switches()
            return
        error = load.error
        if load.decoder is not None:
            try:
                self._replace(load.decoder, self._serving.switches)
            except Exception as problem:
                log.exception("%s could not be put in place", load.variant)
                error = f"{load.variant} could not be put in place: {problem}"
        self._serving.settle(served=error is None)
        self._follow()
        self._measure_precision()
        self.say_switches(error)

    def _measure_precision(self) -> None:
        """Find out what "auto" weights should be, where that is asked for and not known."""
        serving = self._serving
        if serving.switches.quantization == "auto":
            serving.precision.measure(serving.decoder, lambda: self._scheduler.has_work)

    def take_precision(self) -> None:
        """Say what came out about the precision of "auto" weights, and load what was chosen."""
        serving = self._serving
        if not serving.precision.take_news():
            return
        self._emit(InfoChanged(self._info()))
        if serving.switches.quantization == "auto":
            before = serving.loading
            serving.want("auto")
            if serving.loading != before:
                self.say_switches()

    def _replace(self, decoder: Decoder, switches: Switches) -> None:
        """Put other weights or pages in place; what runs is read again: half a sequence under each is neither.

        A request that was accepted under the former ones, and does not fit any more, fails here with that reason.

        Raises:
            Exception: what stood in the way; what served before is in place again.
        """
        for seq in reversed(list(self._scheduler.running)):
            self._scheduler.preempt(seq)
        self._scheduler.reuse_passages = None  # nothing may hold on to the former pages
        try:
            self._serving.replace(decoder, switches)
        except Exception:
            self._begin_anew()
            raise
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._follow()
        self._requests.fail_those_that_no_longer_fit()
        self._emit(InfoChanged(self._info()))

    def _follow(self) -> None:
        """Bring the scheduler in line with what serves."""
        serving, scheduler = self._serving, self._scheduler
        scheduler.cache = serving.cache
        scheduler.reuse_passages = serving.passages.reuse if serving.passages is not None else None
        scheduler.set_switches(serving.switches)
