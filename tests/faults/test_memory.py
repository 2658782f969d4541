"""FAULTS 8 and 36: an image takes bounded memory, whatever its shape, under a limit that the kernel holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

MORE = (
    1 << 30
)  # bytes, beside what Python, NumPy and Pillow take; 3 × 60,000 px blown up to 256 px across would be 3.9 GB
SCRIPT = """
import resource, sys
from pipeline import decoding
from pipeline.preprocessing import Preprocessing
with open("/proc/self/statm", encoding="utf-8") as file:
    limit = {more} + int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
wanted = Preprocessing(256, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)
try:
    decoded = decoding.decode(sys.argv[1], {{"own": wanted}}, None)
except decoding.DatasetError as error:
    sys.exit(str(error))
print(decoded.stored["own"].shape)
"""


def decode(path: Path) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(more=MORE)
    return subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, encoding="utf-8", cwd=Path(__file__).parents[2]
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other kernels don't hold the limit")
@pytest.mark.parametrize("size", [(3, 60_000), (60_000, 3), (1, 65_000)])
def test_a_strip_is_decoded_within_a_gigabyte(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "strip.png")
    done = decode(tmp_path / "strip.png")
    assert done.stdout == "(224, 224, 3)\n", done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other kernels don't hold the limit")
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    done = decode(tmp_path / "bomb.png")
    assert done.returncode == 1
    assert "too many pixels" in done.stderr
    assert "Traceback" not in done.stderr
