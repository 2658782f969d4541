"""Whatever stands in a file that Thaw did not write: it is read, or refused in words that name the file.

`HYPOTHESIS_PROFILE=many` tries 25 times as many inputs, and others each time;
`--hypothesis-show-statistics` counts them.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from analysis import claims, tables
from pipeline import decoding, params, runs
from pipeline.errors import UserError
from pipeline.stages import prepare, prepared
from tests.analysis.conftest import Plan, write_tables
from tests.conftest import write_image_folder
from tests.faults.conftest import PARAMS
from tests.pipeline.test_runs import CELL, KEY, store

MANY = os.environ.get("HYPOTHESIS_PROFILE") == "many"
ROOT = Path(__file__).parents[2]
Change = Callable[[st.DrawFn], None]


def fuzzed(few: int) -> settings:
    """So many inputs in `make test`, always the same; 25 times as many on demand, others each time."""
    return settings(
        max_examples=25 * few if MANY else few,
        derandomize=not MANY,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # inputs are small; making them smaller takes longer than finding them
    )


@contextmanager
def refusing(kind: type[Exception], named: str) -> Iterator[None]:
    """Nothing but success, or an error of this kind in printable lines of bearable length that names its file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except kind as error:
        said = str(error)
        assert named in said
        assert all(line.isprintable() for line in said.split("\n"))
        assert len(said) < 30_000


# --- what mutations are made of -------------------------------------------------------------------------------------

WORDS = st.sampled_from([
    "~", "no", "on", "true", "null", "010", "0x1F", "1e-4", "-1", "0", ".nan", "-.inf", "2024-01-01", "1:30", "9" * 400,
    "[]", "{}", "[a, [b]]", "{a: 1}", "*x", "&x y", "!!python/name:os.system", "!!set {a}", "<<: {a: 1}", "? a", "- a",
    "'", '"', '"\\ud800\\u202e\\n"', "|", ">-", "%YAML", "---", "...", "#", "\t", "\0", "\x1b", "\u2028",
    "all", "tiny", "quick", "head", "../x", "a b", "None", "", ":", "::", ",", "1_000", "5.0", "1e999", "*", "<<",
])  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS | st.integers(-2, 200),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | WORDS, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated_text(draw: st.DrawFn, text: str) -> str:
    """A text with lines dropped, doubled, moved, indented or cut, and words replaced."""
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        match draw(st.sampled_from(["word", "word", "word", "drop", "twice", "move", "indent", "cut", "sign"])):
            case "word":
                parts = line.replace(",", " , ").replace(":", " : ").split(" ")
                parts[draw(st.integers(0, len(parts) - 1))] = draw(WORDS)
                lines[at] = " ".join(parts)
            case "drop" if len(lines) > 1:
                del lines[at]
            case "twice":
                lines.insert(at, line)
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case "indent":
                lines[at] = " " * draw(st.integers(0, 6)) + line.lstrip()
            case "cut":
                lines[at] = line[: draw(st.integers(0, len(line)))]
            case _:
                cut = draw(st.integers(0, len(line)))
                lines[at] = line[:cut] + draw(st.characters(exclude_categories=())) + line[cut:]
    return "\n".join(lines) + "\n"


def places(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a structure."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, *path, key)


@st.composite
def mutated_structure(draw: st.DrawFn, whole: Any) -> Any:
    """A structure with one to three values replaced, removed, renamed or put elsewhere."""
    whole = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        paths = [path for path in places(whole) if path]
        if not paths:
            break
        *above, key = draw(st.sampled_from(paths))
        inside = whole
        for part in above:
            inside = inside[part]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "elsewhere"])):
            case "replace":
                inside[key] = draw(VALUES)
            case "remove":
                del inside[key]
            case "rename" if isinstance(inside, dict):
                inside[draw(WORDS | st.text(max_size=5))] = inside.pop(key)
            case _:
                inside[key] = copy.deepcopy(draw(st.sampled_from([inside[key], whole])))
    return whole


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes with some flipped, cut off, taken out, doubled or put in."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        size = draw(st.integers(1, 64))
        match draw(st.sampled_from(["flip", "flip", "cut", "out", "twice", "in"])):
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]
            case "cut":
                content = content[:at]
            case "out":
                content = content[:at] + content[at + size :]
            case "twice":
                content = content[: at + size] + content[at:]
            case _:
                content = content[:at] + draw(st.binary(max_size=16)) + content[at:]
    return content


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of small projects are written."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as made:
        yield Path(made)


