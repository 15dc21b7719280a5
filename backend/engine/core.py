"""The engine's loop: drain messages → schedule → run → commit → charge → emit.

`EngineCore` is one process' worth of serving without the process, which is `process.py`.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from backend.engine.attention.base import Batch, KernelAttention, PagedAttention, Reading
from backend.engine.cache.blocks import BlockCache
from backend.engine.cache.disk import PrefixStore
from backend.engine.cache.passages import ChunkCache
from backend.engine.config import BLOCK_SIZE, EngineConfig
from backend.engine.cuda.graphs import DecodeGraphs
from backend.engine.embedding.encoder import Encoder
from backend.engine.embedding.queue import Embedding, EmbeddingQueue
from backend.engine.kernels.build import KernelsUnavailableError, load_cpu_kernels
from backend.engine.messages import (
    BATCH,
    REALTIME,
    Abort,
    Embed,
    Embedded,
    EngineInfo,
    Failed,
    Finished,
    Generate,
    InfoChanged,
    Logprob,
    Ping,
    SetSwitches,
    Stats,
    StepOutput,
    SwitchesApplied,
)
from backend.engine.model.decoder import Decoder
from backend.engine.quantization.linear import resolve_variant, working_dtype
from backend.engine.sampler import sample, score_prompt
from backend.engine.scheduler import Scheduled, Scheduler
from backend.engine.sequence import Sequence, Status
from backend.engine.switches import Switches, ineffective
from backend.models.checkpoint import fingerprint, resolve

log = logging.getLogger("tenfold.engine")

STATS_INTERVAL = 0.25
"""Seconds between unasked statistics while there is work."""
BACKGROUND_PAUSE = 0.05
"""Seconds that an idle loop sleeps while weights are loaded, or the disk is busy with blocks, beside it."""
KEPT_A_TURN = 8
"""Blocks copied for the disk in one turn: some milliseconds, which nobody's next token waits longer for."""
CLOSING_SECONDS = 2.0
"""Most that the end of the process waits for blocks to be copied."""

Produced = list[tuple[Sequence, int, Logprob | None]]
"""Tokens of one step, in the order in which they were drawn."""


class KeptBlocks:
    """The block cache's way to the disk: the store's files, and the pages they are copied from and to."""

    def __init__(self, files: PrefixStore, attention: PagedAttention) -> None:
        self.files, self._attention = files, attention

    @property
    def ready(self) -> bool:
        """See `BlockStore.ready`."""
        return self.files.ready

    def has(self, digest: bytes) -> bool:
        """See `BlockStore.has`."""
        return self.files.has(digest)

    def wants(self, digest: bytes) -> bool:
        """See `BlockStore.wants`."""
        return self.files.wants(digest)

    def touch(self, digest: bytes) -> None:
        """See `BlockStore.touch`."""
        self.files.touch(digest)

    def restore(self, digest: bytes, tokens: tuple[int, ...], block: int) -> bool:
        """See `BlockStore.restore`."""
        try:
            pages = self.files.load(digest, tokens)
            if pages is None:
                return False
            self._attention.write_block(block, pages)
        except Exception:  # whatever is wrong with it, the block can be computed
            log.exception("a kept block could not be brought back")
            return False
        return True

    def keep(self, digest: bytes, tokens: tuple[int, ...], block: int) -> None:
        """See `BlockStore.keep`."""
        self.files.save(digest, tokens, self._attention.read_block(block))


def _reading(switches: Switches) -> Reading:
    return Reading(
        keep_percent=switches.sparse_keep_percent if switches.sparse_attention else 100,
        share_pages=switches.shared_prefix_attention,
    )


class InvalidRequestError(ValueError):
    """A request that can never be served; says what about it is wrong."""


@dataclass(slots=True, eq=False)
class Load:
    """A variant being loaded by a thread of its own, which writes here and nowhere else; `done` comes last."""

    variant: str
    decoder: Decoder | None = None
    error: str | None = None
    done: bool = False


