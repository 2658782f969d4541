"""Archives and data files from strangers: FAULTS.md 9 and 10.

Thaw unpacks one archive, CIFAR-10's by way of torchvision, and only after its checksum; run files are zips whose
members are read by name and never unpacked.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from pipeline import datasets, runs
from pipeline.datasets import DatasetError
from tests.faults.test_weights import Canary
from tests.pipeline.test_runs import as_stored, run_of, store

LINKS = {"symbolic": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE}


def member(archive: tarfile.TarFile, name: str, content: bytes = b"escaped", link: str = "", to: str = "") -> None:
    info = tarfile.TarInfo(name)
    if link:
        info.type, info.linkname = LINKS[link], to
    else:
        info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("way", ["../", "absolute", "symbolic", "hard"])
def test_an_archive_that_writes_elsewhere_is_refused_and_nothing_is_written_outside(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    root, outside = tmp_path / "data", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("as it was", encoding="utf-8")
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        if way == "../":
            member(archive, "../outside/escaped")
        elif way == "absolute":
            member(archive, str(outside / "escaped"))
        else:
            member(
                archive, "cifar-10-batches-py", link=way, to=str(outside if way == "symbolic" else outside / "victim")
            )
            member(archive, "cifar-10-batches-py/escaped" if way == "symbolic" else "cifar-10-batches-py")
    with pytest.raises(DatasetError, match=r"CIFAR-10 is not in .*unpack cifar-10-python\.tar\.gz there"):
        datasets.look("cifar10", {"root": str(root)})
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"victim": b"as it was"}


def test_a_data_file_of_another_checksum_is_refused_before_a_byte_of_it_is_unpickled(tmp_path: Path) -> None:
    place = tmp_path / datasets.CIFAR10_FOLDER
    place.mkdir()
    for name in datasets.CIFAR10_FILES:
        (place / name).write_bytes(pickle.dumps({"data": Canary(tmp_path), "labels": []}))
    listing = datasets.look("cifar10", {"root": str(tmp_path)})
    with pytest.raises(DatasetError, match=r"data_batch_1 has MD5 [0-9a-f]{32}, expected c99cafc1.*unpack .* anew"):
        listing.sources()
    assert not (tmp_path / "escaped").exists()


def test_members_of_a_run_file_are_read_by_name_and_never_unpacked(tmp_path: Path) -> None:
    file = store(tmp_path / "results", *run_of(0))
    with zipfile.ZipFile(file, "a") as archive:
        for name in ("../../escaped", str(tmp_path / "escaped"), "escaped"):
            archive.writestr(name, b"escaped")
    assert as_stored(tmp_path / "results", 0)
    runs.pack(file.parent)
    assert as_stored(tmp_path / "results", 0)
    with zipfile.ZipFile(file.parent / runs.PACK) as archive:
        assert not [name for name in archive.namelist() if "escaped" in name]
    assert not list(tmp_path.rglob("*escaped*"))