# --- params.yaml ----------------------------------------------------------------------------------------------------

REAL = (ROOT / "params.yaml").read_text(encoding="utf-8")
SMALL = """\
active: [tiny]
studies:
  tiny: &tiny
    dataset: {folder: images, name: mine}
    backbone: {name: resnet18, weights: some.safetensors}
    resolution: 32
    per_class: [2, 10]
    seeds: 3
    epochs: 4
    learning_rates: tuned
    strategies: [scratch, lda, slow, norms]
    sweep: {slow: [10, 0.1], fast: [1]}
    sweep_seeds: 2
    ablations: [fast]
    ablation_seeds: {all: 2, fast: 3}
    judge_by: accuracy
  heir:
    <<: *tiny
    rates_from: tiny
    per_class: [all]
strategies:
  scratch: {weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}
  slow: {phases: [{share: 0.5, lr: {head: 1.0e-3}}, {share: 0.5, lr: {stage4: 1.0e-4, head: 1.0e-4}}]}
  norms: {learn: norms, batch_norm: train, dropout: 0.5, phases: [{share: 1, lr: {all: 1.0e-3}}]}
  lda: {default: false, head: lda, crop: whole}
ablations:
  fast: {of: slow, set: {interpolate: 0.5}}
about:
  tiny: {source: drawn, notes: [small], published: [{accuracy: 88.4, what: a CNN, source: somebody}]}
"""


def reads_params(place: Path, text: str) -> None:
    path = place / "params.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with refusing(params.ParamsError, str(path)):
        loaded = params.load(path)
        assert loaded.active
        for study in loaded.studies:  # what loads can be worked with
            assert loaded.cells(study, "final", params.Rates({}), {}) or loaded.crops(study)


@fuzzed(60)
@given(text=mutated_text(SMALL))
def test_any_text_in_place_of_params(place: Path, text: str) -> None:
    reads_params(place, text)


@fuzzed(60)
@given(content=mutated_structure(yaml.safe_load(SMALL)))
def test_any_structure_in_place_of_params(place: Path, content: Any) -> None:
    reads_params(place, yaml.dump(content, allow_unicode=True, sort_keys=False))


@fuzzed(2)
@given(text=mutated_text(REAL))
def test_any_text_in_place_of_the_projects_own_params(place: Path, text: str) -> None:
    reads_params(place, text)


@fuzzed(60)
@given(content=mutated_bytes(SMALL.encode()) | st.binary(max_size=200))
def test_any_bytes_in_place_of_params(place: Path, content: bytes) -> None:
    path = place / "params.yaml"
    path.write_bytes(content)
    with refusing(params.ParamsError, str(path)):
        params.load(path)


# --- folders of images ----------------------------------------------------------------------------------------------

SIGNS = st.sampled_from([*"aé.\n\r\t\x1b\x7f$*|`<&%'\"\\ ~\u202e\u2028猫\udce9\ufeff", "e\u0301"])
NAMES = st.one_of(
    st.sampled_from([
        "train", "Train", "test", "val", "valid", "validation", "dark", "Dark", "bright", ".hidden", "Thumbs.db",
        "Icon\r",
        "__MACOSX", ".ipynb_checkpoints", "data", "x.png", "x.jpg", "x.jpeg", "x.txt", "x.", "x.tif", "x.pdf", "x.eps",
        "x.webp", "x.gif", "x.pcd", "$^$", "<b>x</b>", "caf\u00e9", "cafe\u0301", "-rf", "~", "%s", "{x}", "a" * 200,
    ]),
    st.lists(SIGNS, min_size=1, max_size=4).map("".join),
    st.lists(SIGNS, min_size=1, max_size=4).map(lambda signs: "".join(signs) + ".png"),
).filter(lambda name: name not in (".", ".."))  # fmt: skip


def picture_of(number: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (9 + number % 3, 9, 3)).astype(np.uint8)).convert(mode)
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


