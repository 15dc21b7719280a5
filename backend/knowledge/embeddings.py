"""Embeddings that are computed once: SQLite first, the engine only for what is not there, and each text once at a time.

A vector's key covers everything that determines it: normalized text, model, weights, and how they are computed with.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from sqlmodel import select
from tokenizers import Tokenizer

from backend.engine.messages import REALTIME
from backend.engine.protocol import EmbeddingFailedError, EngineClient
from backend.errors import InvalidInputError, UnavailableError
from backend.knowledge.chunk import normalize
from backend.knowledge.kept_vectors import KeptVectors
from backend.metering.account import Account
from backend.metering.entry import Asked
from backend.metering.ledger import Ledger
from backend.store.database import Database
from backend.store.ids import new_id
from backend.store.tables.documents import Chunk

STEP = 64
"""Texts of one message to the engine."""
ENGINE_TIMEOUT = 300.0


class _AbandonedError(Exception):
    """Who had begun to compute a text did not get to its end; whoever waits for it computes it."""


@dataclass(frozen=True)
class Embedded:
    """Vectors in the order of the texts, how many had to be computed, and what that cost in US dollars."""

    vectors: np.ndarray
    computed: int
    reused: int
    tokens: int
    cost: float


@dataclass(slots=True)
class _Work:
    """What was computed for a call so far: texts, their tokens, and the model's seconds."""

    texts: int = 0
    tokens: int = 0
    seconds: float = 0.0


