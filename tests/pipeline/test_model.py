"""One model at the end of a study: the weights under their library's names, the card, the recipe, predictions."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from pipeline import backbones, native, params, recipe
from pipeline.augmentation import normalise
from pipeline.randomness import torch_stream
from pipeline.stages import model, predict, prepare, subset, tune
from pipeline.stages.model import ModelError
from pipeline.stages.predict import PredictError
from pipeline.strategies import BACKBONES, GROUPS
from tests.conftest import some_images, write_image_folder
from tests.test_end_to_end import PARAMS

ROOT = Path(__file__).parent.parent.parent
ADVICE = json.dumps([
    {"strategy": "fine_tune", "per_class": 6, "judged": 91.0, "low": 88.25, "high": 93.75, "metric": "accuracy",
     "advised": True}
])  # fmt: skip


def random_model(backbone: str, classes: int) -> backbones.GroupedModel:
    return backbones.build(backbone, classes, "none", torch_stream("a test")).eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_librarys_own_model_gives_the_same_logits_from_the_exported_weights(backbone: str) -> None:
    grouped, plain = random_model(backbone, 3), native.build(backbone, 3)
    plain.load_state_dict(native.state_of(grouped, backbone))
    images = some_images(2, 0, 64).pixels
    seen = normalise(images, backbones.REGISTRY[backbone].preprocessing(), "own")
    with torch.inference_mode():
        torch.testing.assert_close(plain.eval()(seen), grouped(seen), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_weight_of_the_librarys_model_has_one_place_and_the_head_one_of_its_own(backbone: str) -> None:
    plain = native.build(backbone, 2)
    by_group, at_one_rate = (
        native.places(backbone, of) for of in ({name: name for name in GROUPS}, dict.fromkeys(GROUPS, 1))
    )
    for places in (by_group, at_one_rate):
        found = [id(w) for of in places.values() for place in of for w in plain.get_submodule(place).parameters()]
        assert sorted(found) == sorted(id(weight) for weight in plain.parameters())
    assert by_group["head"] == [native.head(backbone).place]
    assert native.head(backbone).place in at_one_rate[1]


def test_a_recipe_of_every_default_strategy_is_python_of_at_most_60_lines() -> None:
    loaded = params.load(ROOT / "params.yaml")
    for name, strategy in loaded.strategies.items():
        preprocessing = backbones.REGISTRY["efficientnet_lite0"].preprocessing().at(224, strategy.crop)
        text = recipe.write("a_study", strategy, "efficientnet_lite0", preprocessing, 20, 32)
        compile(text, name, "exec")
        lines = text.splitlines()
        assert len(lines) <= 60, name
        assert max(map(len, lines)) <= 120, name
        assert not re.search(r"^(import|from) (pipeline|dvc)", text, re.MULTILINE)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny study, prepared, its rates settled, no run trained."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images")
    text = PARAMS.replace("fine_tune, lda]", "fine_tune, lda, bad]")
    text = text.replace("  lda: {", "  bad: {phases: [{share: 1, lr: {all: 1.0e+30}}]}\n  lda: {")
    Path("params.yaml").write_text(text, encoding="utf-8")
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    return tmp_path


def test_the_advised_strategy_becomes_a_model_that_predicts_a_folder_of_images(study: Path) -> None:
    model.model("tiny", "", ADVICE)
    place = Path("models/tiny")
    assert {file.name for file in place.iterdir()} == {"model.safetensors", "model.json", "README.md", "recipe.py"}
    said = json.loads((place / "model.json").read_text(encoding="utf-8"))
    assert (said["strategy"], said["training_images"], said["classes"]) == ("fine_tune", 28, ["bright", "dark"])
    card = (place / "README.md").read_text(encoding="utf-8")
    for words in (
        "91.0 (88.2 to 93.8)",
        "6 a class",
        "squares that a test has drawn",
        said["sha256"],
        "bright",
        "dark",
    ):
        assert words in card
    assert "{{" not in card
    Path("images/test/dark/broken.png").write_bytes(b"no image")
    Path("images/test/dark/.hidden.png").write_bytes(b"no image")
    predict.predict("models/tiny", "images/test", "predictions.csv")
    with Path("predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    assert len(rows) == said["test"]["images"] == 12  # neither the broken nor the hidden one
    right = [Path(row["path"]).parent.name == row["class"] for row in rows]
    assert np.mean(right) == said["test"]["accuracy"]
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_what_can_not_be_read_is_listed(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    model.model("tiny", "lda", ADVICE)
    assert "mean and 95% interval" not in Path("models/tiny/README.md").read_text(encoding="utf-8")
    Path("few").mkdir()
    Path("few/broken.png").write_bytes(b"no image")
    Image.new("RGB", (90, 40), "white").save("few/wide.png")
    predict.predict("models/tiny", "few", "out.csv")
    assert "unreadable: few/broken.png: not a readable image" in caplog.text
    assert Path("out.csv").read_text(encoding="utf-8").startswith("path,class,probability\nfew/wide.png,bright,")


def test_a_closed_form_model_gives_the_predictions_of_its_run(study: Path) -> None:
    model.model("tiny", "lda", ADVICE)
    predict.predict("models/tiny", "images/test", "out.csv")
    with Path("out.csv").open(encoding="utf-8") as file:
        right = [Path(row["path"]).parent.name == row["class"] for row in csv.DictReader(file)]
    assert np.mean(right) == json.loads(Path("models/tiny/model.json").read_text(encoding="utf-8"))["test"]["accuracy"]


def test_no_model_is_made_of_what_the_study_does_not_compare_or_what_diverges(study: Path) -> None:
    with pytest.raises(ModelError, match="no 'last_block' in study tiny; choose from feature_extraction"):
        model.model("tiny", "last_block", ADVICE)
    with pytest.raises(ModelError, match="bad diverged"):
        model.model("tiny", "bad", ADVICE)
    assert not Path("models").exists()


def test_altered_weights_and_folders_without_images_are_refused(study: Path) -> None:
    with pytest.raises(PredictError, match="no model in models/tiny"):
        predict.predict("models/tiny", "images", "out.csv")
    model.model("tiny", "lda", ADVICE)
    Path("empty").mkdir()
    with pytest.raises(PredictError, match="no image below empty"):
        predict.predict("models/tiny", "empty", "out.csv")
    weights = Path("models/tiny/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PredictError, match=r"not the file that model\.json describes"):
        predict.predict("models/tiny", "images", "out.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradual_unfreezing", "norm_only", "fine_tune_batch_norm_train", "lp_ft_half_way"])
def test_a_recipe_moves_the_same_weights_and_learns_what_the_model_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Dark against bright: a recipe that trains the wrong weights, at wrong rates or none, stays behind."""
    prepare_study(tmp_path, monkeypatch, name)
    model.model("one", name, "[]")
    accuracy, moved = run_recipe(tmp_path / "images", monkeypatch, capsys), torch.load("model.pt", weights_only=True)
    said = json.loads(Path("models/one/model.json").read_text(encoding="utf-8"))
    if name != "fine_tune_batch_norm_train":  # so few steps leave its running statistics behind
        assert said["test"]["accuracy"] >= 0.9
        assert accuracy >= 0.9
    start = native.build("efficientnet_lite0", 2).state_dict()
    pretrained = backbones.pretrained("efficientnet_lite0")[0]
    start |= dict(zip(start, pretrained.values(), strict=False))  # the head's own come last
    ours = load_file("models/one/model.safetensors")
    counted = {key for key in start if "num_batches" not in key}
    assert changed(moved, start) & counted == changed(ours, start) & counted


