"""What is kept is counted part by part, and what is forgotten is made again by who needs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.engine.cache.disk import PrefixStore
from backend.files.data_folder import DataFolder, Part
from backend.settings import Settings
from backend.store.database import Database

DIGEST, TOKENS, PAGES = b"x" * 16, (1, 2, 3), b"pages"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url=None)


@pytest.fixture
def folder(settings: Settings) -> DataFolder:
    database = Database(settings.sql_url)
    database.migrate()
    return DataFolder(settings, database)


def test_every_part_is_counted(settings: Settings, folder: DataFolder) -> None:
    settings.files_dir.mkdir()
    (settings.files_dir / "one").write_bytes(b"12345")
    (settings.cache_dir / "quantized").mkdir(parents=True)
    (settings.cache_dir / "quantized" / "w-int8.safetensors").write_bytes(b"123")
    kept = folder.kept()
    assert set(kept) == set(Part) and kept[Part.DATABASE].bytes > 0
    assert (kept[Part.FILES].files, kept[Part.FILES].bytes, kept[Part.WEIGHTS].bytes) == (1, 5, 3)
    assert kept[Part.PREFIXES].bytes == 0


def test_prompt_states_that_were_forgotten_are_kept_anew(settings: Settings, folder: DataFolder) -> None:
    store = PrefixStore(settings.data_dir / "prefix", "model", len(PAGES), 1 << 20)
    store.save(DIGEST, TOKENS, PAGES)
    store.flush()
    assert folder.kept()[Part.PREFIXES].bytes > len(PAGES)
    folder.forget_prefixes()
    assert folder.kept()[Part.PREFIXES].files == 0
    assert store.load(DIGEST, TOKENS) is None and store.wants(DIGEST) and store.size == 0
    store.save(DIGEST, TOKENS, PAGES)
    store.flush()
    assert bytes(store.load(DIGEST, TOKENS) or b"") == PAGES
    store.close()


def test_forgetting_weights_leaves_everything_else(settings: Settings, folder: DataFolder) -> None:
    for name in ("quantized", "models"):
        (settings.cache_dir / name).mkdir(parents=True)
        (settings.cache_dir / name / "x.safetensors").write_bytes(b"123")
    folder.forget_weights()
    kept = folder.kept()
    assert (kept[Part.WEIGHTS].files, kept[Part.MODELS].files) == (0, 1)
