"""The examples as somebody runs them, on folders made of real pictures from the CIFAR-10 sample."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minicnn
from minicnn.datasets import cifar10

EXAMPLES = Path(__file__).parent.parent / "examples"


@functools.cache
def example(name):
    """The file as a module; its `main` takes the words of a command."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *words):
    return example(name).main([str(word) for word in words])


@functools.cache
def load():
    return cifar10.load_sample()[0]


def sample(class_name, first, count):
    x, y = load()
    return x[y[:, 0] == cifar10.CLASS_NAMES.index(class_name)][first : first + count]


def save(pixels, path, number, size=40):
    """As from several cameras: mixed sizes, some on their side by EXIF, grey, with a palette."""
    picture = Image.fromarray(pixels).resize((size + 3 * (number % 5), size + 2 * (number % 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if number % 5 == 1:
        picture, exif[0x0112] = picture.rotate(90, expand=True), 6
    if number % 7 == 2:
        picture = picture.convert("L")
    if number % 9 == 3:
        picture.convert("P").save(path.with_suffix(".png"), exif=exif)
    else:
        picture.save(path.with_suffix(".jpg"), quality=92, exif=exif)


def fill(folder, classes, first, count):
    for name in classes:
        for i, pixels in enumerate(sample(name, first, count)):
            save(pixels, folder / name / f"{i:03d}", i)
    return folder


def is_a_picture(path):
    with Image.open(path) as picture:
        return min(picture.size) > 150 and np.ptp(np.asarray(picture.convert("L"))) > 100


def is_upright(pixels, expected):
    """As expected, up to JPEG and resizing, which no turned picture is."""
    likeness = [np.corrcoef(np.rot90(pixels, k).ravel(), expected.ravel())[0, 1] for k in range(4)]
    return np.argmax(likeness) == 0 and likeness[0] > 0.97


# -- two people -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("two") / "people", ("frog", "ship"), 0, 60)
    (folder / "frog" / "broken.jpg").write_bytes(b"no picture")
    (folder / "frog" / "again.jpg").write_bytes((folder / "frog" / "000.jpg").read_bytes())
    (folder / ".thumbnails").mkdir()
    return folder


@pytest.fixture(scope="module")
def two_people(people):
    output = people.parent / "output"
    words = ("--size", 32, "--epochs", 15, "--check-steps", 0, "--output", output)
    return (*run("two_people", people, *words), output)


def test_two_people_are_told_apart(two_people):
    model, figures, output = two_people
    assert model.name and figures.class_names == ["frog", "ship"] and 20 <= figures.count <= 28
    low, _ = figures.interval
    assert low > 0.5 and "better than always saying" in figures.verdict
    for name in ("curves", "confusion", "worst_mistakes"):
        assert is_a_picture(output / f"{name}.png")
    text = (output / "report.txt").read_text(encoding="utf-8")
    for said in (
        "train  ",
        "validation  ",
        "test  ",
        "precision",
        "Best epoch",
        "mistakes, the surest first",
    ):
        assert said in text


def test_two_people_says_what_it_does(people, tmp_path, capsys):
    words = ("--size", 16, "--epochs", 1, "--check-steps", 1, "--output", tmp_path)
    run("two_people", people, *words)
    told = capsys.readouterr().out
    assert "left out: " in told and "broken.jpg" in told
    assert "frog: 61 photographs" in told and "ship: 60 photographs" in told
    assert "copies of other photographs, or like them: 1;" in told
    assert "Training check" in told and "duplicates" in told
    assert "always saying" in told or "to everything" in told


def test_two_people_predicts(two_people, people, tmp_path, capsys):
    _, _, output = two_people
    photographs = sorted(people.glob("ship/00*"))
    (tmp_path / "notes.txt").write_text("no picture")
    words = (*photographs, tmp_path / "notes.txt", "--output", output)
    answers = run("two_people", "--predict", *words)
    assert list(answers) == [str(one) for one in photographs]
    assert sum(name == "ship" for name in answers.values()) >= 8
    told = capsys.readouterr().out
    assert "left out: " in told and "notes.txt" in told and " %, " in told


def test_the_command_line_takes_the_model_of_two_people(two_people, people):
    _, _, output = two_people
    command = [sys.executable, "-m", "minicnn", "predict", output / "two_people.keras"]
    done = subprocess.run([*command, people / "ship" / "001.jpg"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("%"), done.stderr


def test_photographs_on_their_side_are_upright(people):
    read = example("two_people").read_photograph
    for number in (1, 6):
        with Image.open(people / "ship" / f"{number:03d}.jpg") as stored:
            assert stored.getexif()[0x0112] == 6
        pixels = read(people / "ship" / f"{number:03d}.jpg", 32)
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        assert is_upright(pixels, np.asarray(sample("ship", number, 1)[0]))


def test_two_people_wants_two(tmp_path):
    fill(tmp_path, ("cat",), 0, 2)
    with pytest.raises(SystemExit, match="two at least"):
        run("two_people", tmp_path, "--output", tmp_path / "output")
    with pytest.raises(SystemExit, match="train first"):
        run("two_people", "--predict", "a.jpg", "--output", tmp_path / "nothing")


# -- an attribute of faces ------------------------------------------------------------------------


@pytest.fixture
def celeba(tmp_path):
    """A folder as CelebA's: frogs do not smile, ships do."""
    attributes, partition, number = [], [], 0
    for part, (first, count) in enumerate(((0, 24), (24, 8), (32, 8))):
        for name, smiles in (("frog", -1), ("ship", 1)):
            for pixels in sample(name, first, count):
                number += 1
                file = f"{number:06d}.jpg"
                path = tmp_path / "celeba" / "img_align_celeba" / file
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).resize((89, 109)).save(path, quality=92)
                attributes.append(f"{file} -1  {smiles:>2} -1 ")
                partition.append(f"{file} {part}")
    lines = [str(number), "Bald Smiling Young ", *attributes]
    (tmp_path / "celeba" / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")
    return tmp_path / "celeba"


@pytest.mark.parametrize("outputs", [1, 2])
def test_feature_maps_end_at_14_by_12(outputs):
    model = example("face_attribute").build_model(single_output=outputs == 1)
    convolutions = [one for one in model.layers if isinstance(one, minicnn.Conv2D)]
    pooling = [one for one in model.layers if isinstance(one, minicnn.MaxPooling2D)]
    assert [one.filters for one in convolutions] == [16, 32, 64, 128]
    assert [one.output.shape[1:3] for one in pooling] == [(109, 89), (55, 45), (28, 23), (14, 12)]
    assert model.inputs[0].shape == (None, 218, 178, 3)
    assert model.outputs[0].shape == (None, outputs)
    assert [type(one).__name__ for one in model.layers[-4:]] == [
        "GlobalAveragePooling2D",
        "Dense",
        "BatchNormalization",
        "Dense",
    ]


@pytest.mark.filterwarnings("ignore:CheckTraining")  # it finds the data too few, rightly
@pytest.mark.parametrize("single", [False, True])
def test_face_attribute(celeba, tmp_path, single, capsys):
    faces, output = tmp_path / "faces", tmp_path / "output"
    words = ["--celeba", celeba, "--attribute", "Smiling", "--epochs", 3, "--batch-size", 8]
    words += ["--learning-rate", 0.003, "--output", output]
    model, figures = run("face_attribute", faces, *words, *(["--single-output"] if single else []))
    assert figures.class_names == ["with_Smiling", "without_Smiling"] and figures.count == 16
    assert figures.accuracy > 0.5  # the training itself is tested by two_people
    assert model.outputs[0].shape == (None, 1 if single else 2)
    for part, count in (("train", 24), ("validation", 8), ("test", 8)):
        for name in figures.class_names:
            assert len(list((faces / part / name).iterdir())) == count
    for name in ("curves", "confusion", "worst_mistakes"):
        assert is_a_picture(output / f"{name}.png")
    told = capsys.readouterr().out
    assert "16 test pictures" in told and "always saying" in told and "Best epoch" in told

    saved = minicnn.load_model(output / "face_attribute.keras")
    x = np.stack([np.asarray(Image.open(next((faces / "test/with_Smiling").iterdir())))])
    x = minicnn.layers.Resizing(218, 178)(x)
    np.testing.assert_array_equal(saved.predict(x, verbose=0), model.predict(x, verbose=0))
    assert saved.notes["pictures"]["class_names"] == figures.class_names


def test_celeba_is_sorted_by_attribute(celeba, tmp_path):
    module = example("face_attribute")
    module.sort_celeba(celeba, tmp_path / "faces", "Smiling", 5)
    module.sort_celeba(celeba, tmp_path / "faces", "Smiling", 5)  # again: nothing changes
    files = sorted((tmp_path / "faces").glob("*/*/*.jpg"))
    assert len(files) == 30
    ships = [file for file in files if file.parent.name == "with_Smiling"]
    assert all((int(file.stem) - 1) % 48 >= 24 for file in ships if file.parts[-3] == "train")
    with pytest.raises(SystemExit, match="no attribute 'Smile', it has: Bald Smiling Young"):
        module.sort_celeba(celeba, tmp_path / "faces", "Smile", 5)

    for name in ("attr_celeba", "eval_partition"):  # the same as .csv, as copies of CelebA have it
        old = celeba / f"list_{name}.txt"
        rows = [",".join(line.split()) for line in old.read_text().splitlines()]
        heads = {"attr_celeba": "image_id,Bald,Smiling,Young", "eval_partition": "image_id,part"}
        rows = rows[2:] if name == "attr_celeba" else rows
        (celeba / f"list_{name}.csv").write_text("\n".join([heads[name], *rows]) + "\n")
        old.unlink()
    module.sort_celeba(celeba, tmp_path / "again", "Smiling", 5)
    again = sorted((tmp_path / "again").glob("*/*/*.jpg"))
    assert [file.parts[-3:] for file in again] == [file.parts[-3:] for file in files]


def test_face_attribute_wants_three_parts(tmp_path):
    fill(tmp_path / "train", ("cat", "dog"), 0, 2)
    with pytest.raises(SystemExit, match="validation is missing"):
        run("face_attribute", tmp_path)


# -- the first tour -------------------------------------------------------------------------------


def test_first_cnn(tmp_path, capsys):
    Image.fromarray(sample("ship", 0, 1)[0]).resize((170, 130)).rotate(90, expand=True).save(
        tmp_path / "photo.jpg", exif=side_ways()
    )
    words = ("--photo", tmp_path / "photo.jpg", "--limit", 1500, "--epochs", 3)
    maps, accuracy, shape = run("first_cnn", *words, "--output", tmp_path / "output")
    assert accuracy > 0.2
    assert shape == (130 // 8, 170 // 8, 32)  # upright
    expected = np.array([[9, 0, 0, 9, 9, -18], [9, 0, 9, 18, 0, -27]])
    np.testing.assert_array_equal(maps["valid"][:2], expected)
    assert [one.shape for one in maps.values()] == [(6, 6), (8, 8), (4, 4)]
    np.testing.assert_array_equal(maps["same"][1:-1, 1:-1], maps["valid"])
    pictures = sorted(path.name[0] for path in (tmp_path / "output").glob("*.png"))
    assert pictures == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert all(is_a_picture(path) for path in (tmp_path / "output").glob("[1-4678]*.png"))
    told = capsys.readouterr().out
    assert "and all added up: 27" in told and "2.25  20.25      0" in told
    assert " -0 " not in told
    assert "first: 16 feature maps of 32 x 32" in told


def side_ways():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", ["face_attribute", "two_people", "first_cnn"])
def test_examples_say_how_they_are_run(name, capsys):
    with pytest.raises(SystemExit) as end:
        run(name, "--help")
    assert end.value.code == 0 and f"python {name}.py" in capsys.readouterr().out