@pytest.mark.slow
def test_a_recipe_in_closed_form_predicts_what_the_model_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_study(tmp_path, monkeypatch, "lda")
    model.model("one", "lda", "[]")
    accuracy = run_recipe(tmp_path / "images", monkeypatch, capsys)
    assert accuracy == json.loads(Path("models/one/model.json").read_text(encoding="utf-8"))["test"]["accuracy"]


def prepare_study(place: Path, monkeypatch: pytest.MonkeyPatch, strategy: str) -> None:
    """Strategy `strategy` alone, at three times the textbook's rates."""
    monkeypatch.chdir(place)
    write_image_folder(place / "images", test=10)
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    half_way = {**content["strategies"]["lp_ft"], "interpolate": 0.5}
    study = {
        "dataset": {"folder": "images"},
        "backbone": "efficientnet_lite0",
        "resolution": 32,
        "per_class": [4],
        "seeds": 2,
        "epochs": 8,
        "learning_rates": 3,
        "batch_size": 8,
        "strategies": [strategy],
    }
    strategies = {**content["strategies"], "lp_ft_half_way": half_way}
    content = {"active": ["one"], "studies": {"one": study}, "strategies": strategies}
    Path("params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("one")


def run_recipe(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> float:
    """The accuracy that models/one/recipe.py prints."""
    monkeypatch.setattr(sys, "argv", ["recipe.py", str(images)])
    capsys.readouterr()
    runpy.run_path("models/one/recipe.py")
    return float(re.findall(r"accuracy ([\d.]+)%", capsys.readouterr().out)[0]) / 100


def changed(state: dict[str, torch.Tensor], start: dict[str, torch.Tensor]) -> set[str]:
    """The tensors that training has moved."""
    return {key for key, value in start.items() if not torch.equal(state[key], value)}
