"""params.yaml is refused before any data loads, with what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline import params
from pipeline.params import ParamsError
from pipeline.strategies import GROUPS, Phase

GOOD = """
active: [tiny]
studies:
  tiny:
    dataset: {elpv: {label: defective}}
    backbone: efficientnet_lite0
    resolution: 64
    per_class: [5, 10]
    seeds: 3
    epochs: 6
    learning_rates: textbook
    sweep: {one_rate: [10, 0.1]}
    sweep_seeds: 2
    ablations: [frozen_norm]
strategies:
  scratch: {weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}
  fine_tune: {phases: [{share: 1, lr: {all: 1.0e-4, head: 1.0e-3}}]}
  gradual: {phases: [{share: 0.5, lr: {head: 1.0e-3}}, {share: 0.5, lr: {stage4: 1.0e-4, head: 1.0e-3}}]}
ablations:
  one_rate: {of: fine_tune, set: {phases: [{share: 1, lr: {all: 1.0e-4}}]}}
  frozen_norm: {of: fine_tune, set: {batch_norm: frozen}}
"""

SPELT_OUT = "{stem: 1.0e-4, stage1: 1.0e-4, stage2: 1.0e-4, stage3: 1.0e-4, stage4: 1.0e-4, head: 1.0e-3}"  # fine_tune


def load(text: str, tmp_path: Path) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return params.load(path)


def test_the_projects_own_file_is_sound_and_declares_what_the_studies_say() -> None:
    loaded = params.load()
    quick = loaded.studies["quick"]
    assert loaded.active == ("quick",)
    assert list(loaded.strategies) == [
        "scratch", "feature_extraction", "last_block", "fine_tune", "discriminative", "gradual_unfreezing", "lp_ft",
    ]  # fmt: skip
    assert len(loaded.cells("quick", "final")) == 7 * len(quick.per_class) * 5
    rates = {
        cell.lr_scale * loaded.strategy(cell.strategy).phases[0].rates["stem"]
        for cell in loaded.cells("quick", "sweep")
    }
    assert sorted(rates) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert loaded.cells("quick", "pilot") == ()
    assert len(loaded.cells("cifar10", "pilot")) == 7 * 2 * 5 * 2


def test_all_means_every_group_not_named(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    assert loaded.strategies["fine_tune"].phases == (Phase(1, {**dict.fromkeys(GROUPS, 1e-4), "head": 1e-3}),)
    gradual = loaded.strategies["gradual"].phases
    assert gradual[0].frozen == GROUPS[:-1]
    assert gradual[1].learning == ("stage4", "head")


def test_cells_are_strategies_times_sizes_times_seeds_at_the_tuned_scales(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    finals = loaded.cells("tiny", "final", {(10, "fine_tune"): 3.0}, "fine_tune")
    assert [(c.per_class, c.lr_scale, c.seed) for c in finals] == [
        (5, 1, 0), (5, 1, 1), (5, 1, 2), (10, 3, 0), (10, 3, 1), (10, 3, 2),
    ]  # fmt: skip
    assert len(loaded.cells("tiny", "sweep")) == 2 * 2 * 2
    assert {c.lr_scale for c in loaded.cells("tiny", "ablation", {(10, "fine_tune"): 3.0})} == {1.0, 3.0}
    pilots = load(GOOD.replace("textbook", "tuned"), tmp_path).cells("tiny", "pilot")
    assert len(pilots) == 3 * 2 * 5 * 2
    assert {c.seed for c in pilots} == {1000, 1001}


def test_an_ablation_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    def counted(given: str) -> int:
        text = GOOD.replace("sweep_seeds: 2", f"sweep_seeds: 2\n    ablation_seeds: {given}")
        return len(load(text, tmp_path).cells("tiny", "ablation"))

    sizes = 2
    assert len(load(GOOD, tmp_path).cells("tiny", "ablation")) == sizes * 3
    assert counted("2") == counted("{all: 2}") == counted("{all: 3, frozen_norm: 2}") == sizes * 2
    assert counted("{frozen_norm: 3}") == sizes * 3


def test_an_ablation_changes_one_thing(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    changed, base = loaded.strategy("frozen_norm"), loaded.strategy("fine_tune")
    assert (changed.batch_norm, base.batch_norm) == ("frozen", "train")
    assert changed.phases == base.phases


@pytest.mark.parametrize(("old", "new", "message"), [
    ("backbone:", "backbnoe:", "studies.tiny.backbnoe: unknown key; did you mean 'backbone'?"),
    ("share: 1, lr: {all: 1.0e-3}", "share: 1, rl: {all: 1.0e-3}", "rl: unknown key"),
    ("weights: none", "wieghts: none", "strategies.scratch.wieghts: unknown key; did you mean 'weights'?"),
    ("all: 1.0e-3", "all: 1e-3", "'1e-3' is text; YAML needs a decimal point and no quotes: write 1.0e-3"),
    ("all: 1.0e-3", "all: 125e-6", "write 1.25e-4"),
    ("all: 1.0e-3", "all: fast", "'fast' is text; give a number, such as 1.0e-4"),
    ("all: 1.0e-3", f"all: {10**400}", "is no learning rate"),
    ("share: 0.5, lr: {head", "share: 5e-1, lr: {head", "phases[0].share: '5e-1' is text"),
    ("all: 1.0e-3", "all: 0", "0 is no learning rate"),
    ("all: 1.0e-3", "all: -1.0e-3", "-0.001 is no learning rate"),
    ("all: 1.0e-3", "all: .nan", "nan is no learning rate"),
    ("all: 1.0e-3", "all: .inf", "inf is no learning rate"),
    ("all: 1.0e-3", "all: true", "True is no learning rate"),
    ("all: 1.0e-3", "layer9: 1.0e-3", "no layer group 'layer9'; choose from stem, stage1"),
    ("share: 0.5, lr: {head", "share: 0.4, lr: {head", "the shares sum to 0.9; they must sum to 1"),
    ("efficientnet_lite0", "resnet81", "no backbone 'resnet81'; did you mean 'resnet18'?"),
    ("elpv:", "elvp:", "no data set 'elvp'"),
    ("label: defective", "label: broken", "no label 'broken'; choose from defective, four_levels"),
    ("label: defective", "lable: defective", "no option 'lable'; did you mean 'label'?"),
    ("[tiny]", "[tinny]", "no study 'tinny'; did you mean 'tiny'?"),
    ("seeds: 3\n", "seeds: 1\n", "fewer than 2 seeds"),
    ("seeds: 3\n", "seeds: [1, 2, 1]\n", "1 is given twice"),
    ("seeds: 3\n", "seeds: [1, 1000]\n", "[1, 1000] holds 1000, a pilots' seed"),
    ("seeds: 3\n", "seeds: 1001\n", "1001 holds 1000, a pilots' seed"),
    ("seeds: 3\n", "seeds: true\n", "seeds: True is not right; give how many seeds, such as 5, or a list"),
    ("seeds: 3\n", "seeds: 3\n    strategies: [scratch, scratch]\n", "strategies: 'scratch' is given twice"),
    ("  tiny:", "  ../tiny:", "studies: '../tiny' can't name a folder"),
    ("  scratch:", "  a-b:", "strategies: 'a-b' can't name a folder; use letters, digits and _"),
    ("  scratch:", "  1:", "strategies: the name 1 is not text; put it in quotes"),
    ("  scratch:", "  [scratch]:", "a list or a block is no key"),
    ("{all: 1.0e-4}}]", f"{SPELT_OUT}}}]", "is what fine_tune has already; nothing would change"),
    ("[5, 10]", "[]", "per_class: [] is empty; give at least one"),
    ("{elpv: {label: defective}}", "3", "dataset: 3 is no data set; choose from elpv"),
    ("per_class: [5, 10]", "per_class: [5, 5]", "per_class: 5 is given twice"),
    ("per_class: [5, 10]", "per_class: [0]", "per_class: 0 is not right; give a list of sizes"),
    ("per_class: [5, 10]", "per_class: all", "per_class: 'all' is not right; give a list of sizes"),
    ("per_class: [5, 10]", "per_class: [10, all]", "'all' is not right; give a list of sizes"),
    ("seeds: 3\n", "seeds: 3\n    published: [{accuracy: 880, what: a, source: b}]\n", "accuracy: 880 is not right"),
    ("seeds: 3\n", "seeds: 3\n    source: 3\n", "source: 3 is not right"),
    ("seeds: 3\n", "seeds: 3\n    notes: one\n", "notes: 'one' is not right"),
    ("resolution: 64", "resolution: 8", "resolution: 8 is not right"),
    ("epochs: 6", "epochs: true", "epochs: True is not right"),
    ("epochs: 6", "epochs: 1", "2 phases do not fit into 1 epochs"),
    ("learning_rates: textbook", "learning_rates: best", "learning_rates: 'best' is not right"),
    ("sweep: {one_rate", "sweep: {two_rates", "no strategy or ablation 'two_rates'"),
    ("[10, 0.1]", "[10, 1e-1]", "'1e-1' is text"),
    ("sweep_seeds: 2", "sweep_seeds: 4", "4 is not between 2 and the study's 3 seeds"),
    ("sweep_seeds: 2", "ablation_seeds: {frozen_nrom: 2}", "did you mean 'frozen_norm'?"),
    ("sweep_seeds: 2", "ablation_seeds: {all: 4}", "4 is not between 2 and the study's 3 seeds"),
    ("sweep_seeds: 2", "ablation_seeds: few", "'few' is no number of seeds"),
    ("[frozen_norm]", "[forzen_norm]", "no ablation 'forzen_norm'; did you mean 'frozen_norm'?"),
    ("of: fine_tune, set: {batch", "of: fine_tuna, set: {batch", "no strategy 'fine_tuna'"),
    ("{batch_norm: frozen}", "{batch_norm: frozen, dropout: 0.5}", "2 keys are changed; an ablation"),
    ("{batch_norm: frozen}", "{batch_nrom: frozen}", "did you mean 'batch_norm'?"),
    ("{batch_norm: frozen}", "{batch_norm: train}", "nothing would change"),
    ("  frozen_norm:", "  scratch:", "a strategy has this name already"),
    ("  fine_tune: {", "  scratch: {", "'scratch' is given twice"),
    ("    seeds: 3\n", "", "studies.tiny.seeds: missing"),
])  # fmt: skip
def test_a_mistake_is_refused_with_key_value_and_what_would_be_right(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in GOOD
    with pytest.raises(ParamsError, match=re.escape(message)) as error:
        load(GOOD.replace(old, new, 1), tmp_path)
    assert "params.yaml" in str(error.value)


def test_a_folder_is_named_by_its_path(tmp_path: Path) -> None:
    given = GOOD.replace("{elpv: {label: defective}}", "{folder: images/mine, name: Mine}")
    spec = load(given, tmp_path).studies["tiny"].dataset
    assert (spec.name, dict(spec.options)) == ("folder", {"path": "images/mine", "name": "Mine"})
    with pytest.raises(ParamsError, match="which folder"):
        load(GOOD.replace("{elpv: {label: defective}}", "folder"), tmp_path)
    assert load(GOOD.replace("{elpv: {label: defective}}", "cifar10"), tmp_path).studies["tiny"].dataset.options == {}


def test_a_file_that_is_missing_or_no_yaml_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="can't read"):
        params.load(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match="is no YAML"):
        load("active: [", tmp_path)
    with pytest.raises(ParamsError, match="give a block with active, studies, strategies, ablations"):
        load("", tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ParamsError, match="byte 0 is not UTF-8"):
        params.load(tmp_path / "bytes.yaml")


def test_a_message_says_one_thing_once_and_names_no_class(tmp_path: Path) -> None:
    for wrong in ("seeds: yes", "seeds: '3'", "seeds: [0, -1]"):
        with pytest.raises(ParamsError) as error:
            load(GOOD.replace("seeds: 3", wrong, 1), tmp_path)
        assert str(error.value).count("studies.tiny.seeds") == 1
    with pytest.raises(ParamsError) as error:
        load("active: [tiny]\nstudies: {tiny: }\nstrategies: {scratch: }\n", tmp_path)
    assert "instance of" not in str(error.value)


def test_every_depth_has_its_counterpart_from_random_weights() -> None:
    loaded = params.load()
    for depth in ("from_stage4", "from_stage3", "from_stage2", "from_stage1"):
        pretrained, random = loaded.strategy(depth), loaded.strategy(f"{depth}_random")
        assert (pretrained.weights, random.weights) == ("pretrained", "none")
        assert [p.learning for p in pretrained.phases] == [p.learning for p in random.phases]
    assert loaded.strategy("from_head_random").phases[0].learning == ("head",)
