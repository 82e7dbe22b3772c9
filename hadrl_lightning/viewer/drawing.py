"""A slot as a matplotlib figure, whose artists are made once and moved from slot to slot."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from hadrl_lightning.errors import require
from hadrl_lightning.plots.style import COLOURS, SETTINGS
from hadrl_lightning.viewer.frame import OUTCOMES, Scene, extent

WIDTH_IN, HEIGHT_IN, DPI = 12.8, 7.2, 100
"""Of the figure: 1280 x 720 pixels."""
SHADES = dict(zip(OUTCOMES, (*(COLOURS[one] for one in (0, 4, 2, 6)), "#C4C4C4", "#777777")))
"""Colours by what becomes of a task."""
WORDS = {
    "hit": "served from a cache",
    "cloud": "by the cloud",
    "device": "on the user's device",
    "dropped": "dropped",
    "idle": "no task",
    "asks": "asks",
}
HELD, FETCHED, LACKING, LOADED = "#5A6B7B", COLOURS[5], "#EBEBEB", "#BAC6D1"
"""Colours of a service in a cache (held, held since this slot, not held), and of loads."""
GREY, LINKS = "#555555", "#C9BFD6"
MARKS = {"dropped": "X"}
DASHES: dict[str, Any] = {"hit": "-", "cloud": (0, (5, 2)), "dropped": (0, (1, 1.5))}
"""Of the lines to who serves a user."""
WIDE = 1.9
"""A network this many times as wide as high is drawn over the whole width."""
CLOUD_PART = 0.13
"""Of the height of the map is above the network, for the cloud."""

Box = tuple[float, float, float, float]
"""Left, bottom, width and height in parts of the figure."""
Points = Float[np.ndarray, "point axis"]
Image = UInt8[np.ndarray, "height width 3"]


def figure_settings() -> dict[str, Any]:
    """Settings of matplotlib that hold where a picture is made and drawn."""
    return {**SETTINGS, "figure.constrained_layout.use": False, "axes.grid": False}


class Places(NamedTuple):
    """Where the parts of a picture are."""

    map: Box
    caches: Box
    bars: Box
    curve: Box
    legend: tuple[float, float]
    """Middle of its top."""

    @staticmethod
    def of(wide: bool, num_servers: int) -> "Places":
        """Below a wide map, or beside it; rows of few servers are not higher than they have to be."""
        if wide:
            high = min(0.255, 0.06 * num_servers)
            low = 0.315 - high
            rows = (0.06, low, 0.41, high), (0.53, low, 0.32, high)
            return Places((0.045, 0.475, 0.935, 0.415), *rows, (0.885, 0.08, 0.1, 0.225), (0.5, 0.445))
        high, less = min(0.28, 0.05 * num_servers), min(0.25, 0.05 * num_servers)
        rows = (0.57, 0.80 - high, 0.415, high), (0.57, 0.43 - less, 0.415, less)
        return Places((0.05, 0.14, 0.45, 0.75), *rows, (0.57, 0.075, 0.415, 0.055), (0.275, 0.105))


class Picture:
    """Draws scenes of one network, or of one after the other.

    Args:
        scenes: what is going to be drawn, if it is known: the map then is of all of it, and stays as it is.
        title: stands above, before the number of the slot.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def __init__(self, scenes: Sequence[Scene] = (), title: str = "") -> None:
        modules = ["matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"]
        matplotlib, figures, backend = require("drawing", modules)
        self._context = matplotlib.rc_context
        self._title = title
        with self._context(figure_settings()):
            self._figure = figures.Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=DPI)
        self._canvas = backend.FigureCanvasAgg(self._figure)
        self._background: Any = None
        self._limits: list[Any] = []
        """Of all axes when the background was drawn."""
        self._extent = extent(scenes) if scenes else None
        self._known, self._stays = list(scenes), bool(scenes)
        self._kind: tuple[Any, ...] | None = None
        self._parts: list[Any] = []
        self._latency_s: list[float] = []
        """Of the slots of this episode that were drawn, summed over users."""

    def image(self, scene: Scene) -> Image:
        """A scene as a picture, [720, 1280, 3]."""
        with self._context(figure_settings()):
            while self._known:  # until all ends of axes are where they stay
                self._move(self._known.pop(0))
            self._move(scene)
            limits = [one.viewLim.bounds for one in self._figure.axes]
            if self._background is None or limits != self._limits:
                self._canvas.draw()
                self._background = self._canvas.copy_from_bbox(self._figure.bbox)
                self._limits = limits
            self._canvas.restore_region(self._background)
            for part in self._parts:
                for artist in part.moving:
                    self._figure.draw_artist(artist)
        return np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()

    def _move(self, scene: Scene) -> None:
        """Have everything on the figure where it is in a scene."""
        around = extent([scene])
        if self._extent is not None and (self._stays or scene.slot > 0):
            ends = np.minimum(self._extent[0], around[0]), np.maximum(self._extent[1], around[1])
            around = np.stack(ends)
        self._extent = around
        if not scene.slot:
            self._latency_s = []
        if scene.numbers:
            unknown = [np.nan] * (scene.slot - len(self._latency_s))
            self._latency_s = [*self._latency_s[: scene.slot], *unknown, scene.numbers["latency"]]
        wide = bool(np.ptp(around[:, 0]) > WIDE * np.ptp(around[:, 1]))
        carried = (scene.servers.backlog_s is None, scene.servers.speed is None)
        has = (scene.moves, bool(scene.links), scene.has_devices, scene.idles, scene.weighed)
        kind = (wide, scene.servers.cache.shape, scene.num_slots, *carried, *has)
        if kind != self._kind:
            self._figure.clear()
            places = Places.of(wide, len(scene.servers.cache))
            self._parts = [part(self._figure, scene, places) for part in (_Map, _Caches, _Bars, _Numbers)]
            self._kind, self._background = kind, None
            for part in self._parts:
                for artist in part.moving:
                    artist.set_animated(True)  # drawn on top of the background, which is drawn once
        for part in self._parts:
            part.show(scene, around, self._title, self._latency_s)