def grow(draw: st.DrawFn, root: Path, number: int) -> None:
    """Put one thing of any kind somewhere into a tree, or take one away; what the system refuses is left."""
    there = sorted(path for path in root.rglob("*") if not path.is_symlink())
    folders = [root, *(path for path in there if path.is_dir())]
    path = draw(st.sampled_from(folders)) / draw(NAMES)
    victim = draw(st.sampled_from(there)) if there else root / "nothing"
    try:
        match draw(
            st.sampled_from(["image", "image", "folder", "link", "text", "bytes", "take", "move", "mode", "pipe"])
        ):
            case "image":
                path.write_bytes(picture_of(draw(st.sampled_from([number, 1]))))
            case "folder":
                path.mkdir()
                (path / draw(NAMES)).write_bytes(picture_of(100 + number))
            case "link":
                path.symlink_to(
                    draw(st.sampled_from([victim, path, root, Path("/nowhere/x"), Path("/dev/null"), path.parent]))
                )
            case "text":
                path.write_text(draw(st.text(max_size=20)), encoding="utf-8")
            case "bytes":
                path.write_bytes(draw(mutated_bytes(picture_of(number))))
            case "take":
                shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
            case "move":
                victim.rename(path)
            case "mode":
                victim.chmod(draw(st.sampled_from([0, 0o100, 0o400, 0o777])))
            case _:
                os.mkfifo(path)
    except (OSError, ValueError):  # such a name is taken, or can't be
        pass


@fuzzed(10)
@given(data=st.data())
def test_any_folder_in_place_of_images(place: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(dir=place) as made, pytest.MonkeyPatch.context() as patch:
        project = Path(made)
        patch.chdir(project)
        patch.setattr(os, "fsync", lambda _: None)
        write_image_folder(project / "images", train=3, test=2)
        if data.draw(st.booleans()):
            shutil.rmtree(project / "images" / "test")
        (project / "params.yaml").write_text(
            PARAMS.format(folder="images", resolution=32, strategies="feature_extraction"), encoding="utf-8"
        )
        for number in range(data.draw(st.integers(1, 6))):
            grow(data.draw, project / "images", number)
        before = sorted(os.walk(project / "images"))
        with refusing(UserError, ""):
            prepare.prepare("tiny")
            read = prepared.read(params.load().study("tiny"))
            assert len(set(read.ids)) == len(read.ids) == len(read.labels)
            assert set(read.labels.tolist()) == set(range(len(read.card.classes)))
            written = (project / "data" / "tiny" / "images.npy").stat()
            prepare.prepare("tiny")
            assert (project / "data" / "tiny" / "images.npy").stat() == written
        assert sorted(os.walk(project / "images")) == before
        assert {path.name for path in project.iterdir()} <= {"images", "params.yaml", "data"}
        for path in project.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)


