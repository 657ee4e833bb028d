"""Damaged, cut and forged files: every one is refused, at once, and the message says where."""

import json
import os
import random
import re
import socket
import struct
import threading
import zipfile

import numpy as np
import pytest
from small_files import numbers, stored, tiny_model

import minicnn
from minicnn import losses, saving
from minicnn.errors import FormatError, IntegrityError
from minicnn.saving import container, weights


def open_container(path):
    """What load_model does with a file before it builds anything."""
    file = container.Container(str(path))
    weights.WeightFile(file.weights, str(path))


def load_weights(path):
    tiny_model().load_weights(path)


def changed(data, bit):
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << (bit % 8)
    return copy


# -- cut, flipped, mutated -------------------------------------------------------------------------


def test_cut_at_every_byte(tiny_bytes, tmp_path):
    path = _written(tmp_path / "cut.keras", tiny_bytes)
    for length in reversed(range(len(tiny_bytes))):
        os.truncate(path, length)
        with pytest.raises(FormatError) as caught:
            container.Container(str(path))
        wanted = f"byte {length}: the file ends" if length >= 4 else "not a .keras file"
        assert wanted in str(caught.value)
    with pytest.raises(FormatError, match="cut off"):
        minicnn.load_model(_written(path, tiny_bytes[:-1]))


def test_weights_cut_at_every_byte(tiny_weights, tmp_path):
    for length in range(len(tiny_weights)):
        with pytest.raises(FormatError) as caught:
            weights.WeightFile(tiny_weights[:length], "w")
        assert re.search(r"byte \d+: ", str(caught.value))
    path = tmp_path / "cut.weights.h5"
    path.write_bytes(tiny_weights[:-1])
    with pytest.raises(FormatError, match=f"byte {len(tiny_weights) - 1}"):
        load_weights(path)


def test_every_flipped_bit_of_the_headers(tiny_bytes, tmp_path):
    path = _written(tmp_path / "flipped.keras", tiny_bytes)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        start = archive.start_dir
    headers = [range(i.header_offset, i.header_offset + 30 + len(i.filename)) for i in infos]
    metadata = range(headers[0].stop, headers[1].start)
    offsets = [*(o for header in headers for o in header), *range(start, len(tiny_bytes))]
    bits = [8 * offset + bit for offset in offsets for bit in range(8)]
    bits += range(8 * metadata.start, 8 * metadata.stop, 3)
    generator = random.Random(1)
    bits += [generator.randrange(len(tiny_bytes) * 8) for _ in range(5000)]
    with open(path, "r+b", buffering=0) as file:
        for bit in bits:
            _flip(file, bit)
            with pytest.raises(IntegrityError):
                container.Container(str(path))
            _flip(file, bit)
        container.Container(str(path))
        _flip(file, 8 * (start - 1))
    with pytest.raises(IntegrityError, match="model.weights.h5 is damaged: CRC-32"):
        minicnn.load_model(path)


