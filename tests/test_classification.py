"""classification_report, and the figures that are drawn of it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minicnn import metrics, visualization
from minicnn.checks.history import check_overfitting
from minicnn.visualization.report import mistakes

TRUE = np.array([0, 0, 0, 0, 1, 1, 2, 2])
SAID = np.array([0, 0, 0, 1, 1, 0, 2, 1])


def test_figures_by_hand():
    report = metrics.classification_report(TRUE, SAID, ["a", "b", "c"])
    np.testing.assert_array_equal(report.confusion, [[3, 1, 0], [1, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(report.precision, [3 / 4, 1 / 3, 1])
    np.testing.assert_allclose(report.recall, [3 / 4, 1 / 2, 1 / 2])
    np.testing.assert_allclose(report.f1, [3 / 4, 2 / 5, 2 / 3])
    assert report.accuracy == 5 / 8 and report.majority == ("a", 0.5) and report.count == 8
    assert report.interval == pytest.approx((0.3057, 0.8632), abs=1e-4)
    assert "cannot be told from always saying a (50.0 %)" in report.verdict
    assert report.as_dict()["classes"]["b"]["count"] == 2
    text = str(report)
    assert "accuracy 62.5 % of 8 (95 % confidence: 30.6 % to 86.3 %)" in text
    assert "75.0 %" in text and "33.3 %" in text


def test_predictions_as_a_model_gives_them():
    rows = np.eye(3)[SAID]
    both = [metrics.classification_report(np.eye(3)[TRUE], rows), None]
    both[1] = metrics.classification_report(TRUE[:, None], SAID)
    np.testing.assert_array_equal(both[0].confusion, both[1].confusion)
    one = metrics.classification_report([0, 1, 1], np.array([[0.2], [0.9], [0.4]]))
    np.testing.assert_array_equal(one.confusion, [[1, 0], [1, 1]])


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (np.zeros(40, int), "It says 0 to everything"),
        (np.arange(40) % 2, "better than always saying"),
        ((np.arange(40) + 1) % 2, "no better than always saying"),
    ],
)
def test_the_verdict(said, words):
    assert words in metrics.classification_report(np.arange(40) % 2, said).verdict


def test_classes_without_samples():
    report = metrics.classification_report([0, 0], [0, 0], ["here", "nowhere"])
    assert np.isnan(report.recall[1]) and np.isnan(report.precision[1])
    assert report.as_dict()["classes"]["nowhere"]["recall"] is None
    assert "-" in str(report)


def test_refused():
    with pytest.raises(ValueError, match="3 true classes and 2 predictions"):
        metrics.classification_report([0, 1, 1], [0, 1])
    with pytest.raises(ValueError, match="2 class names for class numbers up to 2"):
        metrics.classification_report(TRUE, SAID, ["a", "b"])
    with pytest.raises(ValueError, match="no samples"):
        metrics.classification_report([], [])


# -- drawn ----------------------------------------------------------------------------------------


def is_picture(path, least=100):
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))
    return min(pixels.shape) >= least and pixels.std() > 0


def test_curves(tmp_path):
    logs = {"loss": [3.0, 2, 1], "accuracy": [0.1, 0.2, 0.3], "learning_rate": [1e-3] * 3}
    logs |= {"val_loss": [3.0, 2, 2.5], "val_accuracy": [0.1, 0.2, 0.3]}
    figure = visualization.curves(logs, tmp_path / "new" / "curves.png")
    assert is_picture(tmp_path / "new" / "curves.png")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    for axes in figure.axes:  # the epoch that is kept, also where another was more accurate
        _, held, best = axes.lines
        assert held.get_xdata().tolist() == [1, 2, 3] and best.get_xdata() == [2, 2]
        assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "best epoch: 2"
    with pytest.raises(ValueError, match="the history holds no epoch"):
        visualization.curves({})


def test_curves_of_some_validated_epochs():
    logs = {"loss": [5.0, 4, 3, 2, 1], "val_loss": [np.nan, 4.0], "other": [1.0] * 5}
    for axes in visualization.curves(logs).axes:
        assert axes.lines[-1].get_xdata() == [4, 4]  # validation_freq=2: epochs 2 and 4
    assert check_overfitting(logs).figures["best_epoch"] == 4
    assert "best epoch 4 of 5: loss 2 in training, 4 in" in check_overfitting(logs).measured
    for logs in ({"loss": [2.0, 1]}, {"loss": [2.0, 1], "val_loss": [np.nan, np.inf]}):
        assert not any(
            line.get_label().startswith("best") for line in visualization.curves(logs).axes[0].lines
        )


def test_confusion_matrix(tmp_path):
    report = metrics.classification_report(TRUE, SAID, ["a", "$b", "c"])
    figure = visualization.confusion_matrix(report, path=tmp_path / "confusion.png")
    assert is_picture(tmp_path / "confusion.png")
    assert [text.get_text() for text in figure.axes[0].texts][:3] == ["3", "1", "0"]
    visualization.confusion_matrix(np.eye(40), path=tmp_path / "large.png")


@pytest.mark.parametrize("kind", ["uint8", "unit", "grey"])
def test_worst_mistakes(tmp_path, kind):
    pictures = np.random.default_rng(0).integers(0, 256, (8, 9, 7, 3), dtype=np.uint8)
    pictures = {"uint8": pictures, "unit": pictures / 255.0, "grey": pictures[..., :1]}[kind]
    rows = np.full((8, 3), 0.1)
    rows[np.arange(8), SAID] = np.linspace(0.5, 0.8, 8)
    figure = visualization.worst_mistakes(
        pictures, TRUE, rows, ["a", "b", "c"], tmp_path / "worst.png", titles=list("ABCDEFGH")
    )
    assert is_picture(tmp_path / "worst.png")
    assert figure.axes[0].get_title() == "H\nis c\nsaid b (80 %)"
    order, shares = mistakes(TRUE, rows)
    assert order.tolist() == [7, 5, 3] and shares[7] == 0.8


def test_no_mistakes(tmp_path):
    visualization.worst_mistakes(
        np.zeros((2, 4, 4, 3)), [0, 1], np.array([[0.1], [0.9]]), path=tmp_path / "none.png"
    )
    assert is_picture(tmp_path / "none.png")


def test_a_folder_with_all_of_it(tmp_path):
    rows = np.full((8, 3), 0.1)
    rows[np.arange(8), SAID] = np.linspace(0.5, 0.8, 8)
    figures = metrics.classification_report(TRUE, rows, ["a", "b", "c"])
    files = [Path("some", f"{letter}.jpg") for letter in "ABCDEFGH"]
    asked = []

    def picture(index):
        asked.append(index)
        return np.full((9, 7, 3), 20 * index, np.uint8)

    logs = {"loss": [2.0, 1, 0.5], "val_loss": [2.0, 1, 3], "accuracy": [0.4, 0.6, 0.9]}
    history = logs | {"val_accuracy": [0.4, 0.6, 0.6]}
    folder = tmp_path / "new"
    told = visualization.write_report(
        folder, figures, picture, TRUE, rows, files, history, "validation  40 %"
    )
    assert asked == [7, 5, 3]  # no other file is read
    text = (folder / "report.txt").read_text()
    assert told.startswith(f"validation  40 %\n\n{figures}\n\nBest epoch 2 of 3: loss 1 in")
    assert text.startswith(
        f"{told}\n\nmistakes, the surest first:\n{files[7]}: is c, said b (80.0 "
    )
    assert len(text.splitlines()) == len(told.splitlines()) + 2 + 3
    for name in ("confusion", "curves", "worst_mistakes"):
        assert is_picture(folder / f"{name}.png")
    assert visualization.list_mistakes(TRUE, rows, list("abc"), files)[0] == {
        "file": str(files[7]),
        "is": "c",
        "said": "b",
        "probability": 0.8,
    }
    right = np.eye(3)[TRUE]
    told = visualization.write_report(tmp_path / "b", figures, [], TRUE, right, files)
    assert told == str(figures) and "first:\nnone\n" in (tmp_path / "b/report.txt").read_text()
    assert not (tmp_path / "b" / "curves.png").exists()


@pytest.mark.parametrize("probability, wrong", [(0.9, [0]), (0.1, [1])])
def test_mistakes_of_a_single_output(probability, wrong):
    found = visualization.list_mistakes([0, 1], np.full((2, 1), probability), ["a", "b"], "xy")
    assert [one["file"] for one in found] == ["xy"[i] for i in wrong]
    assert found[0]["probability"] == 0.9 and found[0]["said"] == "ab"[probability > 0.5]


@pytest.mark.parametrize("columns", [1, 2])
def test_no_pictures_at_all(tmp_path, columns):
    nothing = np.zeros((0, columns), np.float32)
    visualization.worst_mistakes([], [], nothing, ["a", "b"], tmp_path / "none.png")
    assert is_picture(tmp_path / "none.png")


# -- in words -------------------------------------------------------------------------------------


def test_overfitting_in_words():
    logs = {"loss": [1.0, 0.5, 0.3, 0.2, 0.1, 0.05], "val_loss": [1.0, 0.8, 0.9, 1.0, 1.2, 1.5]}
    logs |= {"accuracy": [0.5, 0.9, 0.95, 1, 1, 1], "val_accuracy": [0.5, 0.6, 0.6, 0.6, 0.6, 0.6]}
    found = check_overfitting(logs)
    assert found.verdict == "warn" and found.figures["best_epoch"] == 2
    assert "accuracy 90.0 % and 60.0 %" in found.measured and "rose to 1.5" in found.measured
    assert "by heart" in found.advice
    still = check_overfitting({"loss": [1.0, 0.9], "val_loss": [1.1, 1.0]})
    assert still.verdict == "pass" and "still improving" in still.advice
    assert check_overfitting({"loss": [1.0]}).verdict == "skipped"
    assert check_overfitting({"loss": [1.0], "val_loss": [np.nan]}).verdict == "fail"


def test_many_classes_fit_a_terminal():
    names = [f"class number {i}" for i in range(12)]
    text = str(metrics.classification_report(np.arange(12), np.arange(12), names))
    assert "12 class number 11" in text and "is, said" in text
    assert max(map(len, text.splitlines())) <= 85