FORMATS = [("PNG", "RGB"), ("PNG", "P"), ("PNG", "LA"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("GIF", "P"), ("BMP", "RGB"),
           ("TIFF", "RGB"), ("TIFF", "1"), ("WEBP", "RGB"), ("PPM", "RGB"), ("TGA", "RGB"), ("JPEG2000", "RGB"),
           ("ICO", "RGBA"), ("PCX", "RGB"), ("SGI", "RGB"), ("DDS", "RGB"), ("MSP", "1"), ("XBM", "1"),
           ("AVIF", "RGB")]  # fmt: skip
VICTIMS = {f"{kind} {mode}": picture_of(at, kind, mode) for at, (kind, mode) in enumerate(FORMATS)}


@fuzzed(240)
@given(data=st.data())
def test_any_bytes_in_place_of_an_image(place: Path, data: st.DataObject) -> None:
    path = place / "victim.png"
    path.write_bytes(data.draw(mutated_bytes(VICTIMS[data.draw(st.sampled_from(sorted(VICTIMS)))])))
    with refusing(decoding.DatasetError, ""):
        size = decoding.header(str(path)).size
        image = decoding.upright(str(path))
        assert image.mode == "RGB"
        assert sorted(image.size) == sorted(size)


# --- run files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_file(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        return store(place / "results")


@pytest.fixture(scope="module")
def run_bytes(run_file: Path) -> bytes:
    return run_file.read_bytes()


def _plain(stored: runs.StoredRun | None) -> object:
    """A run in a form that compares."""
    assert stored is not None
    return replace(stored, run=replace(stored.run, predicted=stored.run.predicted.tolist()))


def survives(place: Path, content: bytes, pack: bool = False) -> runs.StoredRun | None:
    root = place / "fuzzed"
    shutil.rmtree(root, ignore_errors=True)
    file = runs.path(root, CELL, KEY)
    file.parent.mkdir(parents=True)
    (file.with_name(runs.PACK) if pack else file).write_bytes(content)
    runs._opened.cache_clear()
    with refusing(runs.RunStoreError, str(file.parent)):
        for kept in runs.kept(file.parent):
            assert kept.members is None or kept.manifest["sha256"]
    return runs.read(root, CELL, KEY)


@fuzzed(100)
@given(data=st.data())
def test_any_bytes_in_place_of_a_run_file(place: Path, run_file: Path, run_bytes: bytes, data: st.DataObject) -> None:
    """Damaged it is missing; whole it is the run that was stored, to the digit."""
    found = survives(place, data.draw(mutated_bytes(run_bytes)), pack=data.draw(st.booleans()))
    if found is not None:
        assert _plain(found) == _plain(runs.read(place / "results", CELL, KEY))


@fuzzed(100)
@given(data=st.data())
def test_any_members_in_a_run_file(place: Path, run_bytes: bytes, data: st.DataObject) -> None:
    """Members of another make, under checksums that are right: no run, or one that can be worked with."""
    draw = data.draw
    with zipfile.ZipFile(io.BytesIO(run_bytes)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from([*runs.FILES, runs.MANIFEST]))
    match draw(st.sampled_from(["content", "content", "remove", "rename", "foreign", "swap"])):
        case "content" if name.endswith(".json"):
            changed = draw(mutated_structure(json.loads(members[name])))
            members[name] = json.dumps(changed).encode(errors="surrogatepass")
        case "content" if name.endswith(".csv"):
            members[name] = draw(mutated_text(members[name].decode())).encode(errors="surrogatepass")
        case "content":
            members[name] = draw(mutated_bytes(members[name]))
        case "remove":
            del members[name]
        case "rename":
            members[draw(st.text(min_size=1, max_size=8))] = members.pop(name)
        case "foreign":
            members[name] = draw(st.binary(max_size=300) | st.just(b"[" * 100_000) | st.just(b"a" * 200_000))
        case _:
            members[name] = members[draw(st.sampled_from(sorted(members)))]
    if draw(st.booleans()) and name != runs.MANIFEST and runs.MANIFEST in members:
        manifest = json.loads(members[runs.MANIFEST])
        manifest["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
        members[runs.MANIFEST] = json.dumps(manifest).encode()
    prefix = f"{runs.path(place, CELL, KEY).stem}/" if draw(st.booleans()) else ""
    packed = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(packed, "w") as archive:
        warnings.simplefilter("ignore")
        for member, content in members.items():
            archive.writestr(prefix + member.encode(errors="replace").decode(), content)
    survives(place, packed.getvalue(), pack=bool(prefix))


# --- collected tables -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(place: Path) -> Path:
    plan = Plan(
        classes={"café": 5, "$^$": 4},
        strategies={"lda": 0.5, "fine_tune": 0.6},
        seeds=(0, 1),
        epochs=2,
        sweep={"fine_tune": (10.0,)},
        ablations={"changed": ("fine_tune", 1.0)},
        lr_finder_seeds=(0,),
        overlap=0.1,
    )
    return write_tables(place / "collected", plan)


def reads_tables(folder: Path) -> None:
    with refusing(tables.TablesError, str(folder)):
        loaded = tables.load(folder)
        assert loaded.judge_by
        assert loaded.missing_range_tests is not None
        assert loaded.default_strategies is not None
        for size in loaded.declared["per_class"].unique():
            assert 0 <= loaded.correlation(int(size)) <= 1
        for table in (loaded.runs, loaded.sweep, loaded.ablations):
            assert table["judged"].between(0, 1).all()


@contextmanager
def changed(collected: Path, name: str, content: bytes) -> Iterator[Path]:
    """The collected tables with one of the files replaced, for a while."""
    file = collected / name
    before = file.read_bytes()
    file.write_bytes(content)
    try:
        yield collected
    finally:
        file.write_bytes(before)


@fuzzed(4)
@given(data=st.data())
def test_any_cells_in_the_collected_tables(collected: Path, data: st.DataObject) -> None:
    draw = data.draw
    file = draw(st.sampled_from(sorted(collected.glob("*.csv"))))
    rows = [line.split(",") for line in file.read_text(encoding="utf-8").splitlines()]
    encoding = "utf-8"
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(rows) - 1))
        column = draw(st.integers(0, max(0, len(rows[at]) - 1)))
        match draw(st.sampled_from(["cell", "cell", "cell", "drop", "row", "twice", "swap", "head", "encoding"])):
            case "cell" if rows[at]:
                odd = [
                    "",
                    "nan",
                    "NaN",
                    "inf",
                    "-1",
                    "1e999",
                    "0.5",
                    "x",
                    '"',
                    "é",
                    "\0",
                    "1.0",
                    "9" * 30,
                    "\ud800",
                    "\n",
                    "1 ",
                ]
                rows[at][column] = draw(st.sampled_from(odd) | WORDS)
            case "drop" if rows[at]:
                del rows[at][column]
            case "row" if len(rows) > 1:
                del rows[at]
            case "twice":
                rows.insert(at, list(rows[at]))
            case "swap":
                rows = [[*row[1:], *row[:1]] for row in rows]
            case "head":
                rows[0] = draw(st.permutations(rows[0]))
            case _:
                encoding = draw(st.sampled_from(["utf-16", "utf-8-sig", "latin-1", "utf-32"]))
    text = "\n".join(map(",".join, rows)) + "\n"
    content = text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")
    with changed(collected, file.name, content) as folder:
        reads_tables(folder)