def _check_ids(token_ids: object, vocab: int) -> None:
    """Raise InvalidRequestError where something is no list of token ids. Types first: True and 5.0 compare well."""
    if not isinstance(token_ids, list) or not set(map(type, token_ids)) <= {int}:
        raise InvalidRequestError("Token ids must be a list of integers.")
    if token_ids and not 0 <= (low := min(token_ids)) <= (high := max(token_ids)) < vocab:
        raise InvalidRequestError(f"Token id {low if low < 0 else high} is outside the vocabulary of {vocab}.")


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
        self.fingerprint = fingerprint(self.folder, config.cache_dir)
        self.switches = config.switches
        self._served = config.switches.quantization  # the switch's value for the weights that serve
        self._load_wanted: Load | None = None
        self._scheduler: Scheduler | None = None
        self._files: PrefixStore | None = None

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

        self._embeddings = EmbeddingQueue()
        self._live: dict[str, Sequence] = {}
        self.started = time.monotonic()
        self.busy_seconds = 0.0
        self.steps = 0
        self.prompt_tokens = self.cached_tokens = self.output_tokens = 0
        self.drafted_tokens = self.accepted_tokens = 0
        self.embedded_texts, self.embedding_seconds = 0, 0.0
        self._stats_at = 0.0
        self._stuck = False  # something runs, and the last turn could schedule nothing of it
        self._process = psutil.Process()

    # ---- models --------------------------------------------------------------------------------------------------

    def _load(self, variant: str) -> Decoder:
        return Decoder(
            self.folder, variant, self.device, self.kernels, self.config.max_model_len, self.config.cache_dir,
            hub_kernels=self.config.hub_kernels,
        )  # fmt: skip

    def _install(self, decoder: Decoder) -> None:
        """Make `decoder` the serving model, with empty pages of its dtype."""
        self.decoder = decoder
        self.attention = decoder.make_attention(int8=self.switches.kv_cache == "int8")
        self.attention.reading = _reading(self.switches)
        blocks = self.config.kv_cache_bytes // self.attention.block_bytes
        blocks = min(blocks, 1 << 20)
        if blocks < 2:
            raise ValueError("The KV cache is too small for a single block; raise TENFOLD_KV_CACHE_MB.")
        graphs = self.device.type == "cuda" and self.attention.capturable
        self.attention.allocate(blocks + 1 if graphs else blocks)
        self.max_model_len = min(decoder.max_positions, blocks * BLOCK_SIZE)
        self._graphs = DecodeGraphs(decoder, self.attention, blocks, self.max_model_len) if graphs else None
        identity = f"{self.fingerprint}:{decoder.variant}:{self.attention.name}:{self.attention.block_bytes}"
        if self.config.prefix_dir is not None:
            bytes_ = self.attention.block_bytes
            if self._files is None:
                self._files = PrefixStore(self.config.prefix_dir, identity, bytes_, self.config.prefix_disk_bytes)
            else:
                self._files.use(identity, bytes_)
            self.store = KeptBlocks(self._files, self.attention)
        cache = self._empty_cache(blocks, identity)
        if self._scheduler is None:
            self._scheduler = Scheduler(cache, self.switches, self.config.token_budget)
        self._scheduler.cache = cache
        self._set_chunks()

    def _empty_cache(self, blocks: int, identity: str) -> BlockCache:
        cache = BlockCache(blocks, identity, reuse=self.switches.prefix_cache)
        cache.store = self.store if self.switches.disk_prefix_cache else None
        return cache

    def _let_go(self) -> None:
        """Give up pages, and whatever holds on to them: two sets of them may not fit into memory at once."""
        self.store = self._graphs = self.chunks = self.scheduler.fill = self.cache.store = None
        self.decoder.drop_attention()
        if hasattr(self, "attention"):
            del self.attention
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

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

    def info(self) -> EngineInfo:
        """What is loaded, where, and its limits: for people and for the web process."""
        cuda = self.device.type == "cuda"
        return EngineInfo(
            model_folder=str(self.folder),
            fingerprint=self.fingerprint,
            family=self.decoder.shape.family,
            vocab=self.decoder.shape.vocab,
            eos_ids=tuple(self.decoder.shape.eos_ids),
            max_model_len=self.max_model_len,
            variant=self.decoder.variant,
            device=torch.cuda.get_device_name() if cuda else f"cpu ({torch.get_num_threads()} threads)",
            device_type=self.device.type,
            attention=self.attention.name,
            notices=(*self.notices, *self.decoder.notices),
            ineffective=ineffective(
                self.device.type,
                kernels=isinstance(self.attention, KernelAttention),
                scattered=self.attention.scattered,
                graphs=self._graphs is not None,
                bf16=working_dtype(self.device) is torch.bfloat16,
            ),
            kv_blocks=self.cache.total,
            block_size=BLOCK_SIZE,
            load_seconds=self.load_seconds,
            embedding_folder=str(self.embedding_folder) if self.embedding_folder else None,
            embedding_fingerprint=self._embedding_fingerprint,
            embedding_dimension=self.encoder.dimension if self.encoder else None,
            embedding_max_tokens=self.encoder.max_tokens if self.encoder else None,
            pid=os.getpid(),
        )

    @functools.cached_property
    def _embedding_fingerprint(self) -> str | None:
        """Of weights and of how they are computed with: whatever a vector's bits depend on."""
        if self.encoder is None or self.embedding_folder is None:
            return None
        both = f"{fingerprint(self.embedding_folder, self.config.cache_dir)}:{self.encoder.precision}"
        return hashlib.sha256(both.encode()).hexdigest()[:32]

    def set_switches(self, switches: Switches) -> None:
        """Apply switches now; a new variant is loaded in the background and swapped in between two steps.

        Raises:
            InvalidSwitchError: a value is none that its switch can have. Nothing is changed.
            Exception: what kept other pages from being put in place. The former ones are in force again.
        """
        former = self.switches
        switches = former.updated(switches.as_dict())
        wanted = resolve_variant(switches.quantization, self.device)
        self.switches = switches
        if switches.kv_cache != former.kv_cache:
            self._replace(self.decoder)
        if switches.prefix_cache != former.prefix_cache:
            self.cache.reuse = switches.prefix_cache
            self.cache.drop_cached()
            for seq in self.scheduler.running:
                seq.block_hashes = []  # hashed again from its beginning, or not at all
        self.scheduler.set_switches(switches)
        self.attention.reading = _reading(switches)
        self.cache.store = self.store if switches.disk_prefix_cache else None
        if (self.chunks is not None) != switches.chunk_reuse:
            self._set_chunks()
        if wanted == self.decoder.variant:
            self._load_wanted, self._served = None, switches.quantization
        elif self._load_wanted is None or self._load_wanted.variant != wanted:
            self._load_wanted = Load(wanted)
            threading.Thread(target=self._load_in_background, args=(self._load_wanted,), daemon=True).start()
        self.say_switches()

    def say_switches(self, error: str | None = None) -> None:
        """Say which switches are in force, and what is being loaded."""
        loading = self._load_wanted.variant if self._load_wanted is not None else None
        self.emit(SwitchesApplied(self.switches, self.decoder.variant, loading, error))

    def _load_in_background(self, load: Load) -> None:
        try:
            load.decoder = self._load(load.variant)
        except Exception as error:
            log.exception("loading %s failed", load.variant)
            load.error = f"{load.variant} could not be loaded: {error}"
        load.done = True

    @property
    def loading(self) -> bool:
        """Whether a variant is being loaded or waits to be swapped in."""
        return self._load_wanted is not None

    @property
    def _loaded(self) -> bool:
        return self._load_wanted is not None and self._load_wanted.done

    def _swap(self) -> None:
        """Between two steps: install what the background load brought. One no longer wanted is simply forgotten."""
        load = self._load_wanted
        if load is None or not load.done:
            return
        self._load_wanted = None
        error = load.error
        if load.decoder is not None:
            try:
                self._replace(load.decoder)
            except Exception as problem:
                log.exception("%s could not be put in place", load.variant)
                error = f"{load.variant} could not be put in place: {problem}"
        if error is not None:
            self.switches = self.switches.updated({"quantization": self._served})
            self.scheduler.set_switches(self.switches)
        else:
            self._served = self.switches.quantization
        self.say_switches(error)

    def _replace(self, decoder: Decoder) -> None:
        """Put other weights or pages in place; what runs is read again: half a sequence under each is neither.

        A request that was accepted under the former ones, and does not fit any more, fails here with that reason.

        Raises:
            Exception: what stood in the way; the former weights are in place again.
            SystemExit: and they could not be put back. A process begun anew can.
        """
        former = self.decoder
        for seq in reversed(list(self.scheduler.running)):
            self.scheduler.preempt(seq)
        self._let_go()
        try:
            self._install(decoder)
        except Exception:
            self._let_go()
            self.switches = self.scheduler.switches  # those that are in force
            try:
                self._install(former)
            except Exception as error:
                log.exception("the former weights could not be put back; the process ends")
                raise SystemExit(1) from error
            raise
        finally:
            self._fail_what_no_longer_fits()
            self.emit(InfoChanged(self.info()))

    def _fail_what_no_longer_fits(self) -> None:
        for seq in list(self._live.values()):
            most = seq.prompt_len + seq.sampling.max_tokens
            if most > self.max_model_len:
                why = (
                    f"Weights or pages were changed meanwhile: the context is {self.max_model_len} tokens now, and "
                    f"{seq.prompt_len} prompt tokens plus max_tokens {seq.sampling.max_tokens} exceed it."
                )
                self._fail(seq, why, "invalid")

    def close(self) -> None:
        """Let what is still to be kept reach the disk."""
        deadline = time.monotonic() + CLOSING_SECONDS
        while self.cache.keeping and time.monotonic() < deadline:
            self.cache.keep(KEPT_A_TURN)
            if not self.cache.can_keep:
                time.sleep(0.005)  # the disk is busy
        if self._files is not None:
            self._files.close()

    # ---- messages ------------------------------------------------------------------------------------------------

    def handle(self, message: Any) -> None:
        """Take one message in. A bad one fails alone, whatever it is and whatever is wrong with it."""
        try:
            self._handle(message)
        except Exception as error:
            if not isinstance(error, InvalidRequestError):
                log.exception("a message of kind %s could not be taken", type(message).__name__)
            if isinstance(message, Generate | Embed):
                why = str(error) if isinstance(error, InvalidRequestError) else f"It could not be read: {error}"
                self.emit(Failed(message.request_id, why, "invalid"))
            elif isinstance(message, Abort):
                self._fail_all([], f"A request could not be ended: {error}")
            elif isinstance(message, SetSwitches):
                self.say_switches(f"The switches could not be applied: {error}")

    def _handle(self, message: Any) -> None:
        if isinstance(message, Generate):
            self.add(message)
        elif isinstance(message, Abort):
            self.abort(message.request_id)
        elif isinstance(message, Embed):
            self.add_embedding(message)
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
        self._check_request(request)
        if not request.prompt:
            raise InvalidRequestError("The prompt is empty.")
        _check_ids(request.prompt, self.decoder.shape.vocab)
        request.salt.encode()  # caches are keyed by it: what cannot be encoded must not get as far
        if not all(0 <= start < end <= len(request.prompt) for start, end in request.segments):
            raise InvalidRequestError("A segment lies outside the prompt.")
        if not math.isfinite(request.arrival):
            raise InvalidRequestError("The time of arrival is not a number.")
        problem = request.sampling.problem()
        if problem:
            raise InvalidRequestError(problem)
        _check_ids(list(request.sampling.named_tokens()), self.decoder.shape.vocab)
        most = request.sampling.max_tokens
        if len(request.prompt) + most > self.max_model_len:
            raise InvalidRequestError(
                f"{len(request.prompt)} prompt tokens plus max_tokens {most} exceed the context of "
                f"{self.max_model_len} tokens."
            )
        blocks = -(-(len(request.prompt) + most) // BLOCK_SIZE)
        seq = Sequence(request, max_blocks=blocks, eos_ids=self.decoder.shape.eos_ids)
        self.scheduler.add(seq, time.monotonic())
        self._live[seq.request_id] = seq

    def add_embedding(self, request: Embed) -> None:
        """Queue an embedding.

        Raises:
            InvalidRequestError: no embedding model, or an input that is empty, too long or out of vocabulary.
        """
        self._check_request(request)
        if self.encoder is None:
            raise InvalidRequestError("No embedding model is loaded.")
        for token_ids in request.inputs:
            _check_ids(token_ids, self.encoder.vocab)
            if not 0 < len(token_ids) <= self.encoder.max_tokens:
                raise InvalidRequestError(
                    f"An input has {len(token_ids)} tokens; 1 to {self.encoder.max_tokens} fit."
                )
        path = request.path if self.switches.dual_path else REALTIME
        self._embeddings.add(Embedding(request, self.encoder), path)

    def _check_request(self, request: Generate | Embed) -> None:
        if not isinstance(request.request_id, str):
            raise InvalidRequestError("A request id is a string.")
        if request.request_id in self._live or request.request_id in self._embeddings:
            raise InvalidRequestError(f"Request id {request.request_id} is already in use.")
        if request.path not in (REALTIME, BATCH):
            raise InvalidRequestError(f"There is no path {request.path!r}; there are {REALTIME} and {BATCH}.")

    def abort(self, request_id: str) -> None:
        """End a request at once; unknown ids are those that ended already."""
        seq = self._live.get(request_id)
        if seq is not None:
            self._finish(seq, "abort")
        elif self._embeddings.remove(request_id):
            self.emit(Failed(request_id, "The embedding was ended by its caller.", "aborted"))

    # ---- the loop ------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return self.scheduler.has_work or bool(self._embeddings) or self._loaded or self.cache.can_keep

    def rest(self) -> float | None:
        """Seconds that the loop may sleep if no message comes; None: until one does."""
        if self._embeddings or self._loaded or self.cache.can_keep:
            return 0.0
        if self.scheduler.has_work:
            return self.scheduler.hold(time.monotonic())
        return BACKGROUND_PAUSE if self.loading or self.cache.keeping else None

    def step(self, *, hold: bool = False) -> None:
        """One turn: other weights if some arrived, a step of decoding, a pass of embedding, some blocks kept.

        With `hold` an idle decoder waits for company as its switch says.
        """
        self._swap()
        if not hold or not self.scheduler.hold(time.monotonic()):
            self._decode()
        self._embed()
        self.cache.keep(KEPT_A_TURN)
        now = time.monotonic()
        if now - self._stats_at >= STATS_INTERVAL or not self.has_work:
            self._stats_at = now
            self.emit(self.stats(0))

    def _decode(self) -> None:
        """Schedule → run → commit → charge → emit. What fails fails those sequences, with its cause."""
        started = time.monotonic()
        scheduled: list[Scheduled] | None = None
        try:
            scheduled = self.scheduler.schedule()
            if not scheduled:
                self._fail_what_is_stuck()
                return
            self._stuck = False
            for item in scheduled:
                item.seq.scheduled = item.seq.scheduled or started
            produced = self._run(scheduled)
            for item in scheduled:
                self.cache.commit(item.seq)
            self._charge(scheduled, time.monotonic() - started)
            self._emit_tokens(produced)
            ending = [seq for seq, _, _ in produced]
            ending += [i.seq for i in scheduled if not (i.seq.sampling.max_tokens or i.seq.remaining)]  # only read
            for seq in dict.fromkeys(ending):  # with a guess that held there are two tokens
                reason = self._end(seq)
                if reason:
                    self._finish(seq, reason)
        except Exception as error:
            log.exception("a step failed")
            cause = f"The model failed on this batch: {type(error).__name__}: {error}"
            if scheduled is not None:
                culprits = [item.seq for item in scheduled]
            elif self.scheduler.looking_at is not None:
                culprits = [self.scheduler.looking_at]
            else:
                culprits = list(self._live.values())
            self._fail_all(culprits, cause)

    def _fail_what_is_stuck(self) -> None:
        """Nothing could be scheduled. Where nothing runs either, the first in line can never be; nobody may wait so."""
        first = next((seq for queue in self.scheduler.waiting.values() for seq in queue), None)
        if not self.scheduler.running and first is not None:
            self._fail_all([first], "It does not fit into the KV cache.")
        elif self.scheduler.running and self._stuck:  # a turn may pass in which people are made room for, but not two
            self._fail_all(list(self.scheduler.running), "It could not be scheduled any more.")
        self._stuck = bool(self.scheduler.running)

    def _embed(self) -> None:
        """One forward pass of the embedding whose turn it is."""
        embedding = self._embeddings.first()
        if embedding is None:
            return
        before = embedding.seconds
        try:
            embedding.advance()
            if embedding.complete:
                self._embeddings.remove(embedding.request_id)
                self.embedded_texts += len(embedding.vectors)
                vectors = embedding.vectors
                self.emit(
                    Embedded(embedding.request_id, vectors.tobytes(), vectors.shape[1], embedding.seconds)
                )
        except Exception as error:
            log.exception("embedding failed")
            self._embeddings.remove(embedding.request_id)
            self.emit(Failed(embedding.request_id, f"Embedding failed: {type(error).__name__}: {error}"))
        finally:
            self.busy_seconds += embedding.seconds - before
            self.embedding_seconds += embedding.seconds - before

    def _run(self, scheduled: list[Scheduled]) -> Produced:
        """Bring the scheduled tokens through the model; draw the next one of each sequence that is read to its end."""
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
            return self._check_drafts(complete, logits)
        seqs = [item.seq for item in complete]
        tokens, logprobs = sample(logits[: len(seqs)], seqs) if seqs else ([], [])
        produced = list(zip(seqs, tokens, logprobs, strict=True))
        for seq, token, _ in produced:
            seq.tokens.append(token)
        return produced

    def _charge(self, scheduled: list[Scheduled], elapsed: float) -> None:
        """Share a step's time out by tokens computed, and let the pace learn from it."""
        self.busy_seconds += elapsed
        self.steps += 1
        share = elapsed / sum(item.tokens for item in scheduled)
        for item in scheduled:
            if item.prefill:
                item.seq.prefill_seconds += share * item.tokens
            else:
                item.seq.decode_seconds += share * item.tokens
        reading = [item.tokens for item in scheduled if item.reads]
        self.scheduler.pace.learn(len(scheduled) - len(reading), sum(reading), elapsed)

    @staticmethod
    def _score_prompts(scheduled: list[Scheduled], logits: torch.Tensor) -> None:
        """Log probabilities of the prompts that ask for them: their rows are the last of `logits`, in order."""
        asking = [item for item in scheduled if item.seq.scores_prompt]
        row = len(logits) - sum(item.tokens for item in asking)
        for item in asking:
            score_prompt(logits[row : row + item.tokens], item.seq, item.seq.computed)
            row += item.tokens

    def _check_drafts(self, complete: list[Scheduled], logits: torch.Tensor) -> Produced:
        """Draw token after token as if nothing had been guessed; a guess that agrees saves its own step."""
        produced: Produced = []
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

    def _emit_tokens(self, produced: Produced) -> None:
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

    def _fail(self, seq: Sequence, error: str, kind: str = "internal") -> None:
        if seq.status is Status.FINISHED:
            return
        self.scheduler.finish(seq)
        self._live.pop(seq.request_id, None)
        self.emit(Failed(seq.request_id, error, kind))

    def _fail_all(self, seqs: list[Sequence], error: str) -> None:
        """Fail sequences; where that leaves blocks unaccounted for, everything ends and the cache begins empty."""
        try:
            for seq in seqs:
                self._fail(seq, error)
            self.check_integrity()
        except (AssertionError, LookupError, ValueError):
            log.exception("the accounting no longer adds up; what is going on ends, and the cache begins empty")
            live, self._live = self._live, {}
            self.scheduler.clear(self._empty_cache(self.cache.total, self.cache.fingerprint))
            for request_id in live:
                self.emit(Failed(request_id, error))

    def check_integrity(self) -> None:
        """Raise AssertionError where a request is nowhere or in two places, or a block is lost or held by nobody."""
        self.scheduler.check_integrity()
        queued = [seq for queue in self.scheduler.waiting.values() for seq in queue]
        if {id(seq) for seq in (*self.scheduler.running, *queued)} != {id(seq) for seq in self._live.values()}:
            raise AssertionError("a request is live and not in a queue, or the other way round")

    def stats(self, nonce: int) -> Stats:
        """Counters and gauges now; checks the block accounting whenever nothing runs."""
        if not self._live:
            self._fail_all([], "")
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