def _above(limit: float, most: float) -> float:
    """The end of an axis that stays as it is while it can."""
    return limit if most <= limit else 1.3 * most


def _squares(at: Points, radius: float) -> list[Float[np.ndarray, "corner axis"]]:
    """The corners of cells: users are drawn from squares around servers."""
    return list(at[:, None] + radius * np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]))


class _Map:
    """Servers, cells, users and who serves them."""

    def __init__(self, figure: Any, scene: Scene, places: Places) -> None:
        from matplotlib import collections

        self.axes = axes = figure.add_axes(places.map)
        self.ratio = places.map[2] * WIDTH_IN / (places.map[3] * HEIGHT_IN)
        axes.set_facecolor("#FAFAFA")
        axes.locator_params(nbins=6)
        for one in (axes.xaxis, axes.yaxis):
            one.set_major_formatter(lambda x, _: f"{x:g} m" if abs(x) < 1e4 else f"{x / 1e3:g} km")
        at = scene.servers.at_m
        self.cells = collections.PolyCollection(_squares(at, scene.cell_radius_m))
        self.cells.set(facecolor="#0072B210", edgecolor="#9BB6C9", linewidth=0.8, zorder=1)
        axes.add_collection(self.cells)

        def lines(shade: str, width: float, order: int, dashes: Any = "-") -> Any:
            found = collections.LineCollection([], colors=shade, linewidths=width, zorder=order)
            found.set_linestyle(dashes)
            axes.add_collection(found)
            return found

        self.links = lines(LINKS, 5.0, 2)
        self.trails = lines("#AAAAAA", 1.5, 3)
        self.relays = lines(SHADES["cloud"], 1.0, 4)
        self.lines = {name: lines(SHADES[name], 0.9, 5, dashes) for name, dashes in DASHES.items()}
        dots = {"linewidths": 0.5, "edgecolors": "white", "zorder": 7}
        self.users = {mark: axes.scatter([], [], s=30, marker=mark, **dots) for mark in ("o", "^", "X")}
        ring = {"facecolors": "none", "edgecolors": COLOURS[1], "linewidths": 1.2, "zorder": 8}
        self.changed = axes.scatter([], [], s=85, **ring)
        self.servers = axes.scatter(*at.T, s=150, marker="s", color="black", zorder=9)
        inside = {"ha": "center", "va": "center", "fontsize": 8, "color": "white", "zorder": 10}
        self.names = [axes.text(*one, str(number), **inside) for number, one in enumerate(at)]
        cloud = {"boxstyle": "round,pad=0.4,rounding_size=0.9", "facecolor": "white"}
        self.cloud = axes.text(0, 0, "cloud", bbox={**cloud, "edgecolor": SHADES["cloud"]}, **inside)
        self.cloud.set_color("black")
        self.moving = [self.cells, self.links, self.trails, self.relays, *self.lines.values()]
        self.moving += [*self.users.values(), self.changed, self.servers, *self.names, self.cloud]
        self._legend(figure, scene, places.legend)

    def _legend(self, figure: Any, scene: Scene, place: tuple[float, float]) -> None:
        from matplotlib.lines import Line2D

        carries = scene.servers.backlog_s is not None
        there = {
            "device": scene.has_devices,
            "dropped": carries or scene.has_devices,
            "idle": scene.idles,
            "asks": False,
        }
        names = [name for name in OUTCOMES if there.get(name, True)]
        dot: dict[str, Any] = {"markersize": 5}
        ring = {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.2}
        entries = [
            (WORDS[name], SHADES[name], MARKS.get(name, "o"), DASHES.get(name, ""), dot) for name in names
        ]
        entries.append(("after its deadline", GREY, "^", "", dot))
        if scene.moves:
            entries.append(("way since the slot before", "#AAAAAA", "", "-", {}))
            entries.append(("new home", COLOURS[1], "o", "", ring))
        if scene.links:
            entries.append(("link between servers", LINKS, "", "-", {"linewidth": 5}))
        handles = [
            Line2D([], [], color=shade, marker=mark, linestyle=dash or "none", label=text, **more)
            for text, shade, mark, dash, more in entries
        ]
        columns = {"ncols": 10 if place[0] == 0.5 else 4, "columnspacing": 1.4, "handletextpad": 0.5}
        figure.legend(handles=handles, loc="upper center", bbox_to_anchor=place, **columns)

    def show(self, scene: Scene, around: Points, heading: str, latency_s: list[float]) -> None:
        """Move all of it."""
        cloud = self._limits(around)
        users, at = scene.users, scene.servers.at_m
        goals = np.concatenate((at, users.at_m.mean(axis=0, keepdims=True), cloud[None]))
        on_server = users.target < len(at)
        ends = goals[np.where(on_server, users.target, len(goals) - 1)]
        ways = np.stack((users.at_m, ends), axis=1)
        leaves = ~(scene.has_devices & (users.target == len(at)))  # what stays on the device goes nowhere
        for name, lines in self.lines.items():
            lines.set_segments(ways[leaves & (users.outcome == OUTCOMES.index(name))])
        relayed = scene.servers.tasks[:, OUTCOMES.index("cloud")]
        self.relays.set_segments([(at[one], cloud) for one in relayed.nonzero()[0]])
        self.relays.set_linewidths(0.6 + 5 * relayed[relayed > 0] / max(1, len(users.service)))
        self.trails.set_segments(np.stack((users.before_m, users.at_m), axis=1) if scene.moves else [])
        self.links.set_segments([at[list(link)] for link in scene.links])
        shades = np.array(list(SHADES.values()))[users.outcome]
        dropped = users.outcome == OUTCOMES.index("dropped")
        late = ~users.on_time & (users.outcome < OUTCOMES.index("idle")) & ~dropped
        for mark, who in {"o": ~late & ~dropped, "^": late, "X": dropped}.items():
            self.users[mark].set_offsets(users.at_m[who])
            self.users[mark].set_facecolors(shades[who])
        self.changed.set_offsets(users.at_m[users.handed_over])
        self.cells.set_verts(_squares(at, scene.cell_radius_m))
        self.servers.set_offsets(at)
        for text, one in zip(self.names, at, strict=True):
            text.set_position(one)

    def _limits(self, around: Points) -> Any:
        """Have all of the network on the map, and the cloud above it: where that is."""
        low, high = around[0].copy(), around[1].copy()
        span = np.maximum(high - low, 1.0) * 1.04
        span[1] /= 1 - CLOUD_PART
        span = np.maximum(span, span[::-1] * [self.ratio, 1 / self.ratio])
        middle = (low + high) / 2
        bottom = middle[1] - span[1] * (1 - CLOUD_PART) / 2
        self.axes.set_xlim(middle[0] - span[0] / 2, middle[0] + span[0] / 2)
        self.axes.set_ylim(bottom, bottom + span[1])
        cloud = np.array([middle[0], bottom + span[1] * (1 - CLOUD_PART / 2)])
        self.cloud.set_position(cloud)
        return cloud


