"""Which language model serves: its weights, its pages and what is built on them; loading others, and putting them in.

Knows nothing of requests.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from backend.engine.about import TriedProducts
from backend.engine.attention.base import PagedAttention, PageSelection
from backend.engine.cache.blocks import BlockCache
from backend.engine.cache.disk import PrefixStore
from backend.engine.cache.kept import KeptBlocks
from backend.engine.cache.passages import PassageCache
from backend.engine.config import BLOCK_SIZE, EngineConfig
from backend.engine.cuda.graphs import DecodeGraphs
from backend.engine.kernels.build import build_of
from backend.engine.memory import kv_cache_bytes
from backend.engine.model.decoder import Decoder
from backend.engine.model.weights import read_shape
from backend.engine.quantization.choice import choose_products
from backend.engine.quantization.factory import resolve_variant
from backend.engine.quantization.loss import basis
from backend.engine.quantization.stored import FORMAT, layers_file
from backend.engine.remembered import machine_key
from backend.engine.serving.precision import Precision
from backend.engine.switches import Switches
from backend.models.checkpoint import fingerprint, resolve

log = logging.getLogger("tenfold.engine")

MOST_BLOCKS = 1 << 20


@dataclass(slots=True, eq=False)
class Load:
    """A variant being loaded by a thread of its own, which writes here and nowhere else; `done` comes last."""

    variant: str
    decoder: Decoder | None = None
    error: str | None = None
    progress: float = 0.0  # share of its layers that are made
    done: bool = False

    def advance(self, share: float) -> None:
        """So much is made."""
        self.progress = share


class Serving:
    """One decoder in force, with empty pages of its dtype; at most one other on its way.

    Args:
        config: what to load and how much memory to use.
        device: where it runs.
        kernels: the C++ library, or None for the portable path.
    """

    def __init__(self, config: EngineConfig, device: torch.device, kernels: ctypes.CDLL | None) -> None:
        self._config, self.device, self.kernels = config, device, kernels
        self.folder = resolve(config.model, config.cache_dir)
        self._served = config.switches.quantization  # the switch's value for the weights that serve
        self._wanted: Load | None = None
        self._files: PrefixStore | None = None
        self._kv_cache_bytes: int | None = None
        self.tried_products: tuple[TriedProducts, ...] = ()
        if kernels is not None:
            self.tried_products = choose_products(
                kernels, read_shape(self.folder, config.cache_dir).products(), config.cache_dir,
                config.thread_count(), config.products,
            )  # fmt: skip
        self._key = fingerprint(self.folder, config.cache_dir)
        way = self.tried_products[0].way if self.tried_products else ""
        basis_of = (build_of(kernels), FORMAT, torch.__version__, basis(), way)
        machine = machine_key(config.thread_count(), *basis_of)
        self.precision = Precision(
            self.folder, config.cache_dir / "quantized" / f"{self._key}-precision-{machine}.json", self._load, device,
            kernels, measures=config.measure_precision,
        )  # fmt: skip
        self._install(self._ready(), config.switches)
        self.want(self._served)

    def _ready(self) -> Decoder:
        """What can serve at once: what was chosen for "auto" where it need not be made first."""
        variant = self._variant_of(self._served)
        if self._served == "auto" and not layers_file(self._config.cache_dir, self._key, variant).is_file():
            variant = self.precision.base
        return self._load(variant)

    def _variant_of(self, quantization: str) -> str:
        """The variant that a value of the switch is here and now."""
        if quantization == "auto":
            return self.precision.chosen
        return resolve_variant(quantization, self.device, self.kernels)

    def _load(self, variant: str, progress: Callable[[float], None] = lambda share: None) -> Decoder:
        return Decoder(
            self.folder, variant, self.device, self.kernels, self._config.max_model_len, self._config.cache_dir,
            hub_kernels=self._config.hub_kernels, progress=progress,
        )  # fmt: skip

    # ---- putting in place ----------------------------------------------------------------------------------------

    def _install(self, decoder: Decoder, switches: Switches) -> None:
        self.decoder, self.switches, self.fingerprint = decoder, switches, decoder.fingerprint
        self.attention: PagedAttention = decoder.make_attention(int8=switches.kv_cache == "int8")
        self.attention.selection = _selection(switches)
        if self._kv_cache_bytes is None:  # of the first weights; beside others while these change, less would be free
            self._kv_cache_bytes = kv_cache_bytes(self._config.kv_cache_bytes, self.device)
        blocks = min(self._kv_cache_bytes // self.attention.block_bytes, MOST_BLOCKS)
        if blocks < 2:
            raise ValueError("The KV cache is too small for a single block; raise TENFOLD_KV_CACHE_MB.")
        recorded = self.device.type == "cuda" and self.attention.capturable
        self.attention.allocate(blocks + 1 if recorded else blocks)
        self.max_model_len = min(decoder.max_positions, blocks * BLOCK_SIZE)
        self.graphs = self._record(decoder, blocks) if recorded else None
        identity = f"{self.fingerprint}:{decoder.variant}:{self.attention.name}:{self.attention.block_bytes}"
        self.store = self._open_store(identity)
        self.cache = self._empty_cache(blocks, identity)
        self.passages = self._empty_passages()

    def _record(self, decoder: Decoder, spare_block: int) -> DecodeGraphs | None:
        try:
            return DecodeGraphs(decoder, self.attention, spare_block, self.max_model_len)
        except RuntimeError as error:  # an operation that this driver or torch cannot capture
            log.warning("CUDA graphs cannot be used here: %s", error)
            return None

    def _open_store(self, identity: str) -> KeptBlocks | None:
        if self._config.prefix_dir is None:
            return None
        bytes_ = self.attention.block_bytes
        if self._files is None:
            self._files = PrefixStore(self._config.prefix_dir, identity, bytes_, self._config.prefix_disk_bytes)
        else:
            self._files.use(identity, bytes_)
        return KeptBlocks(self._files, self.attention)

    def _empty_cache(self, blocks: int, identity: str) -> BlockCache:
        store = self.store if self.switches.disk_prefix_cache else None
        return BlockCache(blocks, identity, reuse=self.switches.prefix_cache, store=store)

    def _empty_passages(self) -> PassageCache | None:
        if not self.switches.chunk_reuse or not self.attention.scattered:
            return None
        decoder = self.decoder
        return PassageCache(
            self._config.chunk_cache_bytes, self.attention, decoder.cosine, decoder.sine,
            decoder.shape.unrotated_layers, self.switches.chunk_recompute_percent,
        )  # fmt: skip

    def renew_cache(self) -> None:
        """Begin with an empty block cache over the same pages."""
        self.cache = self._empty_cache(self.cache.total, self.cache.fingerprint)

    def _let_go(self) -> None:
        """Give up pages, and whatever holds on to them: two sets of them may not fit into memory at once."""
        self.store = self.graphs = self.passages = self.cache.store = None
        self.decoder.drop_attention()
        if hasattr(self, "attention"):
            del self.attention
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def replace(self, decoder: Decoder, switches: Switches) -> None:
        """Put other weights, or pages that other switches ask for, in place of those that serve.

        Nobody may hold on to `attention`, `graphs` or `passages`.

        Raises:
            Exception: what stood in the way; what served before is in place again.
            SystemExit: and it could not be put back. A process begun anew can.
        """
        former, former_switches = self.decoder, self.switches
        self._let_go()
        try:
            self._install(decoder, switches)
        except Exception:
            self._let_go()
            try:
                self._install(former, former_switches)
            except Exception as error:
                log.exception("the former weights could not be put back; the process ends")
                raise SystemExit(1) from error
            raise

    def apply(self, switches: Switches) -> None:
        """Put switches in force that need no other weights or pages."""
        former, self.switches = self.switches, switches
        if switches.prefix_cache != former.prefix_cache:
            self.cache.reuse = switches.prefix_cache
            self.cache.drop_cached()
        self.cache.store = self.store if switches.disk_prefix_cache else None
        self.attention.selection = _selection(switches)
        if (self.passages is not None) != switches.chunk_reuse:
            self.passages = self._empty_passages()
        if self.passages is not None:
            self.passages.recompute_percent = switches.chunk_recompute_percent

    # ---- loading -------------------------------------------------------------------------------------------------

    @property
    def loading(self) -> str | None:
        """The variant that is being loaded or waits to be put in place."""
        return self._wanted.variant if self._wanted is not None else None

    @property
    def load_progress(self) -> float:
        """Share of the layers of what is being loaded that are made."""
        return self._wanted.progress if self._wanted is not None else 0.0

    @property
    def loaded(self) -> bool:
        """Whether a load has ended."""
        return self._wanted is not None and self._wanted.done

    def want(self, quantization: str) -> None:
        """Load what a value of the switch asks for in the background, unless it serves or is on its way."""
        variant = self._variant_of(quantization)
        if variant == self.decoder.variant:
            self._wanted, self._served = None, quantization
        elif self.loading != variant:
            self._wanted = Load(variant)
            threading.Thread(target=self._load_in_background, args=(self._wanted,), daemon=True).start()

    def _load_in_background(self, load: Load) -> None:
        try:
            load.decoder = self._load(load.variant, load.advance)
        except Exception as error:
            log.exception("loading %s failed", load.variant)
            load.error = f"{load.variant} could not be loaded: {error}"
        load.done = True

    def take_loaded(self) -> Load | None:
        """A load that has ended, once. One no longer wanted is simply forgotten."""
        load = self._wanted
        if load is None or not load.done:
            return None
        self._wanted = None
        return load

    def settle(self, *, served: bool) -> None:
        """Note whether the weights that the switches ask for serve now; where not, the switch goes back."""
        if served:
            self._served = self.switches.quantization
        else:
            self.switches = self.switches.updated({"quantization": self._served})

    def close(self) -> None:
        """Let what is queued for the disk reach it."""
        self.precision.close()
        if self._files is not None:
            self._files.close()


def _selection(switches: Switches) -> PageSelection:
    return PageSelection(
        keep_percent=switches.sparse_keep_percent if switches.sparse_attention else 100,
        share_pages=switches.shared_prefix_attention,
    )
