"""Weight files that are damaged, hold code, or are of another model: FAULTS.md 11, 12 and 13.

For each of the three sources: a package's file, torch hub's cache, a file of one's own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline import backbones
from pipeline.backbones import REGISTRY, FileWeights, PackageWeights, Source, TorchvisionWeights, WeightsError
from pipeline.stages import cells, prepare, subset, tune
from pipeline.stages.noted import PreparedError
from pipeline.strategies import Cell
from tests.conftest import write_image_folder
from tests.test_end_to_end import PARAMS

SMALL = "squeezenet1_1"  # the smallest of all: 5 MB


class Canary:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, cage: Path) -> None:
        self.cage = cage

    def __reduce__(self) -> Any:
        return Path.touch, (self.cage / "escaped",)


def flip(path: Path, bit: int) -> None:
    """Flip one bit, and leave size and times as they are, as a bad disk does."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


Install = Callable[[bytes, str], Source]


@pytest.fixture(params=["package", "torch hub", "own file"])
def install(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a weight file where its source has it; all but one's own files are known by their checksum."""

    def put(content: bytes, suffix: str) -> Source:
        digest = hashlib.sha256(content).hexdigest()
        if request.param == "package":
            package = tmp_path / "made_up_weights"
            package.mkdir(exist_ok=True)
            (package / "__init__.py").touch()
            monkeypatch.syspath_prepend(str(tmp_path))
            (package / f"w{suffix}").write_bytes(content)
            return PackageWeights("made_up_weights", f"w{suffix}", digest)
        if request.param == "torch hub":
            monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
            (tmp_path / "hub" / "checkpoints").mkdir(parents=True, exist_ok=True)
            name = f"made-{digest[:8]}{suffix}"
            (tmp_path / "hub" / "checkpoints" / name).write_bytes(content)
            known = SimpleNamespace(url=f"https://example.invalid/{name}")
            monkeypatch.setattr(TorchvisionWeights, "entry", lambda self: known)
            return TorchvisionWeights("Made_Weights", "V1")
        (tmp_path / f"own{suffix}").write_bytes(content)
        return FileWeights(tmp_path / f"own{suffix}")

    return put


def saved(state: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


# --- a flipped bit --------------------------------------------------------------------------------------------------


def test_one_flipped_bit_is_noticed_at_the_next_load_whichever_it_is(install: Install) -> None:
    moments = random.Random(11)
    source = install(saved({"w": torch.arange(100.0)}), ".pth")
    before = backbones.read_weights(source)[1]
    path = source.find()
    for _ in range(30):
        bit = moments.randrange(8 * path.stat().st_size)
        flip(path, bit)
        if isinstance(source, FileWeights):  # nobody knows what it should be: other weights, and said to be so
            with contextlib.suppress(WeightsError):
                assert backbones.read_weights(source)[1] != before
        else:
            with pytest.raises(WeightsError, match=r"have SHA-256 [0-9a-f]{64}, expected .*damaged or altered"):
                backbones.read_weights(source)
        flip(path, bit)
        assert backbones.read_weights(source)[1] == before


def test_the_registrys_own_files_are_known_by_checksums_and_are_hashed_anew_at_every_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = REGISTRY["efficientnet_lite0"].weights
    assert isinstance(source, PackageWeights)
    copy = tmp_path / source.package / source.file
    copy.parent.mkdir(parents=True)
    (tmp_path / source.package / "__init__.py").touch()
    copy.write_bytes(source.find().read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source.find() == copy
    backbones.pretrained("efficientnet_lite0")
    flip(copy, 8 * copy.stat().st_size // 2)
    with pytest.raises(WeightsError, match="damaged or altered"):
        backbones.pretrained("efficientnet_lite0")
    for entry in REGISTRY.values():
        assert len(entry.weights.sha256) >= 8
        assert set(entry.weights.sha256) <= set("0123456789abcdef")


def test_a_truncated_file_is_refused_by_name(install: Install, tmp_path: Path) -> None:
    save_file({"w": torch.arange(100.0)}, tmp_path / "whole.safetensors")
    whole = {".safetensors": (tmp_path / "whole.safetensors").read_bytes(), ".pth": saved({"w": torch.arange(100.0)})}
    for suffix, content in whole.items():
        for length in (0, 4, 8, 40, len(content) // 2, len(content) - 1):
            with pytest.raises(WeightsError, match=f"{suffix} is not a plain file of tensors and is not run"):
                backbones.read_weights(install(content[:length], suffix))


# --- code -----------------------------------------------------------------------------------------------------------


def legacy_tar(canary: Canary) -> bytes:
    """The form of the first releases of PyTorch: a tar of pickles."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(canary)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_code_in_a_weight_file_is_never_run(install: Install, tmp_path: Path, suffix: str) -> None:
    canary = Canary(tmp_path)
    for content in (
        saved({"w": canary}),
        saved(canary),
        saved({"w": torch.ones(1), "more": [canary]}),
        saved({"w": canary}, _use_new_zipfile_serialization=False),
        pickle.dumps({"w": canary}),
        pickle.dumps(canary, protocol=0),
        legacy_tar(canary),
    ):
        with pytest.raises(WeightsError, match="is not a plain file of tensors and is not run"):
            backbones.read_weights(install(content, suffix))
    assert not (tmp_path / "escaped").exists()
    pickle.loads(pickle.dumps(canary))
    assert (tmp_path / "escaped").exists()  # it would have


# --- another model's ------------------------------------------------------------------------------------------------


def test_names_and_shapes_that_differ_are_all_listed_whatever_the_source(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = dict(REGISTRY[SMALL].build().state_dict())
    state["features.0.weight"] = torch.zeros(64, 1, 3, 3)
    state["module.features.3.squeeze.weight"] = state.pop("features.3.squeeze.weight")
    source = install(saved(state), ".pth")
    monkeypatch.setattr(backbones, "weights_of", lambda name, path=None: source)
    with pytest.raises(WeightsError) as error:
        backbones.pretrained(SMALL)
    for difference in (
        "features.3.squeeze.weight is missing", "module.features.3.squeeze.weight is unknown",
        "features.0.weight (64, 1, 3, 3) for (64, 3, 3, 3)",
    ):  # fmt: skip
        assert difference in str(error.value)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prepared study on weights of one's own; the file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THAW_WORKERS", "1")
    write_image_folder(tmp_path / "images")
    own = tmp_path / "own.safetensors"
    torch.manual_seed(3)
    save_file(REGISTRY[SMALL].build().state_dict(), own)
    given = f"backbone: {{name: {SMALL}, weights: own.safetensors}}"
    text = PARAMS.replace("backbone: efficientnet_lite0", given)
    assert given in text
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    return own


def run_files(study: Path) -> list[Path]:
    return sorted((study.parent / "results").rglob("[!.]*.zip"))


def test_own_weights_that_a_bad_disk_has_changed_are_noticed_before_training(study: Path) -> None:
    cells.complete("tiny", "final", "fine_tune")
    before = run_files(study)
    assert len(before) == 4
    flip(study, 8 * study.stat().st_size - 3)
    with pytest.raises(PreparedError, match=r"card\.json was made with beside .*`dvc repro` makes it anew"):
        cells.complete("tiny", "final", "fine_tune")
    flip(study, 8 * study.stat().st_size - 3)
    cells.complete("tiny", "final", "fine_tune")
    assert run_files(study) == before


def test_own_weights_that_are_replaced_while_the_study_trains_are_not_taken_for_the_old_ones(study: Path) -> None:
    bench = cells.Workbench("tiny")
    bench.fingerprint(Cell("tiny", "final", "fine_tune", 3, 1.0, 0))  # under which the run will be stored
    changed = {name: value + 1 for name, value in load_file(study).items()}
    save_file(changed, study)
    with pytest.raises(WeightsError, match=r"own\.safetensors was replaced since the study began"):
        _ = bench.weights


def test_own_weights_of_another_model_are_refused_before_anything_is_trained(study: Path) -> None:
    save_file({"features.0.weight": torch.zeros(1)}, study)
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    with pytest.raises(WeightsError, match=r"features.0.bias is missing; .*weight \(1,\) for \(64, 3, 3, 3\)"):
        cells.complete("tiny", "final", "fine_tune")
    assert not run_files(study)
