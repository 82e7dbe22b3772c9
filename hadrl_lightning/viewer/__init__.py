"""An episode as a picture that moves: on a window, as films, and as a page that replays it."""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import which
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from hadrl_lightning.errors import HadrlError, require
from hadrl_lightning.files import replacing
from hadrl_lightning.messages import tell
from hadrl_lightning.viewer.drawing import (
    DPI,
    FETCHED,
    HEIGHT_IN,
    HELD,
    LACKING,
    LINKS,
    SHADES,
    WIDTH_IN,
    Picture,
)
from hadrl_lightning.viewer.frame import OUTCOMES, Scene, Servers, Users, Watcher
from hadrl_lightning.viewer.html import replay, write_replay

__all__ = [
    "FRAMES_PER_S",
    "OUTCOMES",
    "Picture",
    "Scene",
    "Servers",
    "Users",
    "Watcher",
    "Window",
    "replay",
    "require_ffmpeg",
    "write_gif",
    "write_mp4",
    "write_replay",
]

FRAMES_PER_S = 4
"""Slots that a film or a window shows in a second."""
GIF_COLOURS = 128
SHADE_LINES = 20
"""Of each colour that means something, beside the first picture, from which the colours of a film are chosen."""


class Window:
    """A window that shows scenes, each for its time; where there is no display a line says so, once.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def __init__(self) -> None:
        require("render_mode human", ["matplotlib"])
        self._picture = Picture()
        self._figure = self._opened()
        self._shown: Any = None

    @staticmethod
    def _opened() -> Any:
        """The figure of a window; None where there can't be one."""
        from matplotlib import pyplot

        try:
            figure = pyplot.figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI)
        except Exception:  # each toolkit has errors of its own
            figure = None
        if figure is None or getattr(figure.canvas, "required_interactive_framework", None) is None:
            pyplot.close(figure) if figure is not None else None
            tell(
                "warning",
                "render_mode human shows nothing without a display: use rgb_array, or hadrl show for a file",
            )
            return None
        return figure

    def show(self, scene: Scene) -> None:
        """Show a scene; afterwards its time is over."""
        if self._figure is None:
            return
        image = self._picture.image(scene)
        if self._shown is None:
            self._shown = self._figure.figimage(image)
        self._shown.set_data(image)
        self._figure.canvas.draw_idle()
        if self._figure.canvas.manager is not None:
            self._figure.canvas.manager.show()
        self._figure.canvas.start_event_loop(1 / FRAMES_PER_S)

    def close(self) -> None:
        """Close the window."""
        if self._figure is not None:
            from matplotlib import pyplot

            pyplot.close(self._figure)
            self._figure = None


def write_gif(path: Path, scenes: Sequence[Scene], title: str) -> None:
    """Write a film as an animated GIF.

    Raises:
        MissingExtra: matplotlib is not installed, which brings Pillow.
        OutputError: the folder can't be written to, or the disk is full.
    """
    picture = Picture(scenes, title)
    from PIL import Image

    image = picture.image(scenes[0])
    with_all = np.concatenate((image, _block_of_shades(image.shape[1])))
    palette = Image.fromarray(with_all).quantize(GIF_COLOURS, dither=Image.Dither.NONE)
    images = (Image.fromarray(picture.image(scene)) for scene in scenes)
    rest = (one.quantize(palette=palette, dither=Image.Dither.NONE) for one in images)
    first = next(rest)
    time_ms = 1000 // FRAMES_PER_S
    with replacing(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=rest, duration=time_ms, loop=0)


def _block_of_shades(width: int) -> np.ndarray:
    """Lines of every colour that means something, so that a palette has those too that slot 0 lacks."""
    shades = [*SHADES.values(), HELD, FETCHED, LACKING, LINKS]
    numbers = [[int(one[at : at + 2], 16) for at in (1, 3, 5)] for one in shades]
    return np.array(numbers, np.uint8).repeat(SHADE_LINES, axis=0)[:, None].repeat(width, axis=1)


def require_ffmpeg() -> str:
    """The program that makes videos.

    Raises:
        HadrlError: there is none.
    """
    found = which("ffmpeg")
    if found is None:
        raise HadrlError("format mp4 needs the program ffmpeg, got none: install it, or leave mp4 out")
    return found


def write_mp4(path: Path, scenes: Sequence[Scene], title: str) -> None:
    """Write a film as a video, by ffmpeg.

    Raises:
        MissingExtra: matplotlib is not installed.
        HadrlError: there is no ffmpeg, or it fails.
        OutputError: the folder can't be written to, or the disk is full.
    """
    program, picture = require_ffmpeg(), Picture(scenes, title)
    size = f"{round(WIDTH_IN * DPI)}x{round(HEIGHT_IN * DPI)}"
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(FRAMES_PER_S), "-i", "-"]
    made = ["-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    with replacing(path) as temporary, TemporaryFile() as said:
        words = [program, "-loglevel", "error", "-y", *given, *made, str(temporary)]
        encoder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=said, stderr=said)
        with suppress(BrokenPipeError), encoder:  # an encoder that has failed says why
            assert encoder.stdin is not None
            for scene in scenes:
                encoder.stdin.write(picture.image(scene).tobytes())
        if encoder.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines() or ["no reason"]
            raise HadrlError(f"format mp4 needs an ffmpeg that makes videos, got {lines[-1]}")
