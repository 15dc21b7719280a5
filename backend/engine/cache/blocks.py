"""Block accounting of the paged KV cache: who holds which block, and which finished blocks can be used again.

No torch here: the tensors belong to `attention`. Every block is free, cached (no holder, contents known by hash) or
used; `free + cached + used == total` always.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

from backend.engine.cache.store import BlockStore
from backend.engine.config import BLOCK_SIZE, blocks_for
from backend.engine.sequence import Sequence


class Block:
    """Reference count, content hash and token ids of one block."""

    __slots__ = ("digest", "refs", "tokens")

    def __init__(self) -> None:
        self.refs = 0
        self.digest: bytes | None = None
        self.tokens: tuple[int, ...] = ()


REMEMBERED = 1 << 16
"""Digests of evicted blocks that are remembered, so that a beginning met again long after still counts as met twice."""


def chain(parent: bytes, tokens: tuple[int, ...]) -> bytes:
    """128-bit hash of a full block that follows the block hashed `parent`."""
    return hashlib.blake2b(array("q", tokens).tobytes(), key=parent[:64], digest_size=16).digest()


def _tokens_of(seq: Sequence, position: int) -> tuple[int, ...]:
    return tuple(seq.tokens[position * BLOCK_SIZE : (position + 1) * BLOCK_SIZE])


class BlockCache:
    """Hands out blocks, shares equal prefixes and evicts the least recently used cached block when none is free.

    Args:
        total: number of blocks.
        fingerprint: identifies weights and precision; blocks of another model never match.
        reuse: False switches prefix reuse off; nothing is hashed then.
        store: keeps blocks beyond memory; None keeps none.

    A block goes to the store when its beginning is met a second time: most prompts are asked once, and what nobody
    asked again would only push out of the store what many ask for. Met is what an admitted sequence shares, what two
    sequences computed at the same time, and what is computed again after it was evicted.
    """

    def __init__(
        self, total: int, fingerprint: str, *, reuse: bool = True, store: BlockStore | None = None
    ) -> None:
        self.store = store
        self.total = total
        self.fingerprint = fingerprint
        self.reuse = reuse
        self._blocks = [Block() for _ in range(total)]
        self._free = list(reversed(range(total)))  # the last freed is used first: memory stays as small as the work
        self._cached: OrderedDict[int, None] = OrderedDict()  # no holder; oldest first
        self._by_digest: dict[bytes, int] = {}
        self._to_keep: OrderedDict[int, bytes] = OrderedDict()  # blocks met again, with what they held then
        self._evicted: OrderedDict[bytes, None] = OrderedDict()  # without having been kept; oldest first

    @property
    def free(self) -> int:
        """Blocks without holder or contents."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks without holder whose contents can still be used."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that can be handed out now."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that some sequence holds."""
        return self.total - self.available

    def _root(self, salt: str) -> bytes:
        return hashlib.blake2b(f"{self.fingerprint}\0{salt}".encode(), digest_size=16).digest()

    def match(self, seq: Sequence) -> tuple[list[int | None], list[bytes]]:
        """Find the longest cached prefix of a sequence in whole blocks, leaving at least one token to compute.

        Returns:
            The block of each, None for one that only the store has, and their digests.
        """
        found: list[int | None] = []
        digests: list[bytes] = []
        if not self.reuse or seq.scores_prompt:
            return found, digests
        for position in range((seq.length - 1) // BLOCK_SIZE):
            digest = self._digest(seq, position)
            index = self._by_digest.get(digest)
            if index is not None and self._blocks[index].tokens != _tokens_of(seq, position):
                break
            if index is None and (self.store is None or not self.store.has(digest)):
                break
            found.append(index)
            digests.append(digest)
        return found, digests

    def _digest(self, seq: Sequence, position: int) -> bytes:
        """Of a sequence's full block, over everything before it; kept with the sequence, whose tokens only grow."""
        if seq.digests_of != self.fingerprint:
            seq.digests, seq.digests_of = [], self.fingerprint
        while len(seq.digests) <= position:
            parent = seq.digests[-1] if seq.digests else self._root(seq.salt)
            seq.digests.append(chain(parent, _tokens_of(seq, len(seq.digests))))
        return seq.digests[position]

    def can_admit(self, seq: Sequence, tokens: int) -> bool:
        """Whether `tokens` tokens of a waiting sequence fit, counting what a prefix match would share."""
        found, _ = self.match(seq)
        shared = [index for index in found if index is not None]
        idle_matches = sum(1 for index in shared if self._blocks[index].refs == 0)
        needed = blocks_for(max(tokens, len(found) * BLOCK_SIZE + 1)) - len(shared)
        return needed <= self.available - idle_matches

    def admit(self, seq: Sequence) -> int:
        """Give a sequence the blocks of its cached prefix; returns the number of tokens that need no computing."""
        found, digests = self.match(seq)
        for index in found:  # all of them before any is taken for what the store brings
            if index is not None:
                if self._blocks[index].refs == 0:
                    del self._cached[index]
                self._blocks[index].refs += 1
        for position, (index, digest) in enumerate(zip(found, digests, strict=True)):
            if index is None:
                index = self._restore(digest, _tokens_of(seq, position))
            if index is None:
                for other in found[position:]:
                    if other is not None:
                        self._unhold(other)
                break
            seq.block_row[len(seq.blocks)] = index
            seq.blocks.append(index)
        seq.committed = len(seq.blocks)
        seq.computed = len(seq.blocks) * BLOCK_SIZE
        if seq.cached_tokens < 0:  # its own blocks, found again after a preemption, have not been met by another
            self._met(seq, found, digests)
        return seq.computed

    def _met(self, seq: Sequence, found: list[int | None], digests: list[bytes]) -> None:
        """Note that a sequence's blocks are of use again; the deepest first, so that beginnings are the last to go."""
        if self.store is None:
            return
        for index, known, digest in reversed(list(zip(seq.blocks, found, digests, strict=False))):
            if known is None:
                self.store.touch(digest)
            else:
                self._meet(index, digest)

    def _meet(self, index: int, digest: bytes) -> None:
        if self.store is not None and self.store.wants(digest):
            self._to_keep[index] = digest

    @property
    def can_keep(self) -> bool:
        """Whether `keep` would find something to do."""
        return bool(self._to_keep) and self.store is not None and self.store.ready

    @property
    def keeping(self) -> bool:
        """Whether blocks wait to be kept, though the store may not be ready for them yet."""
        return bool(self._to_keep) and self.store is not None

    def keep(self, most: int) -> None:
        """Hand up to `most` blocks that were met again to the store."""
        while most > 0 and self.can_keep:
            assert self.store is not None
            index, digest = self._to_keep.popitem(last=False)
            block = self._blocks[index]
            if block.digest == digest and self.store.wants(digest):  # not evicted meanwhile, and not kept
                self.store.keep(digest, block.tokens, index)
                most -= 1

    def _restore(self, digest: bytes, tokens: tuple[int, ...]) -> int | None:
        assert self.store is not None
        index = self._take()
        if not self.store.restore(digest, tokens, index):
            self._unhold(index)
            return None
        block = self._blocks[index]
        block.digest, block.tokens = digest, tokens
        self._by_digest[digest] = index
        return index

    def can_grow(self, seq: Sequence, tokens: int) -> bool:
        """Whether the block table can be made to hold `tokens` tokens."""
        return blocks_for(tokens) - len(seq.blocks) <= self.available

    def grow(self, seq: Sequence, tokens: int) -> None:
        """Extend the block table to hold `tokens` tokens. Call `can_grow` first."""
        while len(seq.blocks) < blocks_for(tokens):
            index = self._take()
            seq.block_row[len(seq.blocks)] = index
            seq.blocks.append(index)

    def _take(self) -> int:
        if self._free:
            index = self._free.pop()
        else:
            index, _ = self._cached.popitem(last=False)
            self._remember(self._blocks[index].digest)
            self._forget(index)
        self._blocks[index].refs = 1
        return index

    def _remember(self, digest: bytes | None) -> None:
        if self.store is None or digest is None or not self.store.wants(digest):
            return
        self._evicted[digest] = None
        if len(self._evicted) > REMEMBERED:
            self._evicted.popitem(last=False)

    def _forget(self, index: int) -> None:
        block = self._blocks[index]
        if block.digest is not None and self._by_digest.get(block.digest) == index:
            del self._by_digest[block.digest]
        block.digest, block.tokens = None, ()

    def commit(self, seq: Sequence) -> None:
        """Register the blocks that `computed` has filled, so that others can share them."""
        if not self.reuse:
            return
        while seq.committed < seq.exact_length // BLOCK_SIZE:
            position = seq.committed
            digest = self._digest(seq, position)
            seq.committed += 1
            same = self._by_digest.get(digest)
            if same is not None:
                self._meet(same, digest)
                continue
            index = seq.blocks[position]
            self._blocks[index].digest, self._blocks[index].tokens = digest, _tokens_of(seq, position)
            self._by_digest[digest] = index
            if digest in self._evicted:
                del self._evicted[digest]
                self._meet(index, digest)

    def release(self, seq: Sequence) -> None:
        """Take a sequence's blocks back. The deepest block goes first, so that shared beginnings live longest."""
        for index in reversed(seq.blocks):
            self._unhold(index)
        seq.blocks.clear()
        seq.committed = seq.computed = 0
        seq.recompute = None

    def _unhold(self, index: int) -> None:
        block = self._blocks[index]
        block.refs -= 1
        if block.refs:
            return
        if block.digest is not None and self.reuse:
            self._cached[index] = None
        else:
            self._forget(index)
            self._free.append(index)

    def drop_cached(self) -> None:
        """Forget every cached block, and every known content: after a weight swap nothing may match."""
        for index in self._cached:
            self._free.append(index)
        self._cached.clear()
        self._by_digest.clear()
        self._to_keep.clear()
        for block in self._blocks:
            block.digest, block.tokens = None, ()

    def check(self, holders: list[Sequence]) -> None:
        """Raise AssertionError where the accounting does not add up with what `holders` hold."""
        counts = [0] * self.total
        for seq in holders:
            for index in seq.blocks:
                counts[index] += 1
        for index, block in enumerate(self._blocks):
            if block.refs != counts[index]:
                raise AssertionError(f"block {index}: {block.refs} references, {counts[index]} holders")
        free, cached = set(self._free), set(self._cached)
        used = {index for index, count in enumerate(counts) if count}
        if len(self._free) != len(free) or free & cached or free & used or cached & used:
            raise AssertionError("a block is in two states")
        if len(free) + len(cached) + len(used) != self.total:
            raise AssertionError(f"free {len(free)} + cached {len(cached)} + used {len(used)} != {self.total}")
