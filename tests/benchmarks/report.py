"""Write reports/benchmarks/report.md from the measurements that lie beside it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path("reports/benchmarks")
TARGETS = {
    "feature extraction, one run": 30.0,
    "feature extraction, five seeds": 40.0,
    "fine-tuning, two seeds": 4.5,
    "seven strategies, five seeds": 5.0,
}  # times as fast as the fastest peer
MEMORY_LIMIT = 1.0  # times what the most frugal peer takes
START_UP_LIMITS = {"import pipeline.stages.train": 3.0, "dvc repro with nothing to do": 3.0}  # seconds
STEP_LIMIT = 0.350  # seconds, at 96 px
KEPT_LIMIT = 1 / 3  # of a cell that computes for itself what its study keeps


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table, numbers to the right."""
    yield "| " + " | ".join(head) + " |"
    yield "| --- |" + " ---: |" * (len(head) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _standard_error(images: int) -> float:
    """Of an accuracy of 80%, in points."""
    return 100 * math.sqrt(0.8 * 0.2 / images)


def _machine(machine: dict[str, Any], commit: bool = True) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cpu']}, {machine['cores']} cores; Python {machine['python']}, {versions}; {machine['date']}" + (
        f", commit `{machine['commit'][:12]}`." if commit else "."
    )


# --- the same work ---------------------------------------------------------------------------------------------------


def peers(content: dict[str, Any]) -> Iterator[str]:
    """Thaw beside its peers."""
    images = content["images"]
    yield "## The same work, four ways"
    yield ""
    yield (
        f"`{content['command']}`: {images['train']} training images of solar cells at {images['resolution']} px "
        f"from image files, batches of 32, AdamW, ImageNet weights, {images['validation']} validation images after "
        "every epoch; all contenders train on the same images and freeze BatchNorm where the strategy does. Thaw runs "
        "the stages `prepare` to `train` on a folder of its own: identity, draws, run store and caches are part of its "
        "work. It also evaluates the training images at the end of every phase, and as many test images as are "
        "validated at the end of every run; the peers don't. The peers decode with two worker processes that persist, "
        "and compute with the same torch and timm as Thaw, in an environment of their own "
        f"({', '.join(content['peers'])}). Contenders take turns, another one first in every round. "
        "Seconds are medians of whole commands; *work* leaves out imports and the interpreter's end. *Ratio* is a "
        "contender's work over Thaw's. Memory is the peak of the proportional set size over all processes, looked at "
        "once a second. Accuracy is the mean over a workload's runs on those validation images: that of a single run "
        f"is uncertain by about {_standard_error(images['validation']):.0f} points. A contender without a row was not "
        "measured on that workload."
    )
    yield ""
    yield _machine(content["machine"], commit=False)
    yield ""
    for workload in TARGETS:
        mine = [result for result in content["results"] if result["workload"] == workload]
        if mine:
            yield from _workload(workload, mine)


def _workload(workload: str, results: list[dict[str, Any]]) -> Iterator[str]:
    def median(contender: str, key: str) -> float:
        return float(statistics.median(result[key] for result in results if result["contender"] == contender))

    contenders = list(dict.fromkeys(result["contender"] for result in results))
    repeats = 1 + max(result["repeat"] for result in results)
    commits = sorted({result["commit"][:12] for result in results})
    yield f"### {workload[0].upper()}{workload[1:]}"
    yield ""
    rows = [
        [
            contender,
            f"{median(contender, 'work_seconds'):.1f}",
            f"{median(contender, 'seconds'):.1f}",
            f"{median(contender, 'work_seconds') / median('thaw', 'work_seconds'):.1f}",
            f"{median(contender, 'seconds') / median('thaw', 'seconds'):.1f}",
            f"{100 * median(contender, 'accuracy'):.1f}",
            f"{median(contender, 'peak_mb'):,.0f}",
        ]
        for contender in contenders
    ]
    yield from table(
        ["contender", "work, s", "with start-up, s", "ratio", "with start-up", "accuracy, %", "peak, MB"], rows
    )
    others = [contender for contender in contenders if contender != "thaw"]
    if not others:
        return
    ratio = min(median(other, "work_seconds") for other in others) / median("thaw", "work_seconds")
    whole = min(median(other, "seconds") for other in others) / median("thaw", "seconds")
    target = TARGETS[workload]
    memory = median("thaw", "peak_mb") / min(median(other, "peak_mb") for other in others)
    yield (
        f"{'One round' if repeats == 1 else f'{repeats} rounds'}. **{ratio:.1f} times as fast as the fastest peer** "
        f"({whole:.1f} with start-up); the target of {target:g} is {_verdict(ratio >= target)}. Thaw's peak memory is "
        f"{memory:.2f} times that of the most frugal peer; the target of at most {MEMORY_LIMIT:g} is "
        f"{_verdict(memory <= MEMORY_LIMIT)}. "
        f"Commit {', '.join(f'`{commit}`' for commit in commits)}."
    )
    yield ""


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


