"""A server starts only on a folder and database that it can use, alone; otherwise it says why and touches nothing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.errors import DataFolderError
from backend.settings import Settings
from backend.store.folder import Storage
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def kept_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, which are empty."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".lock"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(settings: Settings) -> str:
    before = contents(settings.data_dir)
    with pytest.raises(DataFolderError) as problem:
        Storage(settings)
    assert contents(settings.data_dir) == before, "something was touched"
    return problem.value.message


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A folder in which a server has worked."""
    settings = Settings(data_dir=tmp_path / "data")
    Storage(settings).close()
    settings.files_dir.mkdir()
    (settings.files_dir / "a document").write_bytes(b"text")
    return settings


def database_file(settings: Settings) -> Path:
    return settings.data_dir / "tenfold.sqlite3"


@pytest.mark.parametrize("left", [b"", None])
def test_an_emptied_database_beside_documents_is_not_begun_anew(settings: Settings, left: bytes | None) -> None:
    for part in settings.data_dir.glob("tenfold.sqlite3*"):
        part.unlink()
    if left is not None:
        database_file(settings).write_bytes(left)
    assert "Restore it from a backup" in refused(settings)
    shutil.rmtree(settings.files_dir)
    Storage(settings).close()


def test_a_damaged_database_is_said_to_be_damaged(settings: Settings) -> None:
    database_file(settings).write_bytes(b"no database at all" * 1000)
    assert "is damaged" in refused(settings)


def test_two_servers_never_share_a_database(settings: Settings, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    first = Storage(Settings(data_dir=tmp_path / "one", DATABASE_URL=url))
    with pytest.raises(DataFolderError, match="on the database"):
        Storage(Settings(data_dir=tmp_path / "two", DATABASE_URL=url))
    with pytest.raises(DataFolderError, match="TENFOLD_DATA_DIR"):
        Storage(Settings(data_dir=tmp_path / "one"))
    first.close()
    Storage(Settings(data_dir=tmp_path / "two", DATABASE_URL=url)).close()


def test_what_lies_there_from_before_becomes_its_owners_alone(settings: Settings) -> None:
    settings.data_dir.chmod(0o755)
    database_file(settings).chmod(0o644)
    Storage(settings).close()
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(database_file(settings).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", small], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(DataFolderError, match=r"disk .*is full"):
            Storage(Settings(data_dir=small / "data"))
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_server_that_cannot_start_says_so_without_a_trace(settings: Settings) -> None:
    database_file(settings).write_bytes(b"no database at all" * 1000)
    ended = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", "0", "--server.address", "127.0.0.1"],
        cwd=ROOT, env={**os.environ, "TENFOLD_DATA_DIR": str(settings.data_dir)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "Tenfold does not start. The database" in ended.stderr and "Traceback" not in ended.stdout + ended.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataFolderError, match="cannot be used"):
        Storage(Settings(data_dir=tmp_path / "file" / "data"))
