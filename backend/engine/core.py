"""The engine's loop: drain messages → schedule → forward → sample → emit.

`EngineCore` is one process' worth of serving without the process; `serve` runs it behind a pipe.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import torch

from backend.engine.attention import Batch, PagedAttention, Reading
from backend.engine.chunk_cache import ChunkCache
from backend.engine.config import BLOCK_SIZE, EngineConfig
from backend.engine.cuda_graphs import DecodeGraphs
from backend.engine.decoder import Decoder
from backend.engine.encoder import Encoder
from backend.engine.kernels import KernelsUnavailableError, load_cpu_kernels
from backend.engine.kv_cache import BlockCache
from backend.engine.messages import (
    REALTIME,
    Abort,
    Embed,
    Embedded,
    Failed,
    Finished,
    Generate,
    LoadFailed,
    Logprob,
    Ping,
    Ready,
    SetSwitches,
    Shutdown,
    Stats,
    StepOutput,
    SwitchesApplied,
)
from backend.engine.prefix_store import PrefixStore
from backend.engine.quantize import resolve_variant
from backend.engine.sampler import sample, score_prompt
from backend.engine.scheduler import Scheduled, Scheduler
from backend.engine.sequence import Sequence, Status
from backend.engine.switches import Switches
from backend.models.checkpoint import fingerprint, resolve

log = logging.getLogger("tenfold.engine")

STATS_INTERVAL = 0.25
"""Seconds between unasked statistics while there is work."""


class KeptBlocks:
    """The block cache's way to the disk: the store's files, and the pages they are copied from and to."""

    def __init__(self, files: PrefixStore, attention: PagedAttention) -> None:
        self.files, self._attention = files, attention

    def has(self, digest: bytes) -> bool:
        """See `BlockStore.has`."""
        return self.files.has(digest)

    def restore(self, digest: bytes, tokens: tuple[int, ...], block: int) -> bool:
        """See `BlockStore.restore`."""
        pages = self.files.load(digest, tokens)
        if pages is None:
            return False
        self._attention.write_block(block, pages)
        return True

    def keep(self, digest: bytes, tokens: tuple[int, ...], block: int) -> None:
        """See `BlockStore.keep`."""
        if self.files.wants(digest):
            self.files.save(digest, tokens, self._attention.read_block(block))

    def close(self) -> None:
        """Let everything reach the disk."""
        self.files.close()


def _reading(switches: Switches) -> Reading:
    return Reading(
        keep_percent=switches.sparse_keep_percent if switches.sparse_attention else 100,
        share_pages=switches.shared_prefix_attention,
    )


class InvalidRequestError(ValueError):
    """A request that can never be served; says what about it is wrong."""


class EngineCore:
    """Loads the models and turns requests into tokens, one `step` at a time.

    Args:
        config: what to load and how much memory to use.
        emit: called with every outgoing message, from within `step` and `handle`.
    """

    def __init__(self, config: EngineConfig, emit: Callable[[Any], None]) -> None:
        self.config, self.emit = config, emit
        torch.set_num_threads(config.thread_count())
        self.device = torch.device(config.device_type())
        self.notices: list[str] = []
        self.kernels = None
        if self.device.type == "cpu" and config.use_kernels:
            try:
                self.kernels = load_cpu_kernels(config.cache_dir)
            except KernelsUnavailableError as error:
                self.notices.append(f"Attention runs on the slower portable path: {error}.")
                log.warning("%s", self.notices[-1])
        self.folder = resolve(config.model, config.cache_dir)
        self.fingerprint = fingerprint(self.folder)
        self.switches = config.switches
        self._swap_lock = threading.Lock()
        self._loaded: tuple[Decoder | None, str, str | None] | None = None  # (decoder, variant, error)
        self._loading: str | None = None
        self._scheduler: Scheduler | None = None

        started = time.monotonic()
        self.store: KeptBlocks | None = None
        self.chunks: ChunkCache | None = None
        self._install(self._load(resolve_variant(self.switches.quantization, self.device)))
        self.encoder: Encoder | None = None
        self.embedding_folder = None
        if config.embedding_model is not None:
            self.embedding_folder = resolve(config.embedding_model, config.cache_dir)
            self.encoder = Encoder(
                self.embedding_folder, self.device, self.kernels, quantize=config.quantize_embeddings
            )
        self.load_seconds = time.monotonic() - started

        self._embeds: deque[Embed] = deque()
        self._live: dict[str, Sequence] = {}
        self.started = time.monotonic()
        self.busy_seconds = 0.0
        self.steps = 0
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.embedded_texts, self.embedding_seconds = 0, 0.0
        self._stats_at = 0.0
        self._process = psutil.Process()

    # ---- models --------------------------------------------------------------------------------------------------

    def _load(self, variant: str) -> Decoder:
        return Decoder(
            self.folder, variant, self.device, self.kernels, self.config.max_model_len, self.config.cache_dir
        )

    def _install(self, decoder: Decoder) -> None:
        """Make `decoder` the serving model, with empty pages of its dtype."""
        self.decoder = decoder
        self.attention = decoder.make_attention(int8=self.switches.kv_cache == "int8")
        self.attention.reading = _reading(self.switches)
        blocks = self.config.kv_cache_bytes // self.attention.block_bytes
        blocks = min(blocks, 1 << 20)
        if blocks < 2:
            raise ValueError("The KV cache is too small for a single block; raise TENFOLD_KV_CACHE_MB.")
        cuda = self.device.type == "cuda"
        self.attention.allocate(blocks + 1 if cuda else blocks)
        self.max_model_len = min(decoder.max_positions, blocks * BLOCK_SIZE)
        self._graphs = DecodeGraphs(decoder, self.attention, blocks, self.max_model_len) if cuda else None
        identity = f"{self.fingerprint}:{decoder.variant}:{self.attention.name}:{self.attention.block_bytes}"
        if self.store is not None:
            self.store.close()
            self.store = None
        if self.config.prefix_dir is not None:
            self.store = KeptBlocks(
                PrefixStore(
                    self.config.prefix_dir, identity, self.attention.block_bytes, self.config.prefix_disk_bytes
                ),
                self.attention,
            )
        cache = BlockCache(blocks, identity, reuse=self.switches.prefix_cache)
        cache.store = self.store if self.switches.disk_prefix_cache else None
        if self._scheduler is None:
            self._scheduler = Scheduler(cache, self.switches, self.config.token_budget)
        self._scheduler.cache = cache
        self._set_chunks()

    def _set_chunks(self) -> None:
        """Begin or end the reuse of texts at other positions, as the switch says."""
        if not self.switches.chunk_reuse or not self.attention.scattered:
            self.chunks = self.scheduler.fill = None
            return
        decoder = self.decoder
        chunks = ChunkCache(self.config.chunk_cache_bytes, decoder.cosine, decoder.sine, decoder.shape.unrotated_layers)

        def fill(seq: Sequence) -> int:
            chunks.plan(seq, self.switches.chunk_recompute_percent, self.attention)
            return seq.length - seq.computed - len(seq.pending) if seq.pending else 0

        self.chunks, self.scheduler.fill = chunks, fill

    @property
    def scheduler(self) -> Scheduler:
        """The queues and the policy."""
        assert self._scheduler is not None
        return self._scheduler

    @property
    def cache(self) -> BlockCache:
        """The block accounting in force."""
        return self.scheduler.cache

    def info(self) -> dict[str, Any]:
        """What was loaded, where, and its limits: for people and for the web process."""
        cuda = self.device.type == "cuda"
        return {
            "model_folder": str(self.folder),
            "fingerprint": self.fingerprint,
            "family": self.decoder.shape.family,
            "vocab": self.decoder.shape.vocab,
            "eos_ids": list(self.decoder.shape.eos_ids),
            "max_model_len": self.max_model_len,
            "variant": self.decoder.variant,
            "device": torch.cuda.get_device_name() if cuda else f"cpu ({torch.get_num_threads()} threads)",
            "device_type": self.device.type,
            "attention": self.attention.name,
            "notices": list(self.notices),
            "kv_blocks": self.cache.total,
            "block_size": BLOCK_SIZE,
            "load_seconds": self.load_seconds,
            "embedding_folder": str(self.embedding_folder) if self.embedding_folder else None,
            "embedding_fingerprint": self._embedding_fingerprint(),
            "embedding_dimension": self.encoder.dimension if self.encoder else None,
            "embedding_max_tokens": self.encoder.max_tokens if self.encoder else None,
            "pid": os.getpid(),
        }

    def _embedding_fingerprint(self) -> str | None:
        """Of weights and of how they are computed with: whatever a vector's bits depend on."""
        if self.encoder is None or self.embedding_folder is None:
            return None
        both = f"{fingerprint(self.embedding_folder)}:{self.encoder.precision}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    def set_switches(self, switches: Switches) -> None:
        """Apply switches now; a new variant is loaded in the background and swapped in between two steps."""
        if switches.prefix_cache != self.switches.prefix_cache:
            self.cache.reuse = switches.prefix_cache
            self.cache.drop_cached()
            for seq in self.scheduler.running:
                seq.block_hashes = []  # hashed again from its beginning, or not at all
        pages_change = switches.kv_cache != self.switches.kv_cache
        self.switches = switches
        self.scheduler.set_switches(switches)
        self.attention.reading = _reading(switches)
        self.cache.store = self.store if switches.disk_prefix_cache else None
        if (self.chunks is not None) != switches.chunk_reuse:
            self._set_chunks()
        if pages_change:
            self._replace(self.decoder)
        wanted = resolve_variant(switches.quantization, self.device)
        if wanted != (self._loading or self.decoder.variant):
            if wanted == self.decoder.variant:
                self._loading = None
            else:
                self._loading = wanted
                threading.Thread(target=self._load_in_background, args=(wanted,), daemon=True).start()
        self._say_switches()

    def _say_switches(self, error: str | None = None) -> None:
        self.emit(SwitchesApplied(self.switches, self.decoder.variant, self._loading, error))

    def _load_in_background(self, variant: str) -> None:
        try:
            loaded: tuple[Decoder | None, str, str | None] = (self._load(variant), variant, None)
        except Exception as error:
            log.exception("loading %s failed", variant)
            loaded = (None, variant, f"{variant} could not be loaded: {error}")
        with self._swap_lock:
            self._loaded = loaded

    @property
    def loading(self) -> bool:
        """Whether a variant is being loaded or waits to be swapped in."""
        return self._loading is not None or self._loaded is not None

    def _swap(self) -> None:
        """Between two steps: install what the background load brought, if it is still wanted."""
        with self._swap_lock:
            loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        decoder, variant, error = loaded
        if variant != self._loading:
            return  # the user changed their mind meanwhile
        self._loading = None
        if decoder is None:
            self.switches = self.switches.updated({"quantization": self.decoder.variant})
            self._say_switches(error)
            return
        self._replace(decoder)
        self._say_switches()

    def _replace(self, decoder: Decoder) -> None:
        """Put other weights or pages in place; what runs is read again: half a sequence under each is neither."""
        for seq in reversed(list(self.scheduler.running)):
            self.scheduler.preempt(seq)
        del self.attention
        self._install(decoder)
        gc.collect()

    def close(self) -> None:
        """Let what is still to be kept reach the disk."""
        if self.store is not None:
            self.store.close()

    # ---- messages ------------------------------------------------------------------------------------------------

    def handle(self, message: Any) -> None:
        """Take one message in. A bad one fails alone."""
        if isinstance(message, Generate):
            try:
                self.add(message)
            except InvalidRequestError as error:
                self.emit(Failed(message.request_id, str(error), "invalid"))
            except Exception as error:  # whatever else is wrong with it is its own fault, and nobody else's
                self.emit(Failed(message.request_id, f"The request could not be read: {error}", "invalid"))
        elif isinstance(message, Abort):
            self.abort(message.request_id)
        elif isinstance(message, Embed):
            self._queue_embed(message)
        elif isinstance(message, SetSwitches):
            self.set_switches(message.switches)
        elif isinstance(message, Ping):
            self.emit(self.stats(message.nonce))
        else:
            raise TypeError(f"unknown message {type(message).__name__}")

    def add(self, request: Generate) -> None:
        """Queue a request.

        Raises:
            InvalidRequestError: empty, out of vocabulary, or too long ever to fit.
        """
        if not request.prompt:
            raise InvalidRequestError("The prompt is empty.")
        if request.request_id in self._live:
            raise InvalidRequestError(f"Request id {request.request_id} is already in use.")
        vocab = self.decoder.shape.vocab
        low, high = min(request.prompt), max(request.prompt)
        if low < 0 or high >= vocab:
            raise InvalidRequestError(f"Token id {low if low < 0 else high} is outside the vocabulary of {vocab}.")
        problem = request.sampling.problem()
        if problem:
            raise InvalidRequestError(problem)
        strange = next((token for token in request.sampling.named_tokens() if not 0 <= token < vocab), None)
        if strange is not None:
            raise InvalidRequestError(f"Token id {strange} is outside the vocabulary of {vocab}.")
        most = request.sampling.max_tokens
        if len(request.prompt) + most > self.max_model_len:
            raise InvalidRequestError(
                f"{len(request.prompt)} prompt tokens plus max_tokens {most} exceed the context of "
                f"{self.max_model_len} tokens."
            )
        blocks = -(-(len(request.prompt) + most) // BLOCK_SIZE)
        seq = Sequence(request, max_blocks=blocks, eos_ids=self.decoder.shape.eos_ids)
        self._live[seq.request_id] = seq
        self.scheduler.add(seq, time.monotonic())

    def abort(self, request_id: str) -> None:
        """End a request at once; unknown ids are those that ended already."""
        seq = self._live.get(request_id)
        if seq is not None:
            self._finish(seq, "abort")
            return
        for queued in list(self._embeds):
            if queued.request_id == request_id:
                self._embeds.remove(queued)

    def _queue_embed(self, message: Embed) -> None:
        if self.encoder is None:
            self.emit(Failed(message.request_id, "No embedding model is loaded.", "invalid"))
            return
        for tokens in message.inputs:
            if not tokens or len(tokens) > self.encoder.max_tokens:
                why = f"An input has {len(tokens)} tokens; 1 to {self.encoder.max_tokens} fit."
                self.emit(Failed(message.request_id, why, "invalid"))
                return
            if min(tokens) < 0 or max(tokens) >= self.encoder.vocab:
                self.emit(Failed(message.request_id, "An input has a token outside the vocabulary.", "invalid"))
                return
        if message.path == REALTIME:
            self._embeds.appendleft(message)
        else:
            self._embeds.append(message)

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self.scheduler.has_work or bool(self._embeds) or self._loaded is not None

    def step(self) -> None:
        """One turn: swap weights if some arrived, embed one request, then run one batch."""
        self._swap()
        if self._embeds:
            self._embed(self._embeds.popleft())
        batch = self.scheduler.schedule()
        if batch:
            started = time.monotonic()
            for item in batch:
                if not item.seq.scheduled:
                    item.seq.scheduled = started
            try:
                self._run(batch, started)
            except Exception as error:
                log.exception("a step failed")
                for item in batch:
                    self._fail(item.seq, f"The model failed on this batch: {type(error).__name__}: {error}")
        now = time.monotonic()
        if now - self._stats_at >= STATS_INTERVAL or not self.has_work:
            self._stats_at = now
            self.emit(self.stats(0))

    def _embed(self, message: Embed) -> None:
        assert self.encoder is not None
        started = time.monotonic()
        paused = 0.0

        def between() -> None:
            """Let decoding go on between two forward passes of a long embedding job."""
            nonlocal paused
            if self.scheduler.running:
                at = time.monotonic()
                step = self.scheduler.schedule()
                if step:
                    self._run(step, at)
                paused += time.monotonic() - at

        try:
            vectors = self.encoder.embed(message.inputs, between)
        except Exception as error:
            log.exception("embedding failed")
            self.emit(Failed(message.request_id, f"Embedding failed: {error}"))
            return
        seconds = time.monotonic() - started - paused
        self.busy_seconds += seconds
        self.embedded_texts += len(message.inputs)
        self.embedding_seconds += seconds
        self.emit(Embedded(message.request_id, vectors.tobytes(), self.encoder.dimension, seconds))

    def _run(self, scheduled: list[Scheduled], started: float) -> None:
        batch = self._prepare(scheduled)
        graphs = self._graphs if self.switches.cuda_graphs else None
        if any(item.seq.scores_prompt for item in scheduled):
            graphs = None  # they give one row a sequence
        logits = graphs(batch) if graphs is not None else None
        if logits is None:
            logits = self.decoder.forward(batch, self.attention)
        read = [item for item in scheduled if item.tokens - len(item.draft) == item.seq.remaining]
        complete = [item for item in read if item.seq.sampling.max_tokens]  # others only wanted their prompt read
        self._score_prompts(scheduled, logits)
        for item in scheduled:
            if item.seq.output_len == 0 and item.seq.computed < item.seq.prompt_len:
                self.prompt_tokens += min(item.tokens, item.seq.prompt_len - item.seq.computed)
            item.seq.advance(item.tokens - len(item.draft))
        if self.chunks is not None:
            for item in complete:
                if item.seq.segments and item.seq.output_len == 0 and item.seq.exact is None:
                    self.chunks.learn(item.seq, self.attention)
        if any(item.draft for item in complete):
            produced = self._check_drafts(complete, logits)
        else:
            seqs = [item.seq for item in complete]
            tokens, logprobs = sample(logits[: len(seqs)], seqs) if seqs else ([], [])
            produced = list(zip(seqs, tokens, logprobs, strict=True))
            for seq, token, _ in produced:
                seq.tokens.append(token)
        for item in scheduled:
            self.cache.commit(item.seq)
        self._emit_tokens(produced)
        elapsed = time.monotonic() - started
        self.busy_seconds += elapsed
        self.steps += 1
        reading = [item.tokens for item in scheduled if item.reads]
        self.scheduler.pace.learn(len(scheduled) - len(reading), sum(reading), elapsed)
        share = elapsed / sum(item.tokens for item in scheduled)
        for item in scheduled:
            item.seq.compute_seconds += share * item.tokens
        for item in read:
            reason = self._end(item.seq)
            if reason:
                self._finish(item.seq, reason)

    @staticmethod
    def _score_prompts(scheduled: list[Scheduled], logits: torch.Tensor) -> None:
        """Log probabilities of the prompts that ask for them: their rows are the last of `logits`, in order."""
        asking = [item for item in scheduled if item.seq.scores_prompt]
        row = len(logits) - sum(item.tokens for item in asking)
        for item in asking:
            score_prompt(logits[row : row + item.tokens], item.seq, item.seq.computed)
            row += item.tokens

    def _check_drafts(
        self, complete: list[Scheduled], logits: torch.Tensor
    ) -> list[tuple[Sequence, int, Logprob | None]]:
        """Draw token after token as if nothing had been guessed; a guess that agrees saves its own step."""
        produced: list[tuple[Sequence, int, Logprob | None]] = []
        row = 0
        for item in complete:
            seq, accepted = item.seq, 0
            for guess in [*item.draft, None]:
                (token,), (logprob,) = sample(logits[row + accepted : row + accepted + 1], [seq])
                seq.tokens.append(token)
                produced.append((seq, token, logprob))
                if token != guess or self._end(seq):
                    break
                accepted += 1
                seq.computed += 1  # the guess went through the model in this very step
            row += 1 + len(item.draft)
            if item.draft and seq.drafter is not None:
                seq.drafter.learn(len(item.draft), accepted, seq.length)
                self.drafted_tokens += len(item.draft)
                self.accepted_tokens += accepted
        return produced

    def _prepare(self, scheduled: list[Scheduled]) -> Batch:
        """Flatten the scheduled tokens of every sequence into one batch."""
        count = len(scheduled)
        counts = np.fromiter((item.tokens for item in scheduled), dtype=np.int64, count=count)
        starts = np.zeros(count + 1, dtype=np.int32)
        np.cumsum(counts, out=starts[1:])
        total = int(starts[-1])
        token_ids, positions = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
        last: list[int] = []
        scored: list[int] = []
        for i, item in enumerate(scheduled):
            seq, begin, end = item.seq, int(starts[i]), int(starts[i + 1])
            known = item.tokens - len(item.draft)
            if seq.pending:
                chosen = seq.pending[:known]
                token_ids[begin:end] = [seq.tokens[at] for at in chosen]
                positions[begin:end] = chosen
            else:
                token_ids[begin:end] = seq.tokens[seq.computed : seq.computed + known] + item.draft
                positions[begin:end] = np.arange(seq.computed, seq.computed + item.tokens)
            if known == seq.remaining and seq.sampling.max_tokens:
                last.extend(range(begin + known - 1, end))
            if seq.scores_prompt:
                scored.extend(range(begin, end))
        contexts = positions[starts[1:] - 1] + 1
        width = int(-(-contexts.max() // BLOCK_SIZE))
        tables = np.zeros((count, width), dtype=np.int32)
        for i, item in enumerate(scheduled):
            used = min(len(item.seq.blocks), width)
            tables[i, :used] = item.seq.block_row[:used]
        owner = np.repeat(np.arange(count), counts)
        slots = tables[owner, positions // BLOCK_SIZE].astype(np.int64) * BLOCK_SIZE + positions % BLOCK_SIZE
        to = self.device
        return Batch(
            token_ids=torch.from_numpy(token_ids).to(to),
            positions=torch.from_numpy(positions).to(to),
            slots=torch.from_numpy(slots).to(to),
            query_starts=torch.from_numpy(starts).to(to),
            context_lens=torch.from_numpy(contexts.astype(np.int32)).to(to),
            tables=torch.from_numpy(tables).to(to),
            max_query=int(counts.max()),
            max_context=int(contexts.max()),
            last=torch.tensor(last + scored, dtype=torch.int64, device=to),
        )

    def _emit_tokens(self, produced: list[tuple[Sequence, int, Logprob | None]]) -> None:
        if not produced:
            return
        now = time.monotonic()
        out: list[tuple[str, int, Logprob | None]] = []
        for seq, token, logprob in produced:
            if not seq.first_token:
                seq.first_token = now
                self.cached_tokens += max(seq.cached_tokens, 0)
            self.output_tokens += 1
            out.append((seq.request_id, token, logprob))
        self.emit(StepOutput(out))

    def _end(self, seq: Sequence) -> str | None:
        if seq.output_len and seq.tokens[-1] in seq.end_ids:
            return "stop"
        return "length" if seq.output_len >= seq.sampling.max_tokens else None

    def _finish(self, seq: Sequence, reason: str) -> None:
        self.scheduler.finish(seq)
        del self._live[seq.request_id]
        usage = seq.usage(self.decoder.variant)
        self.emit(Finished(seq.request_id, reason, usage, tuple(seq.prompt_logprobs)))

    def _fail(self, seq: Sequence, error: str) -> None:
        if seq.status is Status.FINISHED:
            return
        self.scheduler.finish(seq)
        self._live.pop(seq.request_id, None)
        self.emit(Failed(seq.request_id, error))

    def stats(self, nonce: int) -> Stats:
        """Counters and gauges now; checks the block accounting whenever nothing runs."""
        if not self._live:
            self.cache.check([])
        cache = self.cache
        return Stats(
            nonce=nonce,
            uptime=time.monotonic() - self.started,
            busy_seconds=self.busy_seconds,
            steps=self.steps,
            running=len(self.scheduler.running),
            waiting_realtime=sum(1 for q in self.scheduler.waiting.values() for s in q if s.path == REALTIME),
            waiting_batch=sum(1 for q in self.scheduler.waiting.values() for s in q if s.path != REALTIME),
            kv_free=cache.free,
            kv_cached=cache.cached,
            kv_used=cache.used,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            output_tokens=self.output_tokens,
            preemptions=self.scheduler.preemptions,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            embedded_texts=self.embedded_texts,
            embedding_seconds=self.embedding_seconds,
            variant=self.decoder.variant,
            memory_bytes=self._process.memory_info().rss,
            disk_tokens=self.store.files.loaded_tokens if self.store else 0,
            disk_bytes=self.store.files.size if self.store else 0,
            chunk_tokens=self.chunks.reused_tokens if self.chunks else 0,
        )


def serve(connection: Connection, config: EngineConfig) -> None:
    """Run an engine behind a pipe until it is told to stop or the other end is gone."""
    try:
        core = EngineCore(config, connection.send)
    except Exception as error:
        log.exception("the engine could not start")
        connection.send(LoadFailed(f"{type(error).__name__}: {error}" if not str(error) else str(error)))
        return
    connection.send(Ready(core.info()))
    core._say_switches()
    try:
        while True:
            wait: float | None = 0.0
            if not core.has_work:
                wait = 0.05 if core.loading else None  # asleep until a message comes
            elif core.scheduler.has_work:
                wait = core.scheduler.hold(time.monotonic())
            if connection.poll(wait):
                message = connection.recv()
                if isinstance(message, Shutdown):
                    return
                core.handle(message)
                while connection.poll(0):
                    message = connection.recv()
                    if isinstance(message, Shutdown):
                        return
                    core.handle(message)
                if core.scheduler.has_work and core.scheduler.hold(time.monotonic()) > 0:
                    continue  # still waiting for company
            if core.has_work:
                core.step()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        log.info("the other end is gone; ending")
    finally:
        core.close()


def main() -> None:
    """Entry point of the engine process: `python -m backend.engine.core --fd N`, configuration first on the pipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="file descriptor of the pipe to the web process")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine %(levelname)s %(message)s")
    connection = Connection(arguments.fd)
    serve(connection, connection.recv())


if __name__ == "__main__":
    main()
