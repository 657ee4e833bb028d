"""The command line as a user meets it, on folders made of pictures from the CIFAR-10 sample."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import minicnn
from minicnn import datasets, layers
from minicnn.cli import folders, main, networks
from minicnn.data import splitting
from minicnn.data.pictures import Preparation

CLASSES = {"airplane": 0, "frog": 6}
SMALL = ("--size", "16", "--no-augment", "--quiet", "--learning-rate", "0.003")


@functools.cache
def load():
    return datasets.cifar10.load_sample()[0]


def sample(number, count):
    x, y = load()
    return x[y.ravel() == number][:count]


def make_folder(folder, count=40, first=0, classes=CLASSES, suffix="jpg"):
    """A folder per class, pictures of mixed sizes, one of them lying on its side by EXIF."""
    for name, number in classes.items():
        (folder / name).mkdir(parents=True)
        for i, pixels in enumerate(sample(number, first + count)[first:]):
            picture = Image.fromarray(pixels).resize((30 + i % 5, 28 + i % 3))
            exif = Image.Exif()
            if i == 1:
                picture, exif[0x0112] = picture.rotate(90, expand=True), 6
            picture.save(folder / name / f"{i:03d}.{suffix}", quality=95, exif=exif)
    return folder


def run(*arguments):
    try:
        runner = CliRunner(mix_stderr=False)
    except TypeError:  # click 8.2 never mixes
        runner = CliRunner()
    result = runner.invoke(main, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = make_folder(tmp_path_factory.mktemp("pictures") / "two")
    (folder / "frog" / "broken.jpg").write_bytes(b"no picture")
    copy = (folder / "frog" / "000.jpg").read_bytes()
    (folder / "frog" / "copy.jpg").write_bytes(copy)
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    return folder


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """(model file, report folder, what `minicnn train` said)."""
    folder = tmp_path_factory.mktemp("trained")
    out, report = folder / "model.keras", folder / "report"
    result = run("train", pictures, "--out", out, "--epochs", 6, "--report", report, *SMALL)
    assert result.exit_code == 0, result.stderr
    return out, report, result


# -- train ----------------------------------------------------------------------------------------


def test_train_says_what_it_does(trained, pictures):
    out, _, result = trained
    assert f"{pictures}: 82 pictures, airplane 40, frog 42" in result.stderr
    assert "1 of 82 pictures cannot be read and are left out" in result.stderr
    assert "broken.jpg" in result.stderr and "hold no picture: empty" in result.stderr
    assert "copies of other pictures, or like them: 1; kept in one part" in result.stderr
    assert "parts: train 57, validation 12, test 12" in result.stderr
    assert "input: 16 x 16 rgb (height x width; the median picture has" in result.stderr
    assert re.search(r"12 test pictures:\naccuracy [\d.]+ % of 12 \(95 % confi", result.stdout)
    assert "always saying" in result.stdout and "Best epoch" in result.stdout
    assert result.stderr.rstrip().endswith(f"model: {out}")


def test_train_writes_a_report(trained):
    _, folder, _ = trained
    figures = json.loads((folder / "report.json").read_text())
    assert figures["part"] == "test" and figures["count"] == 12
    assert len(figures["mistakes"]) == round(12 * (1 - figures["accuracy"]))
    assert len(figures["history"]["val_loss"]) <= 6
    assert "precision" in (folder / "report.txt").read_text()
    for name in ("curves", "confusion", "worst_mistakes"):
        with Image.open(folder / f"{name}.png") as picture:
            assert min(picture.size) > 200


def test_the_file_needs_nothing_else(trained):
    model = minicnn.load_model(trained[0])
    card = model.notes["pictures"]
    assert card["class_names"] == ["airplane", "frog"]
    assert card["preparation"]["size"] == [16, 16]
    assert card["training"]["pictures"] == {"train": 57, "validation": 12, "test": 12}
    assert 0 <= card["training"]["test_accuracy"] <= 1


def test_the_same_seed_the_same_model(trained, pictures, tmp_path):
    out = tmp_path / "again.keras"
    result = run("train", pictures, "--out", out, "--epochs", 6, "--json", *SMALL)
    assert json.loads(result.stdout)["model"] == str(out)
    first, second = (minicnn.load_model(path) for path in (trained[0], out))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_three_folders_and_little_memory(tmp_path):
    folder = tmp_path / "split"
    for i, part in enumerate(("train", "val", "test")):
        make_folder(folder / part, 12, 12 * i)
    results = []
    for memory in ("1", "0.000001"):
        out = tmp_path / f"{memory}.keras"
        result = run(
            *("train", folder, "-o", out, "--epochs", 1, "--memory", memory, "--json", *SMALL)
        )
        assert result.exit_code == 0, result.stderr
        assert "parts: train 24, validation 24, test 24" in result.stderr
        results.append(json.loads(result.stdout)["count"])
    assert results == [24, 24] and "read anew in every epoch" in result.stderr


def test_the_same_pictures_in_two_parts(tmp_path):
    folder = tmp_path / "split"
    for part, first in (("train", 0), ("validation", 8), ("test", 20)):
        make_folder(folder / part, 10, first)
    shutil.copy(folder / "train" / "frog" / "000.jpg", folder / "test" / "frog" / "copy.jpg")
    result = run("train", folder, "-o", tmp_path / "a.keras", "--epochs", 1, *SMALL)
    assert result.exit_code == 0
    told = [line for line in result.stderr.splitlines() if "in two parts" in line]
    copy, alike = told[0].replace(str(tmp_path), "").split("; ")  # the pixels of four are equal
    assert re.search(r"1 files are in two parts, e.g. .*000.jpg' \(train\) = .*copy.jpg'", copy)
    assert re.match(r"4 pictures look the same in two parts, .* \(train\) ~ .*validation", alike)
    assert len(told) == 1


def test_pictures_that_are_read_when_needed(tmp_path):
    listing = folders.list_pictures(make_folder(tmp_path / "few", 5))
    preparation = Preparation((16, 20))
    whole, good = folders.read_all(listing.paths, preparation)
    assert good.tolist() == list(range(10)) and whole.shape == (10, 16, 20, 3)
    nothing, good = folders.read_all(listing.paths, preparation, keep=False)
    assert nothing is None and good.tolist() == list(range(10))
    x, y = (np.concatenate(c) for c in zip(*folders.batches(listing, preparation, 4), strict=True))
    np.testing.assert_array_equal(x, whole)
    np.testing.assert_array_equal(y, listing.labels)
    passes = []
    for _ in range(2):
        data = folders.batches(listing, preparation, 4, seed=5)
        passes.append([np.concatenate([x for x, _ in data]) for _ in range(2)])
    np.testing.assert_array_equal(passes[0], passes[1])
    assert (passes[0][0] != passes[0][1]).any() and (passes[0][0] != whole).any()
    assert passes[0][0].sum() == passes[0][1].sum() == whole.sum()


def test_odd_files_are_told_once_for_all_epochs(tmp_path):
    folder = make_folder(tmp_path / "odd", 12)
    os.rename(folder / "frog" / "003.jpg", folder / "frog" / "003.png")
    result = run(
        *("train", folder, "-o", tmp_path / "a.keras", "--epochs", 2, "--memory", "0.000001"),
        *SMALL,
    )
    assert result.exit_code == 0 and result.stderr.count("is a JPEG file by its content") == 1


def test_classes_that_some_parts_lack(tmp_path):
    folder = tmp_path / "split"
    make_folder(folder / "train", 10)
    make_folder(folder / "validation", 5, 10)
    make_folder(folder / "test", 5, 15, classes={"frog": 6})
    result = run("train", folder, "-o", tmp_path / "a.keras", "--epochs", 1, *SMALL)
    told = [line for line in result.stderr.splitlines() if "class 'airplane'" in line]
    assert told == ["minicnn: warning: class 'airplane' is in train and validation only"]
    folder = make_folder(tmp_path / "few", 12)
    for path in sorted((folder / "frog").iterdir())[2:]:
        path.unlink()
    result = run("train", folder, "-o", tmp_path / "b.keras", "--epochs", 1, *SMALL)
    assert "class 'frog' is in train and validation only" in result.stderr


def test_without_validation_the_test_stands_in(tmp_path):
    folder = tmp_path / "split"
    for i, part in enumerate(("train", "test")):
        make_folder(folder / part, 10, 10 * i)
    result = run("train", folder, "-o", tmp_path / "a.keras", "--epochs", 1, "--balance", *SMALL)
    assert result.exit_code == 0 and "test/ is used to stop training" in result.stderr
    assert "20 validation pictures, which also chose the epoch" in result.stdout


def test_grey_pictures(tmp_path):
    folder = make_folder(tmp_path / "grey", 10)
    for path in folder.rglob("*.jpg"):
        with Image.open(path) as picture:
            picture.convert("L").save(path)
    out = tmp_path / "grey.keras"
    result = run("train", folder, "-o", out, "--epochs", 1, *SMALL)
    assert result.exit_code == 0 and "16 x 16 grayscale" in result.stderr
    assert minicnn.load_model(out).inputs[0].shape == (None, 16, 16, 1)


def test_ctrl_c_keeps_the_best_model(pictures, tmp_path):
    out = tmp_path / "best.keras"
    command = [sys.executable, "-m", "minicnn", "train", pictures, "--out", out]
    command += ["--epochs", "100000", "--patience", "100000", *SMALL]
    process = subprocess.Popen(
        [str(one) for one in command], stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        for _ in range(1200):
            if out.exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert re.search(
        r"interrupted after epoch \d+: the best model so far, of epoch \d+ \(validation accuracy "
        r"[\d.]+ %\), is in ",
        told,
    )
    assert "Traceback" not in told
    assert run("predict", out, pictures / "frog" / "002.jpg").exit_code == 0


def test_ctrl_c_before_the_first_epoch(pictures, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(minicnn.Model, "fit", interrupt)
    result = run("train", pictures, "--out", tmp_path / "a.keras", *SMALL)
    assert result.exit_code == 130 and "nothing was written" in result.stderr
    assert not (tmp_path / "a.keras").exists()


# -- the others -----------------------------------------------------------------------------------


def test_evaluate(trained, pictures, tmp_path):
    result = run("evaluate", trained[0], pictures, "--report", tmp_path / "report")
    assert result.exit_code == 0 and "accuracy" in result.stdout
    assert "81 pictures:" in result.stdout and "broken.jpg" in result.stderr
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    result = run("evaluate", trained[0], pictures, "--json")
    figures = json.loads(result.stdout)
    assert figures["count"] == 81 and figures["confusion"] == written["confusion"]
    assert figures["classes"]["frog"]["count"] == 41


def test_evaluate_takes_the_test_part(trained, tmp_path):
    folder = tmp_path / "split"
    for i, part in enumerate(("train", "test")):
        make_folder(folder / part, 3, 3 * i)
    result = run("evaluate", trained[0], folder, "--json")
    assert f"evaluating on {folder / 'test'}" in result.stderr
    assert json.loads(result.stdout)["count"] == 6


def test_evaluate_a_class_only(trained, tmp_path):
    folder = make_folder(tmp_path / "frogs", 3, classes={"frog": 6})
    result = run("evaluate", trained[0], folder, "--json")
    assert result.exit_code == 0 and "has no picture of airplane" in result.stderr
    assert json.loads(result.stdout)["classes"]["airplane"]["count"] == 0


def test_predict(trained, pictures):
    files = [pictures / "frog" / "003.jpg", pictures / "airplane" / "001.jpg"]
    result = run("predict", trained[0], *files)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and len(lines) == 2
    for line, file in zip(lines, files, strict=True):
        assert re.fullmatch(rf"{re.escape(str(file))}: (airplane|frog) [\d.]+ %", line)
    answers = json.loads(run("predict", "--json", trained[0], *files).stdout)
    model, preparation = minicnn.load_model(trained[0]), Preparation((16, 16))
    rows = model.predict(np.stack([preparation.read(file) for file in files]), verbose=0)
    for answer, row in zip(answers, rows, strict=True):
        assert answer["probability"] == pytest.approx(row.max())
        assert answer["class"] == ["airplane", "frog"][row.argmax()]
        assert answer["probabilities"]["frog"] == pytest.approx(row[1])


def test_predict_goes_on_after_a_picture_that_cannot_be_read(trained, pictures):
    bad, missing = pictures / "frog" / "broken.jpg", pictures / "nothing.jpg"
    result = run("predict", trained[0], bad, pictures / "frog" / "004.jpg", missing)
    assert result.exit_code == 1 and len(result.stdout.splitlines()) == 1
    assert result.stderr.splitlines() == [
        f"minicnn: error: {bad} is no picture but text, it begins with b'no picture'",
        f"minicnn: error: {missing} cannot be read: No such file or directory",
    ]
    result = run("predict", "--json", trained[0], missing)
    assert result.exit_code == 1
    reason = "cannot be read: No such file or directory"
    assert json.loads(result.stdout) == [{"file": str(missing), "error": reason}]


def test_predict_a_folder(trained, pictures, tmp_path):
    result = run("predict", trained[0], pictures / "airplane")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 40
    told = fails("predict", trained[0], tmp_path)
    assert told == f"minicnn: error: {tmp_path} holds no picture\n"


def test_info(trained):
    result = run("info", trained[0])
    assert result.exit_code == 0
    for words in ("Total params", "16 x 16 x 3", "classes: airplane, frog", "epochs: ", "bytes"):
        assert words in result.stdout
    told = json.loads(run("info", trained[0], "--json").stdout)
    assert told["classes"] == ["airplane", "frog"] and told["parameters"] > 1000
    assert told["bytes"] == trained[0].stat().st_size


def test_a_model_of_other_hands(tmp_path, pictures):
    model = minicnn.Sequential(
        [layers.Input((8, 8, 3)), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
    )
    path = tmp_path / "own.keras"
    model.save(path)
    result = run("predict", path, pictures / "frog" / "000.jpg")
    assert result.exit_code == 0 and re.search(r"000.jpg: [01] [\d.]+ %", result.stdout)
    assert "was not written by minicnn train" in result.stderr
    result = run("evaluate", path, pictures)
    assert result.exit_code == 0 and "taken to be airplane, frog" in result.stderr
    assert "the file does not name them" in run("info", path).stdout


# -- bad input ------------------------------------------------------------------------------------


def fails(*arguments, code=1):
    """The one line that it says."""
    result = run(*arguments)
    assert result.exit_code == code, (result.stdout, result.stderr)
    assert result.stdout == "" and "Traceback" not in result.stderr
    return result.stderr


def test_folders_that_are_no_data(tmp_path, pictures):
    out = tmp_path / "a.keras"
    assert "does not exist" in fails("train", tmp_path / "no", "--out", out, code=2)
    (tmp_path / "empty").mkdir()
    assert "no picture in the folders of" in fails("train", tmp_path / "empty", "--out", out)
    one = make_folder(tmp_path / "one", 4, classes={"frog": 6})
    told = fails("train", one, "--out", out)
    assert "needs a folder of pictures for each of two or more classes" in told
    assert "'frog'" in told and len(told.splitlines()) == 1
    bad = tmp_path / "bad"
    for name in "ab":
        (bad / name).mkdir(parents=True)
        (bad / name / "x.jpg").write_bytes(b"no")
    assert "none of the 2 pictures can be read" in fails("train", bad, "--out", out)
    few = make_folder(tmp_path / "few", 1)
    assert "no pictures for validation" in fails("train", few, "--out", out, *SMALL)
    told = fails("train", pictures, "--out", out, "--damaged", "refuse", *SMALL)
    assert "1 of 82 pictures cannot be read (--damaged skip leaves them out)" in told
    assert not out.exists()


def test_places_that_cannot_be_written(tmp_path, pictures, monkeypatch):
    there = tmp_path / "there.keras"
    there.write_bytes(b"precious")
    told = fails("train", pictures, "--out", there)
    assert told == f"minicnn: error: {there} exists; --overwrite replaces it\n"
    assert there.read_bytes() == b"precious"
    told = fails("train", pictures, "--out", tmp_path / "no" / "a.keras")
    assert "there is no such folder" in told
    told = fails("train", pictures, "--out", tmp_path / "model.h5", code=2)
    assert "ends in .keras" in told
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK)
    assert "no permission to write" in fails("train", pictures, "--out", tmp_path / "a.keras")


def test_files_that_are_no_models(tmp_path, trained, pictures):
    photo = pictures / "frog" / "002.jpg"
    assert "there is no such file" in fails("info", tmp_path / "no.keras")
    assert "a JPEG image" in fails("info", photo)
    cut = tmp_path / "cut.keras"
    cut.write_bytes(trained[0].read_bytes()[:-100])
    told = fails("predict", cut, photo)
    assert told.startswith("minicnn: error: ") and len(told.splitlines()) == 1
    (tmp_path / "folder.keras").mkdir()
    assert "is a folder" in fails("info", tmp_path / "folder.keras")
    model = minicnn.Sequential([layers.Input((5,)), layers.Dense(2)])
    model.save(tmp_path / "vector.keras")
    assert "not pictures of one size" in fails("predict", tmp_path / "vector.keras", photo)


@pytest.mark.parametrize(
    "change",
    [
        {"class_names": None},
        {"preparation": {"size": [16, 16]}},
        {"preparation": {"size": [16], "color_mode": "rgb"}},
        {"preparation": "stretched"},
        {"training": 7},
    ],
)
def test_notes_of_other_hands(tmp_path, trained, pictures, change):
    model = minicnn.load_model(trained[0])
    model.notes = {"pictures": {**model.notes["pictures"], **change}}
    path = tmp_path / "a.keras"
    model.save(path)
    for command in (("info", path), ("predict", path, pictures / "frog" / "002.jpg")):
        told = fails(*command)
        assert "its notes on pictures are not as minicnn train writes them" in told
        assert len(told.splitlines()) == 1


def test_other_classes(tmp_path, trained):
    folder = make_folder(tmp_path / "other", 2, classes={"frog": 6, "ship": 8})
    told = fails("evaluate", trained[0], folder)
    assert "has a folder 'ship', but the model knows the classes airplane, frog" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage"),
        (("trian",), "No such command"),
        (("train",), "Missing argument 'DIR'"),
        (("predict", "a.keras"), "Missing argument 'PICTURE...'"),
        (("train", ".", "--out", "a.keras", "--size", "tiny"), "is no size"),
        (("train", ".", "--out", "a.keras", "--split", "0.5", "0.5"), "leaves nothing"),
        (("train", ".", "--out", "a.keras", "--epochs", "0"), "x>=1"),
    ],
)
def test_usage(arguments, words):
    result = run(*arguments)
    assert result.exit_code in ((0, 2) if not arguments else (2,))
    assert words in result.stdout + result.stderr


def test_traceback_on_request(tmp_path):
    with pytest.raises(ValueError, match="no picture in the folders"):
        run("--traceback", "train", tmp_path, "--out", tmp_path / "a.keras")


def test_help_and_version():
    assert run("--version").stdout == f"minicnn {minicnn.__version__}\n"
    assert "Exit codes: 0 all is well" in run("--help").stdout
    for command in ("train", "evaluate", "predict", "info"):
        assert run(command, "--help").exit_code == 0


def test_help_is_quick_to_load():
    code = (
        "import sys; from minicnn.cli import main\nassert not {'numba', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(minicnn.__file__).parents[1])


# -- parts ----------------------------------------------------------------------------------------


def test_split_keeps_groups_and_shares():
    labels = np.repeat([0, 1, 2], [100, 40, 3])
    groups = np.arange(143)
    groups[:30] = 0  # thirty pictures of one burst
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    rows = splitting.stratified_split(labels, groups, shares, seed=3)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(143))
    holders = [part for part, one in rows.items() if 0 in groups[one]]
    assert holders == ["train"]
    for part, one in rows.items():
        counts = np.bincount(labels[one], minlength=3)
        assert abs(counts[0] - 100 * shares[part]) <= 1 and abs(counts[1] - 40 * shares[part]) <= 1
        assert counts[2] == 1
    again = splitting.stratified_split(labels, groups, shares, seed=3)
    assert all((again[part] == rows[part]).all() for part in rows)
    other = splitting.stratified_split(labels, groups, shares, seed=4)
    assert any(
        len(other[part]) != len(rows[part]) or (other[part] != rows[part]).any() for part in rows
    )


def test_look_alikes_are_one_group(tmp_path):
    x = sample(6, 6)
    x = np.concatenate([x, np.clip(x[:2] * 0.9 + 10, 0, 255).astype(np.uint8)])
    for i, pixels in enumerate(x):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(8)]
    groups = splitting.groups_of_alike(paths, x)
    assert groups[0] == groups[6] and groups[1] == groups[7] and len(set(groups)) == 6
    assert len(set(splitting.groups_of_alike(paths))) == 8  # no two files have the same bytes


@pytest.mark.parametrize(
    ("median", "count", "size", "blocks"),
    [
        ((3000, 4000), 60, (48, 64), 3),
        ((3000, 4000), 6_000, (96, 128), 4),
        ((218, 178), 1_000, (96, 80), 4),
        ((32, 32), 50_000, (32, 32), 3),
        ((12, 9), 100, (12, 9), 1),
    ],
)
def test_the_network_by_size_and_number(median, count, size, blocks):
    assert networks.input_size(median, count) == size
    assert networks.blocks_for(size) == blocks
    model = networks.default_network(size, 3, 4, count, augment=True, flip=False)
    assert model.outputs[0].shape == (None, 4)
    model.compile("adam", "sparse_categorical_crossentropy")
    assert networks.batch_size_for(count) == (
        64 if count >= 5000 else 32 if count > 256 else count // 8
    )
