"""params.yaml is refused before any data loads, with what would be right."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from pipeline import datasets, params
from pipeline.params import ParamsError
from pipeline.strategies import GROUPS, Phase
from pipeline.tuning import Rates

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
    ablations: [trained_norm]
strategies:
  scratch: {weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}
  fine_tune: {phases: [{share: 1, lr: {all: 1.0e-4, head: 1.0e-3}}]}
  gradual: {phases: [{share: 0.5, lr: {head: 1.0e-3}}, {share: 0.5, lr: {stage4: 1.0e-4, head: 1.0e-3}}]}
ablations:
  one_rate: {of: fine_tune, set: {phases: [{share: 1, lr: {all: 1.0e-4}}]}}
  trained_norm: {of: fine_tune, set: {batch_norm: train}}
about:
  tiny: {source: drawn by hand, notes: [small], published: [{accuracy: 88.4, what: a CNN, source: somebody}]}
"""
PILOTS = {5: (1000, 1001, 1002), 10: (1000, 1001)}
TEXTBOOK = Rates({})
CLIMBED = Rates({
    "5": {"fine_tune": {"lr_scale": 1.0, "tried": {"1": {}}}},
    "10": {"fine_tune": {"lr_scale": 3.0, "tried": {"0.3": {}, "1": {}, "3": {}, "10": {}}}},
})  # fmt: skip

SPELT_OUT = "{stem: 1.0e-4, stage1: 1.0e-4, stage2: 1.0e-4, stage3: 1.0e-4, stage4: 1.0e-4, head: 1.0e-3}"  # fine_tune


def load(text: str, tmp_path: Path) -> params.Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return params.load(path)


NINE = (
    "scratch", "feature_extraction", "last_block", "fine_tune", "discriminative", "gradual_unfreezing", "lp_ft",
    "norm_only", "lda",
)  # fmt: skip


def test_the_projects_own_file_is_sound_and_declares_what_the_studies_say() -> None:
    loaded = params.load()
    quick = loaded.studies["quick"]
    assert loaded.active == ("quick",)
    assert loaded.default == quick.strategies == NINE
    assert len(loaded.strategies) == 16
    assert len(loaded.cells("quick", "final", TEXTBOOK, {})) == 9 * len(quick.per_class) * 5
    rates = {
        cell.lr_scale * loaded.strategy(cell.strategy).phases[0].rates["stem"]
        for cell in loaded.cells("quick", "sweep", TEXTBOOK, {})
    }
    assert sorted(rates) == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert loaded.cells("quick", "pilot", TEXTBOOK, {}) == ()


def test_pretrained_strategies_keep_batch_norm_frozen_and_six_have_a_counterpart_that_trains_it() -> None:
    loaded = params.load()
    assert loaded.strategy("scratch").batch_norm == "train"
    assert loaded.strategy("norm_only").batch_norm == "statistics_fixed"
    for name in ("feature_extraction", "last_block", "fine_tune", "discriminative", "gradual_unfreezing", "lp_ft"):
        assert loaded.strategy(name).batch_norm == "frozen"
    pairs = [name for name in loaded.strategies if name.endswith("_batch_norm_train")]
    assert len(pairs) == 6
    for name in pairs:
        other = replace(loaded.strategy(name.removesuffix("_batch_norm_train")), name=name, batch_norm="train")
        assert loaded.strategy(name) == other
        assert name not in loaded.default


