"""What is kept of an earlier comparison with the peers."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks import machine
from tests.benchmarks.peers.compare import kept


def test_other_workloads_stay_where_this_machine_measured_them(tmp_path: Path) -> None:
    target = tmp_path / "peers.json"
    assert kept(target, ["heads"]) == []
    results = [{"workload": "heads"}, {"workload": "fine-tuning"}]
    for cpu, stay in ((machine.describe()["cpu"], results[1:]), ("another", [])):
        target.write_text(json.dumps({"machine": {"cpu": cpu}, "results": results}), encoding="utf-8")
        assert kept(target, ["heads"]) == stay
