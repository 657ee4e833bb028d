"""The documents say what is true: commands, links, the example, and the notebooks are run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import minicnn

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NOTEBOOKS = sorted(ROOT.glob("docs/**/*.ipynb"))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def identity(path):
    return str(path.relative_to(ROOT))


def test_the_readme_sets_up_by_two_commands():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 2
    main, tests = commands
    assert main.startswith("python -m pip install ") and main.endswith(" examples/cifar10.py")
    assert "pytest" in tests and "--ignore=tests/parity" in tests


def test_the_example_of_the_readme_runs(tmp_path):
    (example,) = blocks("python")
    command = [sys.executable, "-W", "error", "-c", example]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_no_page_installs_the_wrong_distribution(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"pip install (-U |--upgrade )?[\"']?minicnn(?!-numba)", text)


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=identity)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_fragments_of_the_page_about_kernels_are_true():
    """Each stands word for word in the package or in the script that runs the page's steps."""
    page = (ROOT / "docs/kernels.md").read_text(encoding="utf-8")
    fragments = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    sources = [ROOT / "benchmarks/ladder.py", *ROOT.glob("minicnn/ops/**/*.py")]
    texts = [path.read_text(encoding="utf-8") for path in sources]
    assert len(fragments) > 10
    for fragment in fragments:
        assert any(fragment in text for text in texts), fragment


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert [heading for heading in headings if heading != "Unreleased"][0] == minicnn.__version__


def printed(notebook):
    """What its cells print; numbers such as 1.2e-09 are rounding errors and differ by machine."""
    texts = []
    for cell in notebook.cells:
        streams = [output for output in cell.get("outputs", ()) if output.output_type == "stream"]
        text = "".join(output.text for output in streams if output.name == "stdout")
        texts.append(re.sub(r"\d(\.\d+)?e[-+]\d+", "#", text))
    return texts


@pytest.mark.parametrize("path", NOTEBOOKS, ids=identity)
# what the client's own libraries warn of is not about the notebook
@pytest.mark.filterwarnings("default")
def test_notebooks_run_and_print_what_they_say(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):  # the user's settings stay out of it
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / name))
    assert path.stat().st_size < 200_000, "smaller pictures, please"
    notebook = nbformat.read(path, as_version=4)
    as_stored = printed(notebook)
    folder = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=folder).execute()
    assert printed(notebook) == as_stored, "stored output is out of date: see docs/README.md"
    errors = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not any("Warning" in text for text in errors), errors


@pytest.mark.parametrize("path", NOTEBOOKS, ids=identity)
def test_notebooks_are_stored_tidily(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
