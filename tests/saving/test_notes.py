"""model.notes: plain values that a file keeps beside the model."""

import json
import zipfile

import pytest
from small_files import tiny_model

import minicnn
from minicnn.errors import FormatError
from minicnn.saving import container

NOTES = {"class_names": ["cat", "dog $ é"], "size": [218, 178], "crop": False, "share": 0.5}


def test_notes_come_back(tiny, tmp_path):
    assert tiny.notes is None
    tiny.notes = NOTES
    tiny.save(tmp_path / "model.keras")
    again = minicnn.load_model(tmp_path / "model.keras")
    assert again.notes == NOTES
    again.save(tmp_path / "again.keras")
    assert minicnn.load_model(tmp_path / "again.keras").notes == NOTES
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert json.loads(archive.read("metadata.json"))["notes"] == NOTES


def test_files_without_notes(tiny, tmp_path):
    tiny.notes = NOTES
    tiny_model().save(tmp_path / "model.keras")
    assert minicnn.load_model(tmp_path / "model.keras").notes is None


@pytest.mark.parametrize(
    "notes",
    [["a"], {"a": float("nan")}, {1: "a"}, {"a": (1, 2)}, {"a": object()}, {"a": "x" * 70_000}],
    ids=lambda notes: type(notes).__name__,
)
def test_notes_that_would_change(tiny, tmp_path, notes):
    tiny.notes = notes
    with pytest.raises(ValueError, match=r"model\.notes"):
        tiny.save(tmp_path / "model.keras")
    assert not (tmp_path / "model.keras").exists()


def test_notes_of_another_kind_in_a_file(parts, tmp_path):
    config, weights = parts.members["config.json"], parts.members["model.weights.h5"]
    path = tmp_path / "other.keras"
    path.write_bytes(b"".join(container.pack(config, weights, {"notes": ["a"]})))
    with pytest.raises(FormatError, match="notes is .* not a dict"):
        minicnn.load_model(path)
