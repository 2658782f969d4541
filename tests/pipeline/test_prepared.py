"""Prepared data are read from disk as they are needed, and draws from them are what the study asks for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pipeline import params
from pipeline.stages import prepared
from pipeline.stages.prepared import Prepared, PreparedError
from tests.faults.conftest import Project, project

__all__ = ["project"]


def read(project: Project) -> Prepared:
    return prepared.read(params.load().study("tiny"))


def test_a_contiguous_range_of_images_is_a_view_of_the_file_and_others_are_copies(project: Project) -> None:
    project.prepare()
    data = read(project)
    stored = torch.from_numpy(data.pixels())
    view = data.images(data.test)
    assert view.pixels.data_ptr() == stored[28:].data_ptr()
    assert view.pixels.shape == (12, 3, 24, 24)
    some = data.images(np.array([3, 1, 39]))
    assert torch.equal(some.pixels, stored[[3, 1, 39]].permute(0, 3, 1, 2))
    assert some.labels.tolist() == data.labels[[3, 1, 39]].tolist()
    assert some.keys.tolist() == data.keys[[3, 1, 39]].tolist()
    assert len(data.images(np.array([], dtype=np.int64)).labels) == 0


def test_writing_to_a_view_never_reaches_the_file(project: Project) -> None:
    project.prepare()
    before = (project.prepared / "images.npy").read_bytes()
    data = read(project)
    data.images(data.test).pixels.fill_(0)
    assert (project.prepared / "images.npy").read_bytes() == before


def test_images_stored_as_they_came_serve_every_crop_and_others_are_missed_by_name(project: Project) -> None:
    project.prepare()
    data = read(project)
    assert data.pixels("whole") is data.pixels("own")


def test_the_checksum_of_ids_covers_labels_and_order(project: Project) -> None:
    project.prepare()
    data = read(project)
    some = np.array([0, 1, 2])
    relabelled = Prepared(data.place, data.stored, 1 - data.labels, data.ids, data.keys, data.card)
    sums = [data.ids_sha256(some), data.ids_sha256(some[::-1]), relabelled.ids_sha256(some)]
    assert len(set(sums)) == 3


def test_prepared_data_of_other_parameters_are_refused(project: Project) -> None:
    project.prepare()
    project.write_params(resolution=40)
    with pytest.raises(PreparedError, match="resolution 32, and it is 40 now"):
        read(project)


def test_missing_prepared_data_are_refused_by_name(project: Project) -> None:
    with pytest.raises(PreparedError, match=r"card\.json is missing"):
        read(project)


def test_a_tuned_study_has_pilots_and_its_subsets_say_so(project: Project) -> None:
    project.prepare()
    project.draws()
    study = params.load().study("tiny")
    textbook = prepared.read_subsets(study, read(project).card)
    assert textbook.pilots == {}
    assert textbook.judged.tolist() == list(range(28, 40))
    assert set(textbook.drawn) == {(2, 0), (2, 1)}
    path = project.root / "params.yaml"
    text = path.read_text(encoding="utf-8")
    text = text.replace("textbook", "tuned").replace("watched: 4", "watched: 4\n    test_images: 6")
    path.write_text(text.replace("[2]", "[3]"), encoding="utf-8")
    study = params.load().study("tiny")
    with pytest.raises(PreparedError, match="per_class"):
        prepared.read_subsets(study, read(project).card)
    project.draws()
    tuned = prepared.read_subsets(study, read(project).card)
    assert tuned.pilots == {3: tuple(range(1000, 1010))}
    assert len(tuned.drawn) == 12
    assert len(tuned.judged) == 6
    content = json.loads((project.prepared / "subsets.json").read_text(encoding="utf-8"))
    assert content["overlap"].keys() == {"3"}
    assert 0 <= content["overlap"]["3"] <= 1