def _flip(file, bit):
    file.seek(bit // 8)
    byte = file.read(1)[0] ^ 1 << (bit % 8)
    file.seek(bit // 8)
    file.write(bytes([byte]))


def _written(path, data):
    path.write_bytes(data)
    return path


def test_every_flipped_bit_of_weights(tiny_weights):
    generator = random.Random(2)
    bits = [*range(8 * 256), *(generator.randrange(len(tiny_weights) * 8) for _ in range(10_000))]
    for bit in bits:
        with pytest.raises(FormatError) as caught:
            weights.WeightFile(bytes(changed(tiny_weights, bit)), "w")
        # In the first bytes it is no HDF5 file at all; everywhere else it is one that changed.
        assert bit < 8 * 9 or isinstance(caught.value, IntegrityError)


def test_a_damaged_checksum_is_damage(tiny_weights):
    at = tiny_weights.index(weights._MARK)
    for bit in range(8 * at, 8 * (at + len(weights._MARK) + 32)):
        with pytest.raises(IntegrityError):
            weights.WeightFile(bytes(changed(tiny_weights, bit)), "w")


def test_mutations_raise_only_our_errors(tiny_bytes, tiny_weights, tmp_path):
    """Bytes changed, moved, doubled, dropped; never a silent load, never another exception."""
    generator = random.Random(3)
    for data, name, load in (
        (tiny_bytes, "m.keras", minicnn.load_model),
        (tiny_weights, "m.weights.h5", load_weights),
    ):
        for _ in range(400):
            path = _written(tmp_path / name, mutation(data, generator))
            with pytest.raises(FormatError):
                load(path)
        for _ in range(100):
            with pytest.raises(FormatError):
                load(_written(tmp_path / name, generator.randbytes(generator.randrange(2000))))


def mutation(data, generator):
    copy = bytearray(data)
    while copy == data:
        for _ in range(generator.randint(1, 4)):
            a, b = sorted(generator.randrange(len(copy) + 1) for _ in range(2))
            kind = generator.randrange(5)
            if kind == 0 and a < len(copy):
                copy[a] = generator.randrange(256)
            elif kind == 1:
                del copy[a : min(b, a + 40)]
            elif kind == 2:
                copy[a:a] = copy[a : min(b, a + 40)]
            elif kind == 3:
                copy[a:a] = generator.randbytes(generator.randint(1, 20))
            else:
                copy[a : a + 4] = struct.pack("<L", generator.choice([0, 1, 2**31, 2**32 - 1]))
    return copy


def test_mutated_members_raise_only_our_errors(parts, tmp_path):
    """The archive is sound, the config inside it is not."""
    generator = random.Random(4)
    path = tmp_path / "m.keras"
    model = tiny_model()
    model.compile("adam", losses.MeanSquaredError(), metrics=["mae"])
    config = saving.serialize_keras_object(model)
    config["compile_config"] = saving.serialize_keras_object(model.get_compile_config())
    text = json.dumps(config).encode()
    parts.write(path, text)
    assert minicnn.load_model(path).compiled
    for _ in range(400):
        parts.write(path, mutation(text, generator))
        try:
            model = minicnn.load_model(path)
        except FormatError:
            continue
        assert isinstance(model, minicnn.Model)  # a name or a number changed, legally
    data = parts.members["model.weights.h5"]
    for _ in range(300):
        parts.members["model.weights.h5"] = mutation(data, generator)
        parts.write(path)
        with pytest.raises(FormatError):
            minicnn.load_model(path)


# -- not a file of this kind -----------------------------------------------------------------------


def test_missing_file(tmp_path):
    for load in (minicnn.load_model, load_weights):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "nothing.keras")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\x89PNG\r\n\x1a\n123", "a PNG image"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\x80\x04\x95", "a Python pickle"),
        (b"\x93NUMPY\x01", "a NumPy array file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b'{"class_name": "Dense"}', "a JSON text"),
        (b"<!DOCTYPE html>", "an HTML or XML page"),
        (b"version https://git-lfs", "a text file"),
        (bytes(100), "zeros"),
        (struct.pack("<Q", 40) + b'{"a":{"dtype":"F32"' + bytes(30), "a safetensors file"),
        (bytes(range(256)), "of no format known here"),
    ],
)
def test_other_formats_are_named(data, what, tmp_path):
    path = _written(tmp_path / "m.keras", data)
    for load in (minicnn.load_model, load_weights):
        with pytest.raises(FormatError, match=f"m.keras is {what}, not a .keras file"):
            load(path)


def test_what_is_no_file_is_refused_without_opening_it(tmp_path):
    folder, pipe = tmp_path / "folder.keras", tmp_path / "pipe.keras"
    folder.mkdir()
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.keras"))
        found = [(folder, "a folder"), (pipe, "a named pipe"), (tmp_path / "s.keras", "a socket")]
        found += [("/dev/zero", "a device"), ("/dev/null", "a device")]
        for path, what in found:
            for load in (minicnn.load_model, load_weights):
                failed = []
                # In a thread: a loader that opens the pipe waits forever.
                thread = threading.Thread(target=_catch, args=(load, path, failed), daemon=True)
                thread.start()
                thread.join(5)
                assert failed, f"{path}: {load} hangs"
                assert isinstance(failed[0], FormatError)
                assert f"is {what}, not a file" in str(failed[0])


def _catch(load, path, failed):
    try:
        load(path)
    except Exception as error:
        failed.append(error)


def test_suffixes(tiny, tiny_bytes, tmp_path):
    path = _written(tmp_path / "model.zip", tiny_bytes)
    with pytest.raises(FormatError, match="must end in '.keras'.*is a zip archive"):
        minicnn.load_model(path)
    path = _written(tmp_path / "old.h5", b"\x89HDF\r\n\x1a\n")
    with pytest.raises(FormatError, match="a legacy HDF5 model file, which is not supported"):
        minicnn.load_model(path)
    weights = _written(tmp_path / "old.weights.h5", b"\x89HDF\r\n\x1a\n")
    with pytest.raises(FormatError, match="weights alone: model.load_weights .*an HDF5 file"):
        minicnn.load_model(weights)
    with pytest.raises(FormatError, match="must end in '.weights.h5'"):
        tiny.load_weights(path)
    with pytest.raises(ValueError, match="legacy HDF5 model file, .*use the suffix '.keras'"):
        tiny.save(tmp_path / "new.h5")
    with pytest.raises(ValueError, match="must end in '.keras', not '.*model'"):
        tiny.save(tmp_path / "model")
    with pytest.raises(ValueError, match="must end in '.weights.h5', not '.*w.h5'"):
        tiny.save_weights(tmp_path / "w.h5")
    with pytest.raises(TypeError, match="takes a path"):
        tiny.save(3)
    assert sorted(os.listdir(tmp_path)) == ["model.zip", "old.h5", "old.weights.h5"]