class EmbeddingService:
    """The cache in front of the engine's embedding model.

    Attributes:
        kept: the vectors it knows.
    """

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: Callable[[], Tokenizer],
        database: Database,
        ledger: Ledger,
        model: str,
    ) -> None:
        self._engine, self._tokenizer, self._database, self._ledger = engine, tokenizer, database, ledger
        self.kept = KeptVectors(database)
        self.model = model
        self._flights: dict[str, Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Of the embedding model now loaded, its weights and how it computes."""
        return str(self._engine.known().embedding_fingerprint)

    def key(self, text: str) -> str:
        """The cache key of a text under the model now loaded."""
        parts = [normalize(text), self.model, self.fingerprint]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def embed(
        self,
        texts: list[str],
        *,
        source: str,
        path: str = REALTIME,
        truncate: bool = True,
        progress: Callable[[int, int], None] | None = None,
        key_id: str = "",
        tenant: str = "",
        request_id: str = "",
    ) -> Embedded:
        """Embed texts; known ones come from the database, unknown ones are computed once whoever asks.

        Args:
            texts: what to embed; longer ones than the model reads are cut, or refused where `truncate` is False.
            source: who asks, for the ledger.
            path: "realtime" or "batch".
            truncate: see `texts`.
            progress: called with (done, total) as it goes on.
            key_id: of the key that asks, for the ledger.
            tenant: the same key's.
            request_id: its name in the ledger; empty: one is made.

        Returns:
            float32 [texts, dimension] and counts.

        Raises:
            InvalidInputError: an empty text, or one too long where `truncate` is False.
            UnavailableError: the engine is not there.
        """
        if not texts:
            raise InvalidInputError("There is nothing to embed.", param="input")
        normalized = [normalize(text) for text in texts]
        if not all(normalized):
            raise InvalidInputError("An input text is empty.", param="input")
        if not all(map(_is_text, normalized)):
            raise InvalidInputError("An input text contains half a character (a lone surrogate).", param="input")
        if not self._engine.wait_ready(60):
            raise self._engine.state.error()
        token_ids = self._encode(normalized, truncate)
        tokens = sum(map(len, token_ids))
        asked = Asked(request_id or new_id(), source, path, self.model, key_id, tenant, self._engine.in_force)
        work, started = _Work(), time.monotonic()

        def record(reused: int, error: str = "") -> Account:
            return self._ledger.record_embedding(
                asked, computed_tokens=work.tokens, reused_tokens=reused, seconds=work.seconds,
                latency=time.monotonic() - started, error=error,
            )  # fmt: skip

        try:
            if self._engine.switches.embedding_cache:
                vectors = self._reuse(texts, token_ids, path, progress, work)
            else:
                vectors = self._answer(self._ask(token_ids, path), work)
                work.texts, work.tokens = len(texts), tokens
        except BaseException as error:  # whatever ended it (its caller may have been cancelled), so much was computed
            if isinstance(error, EmbeddingFailedError):
                work.seconds += error.seconds
            record(0, str(error) or type(error).__name__)
            raise
        account = record(tokens - work.tokens)
        return Embedded(vectors, work.texts, len(texts) - work.texts, tokens, account.cost)

    @property
    def missing(self) -> UnavailableError | None:
        """Why nothing could be embedded now; None while the engine is there."""
        return None if self._engine.wait_ready(0) else self._engine.state.error()

    def vectors(self, texts: list[str], source: str, path: str, key_id: str = "") -> np.ndarray:
        """See `embed`: its vectors alone."""
        return self.embed(texts, source=source, path=path, key_id=key_id).vectors

    def forget_unused(self) -> int:
        """Delete vectors that no kept text of a document has under the model now loaded; returns how many.

        Vectors of deleted documents, of questions, of texts sent to the API and of other models go; any of them is
        computed again when it is asked for.
        """
        began = time.time()
        with self._database.session() as session:
            texts = session.exec(select(Chunk.text).execution_options(yield_per=1000))
            used = {self.key(text) for text in texts}
        return self.kept.forget(used, before=began)

    def _reuse(
        self,
        texts: list[str],
        token_ids: list[list[int]],
        path: str,
        progress: Callable[[int, int], None] | None,
        work: _Work,
    ) -> np.ndarray:
        """Vectors of texts, known or computed; what is computed here is counted in `work`."""
        keys = [self.key(text) for text in texts]
        found = self.kept.find(list(dict.fromkeys(keys)))
        missing: dict[str, list[int]] = {}  # key → token ids, once each
        for key, ids in zip(keys, token_ids, strict=True):
            if key not in found and key not in missing:
                missing[key] = ids
        computed = self._fill(missing, found, path, progress, len(texts), work)
        self.kept.count_hits([key for key in keys if key not in computed])
        return np.stack([found[key] for key in keys])

    def _encode(self, texts: list[str], truncate: bool) -> list[list[int]]:
        limit = self._engine.known().embedding_max_tokens or 0
        out = []
        for encoding in self._tokenizer().encode_batch(texts):
            ids = encoding.ids
            if len(ids) > limit:
                if not truncate:
                    raise InvalidInputError(
                        f"An input has {len(ids)} tokens; the embedding model reads {limit}.",
                        param="input",
                        code="context_length_exceeded",
                    )
                ids = [*ids[: limit - 1], ids[-1]]
            out.append(ids)
        return out

    def _fill(
        self,
        missing: dict[str, list[int]],
        found: dict[str, np.ndarray],
        path: str,
        progress: Callable[[int, int], None] | None,
        total: int,
        work: _Work,
    ) -> set[str]:
        """Compute what nobody computes already, wait for what somebody does; `found` gets the vectors.

        Returns:
            keys computed here.
        """
        computed: set[str] = set()
        while missing:
            mine, theirs = self._claim(missing)
            computed |= self._compute(mine, missing, found, path, progress, total, work)
            missing = {key: missing[key] for key, flight in theirs.items() if not self._landed(key, flight, found)}
        return computed

    def _claim(self, keys: Iterable[str]) -> tuple[dict[str, Future[np.ndarray]], dict[str, Future[np.ndarray]]]:
        """Of these texts, those that are this caller's to compute, and those that somebody computes now."""
        mine: dict[str, Future[np.ndarray]] = {}
        theirs: dict[str, Future[np.ndarray]] = {}
        with self._lock:
            for key in keys:
                flight = self._flights.get(key)
                if flight is None:
                    mine[key] = self._flights[key] = Future()
                else:
                    theirs[key] = flight
        return mine, theirs

    @staticmethod
    def _landed(key: str, flight: Future[np.ndarray], found: dict[str, np.ndarray]) -> bool:
        try:
            found[key] = flight.result(ENGINE_TIMEOUT)
            return True
        except _AbandonedError:
            return False
        except TimeoutError as error:
            raise UnavailableError("The embedding model did not answer in time.") from error

    def _compute(
        self,
        mine: dict[str, Future[np.ndarray]],
        token_ids: dict[str, list[int]],
        found: dict[str, np.ndarray],
        path: str,
        progress: Callable[[int, int], None] | None,
        total: int,
        work: _Work,
    ) -> set[str]:
        computed: set[str] = set()
        asked: list[Future[tuple[np.ndarray, float]]] = []
        try:
            # Somebody may have finished between our look-up and our claim.
            late = self.kept.find(list(mine)) if mine else {}
            found.update(late)
            todo = [key for key in mine if key not in late]
            parts = [todo[start : start + STEP] for start in range(0, len(todo), STEP)]
            # One message ahead: the engine works on it while what it gave before is stored.
            asked += [self._ask([token_ids[key] for key in part], path) for part in parts[:1]]
            for at, part in enumerate(parts):
                asked += [self._ask([token_ids[key] for key in after], path) for after in parts[at + 1 : at + 2]]
                vectors = self._answer(asked[at], work)
                work.texts += len(part)
                work.tokens += sum(len(token_ids[key]) for key in part)
                self.kept.keep(self.model, part, vectors, [len(token_ids[key]) for key in part])
                for key, vector in zip(part, vectors, strict=True):
                    found[key] = vector
                    computed.add(key)
                if progress is not None:
                    progress(total - len(todo) + at * STEP + len(part), total)
        except BaseException:
            for future in asked:
                future.cancel()  # nobody waits for it any more
            raise
        finally:
            # Whatever ended this caller (it may have been cancelled) is no business of those who wait for a text of it.
            with self._lock:
                for key, flight in mine.items():
                    self._flights.pop(key, None)
                    if key in found:
                        flight.set_result(found[key])
                    else:
                        flight.set_exception(_AbandonedError())
        return computed

    def _ask(self, token_ids: list[list[int]], path: str) -> Future[tuple[np.ndarray, float]]:
        return self._engine.embed(token_ids, path)

    @staticmethod
    def _answer(asked: Future[tuple[np.ndarray, float]], work: _Work) -> np.ndarray:
        try:
            vectors, seconds = asked.result(ENGINE_TIMEOUT)
        except TimeoutError as error:
            asked.cancel()
            raise UnavailableError("The embedding model did not answer in time.") from error
        except ValueError as error:
            raise InvalidInputError(str(error), param="input") from error
        work.seconds += seconds
        return vectors


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
