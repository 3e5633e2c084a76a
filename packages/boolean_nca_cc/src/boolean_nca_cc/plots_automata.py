"""Pictures of a running automaton: an animation (GIF) and a still contact sheet of its steps (PNG).

Needs the extra `plots` (pillow). Captions are drawn in the package's own bitmap font, so that the same states give the
same picture on every machine. A cell of 1 is dark on a light ground; cells that differ from the picture that should be
there carry a dot in their middle.
"""

import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from boolean_nca_cc.circuits.font import GLYPH_HEIGHT, GLYPH_WIDTH, render
from boolean_nca_cc.errors import AutomatonError, MissingExtraError
from boolean_nca_cc.figures import ORANGE

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Frame", "contact_sheet", "draw_frame", "gif"]

_GROUND, _FRAME, _DARK = (253, 253, 251), (212, 212, 206), (29, 35, 41)
_WRONG = tuple(bytes.fromhex(ORANGE[1:]))
_MARGIN, _CAPTION = 8, 2  # pixels around a grid; size of a caption's dot
_GAP = 6
_WIDEST_SHEET = 1200


class Frame(NamedTuple):
    """One state to draw.

    Args:
        cells: True is dark.
        caption: printable ASCII.
        wanted: the picture that should be there, to mark what differs; None marks nothing.
    """

    cells: Bool[np.ndarray, "height width"]
    caption: str
    wanted: Bool[np.ndarray, "height width"] | None = None


def draw_frame(frame: Frame, pixels: int) -> UInt8[np.ndarray, "rows columns rgb"]:
    """A frame as an image, its caption below the grid.

    Args:
        frame: what to draw.
        pixels: on a side of a cell.

    Returns:
        Red, green and blue, 0 to 255.

    Raises:
        AutomatonError: a cell below one pixel.

    >>> draw_frame(Frame(np.eye(8, dtype=bool), "step 0"), pixels=8).shape
    (102, 88, 3)
    """
    if pixels < 1:
        raise AutomatonError(f"a cell is drawn at least one pixel wide; pixels is {pixels}.")
    image = np.where(_enlarged(frame.cells, pixels)[..., None], _DARK, _GROUND).astype(np.uint8)
    if frame.wanted is not None and pixels >= 3:
        centre = np.zeros((pixels, pixels), bool)
        centre[pixels // 3 : -(pixels // 3), pixels // 3 : -(pixels // 3)] = True
        dots = _enlarged(frame.cells != frame.wanted, pixels) & np.tile(centre, frame.cells.shape)
        image[dots] = _WRONG
    image = np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=0)
    edge = np.ones(image.shape[:2], bool)
    edge[1:-1, 1:-1] = False
    image[edge] = _FRAME
    text_width = max(1, len(frame.caption)) * (GLYPH_WIDTH + 1) * _CAPTION
    height, width = image.shape[0], max(image.shape[1], text_width)
    whole = np.empty((height + 2 * _MARGIN + _GAP + GLYPH_HEIGHT * _CAPTION, width + 2 * _MARGIN, 3), np.uint8)
    whole[:] = _GROUND
    left = _MARGIN + (width - image.shape[1]) // 2
    whole[_MARGIN : _MARGIN + height, left : left + image.shape[1]] = image
    if frame.caption:
        ink = _enlarged(render(frame.caption, text_width // _CAPTION, GLYPH_HEIGHT), _CAPTION)
        top = _MARGIN + height + _GAP
        start = _MARGIN + (width - text_width) // 2
        whole[top : top + ink.shape[0], start : start + text_width][ink] = _DARK
    return whole


def gif(
    frames: Sequence[Frame], path: str | os.PathLike[str], pixels: int = 10, milliseconds: int = 120, hold: int = 8
) -> Path:
    """Writes an animation that runs for ever.

    Args:
        frames: what to show, in order; all of one size.
        path: where to write; the suffix is replaced.
        pixels: on a side of a cell.
        milliseconds: a frame; the first one and the last stay `hold` times as long.
        hold: how much longer those stay.

    Returns:
        The file.

    Raises:
        AutomatonError: no frames, or frames of several sizes.
        MissingExtraError: pillow is not installed.
    """
    images = _images(_equal_width(frames), pixels)
    durations = [milliseconds * (hold if index in (0, len(images) - 1) else 1) for index in range(len(images))]
    content = BytesIO()
    images[0].save(
        content, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=False, disposal=1
    )
    return _write(Path(path).with_suffix(".gif"), content)


def contact_sheet(
    frames: Sequence[Frame], path: str | os.PathLike[str], pixels: int = 6, columns: int | None = None
) -> Path:
    """Writes all frames side by side, row by row.

    Args:
        frames: what to show, in order; all of one size.
        path: where to write; the suffix is replaced.
        pixels: on a side of a cell.
        columns: frames a row; None fills about 1200 pixels.

    Returns:
        The file.

    Raises:
        AutomatonError: no frames, or frames of several sizes.
        MissingExtraError: pillow is not installed.
    """
    images = _images(_equal_width(frames), pixels)
    width, height = images[0].size
    across = min(len(images), columns or max(1, _WIDEST_SHEET // width))
    down = -(-len(images) // across)
    sheet = images[0].resize((across * width, down * height))
    sheet.paste(_GROUND, (0, 0, *sheet.size))
    for index, image in enumerate(images):
        sheet.paste(image, (index % across * width, index // across * height))
    content = BytesIO()
    sheet.save(content, "PNG")
    return _write(Path(path).with_suffix(".png"), content)


def _enlarged(cells: Bool[np.ndarray, "height width"], pixels: int) -> Bool[np.ndarray, "rows columns"]:
    return cells.repeat(pixels, axis=0).repeat(pixels, axis=1)


def _equal_width(frames: Sequence[Frame]) -> list[Frame]:
    """Captions of equal length, so that frames have one size."""
    if not frames:
        raise AutomatonError("an animation has at least one frame; there is none. Run the automaton for a step.")
    if len(shapes := {frame.cells.shape for frame in frames}) > 1:
        raise AutomatonError(f"the frames of an animation have one size; these have {sorted(shapes)}.")
    longest = 2 + max(len(frame.caption) for frame in frames)
    return [frame._replace(caption=frame.caption.center(longest)) for frame in frames]


def _images(frames: Sequence[Frame], pixels: int) -> "list[Image]":
    try:
        from PIL import Image as Pillow
    except ImportError as error:
        raise MissingExtraError(
            "animations need pillow, which is not installed. From the root of the repository: "
            "pip install './packages/boolean_nca_cc[plots]'"
        ) from error
    return [Pillow.fromarray(draw_frame(frame, pixels)) for frame in frames]


def _write(path: Path, content: BytesIO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    return path
