"""What the block cache needs of a place where blocks outlive memory."""

from __future__ import annotations

from typing import Protocol


class BlockStore(Protocol):
    """Where blocks outlive memory; `KeptBlocks` is one."""

    @property
    def ready(self) -> bool:
        """Whether another block could be taken now."""
        ...

    def has(self, digest: bytes) -> bool:
        """Whether a block can be restored."""
        ...

    def wants(self, digest: bytes) -> bool:
        """Whether a block is neither kept nor on its way."""
        ...

    def touch(self, digest: bytes) -> None:
        """Note that a kept block was of use: it is the last to go."""
        ...

    def restore(self, digest: bytes, tokens: tuple[int, ...], block: int) -> bool:
        """Bring a block's contents back into the pages of `block`; False where they are gone or corrupt."""
        ...

    def keep(self, digest: bytes, tokens: tuple[int, ...], block: int) -> None:
        """Copy a block's contents, to be kept."""
        ...
