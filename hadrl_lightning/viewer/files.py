"""An episode as files: a GIF, a video, and a page for a browser that needs nothing else."""

import html
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hadrl_lightning.errors import HadrlError
from hadrl_lightning.files import replacing
from hadrl_lightning.viewer.drawing import DARK, FPS, LOOKS, SLOWED, Drawing, Pixels
from hadrl_lightning.viewer.scene import Scene, Sites, plain

FORMATS = ("gif", "mp4", "html")
"""What an episode can be written as."""
MOST_COLOURS = 128
"""Of a GIF."""


def check_formats(formats: Sequence[str]) -> None:
    """Refuse what can't be written, before anything is played.

    Raises:
        HadrlError: an unknown format, or mp4 without ffmpeg.
    """
    for one in formats:
        if one not in FORMATS:
            raise HadrlError(f"format must be among {', '.join(FORMATS)}, got {one!r}")
    if "mp4" in formats:
        ffmpeg()


def write_episode(
    folder: Path, formats: Sequence[str], title: str, sites: Sites, scenes: Sequence[Scene]
) -> list[Path]:
    """Write the scenes of an episode as episode.gif, episode.mp4, episode.html.

    Args:
        folder: where they go; it is made if there is none.
        formats: of `FORMATS`.
        title: of the page.
        sites: of the network.
        scenes: one a slot.

    Raises:
        HadrlError: ffmpeg is missing or fails.
        MissingExtra: matplotlib is not installed.
        OutputError: the folder can't be written to, or the disk is full.
    """
    drawn = [one for one in formats if one != "html"]
    drawing = Drawing(sites) if drawn else None
    pictures = [drawing.pixels(scene) for scene in scenes] if drawing else []
    written = []
    for one in dict.fromkeys(formats):
        file = folder / f"episode.{one}"
        if one == "gif":
            write_gif(file, pictures)
        elif one == "mp4":
            write_mp4(file, pictures)
        else:
            write_page(file, title, sites, scenes)
        written.append(file)
    return written


def ffmpeg() -> str:
    """The program that makes videos.

    Raises:
        HadrlError: there is none.
    """
    found = shutil.which("ffmpeg")
    if found is None:
        raise HadrlError("format mp4 needs the program ffmpeg, got none on the PATH; gif and html need none")
    return found