def test_all_means_every_group_not_named(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    assert loaded.strategies["fine_tune"].phases == (Phase(1, {**dict.fromkeys(GROUPS, 1e-4), "head": 1e-3}),)
    gradual = loaded.strategies["gradual"].phases
    assert gradual[0].frozen == GROUPS[:-1]
    assert gradual[1].learning == ("stage4", "head")


def test_cells_are_strategies_times_sizes_times_seeds_at_the_chosen_scales(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    finals = loaded.cells("tiny", "final", CLIMBED, PILOTS, "fine_tune")
    assert [(c.per_class, c.lr_scale, c.seed) for c in finals] == [
        (5, 1, 0), (5, 1, 1), (5, 1, 2), (10, 3, 0), (10, 3, 1), (10, 3, 2),
    ]  # fmt: skip
    assert len(loaded.cells("tiny", "sweep", TEXTBOOK, PILOTS)) == 2 * 2 * 2
    assert {c.lr_scale for c in loaded.cells("tiny", "ablation", CLIMBED, PILOTS)} == {1.0, 3.0}
    tuned = load(GOOD.replace("textbook", "tuned"), tmp_path)
    pilots = tuned.cells("tiny", "pilot", CLIMBED, PILOTS)
    assert len(pilots) == 1 * 3 + 4 * 2  # the scales that were tried, by the seeds that try them
    assert {c.seed for c in pilots if c.per_class == 10} == {1000, 1001}


def test_one_scale_for_all_is_a_learning_rate_too(tmp_path: Path) -> None:
    loaded = load(GOOD.replace("learning_rates: textbook", "learning_rates: 10"), tmp_path)
    assert loaded.studies["tiny"].learning_rates == 10
    assert not loaded.studies["tiny"].pilots
    assert {c.lr_scale for c in loaded.cells("tiny", "final", Rates({}, 10.0), PILOTS)} == {10.0}


def test_a_closed_form_head_has_no_rate_and_on_all_images_one_cell(tmp_path: Path) -> None:
    text = GOOD.replace("  fine_tune: {", "  lda: {head: lda}\n  fine_tune: {")
    loaded = load(text, tmp_path)
    assert loaded.strategy("lda").closed_form
    few = loaded.cells("tiny", "final", Rates({}, 10.0), PILOTS, "lda")
    assert [(c.per_class, c.lr_scale, c.seed) for c in few] == [(n, 1.0, k) for n in (5, 10) for k in range(3)]
    whole = load(text.replace("[5, 10]", "[all]"), tmp_path)
    assert [c.seed for c in whole.cells("tiny", "final", TEXTBOOK, {0: (1000, 1001)}, "lda")] == [0]
    assert len(whole.cells("tiny", "final", TEXTBOOK, {0: (1000, 1001)}, "fine_tune")) == 3


def test_rates_are_inherited_only_from_a_study_that_tunes_them(tmp_path: Path) -> None:
    heir = """
  heir: {dataset: {elpv: {}}, backbone: resnet18, resolution: 64, per_class: [all], seeds: 2, epochs: 6,
    learning_rates: tuned, rates_from: tiny, strategies: [scratch, fine_tune]}
strategies:"""
    tuned = GOOD.replace("learning_rates: textbook", "learning_rates: tuned")
    loaded = load(tuned.replace("\nstrategies:", heir), tmp_path)
    assert not loaded.studies["heir"].pilots
    for text, message in (
        (GOOD, "study 'tiny' does not tune its own rates"),
        (tuned.replace("ablations: [trained_norm]", "strategies: [fine_tune]"), "study 'tiny' tunes no scratch"),
    ):
        with pytest.raises(ParamsError, match=message):
            load(text.replace("\nstrategies:", heir), tmp_path)
    with pytest.raises(ParamsError, match="only tuned rates are taken"):
        load(tuned.replace("\nstrategies:", heir.replace("tuned", "textbook", 1)), tmp_path)


def test_own_weights_are_named_with_the_backbone(tmp_path: Path) -> None:
    study = load(GOOD.replace("efficientnet_lite0", "{name: resnet18, weights: mine.safetensors}"), tmp_path)
    assert (study.studies["tiny"].backbone, study.studies["tiny"].weights) == ("resnet18", "mine.safetensors")
    assert load(GOOD, tmp_path).studies["tiny"].weights is None


def test_what_trains_batch_norm_or_norms_alone_is_refused_where_there_is_none(tmp_path: Path) -> None:
    trained = GOOD.replace("  fine_tune: {phases", "  fine_tune: {batch_norm: train, phases").replace(
        "{batch_norm: train}}\nabout", "{batch_norm: frozen}}\nabout"
    )
    load(trained, tmp_path)
    with pytest.raises(ParamsError, match="fine_tune trains BatchNorm, and squeezenet1_1 has none; leave it out"):
        load(trained.replace("efficientnet_lite0", "squeezenet1_1"), tmp_path)
    norms = GOOD.replace("  fine_tune: {", "  norm_only: {learn: norms, batch_norm: train, phases: "
                         "[{share: 1, lr: {all: 1.0e-3}}]}\n  fine_tune: {")  # fmt: skip
    load(norms, tmp_path)
    with pytest.raises(ParamsError, match="norm_only trains"):
        load(norms.replace("efficientnet_lite0", "squeezenet1_1"), tmp_path)


def test_what_only_a_reader_needs_stands_apart(tmp_path: Path) -> None:
    about = load(GOOD, tmp_path).about["tiny"]
    assert (about.source, about.notes) == ("drawn by hand", ("small",))
    assert about.published[0].accuracy == 88.4
    text = GOOD[: GOOD.index("about:")]
    assert load(text, tmp_path).about["tiny"] == params.About()


def test_importing_and_reading_parameters_needs_no_torch() -> None:
    script = (
        "import sys; from pipeline import params; params.load(); print(sorted({'torch', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_ablation_may_have_seeds_of_its_own(tmp_path: Path) -> None:
    def counted(given: str) -> int:
        text = GOOD.replace("sweep_seeds: 2", f"sweep_seeds: 2\n    ablation_seeds: {given}")
        return len(load(text, tmp_path).cells("tiny", "ablation", TEXTBOOK, PILOTS))

    sizes = 2
    assert len(load(GOOD, tmp_path).cells("tiny", "ablation", TEXTBOOK, PILOTS)) == sizes * 3
    assert counted("2") == counted("{all: 2}") == counted("{all: 3, trained_norm: 2}") == sizes * 2
    assert counted("{trained_norm: 3}") == sizes * 3


def test_an_ablation_changes_one_thing(tmp_path: Path) -> None:
    loaded = load(GOOD, tmp_path)
    changed, base = loaded.strategy("trained_norm"), loaded.strategy("fine_tune")
    assert (changed.batch_norm, base.batch_norm) == ("train", "frozen")
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
    ("all: 1.0e-3", "all: true", "true is no learning rate"),
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
    ("seeds: 3\n", "seeds: true\n", "seeds: true is not right; give how many seeds, such as 5, or a list"),
    ("seeds: 3\n", "seeds: 3\n    strategies: [scratch, scratch]\n", "strategies: 'scratch' is given twice"),
    ("  tiny:", "  ../tiny:", "studies: '../tiny' can't name a folder"),
    ("  scratch:", "  a-b:", "strategies: 'a-b' can't name a folder; use letters, digits and _"),
    ("  scratch:", "  1:", "strategies: the name 1 is not text to every reader of YAML; put it in quotes"),
    ("  scratch:", "  [scratch]:", "a list or a block is no key"),
    ("set: {phases: [{share: 1, lr: {all: 1.0e-4}}]", f"set: {{phases: [{{share: 1, lr: {SPELT_OUT}}}]",
     "is what fine_tune has already; nothing would change"),
    ("[5, 10]", "[]", "per_class: [] is empty; give at least one"),
    ("{elpv: {label: defective}}", "3", "dataset: 3 is no data set; choose from elpv"),
    ("per_class: [5, 10]", "per_class: [5, 5]", "per_class: 5 is given twice"),
    ("per_class: [5, 10]", "per_class: [0]", "per_class: 0 is not right; give a list of sizes"),
    ("per_class: [5, 10]", "per_class: all", "per_class: 'all' is not right; give a list of sizes"),
    ("per_class: [5, 10]", "per_class: [10, all]", "'all' is not right; give a list of sizes"),
    ("accuracy: 88.4", "accuracy: 880", "about.tiny.published[0].accuracy: 880 is not right"),
    ("source: drawn by hand", "source: 3", "about.tiny.source: 3 is not right"),
    ("notes: [small]", "notes: one", "about.tiny.notes: 'one' is not right"),
    ("  tiny: {source", "  tidy: {source", "about: no study 'tidy'; did you mean 'tiny'?"),
    ("notes: [small]", "nots: [small]", "about.tiny.nots: unknown key; did you mean 'notes'?"),
    ("resolution: 64", "resolution: 8", "resolution: 8 is not right"),
    ("epochs: 6", "epochs: true", "epochs: true is not right"),
    ("epochs: 6", "epochs: 1", "2 phases do not fit into 1 epochs"),
    ("learning_rates: textbook", "learning_rates: 0", "0 is no lr_scale; give textbook, tuned or a number above 0"),
    ("learning_rates: textbook", "learning_rates: best", "'best' is text; give textbook, tuned or a number"),
    ("sweep: {one_rate", "sweep: {two_rates", "no strategy or ablation 'two_rates'"),
    ("[10, 0.1]", "[10, 1e-1]", "'1e-1' is text"),
    ("sweep_seeds: 2", "sweep_seeds: 4", "4 is not between 2 and the study's 3 seeds"),
    ("sweep_seeds: 2", "ablation_seeds: {trained_nrom: 2}", "did you mean 'trained_norm'?"),
    ("sweep_seeds: 2", "ablation_seeds: {all: 4}", "4 is not between 2 and the study's 3 seeds"),
    ("sweep_seeds: 2", "ablation_seeds: few", "'few' is no number of seeds"),
    ("[trained_norm]", "[trianed_norm]", "no ablation 'trianed_norm'; did you mean 'trained_norm'?"),
    ("of: fine_tune, set: {batch", "of: fine_tuna, set: {batch", "no strategy 'fine_tuna'"),
    ("{batch_norm: train}", "{batch_norm: train, dropout: 0.5}", "2 keys are changed; an ablation"),
    ("{batch_norm: train}", "{batch_nrom: train}", "did you mean 'batch_norm'?"),
    ("{batch_norm: train}", "{batch_norm: frozen}", "nothing would change"),
    ("{batch_norm: train}", "{weights: none}", "batch_norm frozen with weights none would keep statistics"),
    ("weights: none, phases", "weights: none, batch_norm: frozen, phases", "batch_norm frozen with weights none"),
    ("weights: none, phases", "learn: norms, phases", "learn norms with batch_norm frozen leaves the head alone"),
    ("weights: none, phases", "head: lda, phases", "head lda is computed, not trained; leave out phases"),
    ("{weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}", "{head: lda, dropout: 0.5}", "give nothing beside"),
    ("{weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}", "{head: lda, learn: norms}", "give nothing beside"),
    ("{weights: none, phases: [{share: 1, lr: {all: 1.0e-3}}]}", "{weights: none}", "phases: missing; give at least"),
    ("weights: none, phases", "interpolate: 0.5, phases", "in which the head learns alone; there is none"),
    ("seeds: 3\n", "seeds: 3\n    strategies: [scratch]\n", "trained_norm changes fine_tune, which is not trained"),
    ("efficientnet_lite0", "{name: resnet18, wieghts: a}", "no option 'wieghts'; did you mean 'weights'?"),
    ("efficientnet_lite0", "{weights: a.safetensors}", "is not right; give a name, or {name: resnet18, weights"),
    ("seeds: 3\n", "seeds: 3\n    precision: half\n", "studies.tiny.precision: 'half' is not right"),
    ("seeds: 3\n", "seeds: 3\n    judge_by: f1\n", "studies.tiny.judge_by: 'f1' is not right"),
    ("seeds: 3\n", "seeds: 3\n    test_images: 1\n", "studies.tiny.test_images: 1 is not right"),
    ("seeds: 3\n", "seeds: 3\n    rates_from: huge\n", "studies.tiny.rates_from: no study 'huge'"),
    ("  trained_norm:", "  scratch:", "a strategy has this name already"),
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


def test_a_data_set_whose_options_nothing_says_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast("dict[str, object]", datasets.REGISTRY), "digits", datasets.REGISTRY["elpv"])
    given = GOOD.replace("{elpv: {label: defective}}", "{digits: {label: defective}}")
    assert load(given.replace("{label: defective}", ""), tmp_path).studies["tiny"].dataset.options == {}
    with pytest.raises(ParamsError, match=r"dataset\.label: no option 'label'; there is none"):
        load(given, tmp_path)


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
