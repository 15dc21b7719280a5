"""Kernels that cannot be built, kept or run leave the portable path serving, and say why."""

from __future__ import annotations

import ctypes
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from backend.engine.kernels import build
from backend.engine.kernels.abi import MIRRORS, KernelsUnavailableError, NativeLinear, check_sizes
from backend.engine.kernels.build import load_cpu_kernels

REAL_CDLL = ctypes.CDLL


@pytest.fixture
def elsewhere(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The private temporary folder, with a library that was built before."""
    built = Path(load_cpu_kernels(cache_dir)._name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = next(path for path in list(build._folders(cache_dir)) if path.parent == tmp_path)
    shutil.copy(built, folder)
    return folder


def test_a_data_folder_that_nothing_can_be_run_from_is_passed_over(
    elsewhere: Path, tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "noexec"
    shutil.copytree(Path(load_cpu_kernels(cache_dir)._name).parent, cache / "kernels")

    def mounted_noexec(name: str) -> Any:
        if cache in Path(name).parents:
            raise OSError(f"{name}: failed to map segment from shared object")
        return REAL_CDLL(name)

    monkeypatch.setattr(ctypes, "CDLL", mounted_noexec)
    assert Path(load_cpu_kernels(cache)._name).parent == elsewhere


def test_a_data_folder_that_cannot_be_written_is_passed_over(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Path(load_cpu_kernels(tmp_path / "file")._name).parent == elsewhere


def test_a_temporary_folder_that_others_can_write_is_not_run_from(elsewhere: Path, tmp_path: Path) -> None:
    elsewhere.chmod(0o777)
    (tmp_path / "file").write_text("")
    with pytest.raises(KernelsUnavailableError, match="written by others"):
        load_cpu_kernels(tmp_path / "file")
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o777, "it is not ours to mend"


def test_where_no_folder_is_left_the_portable_path_serves(
    make_engine: Any, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, cache_dir: Path
) -> None:
    def never(name: str) -> Any:
        raise OSError("failed to map segment")

    monkeypatch.setattr(ctypes, "CDLL", never)
    load_cpu_kernels.cache_clear()
    core = make_engine().core
    assert core.kernels is None and "failed to map segment" in core.info().notices[0]


def test_a_compiler_that_does_not_end_is_given_up(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(command: list[str], **named: Any) -> Any:
        raise subprocess.TimeoutExpired(command, named["timeout"])

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(KernelsUnavailableError, match="did not end within 300 s"):
        load_cpu_kernels(tmp_path / "cache")


def test_structs_that_differ_from_their_mirrors_are_refused_by_name(cache_dir: Path) -> None:
    library = load_cpu_kernels(cache_dir)

    class Longer(ctypes.Structure):
        _fields_ = (*NativeLinear._fields_, ("more", ctypes.c_int64))

    check_sizes(library, MIRRORS)
    with pytest.raises(KernelsUnavailableError, match=r"Longer \(56 bytes instead of 48\)"):
        check_sizes(library, [Longer if mirror is NativeLinear else mirror for mirror in MIRRORS])
    with pytest.raises(KernelsUnavailableError, match="structs"):
        check_sizes(library, MIRRORS[:-1])


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx2", "Features\t: fp asimd sve"])
def test_the_processors_instructions_are_part_of_the_key(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: f"processor\t: 0\n{line}\n")
    assert build._processor() == line