class _Caches:
    """Servers by services: what is asked for above, and below it what is held."""

    def __init__(self, figure: Any, scene: Scene, places: Places) -> None:
        left, bottom, width, height = places.caches
        servers, services = scene.servers.cache.shape
        self.axes = axes = figure.add_axes(places.caches)
        self.picture = axes.imshow(np.zeros((servers, services, 3)), aspect="auto", interpolation="nearest")
        white = {"color": "white", "linewidth": 1.5 if services <= 30 else 0.6}
        across = axes.hlines(np.arange(1, servers) - 0.5, -0.5, services - 0.5, **white)
        grid = [across, axes.vlines(np.arange(1, services) - 0.5, -0.5, servers - 0.5, **white)]
        axes.set_yticks(range(servers), [str(one) for one in range(servers)])
        axes.set(xlabel="service", ylabel="server")
        axes.set_xticks(range(0, services, 1 if services <= 30 else 5))
        axes.tick_params(length=0)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        self.asked = figure.add_axes((left, bottom + height + 0.005, width, 0.045))
        self.asked.set(xlim=(-0.5, services - 0.5), xticks=[])
        self.asked.locator_params(axis="y", nbins=2, integer=True)
        self.asked.set_ylabel("tasks", rotation=0, ha="right", va="center")
        self.stack = _Stack(self.asked)
        self.moving = [self.picture, *grid, *self.stack.parts]
        self._legend(figure, left + width, bottom + height + 0.055)

    def _legend(self, figure: Any, right: float, bottom: float) -> None:
        from matplotlib.patches import Patch

        words = {"held": HELD, "held from this slot on": FETCHED, "not held": LACKING}
        handles = [Patch(facecolor=shade, label=word) for word, shade in words.items()]
        place = {"loc": "lower right", "bbox_to_anchor": (right, bottom), "borderaxespad": 0.0}
        figure.legend(handles=handles, ncols=3, handlelength=1.0, columnspacing=1.4, **place)

    def show(self, scene: Scene, around: Points, heading: str, latency_s: list[float]) -> None:
        """Fill all of it."""
        cache, new = scene.servers.cache, scene.servers.new
        shades = np.array(
            [[int(shade[at : at + 2], 16) for at in (1, 3, 5)] for shade in (LACKING, HELD, FETCHED)]
        )
        self.picture.set_data(shades[cache.astype(int) + new].astype(np.uint8))
        counts = np.zeros((cache.shape[1], len(OUTCOMES)))
        np.add.at(counts, (scene.users.service, scene.users.outcome), 1)
        counts[:, OUTCOMES.index("idle")] = 0
        self.asked.set_ylim(0, _above(max(4.0, self.asked.get_ylim()[1]), counts.sum(axis=1).max()))
        self.stack.show(counts)


