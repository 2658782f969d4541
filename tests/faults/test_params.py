"""FAULTS 1 to 5 and 40 to 42: every mistake in params.yaml is named at once, as the user wrote it, in one message."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import execution, params
from pipeline.errors import UserError
from pipeline.params import ParamsError
from pipeline.stages import prepare, subset
from tests.faults.conftest import PARAMS, Project

ROOT = Path(__file__).parents[2]
TEXT = PARAMS.format(folder="images", resolution=32, strategies="feature_extraction")
STRATEGY = "{phases: [{share: 1, lr: {head: 1.0e-3}}]}"


def load(tmp_path: Path, *changes: tuple[str, str]) -> params.Params:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return params.load(path)


def refusal(tmp_path: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(ParamsError) as caught:
        load(tmp_path, *changes)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'params.yaml'}")
    return said


# --- 1 to 5: through the stage itself, before any image is opened ---------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs: 2", "epochs: 2\n    epohcs: 2", "studies.tiny.epohcs: unknown key; did you mean 'epochs'?"),
        ("head: 1.0e-3", "head: 0", "0 is no learning rate"),
        ("head: 1.0e-3", "head: -1.0e-3", "is no learning rate"),
        ("head: 1.0e-3", "head: .nan", "is no learning rate"),
        ("head: 1.0e-3", "head: 1e-4", "'1e-4' is text; YAML needs a decimal point and no quotes: write 1.0e-4"),
        ("seeds: 2", "seeds: 1", "fewer than 2 seeds"),
        ("seeds: 2", "seeds: [3, 3]", "3 is given twice"),
    ],
)
def test_a_wrong_value_ends_the_stage_before_the_folder_is_looked_at(
    project: Project, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    (project.root / "params.yaml").write_text(TEXT.replace(old, new), encoding="utf-8")
    monkeypatch.setattr("pipeline.datasets.look", lambda *_: pytest.fail("the folder was looked at"))
    assert said in project.refusal()


def test_more_images_than_there_are_names_the_smallest_class_and_how_many_it_has(project: Project) -> None:
    (project.images / "train" / "dark" / "000.png").unlink()
    (project.root / "params.yaml").write_text(TEXT.replace("per_class: [2]", "per_class: [2, 14]"), encoding="utf-8")
    said = project.refusal()
    assert "studies.tiny.per_class: 14 images a class asked for" in said
    assert "class 'dark' of images has 13; give at most 13" in said


# --- 40: said before DVC says it in its words -----------------------------------------------------------------------


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        ("active: [tiny]", "active: tiny"),
        ("efficientnet_lite0", "resnet81"),
        ("per_class: [2]", "per_class: [2, 2]"),
        ("seeds: 2", "seeds: 1"),
        ("epochs: 2", "epochs: 010"),
        ("watched: 4", "watchd: 4"),
        ("strategies: [feature_extraction]", "strategies: [feature_extractoin]"),
        ("crop: whole", "crop: hole"),
        ("whole_images:", "whole-images:"),
    )
    for mistake in (
        "active: 'tiny' is not right: give a list, such as [tiny]",
        "studies.tiny.epochs: '010'",
        "studies.tiny.watchd: unknown key; did you mean 'watched'?",
        "strategies.whole-images.crop: 'hole'",
        "strategies: 'whole-images' can't name a folder",
    ):
        assert mistake in said
    rest = refusal(
        tmp_path,
        ("efficientnet_lite0", "resnet81"),
        ("per_class: [2]", "per_class: [2, 2]"),
        ("seeds: 2", "seeds: 1"),
        ("strategies: [feature_extraction]", "strategies: [feature_extractoin]"),
        ("crop: whole", "crop: hole"),
    )
    for mistake in (
        "studies.tiny.backbone: no backbone 'resnet81'; did you mean 'resnet18'?",
        "studies.tiny.per_class: 2 is given twice",
        "studies.tiny.seeds: 1 is fewer than 2 seeds",
        "studies.tiny.strategies[0]: no strategy 'feature_extractoin'; did you mean 'feature_extraction'?",
        "strategies.whole_images.crop: 'hole'",
    ):
        assert mistake in rest
    assert len(rest.splitlines()) == 6


def test_a_mistake_is_listed_once_and_brings_no_others_with_it(tmp_path: Path) -> None:
    said = refusal(tmp_path, ("whole_images: {crop", "whole_images: {corp"))
    assert len(said.splitlines()) == 1
    said = refusal(
        tmp_path,
        ("feature_extraction: {phases: [{share: 1,", "feature_extraction: {phases: [{share: 2,"),
        ("watched: 4", "watched: 4\n    sweep: {feature_extraction: [1, 10]}"),
    )
    assert len(said.splitlines()) == 1
    assert "strategies.feature_extraction.phases[0].share: 2" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("active: [tiny]", "active: tiny", "active: 'tiny' is not right: give a list, such as [tiny]"),
        ("active: [tiny]", "active: []", "active: [] is empty; give at least one"),
        ("active: [tiny]", "active:", "active: nothing (~) is not right: give a list, such as [name]"),
        ("active: [tiny]", "active: [tinny]", "active[0]: no study 'tinny'; did you mean 'tiny'?"),
        ("active: [tiny]", "active: [tiny, tiny]", "active: 'tiny' is given twice"),
        ("active: [tiny]", "actve: [tiny]", "actve: unknown key; did you mean 'active'?"),
        ("studies:\n", "studeis:\n", "studeis: unknown key; did you mean 'studies'?"),
        ("strategies:\n", "strategy:\n", "strategy: unknown key; did you mean 'strategies'?"),
        ("studies:\n", "about:\nstudies:\n", "about: nothing (~) is not right: give a block, or leave the key out"),
        ("seeds: 2", "seeds:", "studies.tiny.seeds: nothing (~) is not right"),
    ],
)
def test_what_dvc_would_stumble_over_is_said_in_thaws_words_and_once(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    refused = refusal(tmp_path, (old, new))
    assert said in refused
    assert len(refused.splitlines()) == 1


# --- 41: YAML's own readings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no", "on", "yes", "off", "y", "N", "No"])
def test_a_word_that_some_take_for_a_truth_value_is_the_name_it_looks_like(tmp_path: Path, name: str) -> None:
    loaded = load(
        tmp_path,
        ("whole_images:", f"{name}:"),
        ("  tiny:", f"  {name}:"),
        ("[tiny]", f"[{name}]"),
        ("[feature_extraction]", f"[{name}]"),
        ("{folder: images}", f"{{folder: {name}, name: {name}}}"),
    )
    assert loaded.active == (name,)
    assert loaded.study(name).strategies == (name,)
    assert loaded.study(name).dataset.options == {"path": name, "name": name}


def test_thaw_and_dvc_read_every_name_alike(tmp_path: Path) -> None:
    """DVC makes stages of the names: a name that it reads otherwise would be a stage that nothing finds."""
    parse = pytest.importorskip("dvc.utils.serialize").parse_yaml
    odd = ["no", "y", "True", "null", "~", "010", "0o10", "0x10", "0b1", "1_0", "1", "1e5", "1e-4", ".5", "2024-01-01",
           "2024-1-1", "12_a", "a", "0", "_1", "-1", "1_", "9e9e9", "e5", "0xg", "08", "1__2", "NaN", ".nan", "inf",
           "12345678901234567890", "2024", "0b", "1e", "2024-01-01T00-00", "TRUE", "Null", "+1"]  # fmt: skip
    for name in odd:
        read = next(iter(parse(f"{name}: 1", "params.yaml")))
        changes = (("whole_images:", f"{name}:"), ("  tiny:", f"  {name}:"), ("[tiny]", f"['{name}']"))
        if read != name:
            assert f"the name {name} is not text" in refusal(tmp_path, *changes)
        elif re.fullmatch(r"\w+", name):
            assert name in load(tmp_path, *changes).studies


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  tiny:", "  010:", "studies: the name 010 is not text to every reader of YAML; put it in quotes: '010'"),
        ("  tiny:", "  ~:", "studies: the name ~ is not text"),
        ("  tiny:", "  2024-01-01:", "studies: the name 2024-01-01 is not text"),
        ("  whole_images:", "  1e-4:", "strategies: the name 1e-4 is not text"),
        ("  whole_images:", "  true:", "strategies: the name true is not text"),
        ("crop: whole", "crop: whole, 7: x", "strategies.whole_images: the name 7 is not text"),
        ("epochs: 2", "epochs: 010", "studies.tiny.epochs: '010' is text to Thaw and 8 or 10 to others; write 10"),
        ("epochs: 2", "epochs: 1:30", "studies.tiny.epochs: '1:30' is text; give a whole number, such as 5"),
        ("epochs: 2", "epochs: 1e1", "studies.tiny.epochs: '1e1' is text; write 10"),
        ("epochs: 2", "epochs: '5'", "studies.tiny.epochs: '5' is text; write 5"),
        ("epochs: 2", "epochs: 5.0", "studies.tiny.epochs: 5.0 is not right: give a whole number, such as 5"),
        ("epochs: 2", "epochs: yes", "studies.tiny.epochs: 'yes' is text; give a whole number, such as 5"),
        ("epochs: 2", "epochs: true", "studies.tiny.epochs: true is not right: give a whole number, such as 5"),
        ("epochs: 2", "epochs: 2024-01-01", "studies.tiny.epochs: '2024-01-01' is text"),
        ("per_class: [2]", "per_class: [010]", "studies.tiny.per_class: '010' is not right; give a list of sizes"),
        ("seeds: 2", "seeds: 012", "studies.tiny.seeds: '012' is not right; give how many seeds"),
        ("seeds: 2", "seeds: no", "studies.tiny.seeds: 'no' is not right; give how many seeds"),
        ("crop: whole", "default: no", "strategies.whole_images.default: 'no' is not right: write true or false"),
        ("crop: whole", "default: off", "strategies.whole_images.default: 'off' is not right: write true or false"),
        ("{folder: images}", "{folder: 2024}", "studies.tiny.dataset.path: 2024 is no text; put it in quotes"),
        ("{folder: images}", "{folder: images, name: ~}", "studies.tiny.dataset.name: nothing (~) is no text"),
        ("{folder: images}", "{folder: images, name: true}", "studies.tiny.dataset.name: true is no text"),
        ("share: 1, lr: {head", "share: 1e0, lr: {head", "phases[0].share: '1e0' is text; YAML needs a decimal point"),
    ],
)
def test_what_yaml_reads_in_its_own_way_is_named_as_it_was_written(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert said in refusal(tmp_path, (old, new))


def test_dates_and_truth_values_are_text_where_text_is_asked_for(tmp_path: Path) -> None:
    loaded = load(tmp_path, ("{folder: images}", "{folder: images, name: 2024-01-01, licence: no}"))
    assert loaded.study("tiny").dataset.options == {"path": "images", "name": "2024-01-01", "licence": "no"}


def test_keys_given_twice_are_all_named_with_their_place_and_line(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        ("epochs: 2", "epochs: 2\n    epochs: 3"),
        ("  whole_images:", "  feature_extraction:"),
        ("active: [tiny]", "active: [tiny]\nactive: [tiny]"),
    )
    for mistake in (
        "line 2: 'active' is given twice; keep one",
        "studies.tiny, line 11: 'epochs' is given twice; keep one",
        "strategies, line 17: 'feature_extraction' is given twice; keep one",
    ):
        assert mistake in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("active: [", "line 1, column 10: expected the node content"),
        ("active: [tiny]\n\tstudies:", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("active: [tiny]\n--- 1\n", "line 2"),
        ("active: !!python/name:os.system x", "line 1"),
        ("active: !!bool maybe", "params.yaml is no YAML"),
        ("active: !!int ''", "params.yaml is no YAML"),
        ("active: !!timestamp never", "line 1"),
        ("active: \0", "#x0000"),
        ("&a [*a, *b]", "line 1"),
        ("active: *nobody", "line 1"),
        ("<<: 3", "line 1"),
        ("[" * 3000, "nested too deeply"),
        (f"active: {'9' * 5000}", "params.yaml is no YAML"),
        ("- active\n- studies", "give a block with active, studies, strategies, ablations"),
        ("just a sentence", "give a block with active, studies, strategies, ablations"),
    ],
)
def test_what_is_no_yaml_is_said_in_one_line_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError) as caught:
        params.load(path)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_a_message_stays_readable_whatever_the_value(tmp_path: Path) -> None:
    laughs = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    for wrong in (f'"{"x" * 10_000}"', r'"a\nb\u202e\ud800\x07"', "[" * 50 + "]" * 50, "9" * 4000):
        said = refusal(tmp_path, ("epochs: 2", f"epochs: {wrong}"))
        assert len(said) < 500
        assert said.isprintable()
    said = refusal(tmp_path, ("active: [tiny]", f"{laughs}active: *a11"), ("epochs: 2", "epochs: *a11"))
    assert len(said) < 5_000


def test_a_number_that_no_computer_can_use_is_refused(tmp_path: Path) -> None:
    huge = "9" * 400
    for key in ("epochs: 2", "resolution: 32", "watched: 4"):
        assert "less than or equal to" in refusal(tmp_path, (key, f"{key.partition(':')[0]}: {huge}"))
    assert "less than or equal to" in refusal(tmp_path, ("watched: 4", f"batch_size: {huge}"))


# --- 42: the environment --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "right"),
    [
        ("THAW_DEVICE", "gpu", "choose from cpu, cuda"),
        ("THAW_DEVICE", "cuda:99", "this machine has"),
        ("THAW_DEVICE", "cuda:-1", "THAW_DEVICE is 'cuda:-1'"),
        ("THAW_DEVICE", "mps", "choose from cpu, cuda"),
        ("THAW_DEVICE", "\ud800\n", "choose from cpu, cuda"),
        ("THAW_WORKERS", "many", "it must be a whole number from 1"),
        ("THAW_WORKERS", "0", "it must be a whole number from 1"),
        ("THAW_WORKERS", "-2", "it must be a whole number from 1"),
        ("THAW_WORKERS", "1.5", "it must be a whole number from 1"),
        ("THAW_WORKERS", "²", "it must be a whole number from 1"),
        ("THAW_WORKERS", "9" * 5000, "it must be a whole number from 1"),
        ("THAW_START_METHOD", "fly", "choose from"),
    ],
)
def test_nonsense_in_the_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, right: str
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, variable: value})
    ask = {"THAW_DEVICE": execution.device, "THAW_WORKERS": execution.workers}.get(variable, execution.start_method)
    with pytest.raises(UserError, match=re.escape(right)) as caught:
        ask()
    assert variable in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_stage_ends_in_one_line_and_a_status_not_in_a_traceback(project: Project) -> None:
    (project.root / "params.yaml").write_text(TEXT.replace("epochs: 2", "epochs: 010"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.stages.prepare", "tiny"],
        capture_output=True, cwd=project.root, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.decode().startswith("error: params.yaml: studies.tiny.epochs: '010' is text")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("stage", [prepare.prepare, subset.subset])
def test_an_unknown_study_on_the_command_line_is_named_with_the_choices(project: Project, stage: object) -> None:
    assert callable(stage)
    with pytest.raises(UserError, match=re.escape("no study 'tin\\ny'; did you mean 'tiny'? choose from tiny")):
        stage("tin\ny")
