"""docs/gallery.md and its pictures are what scripts/gallery makes today."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import DOCS
from tests.paths import ROOT


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("_gallery", ROOT / "scripts" / "_gallery.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["_gallery"] = module
    spec.loader.exec_module(module)
    return module


gallery = load_script()
PAGE = (DOCS / "gallery.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "question", [q for q in gallery.QUESTIONS if not q.is_long], ids=lambda question: question.name
)
def test_pictures_are_current(question: Any, tmp_path: Path) -> None:
    """The grid, run anew, gives the section of the page and the specification that the committed picture names."""
    run = gallery.launched(question, tmp_path)
    assert run.status == "ok"
    assert gallery.section(question, run) in PAGE, "out of date; run scripts/gallery"
    committed = re.findall(r"<!-- specification (\w+) -->", question.path.read_text())
    assert committed == [gallery.digest(question.picture(run))], f"out of date; run scripts/gallery {question.name}"


def test_every_picture_is_on_the_page() -> None:
    """No picture is left over, and none is missing."""
    shown = set(re.findall(r"\(pictures/([\w-]+\.svg)\)", PAGE))
    assert shown == {question.path.name for question in gallery.QUESTIONS}
    assert {path.name for path in gallery.PICTURES.glob("*")} == shown
    assert all(path.stat().st_size < 100_000 for path in gallery.PICTURES.glob("*"))