# -- forged archives -------------------------------------------------------------------------------

MEMBERS = container.MEMBERS


def forge(parts, how):
    """The members of a good archive, put together badly."""
    pairs = [(name, parts.members[name]) for name in MEMBERS]
    good = stored(pairs)
    if how == "good":
        return good
    if how == "second config":
        return stored([*pairs, ("config.json", b"{}")])
    if how == "unknown member":
        return stored([*pairs, ("assets/vocabulary.txt", b"a")])
    if how == "path member":
        return stored([*pairs, ("../../evil", b"a")])
    if how.startswith("without "):
        return stored([pair for pair in pairs if pair[0] != how.split()[1]])
    if how == "no members":
        return stored([])
    if how == "bytes before":
        return b"#!/bin/sh\n" + good
    if how == "bytes after":
        return good + b"\x00"
    if how == "comment":
        return good[:-2] + struct.pack("<H", 3) + b"abc"
    if how == "gap":
        at = good.index(b"PK\x01\x02")
        end = bytearray(good[at:])
        end[-6:-2] = struct.pack("<L", at + 5)
        return good[:at] + bytes(5) + end
    if how == "overlap":  # the second entry points at the first member
        at = good.index(b"PK\x01\x02", good.index(b"PK\x01\x02") + 4)
        return good[: at + 42] + bytes(4) + good[at + 46 :]
    raise ValueError(how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("second config", "the member config.json comes twice"),
        ("unknown member", "unknown member 'assets/vocabulary.txt', expected metadata.json"),
        ("path member", "unknown member '../../evil'"),
        ("without config.json", "a zip archive without config.json: not a .keras file"),
        ("without model.weights.h5", "a zip archive without model.weights.h5"),
        ("without metadata.json", "a zip archive without metadata.json"),
        ("no members", "a zip archive without metadata.json, config.json, model.weights.h5"),
        ("bytes before", "something was put before|bytes were put before"),
        ("bytes after", "bytes were appended"),
        ("comment", "bytes were appended|without a comment"),
        ("gap", "do not fill the file"),
        ("overlap", "begins at 0, expected .*: members overlap or leave a gap"),
    ],
)
def test_forged_archives(how, message, parts, tmp_path):
    path = _written(tmp_path / "forged.keras", forge(parts, how))
    with pytest.raises(FormatError, match=message):
        minicnn.load_model(path)


def test_the_same_archive_without_the_forgery_loads(parts, tmp_path):
    path = _written(tmp_path / "good.keras", forge(parts, "good"))
    x = numbers(2, 4, 4, 1)
    model = minicnn.load_model(path)
    np.testing.assert_array_equal(model.predict(x, verbose=0), tiny_model().predict(x, verbose=0))


def test_compressed_members_are_refused(parts, tmp_path):
    path = tmp_path / "z.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in MEMBERS:
            archive.writestr(name, parts.members[name])
    with pytest.raises(FormatError, match="metadata.json is compressed, not stored"):
        minicnn.load_model(path)
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w") as archive:
        archive.writestr("metadata.json", parts.members["metadata.json"])
        archive.writestr("config.json", bytes(50_000_000), zipfile.ZIP_DEFLATED)
        archive.writestr("model.weights.h5", parts.members["model.weights.h5"])
    with pytest.raises(FormatError, match="config.json is compressed, not stored"):
        minicnn.load_model(bomb)


def test_a_config_that_is_too_large_is_refused_unread(parts, tmp_path):
    path = tmp_path / "large.keras"
    parts.write(path, bytes(container.LARGEST["config.json"] + 1))
    with pytest.raises(FormatError, match="config.json has 16777217 bytes, at most 16777216"):
        minicnn.load_model(path)


def test_a_newer_format_is_named(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "FORMAT", 2)
    tiny.save(tmp_path / "m.keras")
    monkeypatch.setattr(container, "FORMAT", 1)
    with pytest.raises(FormatError, match="written by minicnn .* in format 2, this version reads"):
        minicnn.load_model(tmp_path / "m.keras")


def test_a_file_that_shrinks_while_it_is_read(tiny_bytes, tmp_path, monkeypatch):
    path = _written(tmp_path / "m.keras", tiny_bytes)
    read = container.disk.read_exactly

    def shrink(file, offset, count, where):
        if offset == 0:
            os.truncate(path, 100)
        return read(file, offset, count, where)

    monkeypatch.setattr(container.disk, "read_exactly", shrink)
    with pytest.raises(FormatError, match="the file ends, expected .* it changed while"):
        minicnn.load_model(path)


def test_a_link_to_a_file_is_that_file(tiny_bytes, tmp_path):
    _written(tmp_path / "real.keras", tiny_bytes)
    (tmp_path / "latest.keras").symlink_to("real.keras")
    assert minicnn.load_model(tmp_path / "latest.keras").name == "tiny"