@fuzzed(4)
@given(data=st.data())
def test_any_structure_in_place_of_provenance(collected: Path, data: st.DataObject) -> None:
    name = "provenance.json"
    content = data.draw(mutated_structure(json.loads((collected / name).read_text(encoding="utf-8"))))
    with changed(collected, name, json.dumps(content).encode()) as folder:
        reads_tables(folder)


@fuzzed(4)
@given(data=st.data())
def test_any_bytes_in_place_of_a_collected_file(collected: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(path for path in collected.iterdir() if path.is_file())))
    with changed(collected, file.name, data.draw(mutated_bytes(file.read_bytes()))) as folder:
        reads_tables(folder)


@fuzzed(4)
@given(data=st.data())
def test_any_arrays_in_place_of_predictions(collected: Path, data: st.DataObject) -> None:
    draw = data.draw
    with np.load(collected / "predictions.npz") as packed:
        arrays = dict(packed)
    name = draw(st.sampled_from(sorted(arrays)))
    was = arrays[name]
    arrays[name] = draw(st.sampled_from([
        was[:-1], was[::-1], was.astype(str), was.reshape(-1), was[..., None], was[:0], np.array(3),
        np.float64([np.nan]),
        np.full(was.shape, -1), np.full(was.shape, 1.5), np.full(was.shape, 2**62), np.full(was.shape, b"x"),
        np.zeros(was.shape, bool),
        np.full(was.shape, "x"), np.zeros(was.shape, "datetime64[s]"), np.zeros(was.shape, complex),
        np.zeros(was.shape, [("a", int)]), np.array([], dtype=object) if not was.size else was[:1],
    ]))  # fmt: skip
    if draw(st.booleans()) and name != "classes":
        arrays["again"] = was
    content = io.BytesIO()
    np.savez(content, **arrays)
    with changed(collected, "predictions.npz", content.getvalue()) as folder:
        reads_tables(folder)


# --- claims.yaml ----------------------------------------------------------------------------------------------------

LEDGER = """\
- id: one
  rule: A beats B.
  source: somebody
  study: tomato
  per_class: 10
  family: claims
  parts: [{better: fine_tune, worse: {strategy: fine_tune, lr_scale: 10}, metric: judged, margin: 1, minus_at: 50}]
- id: two
  rule: No difference.
  source: somebody
  study: tomato
  per_class: all
  family: exploratory
  known: nothing
  parts: [{better: {strategy: a, group: stem}, worse: {strategy: a, group: head}, metric: drift, equivalent: 0.5}]
- id: three
  rule: A ratio.
  source: somebody
  study: tomato
  per_class: 10
  family: exploratory
  described: {of: fine_tune, rate: 1.0e-4, against: feature_extraction, against_rate: 1.0e-3}
"""


def reads_claims(place: Path, content: bytes) -> None:
    path = place / "claims.yaml"
    path.write_bytes(content)
    with refusing(claims.ClaimsError, "claims.yaml"):
        for claim in claims.load_claims(path):
            assert claim.condition
            assert all(part.unit and str(part.better) for part in claim.parts)


@fuzzed(60)
@given(text=mutated_text(LEDGER))
def test_any_text_in_place_of_claims(place: Path, text: str) -> None:
    reads_claims(place, text.encode(errors="surrogatepass"))


@fuzzed(60)
@given(content=mutated_structure(yaml.safe_load(LEDGER)))
def test_any_structure_in_place_of_claims(place: Path, content: Any) -> None:
    reads_claims(place, yaml.dump(content, allow_unicode=True).encode(errors="surrogatepass"))
