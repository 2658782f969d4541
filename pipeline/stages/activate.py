"""Make one study the active one, in params.yaml (`make study STUDY=…`).

DVC reads which studies there are from this file alone: its templates know no environment and no argument, and what
`dvc exp run` sets is committed. So the file says it, and `dvc repro` goes on with the same study after a kill.
"""

from __future__ import annotations

import logging

from pipeline import editing, params
from pipeline.files import write_atomically
from pipeline.stages import command

LOG = logging.getLogger(__name__)


def activate(study: str) -> None:
    """Write `active: [study]` where it is not active."""
    loaded = params.load()
    loaded.study(study)
    if study in loaded.active:
        return
    text = params.FILE.read_bytes().decode()
    write_atomically(params.FILE, editing.activated(text, study).encode())
    LOG.info("%s: active is [%s] from now on, and was [%s]", params.FILE, study, ", ".join(loaded.active))


if __name__ == "__main__":
    command.main(activate, "Make a study the only active one.")
