"""Writes pictures: SVG, PNG, PDF. The only module that imports vl_convert.

vl-convert holds Vega, Vega-Lite, their fonts' metrics and a JavaScript engine in one library: it needs no browser, no
Node and no network, and hands out the same scripts for a page. altair, which writes the same specifications from Python
classes, would add a second of import time and three packages to what a short function of JSON says.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sweep.common.atomic_write import writing
from sweep.common.errors import UserError, did_you_mean, one_line
from sweep.plot.vega_lite import Spec

HTML = ".html"
PAGE_ENDINGS = (HTML, ".htm")
PNG_SCALE = 2.0
"""Pixels of a PNG for each unit of the drawing: sharp on screens and in slides."""
VL_VERSION = "6.4"


def svg(spec: Spec) -> str:
    """The picture as SVG text."""
    import vl_convert

    return vl_convert.vegalite_to_svg(spec, vl_version=VL_VERSION)


def png(spec: Spec) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_png(spec, vl_version=VL_VERSION, scale=PNG_SCALE)


def pdf(spec: Spec) -> bytes:
    import vl_convert

    return vl_convert.vegalite_to_pdf(spec, vl_version=VL_VERSION)


@cache
def scripts() -> str:
    """The JavaScript of Vega, Vega-Lite and Vega-Embed, for a page without network: 0.9 MB."""
    import vl_convert

    names = "window.vegaEmbed = vegaEmbed;"  # Vega and Vega-Lite come with it
    return vl_convert.javascript_bundle(names, vl_version=VL_VERSION)


_WRITERS: dict[str, Callable[[Any], str | bytes]] = {".svg": svg, ".png": png, ".pdf": pdf}
ENDINGS = (*_WRITERS, HTML)


def check_ending(path: Path, allowed: tuple[str, ...] = ENDINGS) -> None:
    """Raise UserError unless the file's name ends in one of `allowed`, and its folder is there."""
    ending = path.suffix.lower()
    if ending not in allowed:
        shown = one_line(str(path))
        problem = f"unknown ending {ending!r}" if ending else "no ending"
        raise UserError(f"-o {shown}: {problem}{did_you_mean(ending, allowed) or ';'} known: {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise UserError(f"-o {one_line(str(path))}: no folder {one_line(str(path.parent))}")
    if path.is_dir():
        raise UserError(f"-o {one_line(str(path))}: is a directory")


def write(spec: Spec, path: Path) -> None:
    """Write the picture in the format of the file's ending, SVG, PNG or PDF. Raises UserError."""
    content = _WRITERS[path.suffix.lower()](spec)
    write_file(path, content.encode() if isinstance(content, str) else content)


def write_file(path: Path, content: bytes) -> None:
    """Write a file as a whole: after an error the old one is still there. Raises UserError."""
    try:
        with writing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
