"""The documents name files and places that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:av2t|av2t_core|backend|worker|tests|docs)/[\w./-]*)`")


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, by the rule of the code hosts."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text()):
        if "://" in link:
            continue
        target, _, anchor = link.partition("#")
        there = (document.parent / target) if target else document
        assert there.exists(), f"{document.name} links to {link}"
        assert not anchor or anchor in anchors(there), f"{document.name} links to {link}"


# The changelog tells of files as they were.
@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if each.name != "CHANGELOG.md"], ids=lambda path: path.name
)
def test_paths_exist(document: Path) -> None:
    for path in PATH.findall(document.read_text()):
        assert (ROOT / path).exists(), f"{document.name} names {path}"
