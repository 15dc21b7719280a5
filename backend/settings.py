"""Every setting of the product, from TENFOLD_* variables. What a user switches while it runs is in `Switches`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from backend.models.checkpoint import PACKAGED_CHAT_MODEL, PACKAGED_EMBEDDING_MODEL

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "data" / "samples"
"""The sample documents that are shipped."""


class Settings(BaseSettings):
    """Read once at start."""

    model_config = SettingsConfigDict(env_prefix="TENFOLD_", env_file=".env", extra="ignore")

    data_dir: Path = Field(ROOT / "data" / "var", description="Where everything written at run time goes.")
    database_url: str | None = Field(
        None, validation_alias="DATABASE_URL", description="SQLAlchemy URL; by default SQLite inside data_dir."
    )
    model: str = Field(PACKAGED_CHAT_MODEL, description="Folder, hub id, GGUF file or the packaged model's name.")
    model_name: str | None = Field(None, description="The name the API serves the model under.")
    embedding_model: str = Field(PACKAGED_EMBEDDING_MODEL, description="The same for the embedding model.")
    quantize_embeddings: bool = Field(
        True, description="Hold the embedding model in 8 bits where that is faster; a change re-indexes."
    )
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$")
    threads: int = Field(0, ge=0, description="Torch threads of the engine; 0 takes every core.")
    kv_cache_mb: int = Field(1024, ge=8)
    prefix_disk_mb: int = Field(2048, ge=0, description="Most that prompt states kept on disk may take.")
    max_model_len: int | None = Field(None, ge=32)
    token_budget: int = Field(512, ge=16, description="Most tokens one step computes while prefill is chunked.")
    default_max_tokens: int = Field(
        512, ge=1, description="Most tokens of an answer where a request does not say; never more than fit."
    )
    max_prompts: int = Field(128, ge=1, description="Most answers (prompts × n) that one request may ask for.")
    use_kernels: bool = Field(True, description="False forces the portable torch path.")
    max_upload_mb: int = Field(100, ge=1, description="Largest document accepted.")
    parse_timeout_s: float = Field(120.0, gt=0)
    chunk_tokens: int = Field(128, ge=16, le=500)
    allowed_hosts: list[str] = Field([], description="Further Host names that /v1 and /api answer to.")
    allowed_origins: list[str] = Field([], description="Further web origins that may call /v1 and /api.")
    price_per_hour: float | None = Field(None, ge=0, description="Your machine's price in US dollars per hour.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()  # the engine process works from another folder

    @property
    def cache_dir(self) -> Path:
        """Converted weights and built kernels: can be deleted, and is made again."""
        return self.data_dir / "cache"

    @property
    def files_dir(self) -> Path:
        """Uploaded files, by the SHA-256 of their bytes."""
        return self.data_dir / "files"

    @property
    def index_dir(self) -> Path:
        """Chroma's folder: can be deleted, and is rebuilt from the database."""
        return self.data_dir / "index"

    @property
    def sql_url(self) -> str:
        """The database in use."""
        return self.database_url or f"sqlite:///{self.data_dir / 'tenfold.sqlite3'}"

    @property
    def served_model(self) -> str:
        """The name under which the API serves the language model."""
        return self.model_name or Path(self.model).stem.lower()

    @property
    def served_embedding_model(self) -> str:
        """The name under which the API serves the embedding model."""
        return Path(self.embedding_model).stem.lower()
