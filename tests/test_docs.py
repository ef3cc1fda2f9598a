"""README.md and docs/: the code runs, links and paths exist, lines are short and words plain."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils.data import TensorDataset

import yfkernels
from yfkernels import analysis, config

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
GENERATED = ROOT / "docs/how-it-works/kernels.md"  # by tests/cuda/kernel_table.py
INCLUDED = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]  # by pages of docs/
INCLUDING = [ROOT / "docs/changelog.md", ROOT / "docs/contributing.md"]
PAGES = [page for page in DOCS if page not in INCLUDING]
WRITTEN = [README, INCLUDED[0], *(page for page in PAGES if page != GENERATED)]
LINKED = [README, ROOT / "examples/README.md", *INCLUDED, *PAGES]
SOURCES = sorted(path for folder in ("yfkernels", "csrc") for path in (ROOT / folder).rglob("*.*"))
COLUMNS = 110

PLAIN_WORDS = {
    r"\bhang(s|ing)? on\b": "depends on",
    r"\bbehind\b": "after, or worse than",
    r"\bas (it|they) comes?\b": "default",
    r"\btrained on\b": "fine-tuned",
    r"\bmend(s|ed)?\b": "fix",
    r"\bgauges?\b": "sums of the move",
    r"\bcalm(s|ed)?\b": "clip of the update",
    r"\b(minim|normal|initial|recogn|optim|synchron)is(e|ed|es|ing|ation)\b": "-ize",
    r"\b(behavi|col)our\b": "-or",
}
OLD_NAMES = [
    r"yfkernels/(tuning|distributed|monitor)\b",
    r"`(advance|direct|move)`",
]


def named(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block: its language, the number of its first line, its text."""

    language: str
    line: int
    text: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*)```$", text, re.MULTILINE):
        yield Block(match[1], text.count("\n", 0, match.start(2)) + 1, match[2])


def without_code(text: str) -> str:
    """Text without fenced and indented blocks, code spans and the targets of links."""
    text = re.sub(r"^```.*\n(?:(?!```).*\n)*```$", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\n\n) {4}.*\n(?: {4}.*\n|\n(?= {4}))*", "", text)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


# ---- code


def names_for_a_reader() -> dict[str, Any]:
    """What the pages take for granted: a model, a loss, data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 8, generator=generator)
    y = x.sum(dim=1, keepdim=True)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    return {
        "model": model,
        "loss_fn": torch.nn.functional.mse_loss,
        "batches": list(zip(x.split(64), y.split(64))),
        "dataset": TensorDataset(x, y),
    }


@named([page for page in LINKED if any(blocks(page))])
def test_code_runs(page: Path) -> None:
    """Blocks of a page run one after the other; `pycon` ones also print what they say."""
    names = names_for_a_reader()
    runner = doctest.DocTestRunner()
    for block in blocks(page):
        if block.language.startswith("{"):  # for Sphinx
            continue
        assert block.language in ("python", "pycon"), f"line {block.line - 1} names no language"
        if block.language == "python":
            code = "\n" * (block.line - 1) + block.text  # so that a traceback has the page's lines
            exec(compile(code, str(page), "exec"), names)
        else:
            parse = doctest.DocTestParser().get_doctest
            examples = parse(block.text, {}, page.name, str(page), block.line - 1)
            examples.globs = names
            runner.run(examples, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0


@named(LINKED)
def test_no_python_escapes_the_test(page: Path) -> None:
    hidden = re.findall(
        r"^ {4}(?:import \w+|from \w[\w.]* import .*|>>> .*)$", page.read_text(), re.M
    )
    assert not hidden, "put it into a ```python or ```pycon block"


PUBLIC = {
    **{name: getattr(yfkernels, name) for name in yfkernels.__all__ if name != "__version__"},
    **{name: getattr(analysis, name) for name in analysis.__all__},
    "config": config.config,
}


@pytest.mark.parametrize("name", PUBLIC)
def test_docstring(name: str) -> None:
    """Every public name is explained; test_docstrings.py runs the examples."""
    assert inspect.getdoc(PUBLIC[name])


# ---- links, paths, commands


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", page.read_text())


@named(LINKED)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_in_the_contents() -> None:
    """Sphinx says so too, but is not here in every test run."""
    home = ROOT / "docs/index.md"
    listed = [
        ROOT / "docs" / f"{name}.md"
        for block in blocks(home)
        if block.language == "{toctree}"
        for name in block.text.split("\n\n")[1].split()
    ]
    assert sorted([*listed, home]) == DOCS


def test_every_public_name_is_in_the_reference() -> None:
    reference = "".join(page.read_text() for page in (ROOT / "docs/api").glob("*.md"))
    named = set(re.findall(r"auto(?:class|function|data):: (\w+)", reference))
    assert named >= {name for name in yfkernels.__all__ if name != "__version__"}
    for module in ("analysis", "asynchronous", "integrations"):
        assert f"automodule:: yfkernels.{module}\n" in reference


CITED = re.compile(r"(?<![\w/.-])(?:cmake|csrc|yfkernels|tests|bench|docs|examples)/[\w./*<>-]+")


@named(LINKED)
def test_cited_paths_exist(page: Path) -> None:
    for path in CITED.findall(page.read_text()):
        pattern = path.rstrip("./")
        if "<" not in pattern:  # a placeholder
            assert any(ROOT.glob(pattern)), f"{path} does not exist"


def test_pages_cited_by_sources_exist() -> None:
    for source in SOURCES:
        if source.suffix in (".py", ".h", ".cpp", ".cu", ".cuh"):
            for path in re.findall(r"\bdocs/[\w.-]+\.md\b", source.read_text()):
                assert (ROOT / path).exists(), f"{source.relative_to(ROOT)} cites {path}"


def commands(page: Path, program: str) -> set[str]:
    """The words after a program's name, in code spans and at the head of code lines."""
    pattern = rf"(?:`|^ {{4}}){program} ([a-z][a-z-]*)"
    return set(re.findall(pattern, page.read_text(), re.MULTILINE))


@named(LINKED)
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert not commands(page, "make") - set(targets)


@named(LINKED)
def test_commands_exist(page: Path) -> None:
    cli = pytest.importorskip("yfkernels.lab.cli", exc_type=SystemExit)
    known = {
        entry.name or entry.callback.__name__.replace("_", "-")
        for entry in cli.app.registered_commands
    }
    assert not commands(page, "yfkernels") - known


# ---- form


@named(WRITTEN)
def test_lines_are_short(page: Path) -> None:
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        table_or_link = page != README and re.match(r"\||[\W_]*\[[^]]*\]\([^)]*\)\W*$", line)
        assert len(line) <= COLUMNS or table_or_link, f"line {number} has {len(line)} columns"


def test_readme_shows_code_first_and_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 130
    assert any("pip install" in line for line in lines[:20])
    assert lines[:20].count("```python") == 1
    assert "```" in lines[:20]


@named([page for page in LINKED if page.name != "CHANGELOG.md"])
def test_page_begins_with_a_sentence(page: Path) -> None:
    title, blank, first, *_ = page.read_text().split("\n", 3)
    assert title.startswith("# ")
    assert not blank
    assert re.match(r"[A-Z`].*\w", first)


@named(WRITTEN)
def test_words_are_plain(page: Path) -> None:
    prose = without_code(page.read_text())
    for pattern, plain in PLAIN_WORDS.items():
        found = re.search(pattern, prose, re.IGNORECASE)
        assert not found, f"{found[0]!r}: write {plain!r}"


@named(WRITTEN)
def test_names_are_those_of_today(page: Path) -> None:
    for pattern in OLD_NAMES:
        found = re.search(pattern, page.read_text())
        assert not found, found[0]