class _Stack:
    """Bars of several parts: numbers of tasks by what became of them."""

    def __init__(self, axes: Any, lying: bool = False) -> None:
        from matplotlib.collections import PolyCollection

        self.lying = lying
        self.parts = [PolyCollection([], facecolors=shade, linewidths=0) for shade in SHADES.values()]
        for part in self.parts:
            axes.add_collection(part)

    def show(self, counts: Float[np.ndarray, "bar outcome"]) -> None:
        """Bars around 0, 1, 2, …"""
        tops = counts.cumsum(axis=1)
        place = np.arange(len(counts), dtype=float)
        sides = np.stack((place - 0.38, place - 0.38, place + 0.38, place + 0.38), axis=1)
        for number, part in enumerate(self.parts):
            top, bottom = tops[:, number], tops[:, number] - counts[:, number]
            corners = np.stack((sides, np.stack((bottom, top, top, bottom), axis=1)), axis=2)
            part.set_verts(list(corners[:, :, ::-1] if self.lying else corners))


class _Bars:
    """Of every server what it does, in columns."""

    def __init__(self, figure: Any, scene: Scene, places: Places) -> None:
        servers = len(scene.servers.cache)
        names = {"tasks": 1.0, "cache": 1.0, "bandwidth": 1.0, "compute": 1.0}
        if scene.servers.backlog_s is not None:
            names["backlog"] = scene.buffer_s or 1.0
        if scene.servers.speed is not None:
            names["speed"] = 1.0
        left, bottom, width, height = places.bars
        step = width / len(names)
        self.moving: list[Any] = []
        self.bars: dict[str, tuple[Any, Any, list[Any]]] = {}
        for number, (name, most) in enumerate(names.items()):
            axes = figure.add_axes((left + number * step, bottom, step - 0.012, height))
            axes.set(xlim=(0, most), ylim=(servers - 0.5, -0.5), xticks=[], yticks=[])
            if number:
                axes.set_xticks(
                    [most], [f"{most:g} s" if name == "backlog" else "100%"], fontsize=6, color=GREY
                )
                axes.tick_params(axis="x", length=0, pad=1)
            axes.set_title(name, fontsize=8, pad=5)
            if not number:
                axes.set_yticks(range(servers), [str(one) for one in range(servers)])
                axes.tick_params(length=0)
                axes.set_ylabel("server")
            bars = (
                axes.barh(range(servers), [0.0] * servers, color=LOADED, height=0.76)
                if number
                else _Stack(axes, True)
            )
            inside = {"fontsize": 7, "va": "center_baseline", "clip_on": False}
            texts = [axes.text(0.03 * most, row, "", **inside) for row in range(servers)]
            self.bars[name] = axes, bars, texts
            self.moving += [*(bars.parts if isinstance(bars, _Stack) else bars), *texts]

    def show(self, scene: Scene, around: Points, heading: str, latency_s: list[float]) -> None:
        """Draw all bars as long as they are."""
        servers = scene.servers
        values = {
            "cache": servers.filled,
            "bandwidth": servers.bandwidth_load,
            "compute": servers.compute_load,
            "backlog": servers.backlog_s,
            "speed": servers.speed,
        }
        axes, stack, texts = self.bars["tasks"]
        stack.show(servers.tasks.astype(float))
        counts = servers.tasks.sum(axis=1)
        axes.set_xlim(0, _above(max(4.0, axes.get_xlim()[1]), 1.3 * counts.max()))
        for text, count in zip(texts, counts.tolist()):
            text.set_text(str(count))
            text.set_x(count + 0.04 * axes.get_xlim()[1])
        for name, (_, bars, texts) in list(self.bars.items())[1:]:
            found = values[name]
            assert found is not None
            for bar, text, value in zip(bars, texts, found.tolist()):
                bar.set_width(value)
                bar.set_facecolor(
                    COLOURS[1] if name in ("bandwidth", "compute") and value > 1.005 else LOADED
                )
                words = f"{value:.2f} s" if name == "backlog" else f"{value:.0%}"
                text.set_text("" if words in ("0.00 s", "0%", "100%") else words)  # which the bar says


