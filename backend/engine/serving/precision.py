"""What "auto" weights come to: the fastest variant whose loss passes the gate, found by measuring on this machine.

Measured in the background, once per model, machine and build of the kernels; until then 16 bits serve.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from backend.engine.about import MeasuredVariant, PrecisionReport
from backend.engine.memory import available
from backend.engine.model.decoder import Decoder
from backend.engine.quantization.factory import resolve_variant
from backend.engine.quantization.kernel import serves
from backend.engine.quantization.loss import Yardstick, gate
from backend.engine.quantization.sensitivity import measure_sensitivity
from backend.engine.quantization.speed import compare
from backend.engine.quantization.stored import load_sensitivity, sensitive_file
from backend.engine.remembered import recall, remember
from backend.models.checkpoint import weight_files

log = logging.getLogger("tenfold.engine")

CANDIDATES = ("int8", "mixed")
"""Fastest first: `mixed` is `int8` with some of its layers slower, so it is tried only where `int8` loses too much."""
PAYS = 1.02
"""How much faster than 16 bits a variant must be."""
ATTEMPTS = 3
"""Starts of the engine that a measurement may outlive; it is then left alone, in case it is what ends the engine."""
MEMORY = 2.5
"""Free memory that is needed, in sizes of the model's files."""
LEAST_CONTEXT = 256
"""Tokens that must fit into a context for what is read."""
LONGEST_PAUSE = 0.5
"""Seconds that a piece of the measurement waits for requests to end: it takes its turn under lasting load too."""


