"""The block cache's way to the disk: files, and the pages that they are copied from and to."""

from __future__ import annotations

import logging

from backend.engine.attention.base import PagedAttention
from backend.engine.cache.disk import PrefixStore

log = logging.getLogger(__name__)


class KeptBlocks:
    """A `BlockStore` of the files of a `PrefixStore`."""

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
