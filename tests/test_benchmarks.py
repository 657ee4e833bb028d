"""What benchmarks keep, leave out and say: nothing is timed here."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent))  # benchmarks are not installed

from benchmarks import crew, report, worker  # noqa: E402
from benchmarks.engines import PEERS, install_command  # noqa: E402

ASKED = {"peers": ["minicnn", "torch"], "rounds": 5}


def network(**more):
    timing = {"ms": 2.0, "low": 1.5, "high": 3.0, "count": 9}
    section = dict(
        network="cifar10",
        title="CIFAR-10 network",
        work="train",
        batch_size=64,
        threads=2,
        isa="host",
        engines={"minicnn": timing, "torch": {**timing, "ms": 5.0}},
        absent={"keras-jax": "not installed: jax"},
    )
    return {**section, **more}


def test_a_section_is_in_the_file_and_on_the_screen_at_once(tmp_path, capsys):
    results = report.Results(tmp_path / "new", ASKED)
    results.add("first", "network", **network())
    written = json.loads((tmp_path / "new" / "results.json").read_text())
    assert written["sections"]["first"]["engines"]["torch"]["ms"] == 5.0
    assert written["machine"]["processor"] and written["machine"]["cores"] >= 1
    assert written["machine"]["instruction_sets"]
    shown = capsys.readouterr().out
    assert "2.50 x" in shown and "Keras on JAX" in shown and "not installed: jax" in shown
    assert report.described(written["machine"]).startswith(
        f"machine: {written['machine']['processor']}"
    )


def test_resume_leaves_out_what_was_measured_with_the_same_options(tmp_path):
    report.Results(tmp_path, ASKED).add("first", "network", **network())
    assert report.Results(tmp_path, ASKED).wants("first"), "only --resume leaves anything out"
    resumed = report.Results(tmp_path, ASKED, resume=True)
    assert not resumed.wants("first") and resumed.wants("second")
    assert resumed.new == ["first"], "it belongs to the run that goes on"
    assert report.Results(tmp_path, {**ASKED, "rounds": 6}, resume=True).wants("first")
    resumed.commit = "another"
    assert resumed.wants("first")


def test_figures_of_two_machines_do_not_mix(tmp_path):
    report.Results(tmp_path, ASKED).add("first", "network", **network())
    file = tmp_path / "results.json"
    content = json.loads(file.read_text())
    content["machine"]["model"] = "another model"
    file.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="another machine: name another folder by --output"):
        report.Results(tmp_path, ASKED)


def test_an_absent_peer_is_named_with_what_pip_calls_it(monkeypatch):
    setting = crew.Setting(threads=1)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert crew.absent("keras-tensorflow", setting) == "not installed: keras, tensorflow-cpu"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert crew.absent("keras-tensorflow", setting) is None
    avx2 = crew.Setting(threads=1, isa="avx2")
    assert crew.absent("onnxruntime", avx2) == "cannot be limited to AVX2"


def test_all_that_peers_need_has_a_version_and_stands_in_the_page():
    folder = Path(report.__file__).parent
    lines = (folder / "constraints.txt").read_text().splitlines()
    versions = {line.partition("==")[0] for line in lines if "==" in line}
    needed = set(install_command(PEERS).partition("constraints.txt ")[2].split())
    assert versions == needed
    page = (folder / "README.md").read_text()
    command = page.partition("python -m pip install")[2].partition("\n\n")[0]
    assert needed <= set(command.split())
    assert all(f"`{name}`" in page for name in PEERS if name != "minicnn")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (dict(least=1, most=5, milliseconds=1e9), 5),
        (dict(least=1, most=5, milliseconds=0), 1),
        (dict(least=4), 4),
        (dict(most=1), 1),
        ({}, 2),
    ],
)
def test_a_turn_has_its_bounds(options, count):
    session = worker.Session(engine=None)
    session.calls = {"step": lambda: None}
    assert len(session.time("step", **options)["ms"]) == count


class Engine:
    """A worker without a process."""

    def __init__(self, refuses=""):
        self.refuses, self.asked = refuses, []

    def send(self, **command):
        self.asked.append(command)

    def answer(self):
        if self.asked[-1].get("work") == self.refuses:
            raise crew.Failure("has no such work")
        return {"ms": [1.0] * self.asked[-1]["least"]}

    def ask(self, **command):
        self.send(**command)
        return self.answer()

    def settle(self):
        pass


def crew_of(**workers):
    made = crew.Crew([], crew.Setting(threads=1), log=None)
    made.workers = workers
    return made


def test_who_refuses_is_named_and_warming_up_does_not_count():
    made = crew_of(minicnn=Engine(), torch=Engine(refuses="predict"))
    times, refused = made.measure("predict", 5, ["minicnn", "torch"], least=3)
    assert times == {"minicnn": [1.0] * 15}
    assert refused == {"torch": "has no such work"}
    times, refused = made.measure("train", 5, ["minicnn", "torch"], least=1)
    assert times == {"minicnn": [1.0] * 5, "torch": [1.0] * 5} and not refused
    assert [c["least"] for c in made.workers["torch"].asked] == [2, 2, 1, 1, 1, 1, 1]


def test_nothing_is_compared_with_a_minicnn_that_fails():
    made = crew_of(minicnn=Engine(refuses="train"), torch=Engine())
    with pytest.raises(SystemExit, match="minicnn itself fails.*has no such work"):
        made.measure("train", 2, ["minicnn", "torch"], least=1)


def test_few_steps_have_no_quantiles_beyond_them():
    found = crew.summary([3.0, 9.0])
    assert found["ms"] == 6.0 and 3.0 <= found["low"] < found["high"] <= 9.0
    assert crew.summary([3.0]) == {"ms": 3.0, "low": 3.0, "high": 3.0, "count": 1}


def test_the_ratio_is_to_the_fastest_peer():
    measured = {"minicnn": {"ms": 2.0}, "torch": {"ms": 6.0}, "jax": {"ms": 5.0}}
    assert report.fastest(measured) == ("jax", 2.5)
    assert report.fastest({"minicnn": {"ms": 2.0}}) is None
    assert report.geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