class _Numbers:
    """Which slot it is, its numbers, and the latencies of the slots so far."""

    def __init__(self, figure: Any, scene: Scene, places: Places) -> None:
        self.head = figure.text(0.02, 0.972, "", fontsize=10, fontweight="bold", va="center")
        self.texts = {}
        shown = scene.shown_numbers()
        for number, name in enumerate(shown):
            at = 0.025 + min(0.122, 0.98 / len(shown)) * number
            figure.text(at, 0.94, name, fontsize=7.5, color=GREY, va="center")
            self.texts[name] = figure.text(at, 0.912, "", fontsize=11, va="center")
        self.axes = axes = figure.add_axes(places.curve)
        axes.set(xlim=(-0.5, scene.num_slots - 0.5), xlabel="slot")
        axes.set_title("Σ latency (s)", fontsize=8, pad=4)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.locator_params(axis="y", nbins=3)
        (self.line,) = axes.plot([], [], color=GREY, linewidth=1.0)
        (self.now,) = axes.plot([], [], "o", color="black", markersize=4, clip_on=False)
        self.most = 0.0
        self.moving = [self.head, *self.texts.values(), self.line, self.now]

    def show(self, scene: Scene, around: Points, heading: str, latency_s: list[float]) -> None:
        """Write all of it."""
        words = f"slot {scene.slot} of 0 to {scene.num_slots - 1}"
        if scene.decision >= 0:
            words += f", frame {scene.decision} of 0 to {scene.num_decisions - 1}"
        words += "" if scene.numbers else ", not yet served"
        self.head.set_text(f"{heading}: {words}" if heading else words)
        for name, text in scene.shown_numbers().items():
            self.texts[name].set_text(text)
        past = np.array(latency_s)
        self.line.set_data(np.arange(len(past)), past)
        self.now.set_data([len(past) - 1], past[-1:]) if len(past) else self.now.set_data([], [])
        if np.isfinite(past).any():
            self.most = _above(self.most, float(np.nanmax(past)))
            self.axes.set_ylim(0, self.most or 1.0)