class Precision:
    """The choice for one model on one machine.

    Args:
        folder: of the model.
        file: where the choice is remembered.
        load: makes a decoder of a variant.
        device: where it runs.
        kernels: the C++ library, or None.
        measures: whether anything is to be measured here; else "auto" is 16 bits.
    """

    def __init__(
        self, folder: Path, file: Path, load: Callable[[str], Decoder], device: torch.device,
        kernels: ctypes.CDLL | None, *, measures: bool,
    ) -> None:  # fmt: skip
        self._folder, self._file, self._load = folder, file, load
        self._device, self._kernels = device, kernels
        self.base = resolve_variant("bf16", device, kernels)
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        why = _why_not(device, kernels) if measures else "It is switched off (TENFOLD_MEASURE_PRECISION)."
        self._report = PrecisionReport("off" if why else "waiting", why, self.base, gate=gate())
        self._attempts = 0
        self._ending, self._ended = threading.Lock(), False
        if not why:
            self._recall()

    def _recall(self) -> None:
        known = recall(self._file)
        try:
            if known is not None and "report" in known:
                raw = {**known["report"], "gate": gate()}
                raw["measured"] = tuple(MeasuredVariant(**one) for one in raw["measured"])
                self._report = PrecisionReport(**raw)
            elif known is not None:
                self._attempts = int(known["attempts"])
        except (TypeError, ValueError, KeyError):
            log.warning("%s is not understood; it is measured again", self._file.name)
        if self._attempts >= ATTEMPTS:
            self._say("off", f"The engine ended {self._attempts} times while it was being measured. Delete "
                      f"{self._file.name} from the cache to have it measured again.")

    @property
    def report(self) -> PrecisionReport:
        """What is known, and what is being done."""
        return self._report

    @property
    def chosen(self) -> str:
        """The variant that "auto" is."""
        return self._report.chosen

    @property
    def is_measuring(self) -> bool:
        """Whether a thread is at it."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def has_news(self) -> bool:
        """Whether `report` changed since `take_news`."""
        return self._news.is_set()

    def take_news(self) -> bool:
        """Whether `report` changed since the last call."""
        if not self._news.is_set():
            return False
        self._news.clear()  # before anybody looks: what comes meanwhile is news again
        return True

    def measure(self, decoder: Decoder, is_busy: Callable[[], bool]) -> None:
        """Begin to measure in the background, unless that was done, is being done, or cannot be.

        Args:
            decoder: the base variant.
            is_busy: whether requests are being served; pieces of work wait for them, for a while.
        """
        if self._report.state != "waiting" or self._thread is not None or decoder.variant != self.base:
            return

        def pause() -> None:
            until = time.monotonic() + LONGEST_PAUSE
            while is_busy() and time.monotonic() < until:
                time.sleep(0.01)

        def run() -> None:
            try:
                self._measure(decoder.twin(), pause)
            except Exception as error:
                log.exception("the precision could not be measured")
                self._say("failed", f"It could not be measured: {error}")

        self._thread = threading.Thread(target=run, name="precision", daemon=True)
        self._thread.start()

    def _measure(self, base: Decoder, pause: Callable[[], None]) -> None:
        if base.max_positions < LEAST_CONTEXT:
            self._say("off", f"Contexts of {base.max_positions} tokens are too short to measure with.")
            return
        size = sum(file.stat().st_size for file in weight_files(self._folder))
        if (free := available()) < MEMORY * size:
            needed, free_gb = MEMORY * size / 1e9, free / 1e9
            self._say("off", f"Measuring needs {needed:.1f} GB of free memory, and here are {free_gb:.1f}.")
            return
        with self._ending:
            if self._ended:
                return
            if not remember(self._file, {"attempts": self._attempts + 1}):
                self._say("off", "What would be measured cannot be kept: the cache cannot be written.")
                return
        started = time.monotonic()
        self._say("measuring", "what full precision answers")
        full = Decoder(self._folder, "fp32", self._device, self._kernels, base.max_positions, holds_layers=False)
        yardstick = Yardstick(self._folder, base, full, pause)
        measured = [_row(base, yardstick, None)]
        chosen = self.base
        for variant in CANDIDATES:
            self._say("measuring", variant, measured)
            if variant == "mixed":
                self._measure_sensitivity(base, pause)
            decoder = self._load(variant)
            ours, its = compare([base, decoder], pause)
            measured[0] = measured[0].timed(ours.tokens_per_second, 1.0)
            ratio = its.tokens_per_second / ours.tokens_per_second
            measured.append(_row(decoder, yardstick, (its.tokens_per_second, ratio)))
            if ratio < PAYS:
                break  # nor can a slower one pay
            if measured[-1].inside:
                chosen = variant
                break
            del decoder  # before the next is loaded
        report = PrecisionReport(
            "measured", f"in {time.monotonic() - started:.0f} s", chosen, tuple(measured), time.time(), gate()
        )
        remember(self._file, {"report": asdict(report)})
        log.info("auto weights are %s: %s", chosen, "; ".join(one.summary() for one in measured))
        self._report = report
        self._news.set()

    def _measure_sensitivity(self, base: Decoder, pause: Callable[[], None]) -> None:
        """As the decoder would, but with pauses, and of the weights that are there already."""
        file = sensitive_file(self._file.parent.parent, base.fingerprint)
        if load_sensitivity(file) is None:
            remember(file, measure_sensitivity(base.twin(), self._folder, pause))

    def close(self) -> None:
        """The engine ends in order: a measurement that is under way is not what ends it."""
        with self._ending:
            self._ended = True
            if self.is_measuring:
                remember(self._file, {"attempts": self._attempts})

    def _say(self, state: str, detail: str, measured: list[MeasuredVariant] | None = None) -> None:
        if state != "measuring":
            log.info("auto weights stay %s. %s", self.base, detail)
        self._report = PrecisionReport(state, detail, self.base, tuple(measured or ()), gate=gate())
        self._news.set()


def _why_not(device: torch.device, kernels: ctypes.CDLL | None) -> str:
    """Why nothing is measured here; empty where it is."""
    if device.type != "cpu":
        return "On a GPU 16 bits are the fastest that we have; 8 bits save memory there."
    if not serves(kernels, 8):
        return "Only our own products gain speed from fewer bits, and they do not serve here."
    return ""


def _row(decoder: Decoder, yardstick: Yardstick, speed: tuple[float, float] | None) -> MeasuredVariant:
    loss = yardstick.loss(decoder)
    low, high = loss.same_token_interval()
    row = MeasuredVariant(
        decoder.variant, loss.perplexity_change, loss.perplexity_error, loss.same_token, low, high, loss.places,
        loss.inside,
    )  # fmt: skip
    return row if speed is None else row.timed(*speed)
