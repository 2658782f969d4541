"""The house: imports run one way, and stages import little."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
RANKS = (
    {
        "errors",
        "files",
        "plain_yaml",
        "randomness",
        "strategies",
        "preprocessing",
        "convolutions",
        "editing",
        "clock",
        "replay",
    },
    {"backbones", "datasets", "folders", "decoding", "identity", "tuning", "subsets", "choosing"},
    {"augmentation", "phases", "prefix", "evaluation", "drift", "native"},
    {
        "training",
        "activations",
        "lr_finder",
        "heads",
        "runs",
        "tracking",
        "params",
        "execution",
        "cluster",
        "cost",
        "recipe",
    },
)  # a module imports from its own rank or those before it; stages import from all


def modules(package: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }


FILES = {**modules("pipeline"), **modules("analysis")}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def rank(module: str) -> int:
    name = module.removeprefix("pipeline.")
    return next((i for i, names in enumerate(RANKS) if name in names), len(RANKS))


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("pipeline.")])
def test_imports_run_one_way(module: str) -> None:
    for name in imported(FILES[module]):
        if name in FILES:
            assert rank(name) <= rank(module), f"{module} imports {name}"
            assert not name.startswith("analysis"), f"{module} imports {name}"


def test_library_modules_never_import_stages_tracking_or_params() -> None:
    for module, path in FILES.items():
        if module.startswith("pipeline.") and not module.startswith("pipeline.stages"):
            upward = {
                n for n in imported(path) if n.startswith(("pipeline.stages", "pipeline.tracking", "pipeline.params"))
            }
            assert not upward, f"{module} imports {upward}"


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("analysis.")])
def test_analysis_reads_tables_alone(module: str) -> None:
    forbidden = {"torch", "mlflow", "pipeline", "timm", "torchvision"}
    assert not {name.partition(".")[0] for name in imported(FILES[module])} & forbidden


def test_imports_of_analysis_run_one_way_and_no_file_is_long() -> None:
    below = {
        name: {other for other in imported(path) if other in FILES and other != name}
        for name, path in FILES.items()
        if name.startswith("analysis.")
    }
    tuple(TopologicalSorter(below).static_order())  # raises CycleError
    pages = {f"analysis.{name}" for name in ("report", "situations", "guide", "readme", "regression")}
    for name, others in below.items():
        if name.startswith("analysis.sections."):
            assert not others & pages, name
        elif name not in pages:
            assert not any(other.startswith("analysis.sections.") for other in others), name
        assert len(FILES[name].read_text(encoding="utf-8").splitlines()) <= 300, name


ROOMS = {  # of the picture in CONTRIBUTING.md; a module belongs to the first that names it
    "stages": ("pipeline.stages",),
    "cell": (
        "pipeline.training",
        "pipeline.heads",
        "pipeline.activations",
        "pipeline.lr_finder",
        "pipeline.prefix",
        "pipeline.clock",
    ),
    "model": (
        "pipeline.backbones",
        "pipeline.phases",
        "pipeline.convolutions",
        "pipeline.augmentation",
        "pipeline.drift",
    ),
    "images": ("pipeline.folders", "pipeline.datasets", "pipeline.decoding", "pipeline.identity", "pipeline.subsets"),
    "runs": ("pipeline.runs", "pipeline.execution", "pipeline.tracking"),
    "pages": ("analysis.report", "analysis.guide", "analysis.readme"),
    "sections": ("analysis.sections",),
    "comparison": ("analysis.comparison", "analysis.verdicts", "analysis.paired", "analysis.unbeaten"),
    "tables": ("analysis.tables", "analysis.checks", "analysis.predictions", "analysis.statistics", "analysis.power"),
}


def room(module: str) -> str | None:
    return next((name for name, parts in ROOMS.items() if module.startswith(parts)), None)


def test_the_picture_of_the_house_shows_the_imports_as_they_are() -> None:
    found = {
        (of, to)
        for module, path in FILES.items()
        for other in imported(path)
        if other in FILES and (of := room(module)) and (to := room(other)) and of != to
    }
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", text, flags=re.MULTILINE))
    assert drawn == found, sorted(found)


def test_only_tracking_imports_mlflow_and_only_params_reads_params_yaml() -> None:
    for module, path in FILES.items():
        if module != "pipeline.tracking":
            assert not {name for name in imported(path) if name.partition(".")[0] == "mlflow"}, module
        if module != "pipeline.params":
            assert 'Path("params.yaml")' not in path.read_text(), module


def test_importing_a_stage_that_trains_needs_only_the_few_packages_it_may_need() -> None:
    allowed = {"torch", "torchvision", "timm", "numpy", "pydantic"}
    heavy = ("mlflow", "elpv_dataset", "pandas", "scipy", "matplotlib", "seaborn", "sklearn", "statsmodels", "dvc")
    script = (
        "import sys, json, pipeline.stages.cells; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert not loaded & set(heavy)
    assert {"torch", "numpy", "pydantic"} <= loaded & allowed


def test_a_stage_that_finds_nothing_to_do_needs_no_torch() -> None:
    stages = ", ".join(
        f"pipeline.stages.{name}" for name in ("prepare", "tune", "train", "sweep", "ablate", "lr_finder")
    )
    script = f"import sys, {stages}; print(sorted({{'torch', 'timm', 'numpy', 'pandas', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_every_stage_depends_on_its_whole_package_and_is_named_like_its_module() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, block in stages.items():
        package, module = (
            ("analysis", "analysis.report") if name == "report" else ("pipeline", f"pipeline.stages.{name}")
        )
        assert str(block["cmd"]).split()[:3] == ["python", "-m", module]
        assert module in FILES
        assert (package in block.get("deps", ())) != block.get("always_changed", False)


def test_no_file_names_a_registrys_host_or_an_address_in_a_lock_file() -> None:
    assert "://" not in (ROOT / "requirements.lock").read_text()
    assert not (ROOT / "uv.lock").exists()
    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()
    assert "check_update = false" in (ROOT / ".dvc" / "config").read_text()