def write_gif(file: Path, pictures: Sequence[Pixels]) -> None:
    """Write a GIF that repeats itself.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    from PIL import Image  # comes with matplotlib

    palette = Image.fromarray(pictures[len(pictures) // 2]).quantize(MOST_COLOURS, dither=Image.Dither.NONE)
    first, *others = [
        Image.fromarray(one).quantize(palette=palette, dither=Image.Dither.NONE) for one in pictures
    ]
    with replacing(file) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=1000 // FPS, loop=0)


def write_mp4(file: Path, pictures: Sequence[Pixels]) -> None:
    """Write a video by ffmpeg.

    Raises:
        HadrlError: there is no ffmpeg, or it fails.
        OutputError: the folder can't be written to, or the disk is full.
    """
    height, width, _ = pictures[0].shape
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS), "-i", "-"]
    with replacing(file) as temporary:
        done = subprocess.run(
            [ffmpeg(), "-y", "-loglevel", "error", *raw, "-pix_fmt", "yuv420p", "-f", "mp4", str(temporary)],
            input=b"".join(one.tobytes() for one in pictures),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise HadrlError(f"format mp4 needs an ffmpeg that can write it, got {reason or done.returncode}")


def write_page(file: Path, title: str, sites: Sites, scenes: Sequence[Scene]) -> None:
    """Write a page with the slots in it, which a browser shows without a network.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    data = {
        "sites": plain(sites),
        "scenes": plain(list(scenes)),
        "looks": {name: {"label": look.label, "colour": look.colour} for name, look in LOOKS.items()},
        "fps": FPS,
        "slowed": SLOWED,
        "dark": DARK,
    }
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True).replace("<", "\\u003c")
    page = PAGE.replace("TITLE", html.escape(title)).replace("DATA", text)
    with replacing(file) as temporary:
        temporary.write_text(page, encoding="utf-8")


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>TITLE</title>
<style>
body { font: 14px/1.4 sans-serif; color: #222; margin: 1em auto; max-width: 1240px; padding: 0 1em; }
h1 { font-size: 1.15em; margin: 0 0 .5em; }
h2 { font-size: 1em; margin: 1.2em 0 .3em; }
#bar { display: flex; gap: .7em; align-items: center; }
#at { flex: 1; }
button { min-width: 4.5em; padding: .3em; }
#scores { margin: .5em 0; font-weight: bold; }
#legend span { margin-right: 1.3em; white-space: nowrap; }
svg { width: 100%; background: #fff; }
svg text { font: 12px sans-serif; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: .12em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; font-weight: normal; color: #555; }
td.left { text-align: left; }
.scroll { overflow: auto; max-height: 24em; }
.box { display: inline-block; min-width: 1.5em; margin: 1px; text-align: center; background: #9CC7E4; }
.box.now { background: #0072B2; color: #fff; }
</style>
</head>
<body>
<h1>TITLE</h1>
<div id="bar">
<button id="play">play</button>
<input id="at" type="range" min="0" value="0" aria-label="slot">
<span id="slot"></span>
</div>
<div id="scores"></div>
<div id="legend"></div>
<svg id="map" role="img" aria-label="map"></svg>
<h2>Servers</h2>
<div class="scroll"><table id="servers"></table></div>
<h2>Users</h2>
<div class="scroll"><table id="users"></table></div>
<script type="application/json" id="data">DATA</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const { sites, scenes, looks } = data;
const by = id => document.getElementById(id);
const shown = (value, digits) => value.toFixed(digits === undefined ? 2 : digits);
const WIDTH = 1200, LEFT = 50, TOP = 56, BOTTOM = 34;
let low, high, height, timer = null;

function frameMap() {
  const xs = sites.servers_m.map(p => p[0]), ys = sites.servers_m.map(p => p[1]), r = sites.radius_m;
  low = [Math.min(...xs) - r, Math.min(...ys) - r];
  high = [Math.max(...xs) + r, Math.max(...ys) + r];
  for (const scene of scenes) for (const user of scene.users) {
    low = [Math.min(low[0], user.x_m), Math.min(low[1], user.y_m)];
    high = [Math.max(high[0], user.x_m), Math.max(high[1], user.y_m)];
  }
  const like = (WIDTH - 2 * LEFT) * (high[1] - low[1]) / (high[0] - low[0]);
  height = TOP + BOTTOM + Math.min(Math.max(like, 240), 620);
  by("map").setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
}
function place(x, y) {
  const inner = height - TOP - BOTTOM, wide = WIDTH - 2 * LEFT;
  const scaleY = inner / (high[1] - low[1]), scaleX = Math.min(wide / (high[0] - low[0]), scaleY * 2.5);
  const middle = WIDTH / 2 - scaleX * (low[0] + high[0]) / 2;
  return [middle + scaleX * x, TOP + scaleY * (high[1] - y)];
}
function marker(status, x, y, late) {
  const colour = looks[status].colour, face = late ? "#fff" : colour;
  const paint = `fill="${face}" stroke="${late ? colour : "#fff"}" stroke-width="${late ? 2 : 1}"`;
  if (status === "cloud") return `<rect x="${x - 5}" y="${y - 5}" width="10" height="10" ${paint}>`;
  if (status === "device") return `<path d="M${x} ${y - 7}L${x + 7} ${y}L${x} ${y + 7}L${x - 7} ${y}Z" ${paint}>`;
  if (status === "dropped")
    return `<path d="M${x - 5} ${y - 5}l10 10m0 -10l-10 10" stroke="${colour}" stroke-width="3">`;
  return `<circle cx="${x}" cy="${y}" r="${status === "idle" ? 3 : 5.5}" ${paint}>`;
}
const closing = status => status === "cloud" ? "</rect>"
  : status === "device" || status === "dropped" ? "</path>" : "</circle>";
const isLate = user => !user.on_time && user.status !== "idle" && user.status !== "dropped";
function line(from, to, colour, width) {
  const ends = `x1="${from[0]}" y1="${from[1]}" x2="${to[0]}" y2="${to[1]}"`;
  return `<line ${ends} stroke="${colour}" stroke-width="${width}" stroke-opacity=".6"/>`;
}
function drawMap(scene) {
  const cloud = [WIDTH / 2, 24], parts = [];
  for (const site of sites.servers_m) {
    const a = place(site[0] - sites.radius_m, site[1] + sites.radius_m);
    const b = place(site[0] + sites.radius_m, site[1] - sites.radius_m);
    const size = `width="${b[0] - a[0]}" height="${b[1] - a[1]}"`;
    parts.push(`<rect x="${a[0]}" y="${a[1]}" ${size} fill="#f6f6f6" stroke="#bbb"/>`);
  }
  scene.servers.forEach((server, index) => {
    if (server.misses)
      parts.push(line(place(...sites.servers_m[index]), cloud, looks.cloud.colour, 1 + Math.min(server.misses, 30) / 5));
  });
  for (const user of scene.users) {
    const to = user.target >= 0 ? place(...sites.servers_m[user.target]) : user.status === "cloud" ? cloud : null;
    if (to) parts.push(line(place(user.x_m, user.y_m), to, looks[user.status].colour, 1.2));
  }
  scene.users.forEach((user, index) => {
    const [x, y] = place(user.x_m, user.y_m), text = `user ${index}: service ${user.service}, ${where(user)}`;
    parts.push(`${marker(user.status, x, y, isLate(user))}<title>${text}</title>${closing(user.status)}`);
  });
  sites.servers_m.forEach((site, index) => {
    const [x, y] = place(...site), colour = scene.servers[index].speed < 1 ? data.slowed : data.dark;
    parts.push(`<rect x="${x - 10}" y="${y - 10}" width="20" height="20" fill="${colour}"/>`);
    parts.push(`<text x="${x}" y="${y + 4}" text-anchor="middle" fill="#fff">${index}</text>`);
  });
  parts.push(`<rect x="${cloud[0] - 30}" y="10" width="60" height="26" rx="8" fill="${looks.cloud.colour}"/>`);
  parts.push(`<text x="${cloud[0]}" y="28" text-anchor="middle">cloud</text>`);
  const [x0, y0] = place(low[0], low[1]), [x1, y1] = place(high[0], high[1]);
  const mark = (x, y, anchor, text) => parts.push(`<text x="${x}" y="${y}" text-anchor="${anchor}">${text}</text>`);
  mark(x0, y0 + 18, "start", `x = ${shown(low[0], 0)} m`);
  mark(x1, y0 + 18, "end", `x = ${shown(high[0], 0)} m`);
  mark(x0, y1 - 8, "start", `y = ${shown(low[1], 0)} to ${shown(high[1], 0)} m`);
  by("map").innerHTML = parts.join("");
}
function where(user) {
  if (user.status === "idle") return "no task";
  if (user.status === "device") return "own device";
  if (user.target < 0) return user.status;
  return user.status === "server" ? `server ${user.target}` : `${user.status}, server ${user.target}`;
}
function table(id, heads, rows) {
  const cell = value => `<td>${value}</td>`;
  const body = rows.map(row => `<tr>${row.map(cell).join("")}</tr>`).join("");
  by(id).innerHTML = `<tr>${heads.map(head => `<th>${head}</th>`).join("")}</tr>${body}`;
}
function drawTables(scene) {
  const asked = new Set(scene.users.filter(user => user.status !== "idle").map(user => user.service));
  const heads = ["server", "hits", "passed on", "bandwidth (%)", "compute (%)"];
  if (sites.has_backlog) heads.push("backlog (s)");
  if (sites.has_speed) heads.push("speed (%)");
  heads.push("filled (GiB)", "services held (dark: asked for now)");
  table("servers", heads, scene.servers.map((server, index) => {
    const row = [index, server.hits, server.misses];
    row.push(shown(100 * server.bandwidth_load, 0), shown(100 * server.compute_load, 0));
    if (sites.has_backlog) row.push(shown(server.backlog_s));
    if (sites.has_speed) row.push(shown(100 * server.speed, 0));
    const filled = server.held.reduce((sum, service) => sum + sites.storage_gib[service], 0);
    row.push(`${shown(filled, 1)} of ${shown(sites.cache_gib[index], 1)}`);
    const box = service => `<span class="box${asked.has(service) ? " now" : ""}">${service}</span>`;
    row.push(server.held.map(box).join("") || "none");
    return row;
  }));
  const titles = ["user", "service", "home", "where", "hit", "latency (s)", "deadline (s)", "in time"];
  titles.push(`energy (${sites.energy_unit})`, "x (m)", "y (m)");
  table("users", titles, scene.users.map((user, index) => {
    const end = [shown(user.x_m, 0), shown(user.y_m, 0)], colour = looks[user.status].colour;
    const place = `<span style="color:${colour}">&#9632;</span> ${where(user)}`;
    if (user.status === "idle") return [index, "", user.home, place, "", "", "", "", "", ...end];
    const numbers = [shown(user.latency_s, 3), shown(user.deadline_s, 3), user.on_time ? "yes" : "no"];
    const hit = user.status === "server" ? "yes" : "no";
    return [index, user.service, user.home, place, hit, ...numbers, user.energy.toPrecision(3), ...end];
  }));
}
function draw() {
  const scene = scenes[+by("at").value], s = scene.scores;
  by("slot").textContent = `slot ${scene.slot} of ${sites.num_slots}, frame ${scene.frame}`;
  by("scores").textContent = [`Σ latency ${shown(s.latency)} s`, `hits ${s.hits} of ${s.tasks} tasks`,
    `in time ${shown(100 * s.on_time, 0)} %`, `energy ${s.energy.toPrecision(3)} ${sites.energy_unit}`,
    `fetching caches ${shown(s.switching, 0)} s`].join("   |   ");
  drawMap(scene);
  drawTables(scene);
}
function stop() { clearInterval(timer); timer = null; by("play").textContent = "play"; }
function step(by_slots) {
  by("at").value = (+by("at").value + by_slots + scenes.length) % scenes.length;
  draw();
}
by("play").onclick = () => {
  if (timer) return stop();
  by("play").textContent = "pause";
  timer = setInterval(() => step(1), 1000 / data.fps);
};
by("at").max = scenes.length - 1;
by("at").oninput = () => { stop(); draw(); };
const key = (status, late) =>
  `<svg viewBox="-8 -8 16 16" style="width:16px;height:16px;vertical-align:middle">${marker(status, 0, 0, late)}` +
  `${closing(status)}</svg>`;
by("legend").innerHTML = sites.statuses.map(one => `<span>${key(one)} ${looks[one].label}</span>`).join("") +
  `<span>${key("waiting", true)} late, by any way</span>` +
  (sites.has_speed ? `<span><span style="color:${data.slowed}">&#9632;</span> slowed server</span>` : "");
frameMap();
draw();
</script>
</body>
</html>
"""
