"""Keyword search: SQLite's full-text index (FTS5, BM25) in a file of its own that can be thrown away.

Of its own, so that it serves beside any database; like Chroma it is checked at start and filled again from the truth.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.knowledge.mentions import STOP_WORDS, Title, words

TITLE_WEIGHT = 2.0
"""How much more a word counts in a title than in the text."""
MOST_TERMS = 8
COMMON = 0.05
"""A word in more than this share of the chunks is looked up only where the question has no rarer one."""


class KeywordIndex:
    """Chunk ids, titles and texts."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open the file; one that cannot be read is begun anew."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.close()
        try:
            self._connect()
        except sqlite3.DatabaseError:
            self.close()
            for path in self._file.parent.glob(self._file.name + "*"):
                path.unlink(missing_ok=True)
            self._connect()

    def _connect(self) -> None:
        db = sqlite3.connect(self._file, check_same_thread=False, isolation_level=None)
        self._db = db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("CREATE TABLE IF NOT EXISTS chunk (id TEXT PRIMARY KEY, row INTEGER NOT NULL UNIQUE)")
        db.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5"
            "(title, text, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
        db.execute("CREATE VIRTUAL TABLE IF NOT EXISTS terms USING fts5vocab(words, 'row')")
        db.execute("INSERT INTO words(words) VALUES ('integrity-check')")

    @property
    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            raise RuntimeError("the keyword index is not open")
        return self._db

    def ids(self) -> set[str]:
        """Every chunk in it."""
        with self._lock:
            return {row[0] for row in self._open.execute("SELECT id FROM chunk")}

    def add(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """Insert or replace chunks: (id, title, text)."""
        with self._transaction() as db:
            for chunk_id, title, text in rows:
                self._delete(db, chunk_id)
                row = db.execute("INSERT INTO words(title, text) VALUES (?, ?)", (title, text)).lastrowid
                db.execute("INSERT INTO chunk(id, row) VALUES (?, ?)", (chunk_id, row))

    def remove(self, ids: Iterable[str]) -> None:
        """Delete chunks; unknown ids are ignored."""
        with self._transaction() as db:
            for chunk_id in ids:
                self._delete(db, chunk_id)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; after an error the connection is as it was before."""
        with self._lock:
            db = self._open
            db.execute("BEGIN")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # SQLite itself takes back what met a full disk
                    db.execute("ROLLBACK")
                raise

    @staticmethod
    def _delete(db: sqlite3.Connection, chunk_id: str) -> None:
        row = db.execute("SELECT row FROM chunk WHERE id = ?", (chunk_id,)).fetchone()
        if row is not None:
            db.execute("DELETE FROM words WHERE rowid = ?", row)
            db.execute("DELETE FROM chunk WHERE id = ?", (chunk_id,))

    def query(self, text: str, count: int) -> list[tuple[str, float]]:
        """The chunks that match the question's words best: (chunk id, BM25 score, higher is better), best first."""
        terms = self._terms(text)
        return self._match(" OR ".join(f'"{term}"' for term in terms), count) if terms else []

    def phrase(self, form: Title, count: int) -> list[tuple[str, str]]:
        """Chunks that may contain these words in a row (stems are compared, so check them): (id, text)."""
        with self._lock:
            found = self._open.execute(
                "SELECT chunk.id, words.text FROM words JOIN chunk ON chunk.row = words.rowid "
                "WHERE words MATCH ? LIMIT ?",
                ('text : "' + " ".join(form) + '"', count),
            ).fetchall()
        return [(row[0], row[1]) for row in found]

    def _match(self, query: str, count: int) -> list[tuple[str, float]]:
        with self._lock:
            found = self._open.execute(
                "SELECT chunk.id, -bm25(words, ?, 1.0) AS score FROM words JOIN chunk ON chunk.row = words.rowid "
                "WHERE words MATCH ? ORDER BY score DESC LIMIT ?",
                (TITLE_WEIGHT, query, count),
            ).fetchall()
        return [(row[0], float(row[1])) for row in found]

    def _terms(self, text: str) -> list[str]:
        """The question's words that tell most: no stop words, the rarest first, common ones only in need."""
        candidates = [w for w in dict.fromkeys(words(text)) if w not in STOP_WORDS and len(w) > 1]
        with self._lock:
            db = self._open
            total = db.execute("SELECT count(*) FROM chunk").fetchone()[0]
            spread = {}
            for word in candidates:
                # The index knows stems; a word's own beginning is a good enough guess at how common its stem is.
                row = db.execute(
                    "SELECT max(doc) FROM terms WHERE term >= ? AND term < ?",
                    (word[:-2] if len(word) > 5 else word[:-1], word + "\uffff"),
                ).fetchone()
                spread[word] = row[0] or 0
        # Words of which nothing is known come last, not never: the guess may have missed their stem.
        ordered = sorted(candidates, key=lambda w: (spread[w] == 0, spread[w]))
        rare = [w for w in ordered if spread[w] <= max(COMMON * total, 20)]
        return (rare if any(spread[w] for w in rare) else ordered)[:MOST_TERMS]

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()
            self._db = None