# --- growth ----------------------------------------------------------------------------------------------------------


def exponent(sizes: list[float], values: list[float]) -> float:
    """Slope of log value over log size: 1 is proportional, 2 quadratic, 0 constant."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def growth(content: dict[str, Any]) -> Iterator[str]:
    """Time and memory over sizes."""
    base = ", ".join(
        f"{value} {'strategy' if (name, value) == ('strategies', 1) else name}"
        for name, value in content["base"].items()
    )
    yield "## How cost grows"
    yield ""
    yield (
        f"`make bench-growth`: fine-tuning and strategies that cost the same, {content['epochs']} epochs, "
        f"{content['validation']} validation images, from {base}; one of them at a time is changed. Medians of "
        f"{content['repeats']}, start-up left out. The exponent is the slope of log cost over log size: 1 is "
        "proportional, 2 quadratic, 0 constant."
    )
    yield ""
    yield _machine(content["machine"])
    yield ""
    rows = []
    for axis in dict.fromkeys(row["axis"] for row in content["growth"]):
        mine = [row for row in content["growth"] if row["axis"] == axis]
        sizes, seconds = [row["size"] for row in mine], [row["seconds"] for row in mine]
        memory = [row["peak_mb"] for row in mine]
        rows.append(
            [
                axis,
                ", ".join(map(str, sizes)),
                ", ".join(f"{value:.1f}" for value in seconds),
                f"{exponent(sizes, seconds):.2f}",
                ", ".join(f"{value:,}" for value in memory),
                f"{exponent(sizes, memory):.2f}",
            ]
        )
    yield from table(["", "sizes", "seconds", "exponent", "peak, MB", "exponent"], rows)
    if "folded" not in content:
        yield "The rest is not measured yet: `make bench-growth` goes on from here."
        yield ""
        return
    yield "## Start-up"
    yield ""
    for name, seconds in content["start_up"].items():
        limit = START_UP_LIMITS.get(name)
        said = "" if limit is None else f"; the target of less than {limit:g} s is {_verdict(seconds < limit)}"
        yield f"- `{name}`: {seconds:.1f} s, median of 5{said}."
    yield ""
    yield "## Where the time goes"
    yield ""
    whole = sum(content["feature_extraction"].values())
    yield (
        "Feature extraction, one run of 20 epochs, on one core; in a study, all cores decode images and compute "
        "features:"
    )
    yield ""
    for name, seconds in content["feature_extraction"].items():
        yield f"- {name}: {seconds:.2f} s ({100 * seconds / whole:.0f}%)"
    yield ""
    yield (
        "What is left to gain is bounded by decoding and by one pass through the backbone, which nobody can skip; the "
        "ratio to peers, who repeat both every epoch, grows with epochs and seeds."
    )
    yield ""
    yield from _many_test_images(content["many_test_images"])
    yield "### A training step"
    yield ""
    yield _folded(content["folded"])
    yield ""
    yield (
        "torch.profiler over ten such steps at 64 px, one thread, share of an operator's own CPU time. "
        + _bound(content["step"])
    )
    yield ""
    yield from table(
        ["operator", "share, %"], [[f"`{row['operator']}`", f"{100 * row['share']:.1f}"] for row in content["step"]]
    )
    yield from _compiled(content["compiled"])


def _many_test_images(seconds: dict[str, float]) -> Iterator[str]:
    share = seconds["second cell"] / seconds["cell without a cache"]
    yield "### Many test images"
    yield ""
    yield (
        "A cell of `last_block` with 100 training and 10,000 test images (study `cifar10`, random pixels, one core) "
        f"takes {seconds['second cell']:.1f} s where the study keeps what the frozen groups make of the test images, "
        f"and {seconds['cell without a cache']:.1f} s where it computes that itself: {share:.2f} times as much; the "
        f"target of at most a third is {_verdict(share <= KEPT_LIMIT)}. Filling the cache takes "
        f"{seconds['filling it']:.1f} s of one core, once; a study uses all cores."
    )
    yield ""


def _folded(seconds: dict[str, float]) -> str:
    return (
        "At 96 px, a step of EfficientNet-Lite0 in which everything learns but BatchNorm takes "
        f"{1000 * seconds['folded']:.0f} ms, and {1000 * seconds['unfolded']:.0f} ms where BatchNorm is not folded "
        "into its convolutions (one thread, batches of 32, medians, side by side); the target of at most "
        f"{1000 * STEP_LIMIT:.0f} ms is {_verdict(seconds['folded'] <= STEP_LIMIT)}."
    )


def _bound(step: list[dict[str, Any]]) -> str:
    convolutions = sum(row["share"] for row in step if "convolution" in row["operator"])
    return (
        f"The library's convolutions take {100 * convolutions:.0f}%: if everything else cost nothing, a step would be "
        f"{1 / convolutions:.1f} times as fast. Most of the seven strategies' time is such steps, so their ratio stays "
        "close to that of fine-tuning, and twice that ratio needs faster convolutions (lower precision, or a GPU), not "
        "fewer copies or less Python."
    )


def _compiled(compiled: dict[str, float] | None) -> Iterator[str]:
    yield "## torch.compile"
    yield ""
    if compiled is None:
        yield "Not measured: this machine has no C++ compiler, which torch.compile needs on a CPU."
    else:
        saved = compiled["eager"] - compiled["compiled"]
        pays = (
            f"it would pay for itself after {compiled['first'] / saved:,.0f} steps in one process, and every worker of "
            "every stage compiles anew or loads its cache"
            if saved > 0
            else "it never pays: eager steps, with their own kernels for depthwise convolutions and padding, are faster"
        )
        yield (
            f"The first compiled training step took {compiled['first']:.0f} s; after that, a step takes "
            f"{1000 * compiled['compiled']:.0f} ms, and {1000 * compiled['eager']:.0f} ms eagerly (medians, side by "
            f"side): {pays}. Thaw doesn't compile on a CPU."
        )
    yield ""


# --- parts -----------------------------------------------------------------------------------------------------------


def parts(content: dict[str, Any]) -> Iterator[str]:
    """What pytest-benchmark measured."""
    yield "## Parts"
    yield ""
    yield (
        "`make bench` (one thread, 64 px, batches of 32); `make bench-save` keeps a run, and `make bench-compare` "
        "fails where a median has grown by more than `BENCH_LIMIT` (30%) since. *Cached* steps start from kept "
        "activations of the frozen groups."
    )
    yield ""
    info = content["machine_info"]
    cpu = info["cpu"].get("brand_raw", info["processor"])
    yield f"{cpu}; Python {info['python_version']}; {content['datetime'][:10]}."
    yield ""
    rows = [
        [f"`{entry['name'].removeprefix('test_')}`", _duration(entry["stats"]["median"]), str(entry["stats"]["rounds"])]
        for entry in content["benchmarks"]
    ]
    yield from table(["part", "median", "rounds"], rows)


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


ON_A_GPU = """## On a GPU

Measured once, by hand, on one H100 (torch 2.11; EfficientNet-Lite0, 224 px, batches of 32, bfloat16, everything
learns; medians of three times twelve steps): a training step takes 30.0 ms where its kernels are launched one by one,
25.7 without deterministic algorithms, and 4.8 ms replayed as a CUDA graph, deterministic or not. So steps and
evaluation are replayed, where being deterministic costs nothing. `make bench` times the step where there is a GPU.

Not measured: float32, how many workers a card takes best (one unless THAW_WORKERS asks for more), whole studies.
"""


def read(name: str) -> Any:
    """One file of measurements, None where it has not been made."""
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def main() -> None:
    """Write the report over what has been measured so far."""
    lines = ["# How fast is Thaw?", ""]
    for name, section, command in (
        ("peers.json", peers, "make bench-peers"),
        ("growth.json", growth, "make bench-growth"),
        ("bench.json", parts, "make bench"),
    ):
        content = read(name)
        lines += [f"Not measured yet: `{command}`.", ""] if content is None else list(section(content))
    lines.append(ON_A_GPU)
    (FOLDER / "report.md").write_text("\n".join(lines), encoding="utf-8")
    print(f"wrote {FOLDER / 'report.md'}")


if __name__ == "__main__":
    main()
