"""A page that replays an episode: one file without anything from elsewhere, the slots in it as JSON."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from hadrl_lightning.files import replacing
from hadrl_lightning.viewer.drawing import FETCHED, HELD, LACKING, LINKS, SHADES, WORDS
from hadrl_lightning.viewer.frame import OUTCOMES, Scene, extent


def write_replay(path: Path, scenes: Sequence[Scene], title: str) -> None:
    """Write the page.

    Raises:
        OutputError: the folder can't be written to, or the disk is full.
    """
    data = json.dumps(replay(scenes, title), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    before, after = PAGE.split("DATA", 1)
    page = before.replace("TITLE", escape(title), 1) + data.replace("<", "\\u003c") + after
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def replay(scenes: Sequence[Scene], title: str) -> dict[str, Any]:
    """What the page is told of one episode: plain values, services, servers and users counted from 0."""
    first = scenes[0]
    low, high = extent(scenes)
    return {
        "title": title,
        "outcomes": [{"name": WORDS[one], "shade": SHADES[one]} for one in OUTCOMES],
        "dashes": [{"cloud": "6 3", "dropped": "1 3"}.get(one, "none") for one in OUTCOMES],
        "shades": {"held": HELD, "new": FETCHED, "lacking": LACKING, "link": LINKS},
        "box": _plain(np.concatenate((low, high))),
        "radius": first.cell_radius_m,
        "servers": _plain(first.servers.at_m),
        "services": first.servers.cache.shape[1],
        "links": [list(link) for link in first.links],
        "buffer": first.buffer_s,
        "unit": first.energy_unit,
        "devices": first.has_devices,
        "moves": first.moves,
        "slots": [_slot(scene) for scene in scenes],
    }


def _slot(scene: Scene) -> dict[str, Any]:
    users, servers = scene.users, scene.servers
    seen = {**users._asdict(), "late": ~users.on_time}
    columns = {
        "cache filled": servers.filled,
        "bandwidth": servers.bandwidth_load,
        "compute": servers.compute_load,
        "backlog (s)": servers.backlog_s,
        "speed": servers.speed,
    }
    return {
        "slot": scene.slot,
        "last": scene.num_slots - 1,
        "frame": scene.decision,
        "numbers": scene.shown_numbers(),
        "users": {name: _plain(value) for name, value in seen.items() if name != "on_time"},
        "cache": [np.flatnonzero(held).tolist() for held in servers.cache],
        "new": [np.flatnonzero(held).tolist() for held in servers.new],
        "relayed": servers.tasks[:, OUTCOMES.index("cloud")].tolist(),
        "tasks": servers.tasks.sum(axis=1).tolist(),
        "columns": {name: _plain(value) for name, value in columns.items() if value is not None},
    }


def _plain(values: np.ndarray) -> list[Any]:
    """As lists, with four digits that matter: a page need not be large."""
    if values.dtype.kind != "f":
        return values.astype(int).tolist()
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = 3 - np.floor(np.log10(np.abs(values), where=values != 0, out=np.zeros(values.shape)))
    scale = 10.0 ** np.clip(digits, 1, 9)
    return (np.round(values * scale) / scale).tolist()


PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>TITLE</title>
<style>
body { font: 14px/1.4 system-ui, sans-serif; margin: 16px auto; max-width: 1240px; padding: 0 12px; color: #111 }
h1 { font-size: 17px; margin: 0 0 8px } h2 { font-size: 14px; margin: 18px 0 4px }
#bar { display: flex; gap: 10px; align-items: center; position: sticky; top: 0; background: #fff; padding: 8px 0;
  z-index: 1 }
#slider { flex: 1 } button, select { font: inherit } button { min-width: 5em }
#numbers { display: flex; flex-wrap: wrap; gap: 4px 28px; margin: 6px 0 }
#numbers span { color: #555; font-size: 12px; display: block } #numbers b { font-size: 17px; font-weight: 500 }
svg { width: 100%; max-height: 62vh; background: #fafafa; border: 1px solid #ddd }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100% }
th, td { text-align: right; padding: 2px 10px; border-bottom: 1px solid #e4e4e4; white-space: nowrap }
th { color: #555; font-weight: 500 } td:first-child, th:first-child { text-align: left }
td.wide { white-space: normal; text-align: left; width: 40% } th.wide { text-align: left }
.box { display: inline-block; min-width: 19px; text-align: center; margin: 1px; font-size: 11px; border-radius: 2px }
.load { display: inline-block; height: 9px; background: #bac6d1; margin-right: 5px; vertical-align: middle }
#legend { font-size: 12px; margin: 4px 0 } #legend span { margin-right: 16px; white-space: nowrap }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 4px }
tr.picked { background: #fff3d6 } #users { overflow-x: auto }
</style></head><body>
<h1 id="title"></h1>
<div id="bar"><button id="play">play</button><button id="back" aria-label="slot before">&#9664;</button>
<button id="next" aria-label="next slot">&#9654;</button>
<input id="slider" type="range" min="0" value="0" aria-label="slot"><span id="where"></span>
<select id="speed" aria-label="slots a second"><option value="1">1 slot a second</option>
<option value="2">2 slots a second</option><option value="4" selected>4 slots a second</option>
<option value="10">10 slots a second</option></select></div>
<div id="numbers"></div><svg id="map" role="img" aria-label="users and who serves them"></svg><div id="legend"></div>
<h2>Servers</h2><table id="servers"></table><h2>Users</h2><div id="users"><table></table></div>
<script id="data" type="application/json">DATA</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = id => document.getElementById(id);
const S = data.servers.length, unit = data.unit, shade = data.outcomes.map(one => one.shade);
let at = 0, timer = null, picked = -1;

// the map: metres upwards, the cloud above all cells
const [left, low, right, high] = data.box, size = Math.max(right - left, 1.4 * (high - low), 1) / 100;
const top_ = high + 9 * size, cloud = [(left + right) / 2, high + 5 * size];
find("map").setAttribute("viewBox", [left - 2 * size, -top_, right - left + 4 * size, top_ - low + 2 * size].join(" "));
const line = (a, b, color, width, dash) =>
  `<line x1="${a[0]}" y1="${-a[1]}" x2="${b[0]}" y2="${-b[1]}" stroke="${color}"` +
  ` stroke-width="${width * size}"` + (dash && dash !== "none" ?
  ` stroke-dasharray="${dash.split(" ").map(part => part * size / 6).join(" ")}"` : "") + "/>";
const text = (place, words, color) =>
  `<text x="${place[0]}" y="${-place[1]}" font-size="${1.7 * size}" fill="${color}"` +
  ` text-anchor="middle" dominant-baseline="central">${words}</text>`;

function server(target) {
  if (target < 0) return "";
  return target < S ? "server " + target : data.devices && target === S ? "own device" : "cloud";
}

function drawMap(slot) {
  const u = slot.users, parts = [];
  for (const one of data.servers)
    parts.push(`<rect x="${one[0] - data.radius}" y="${-one[1] - data.radius}" width="${2 * data.radius}" ` +
      `height="${2 * data.radius}" fill="#0072B2" fill-opacity=".07" stroke="#9bb6c9" stroke-width="${.12 * size}"/>`);
  for (const [a, b] of data.links) parts.push(line(data.servers[a], data.servers[b], data.shades.link, .8));
  u.at_m.forEach((me, i) => { if (data.moves) parts.push(line(u.before_m[i], me, "#aaa", .25)); });
  slot.relayed.forEach((n, s) => {
    if (n) parts.push(line(data.servers[s], cloud, shade[1], .1 + .8 * n / u.service.length));
  });
  u.at_m.forEach((me, i) => {
    const kind = u.outcome[i], goal = u.target[i] < S ? data.servers[u.target[i]] : cloud;
    if ([0, 1, 3].includes(kind) && u.target[i] >= 0 && !(data.devices && u.target[i] === S))
      parts.push(line(me, goal, shade[kind], i === picked ? .4 : .14, data.dashes[kind]));
  });
  u.at_m.forEach((me, i) => {
    const r = (u.service.length > 50 ? .5 : .75) * size, x = me[0], y = -me[1], kind = u.outcome[i];
    const mark = u.late[i] && kind < 3 ? `<path d="M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z"` :
      kind === 3 ? `<rect x="${x - .8 * r}" y="${y - .8 * r}" width="${1.6 * r}" height="${1.6 * r}"` :
      `<circle cx="${x}" cy="${y}" r="${r}"`;
    parts.push(`${mark} data-user="${i}" fill="${shade[kind]}" stroke="${i === picked ? "#000" : "#fff"}" ` +
      `stroke-width="${.15 * size}"><title>${describe(u, i)}</title></${mark.slice(1).split(" ")[0]}>`);
    if (u.handed_over[i]) parts.push(`<circle cx="${x}" cy="${y}" r="${1.5 * size}" fill="none" stroke="#D55E00" ` +
      `stroke-width="${.25 * size}"/>`);
  });
  data.servers.forEach((one, s) => parts.push(`<rect x="${one[0] - 1.2 * size}" y="${-one[1] - 1.2 * size}" ` +
    `width="${2.4 * size}" height="${2.4 * size}" fill="#000"/>` + text(one, s, "#fff")));
  parts.push(`<rect x="${cloud[0] - 4 * size}" y="${-cloud[1] - 1.5 * size}" width="${8 * size}" ` +
    `height="${3 * size}" rx="${1.5 * size}" fill="#fff" stroke="${shade[1]}" stroke-width="${.2 * size}"/>`);
  parts.push(text(cloud, "cloud", "#000"));
  find("map").innerHTML = parts.join("");
}

function describe(u, i) {
  const kind = u.outcome[i], who = `user ${i}: service ${u.service[i]}`;
  if (kind > 3) return kind === 4 ? `user ${i}: no task` : who;
  return `${who}, ${server(u.target[i])}, ${data.outcomes[kind].name}, ${u.latency_s[i]} s of ${u.deadline_s[i]} s`;
}

function drawServers(slot) {
  const names = Object.keys(slot.columns), most = {"backlog (s)": data.buffer || 1};
  const head = `<tr><th>server</th><th>tasks</th>` + names.map(name => `<th>${name}</th>`).join("") +
    `<th class="wide">holds</th></tr>`;
  const rows = data.servers.map((_, s) => {
    const cells = names.map(name => {
      const value = slot.columns[name][s], share = Math.min(1, value / (most[name] || 1));
      const words = name in most ? value.toFixed(2) : Math.round(100 * value) + " %";
      return `<td><span class="load" style="width:${48 * share}px"></span>${words}</td>`;
    });
    const boxes = slot.cache[s].map(k => `<span class="box" style="background:${slot.new[s].includes(k) ?
      data.shades.new + ";color:#000" : data.shades.held + ";color:#fff"}">${k}</span>`);
    return `<tr><td>${s}</td><td>${slot.tasks[s]}</td>${cells.join("")}<td class="wide">${boxes.join("")}</td></tr>`;
  });
  find("servers").innerHTML = head + rows.join("");
}

function drawUsers(slot) {
  const u = slot.users, names = ["user", "service", "home", "served by", "", "hit", "latency (s)", "deadline (s)",
    "in time", `energy (${unit})`];
  const rows = u.service.map((service, i) => {
    const kind = u.outcome[i], task = kind < 4, home = u.home[i] + (u.handed_over[i] ? " (new)" : "");
    const cells = task ? [server(u.target[i]), data.outcomes[kind].name, kind === 0 ? "yes" : "no", u.latency_s[i],
      u.deadline_s[i], u.late[i] ? "no" : "yes", u.energy[i]] : ["", data.outcomes[kind].name, "", "", "", "", ""];
    cells[1] = `<span class="dot" style="background:${shade[kind]}"></span>` + cells[1];
    return `<tr data-user="${i}"${i === picked ? ' class="picked"' : ""}><td>${i}</td>` +
      `<td>${kind === 4 ? "" : service}</td><td>${home}</td>${cells.map(cell => `<td>${cell}</td>`).join("")}</tr>`;
  });
  document.querySelector("#users table").innerHTML =
    "<tr>" + names.map(name => `<th>${name}</th>`).join("") + "</tr>" + rows.join("");
}

function show(number) {
  at = Math.max(0, Math.min(data.slots.length - 1, number));
  const slot = data.slots[at];
  find("slider").value = at;
  find("where").textContent = `slot ${slot.slot} of 0 to ${slot.last}, frame ${slot.frame}`;
  find("numbers").innerHTML = Object.entries(slot.numbers).map(([name, value]) =>
    `<div><span>${name}</span><b>${value}</b></div>`).join("");
  drawMap(slot); drawServers(slot); drawUsers(slot);
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => at + 1 < data.slots.length ? show(at + 1) : play(false),
    1000 / find("speed").value) : null;
  find("play").textContent = on ? "pause" : "play";
}

find("title").textContent = data.title;
find("slider").max = data.slots.length - 1;
const kinds = new Set(data.slots.flatMap(slot => slot.users.outcome));
find("legend").innerHTML = data.outcomes.map((one, kind) => kinds.has(kind) ?
  `<span><i class="dot" style="background:${one.shade}"></i>${one.name}</span>` : "").join("") +
  "<span>&#9650; after its deadline</span>" + (kinds.has(3) ? "<span>&#9632; dropped</span>" : "") +
  (data.moves ? '<span style="color:#D55E00">&#9711; new home</span>' +
    "<span>&#8212; way since the slot before</span>" : "") +
  (data.links.length ? `<span style="color:${data.shades.link}">&#9644; link between servers</span>` : "") +
  `<span><i class="dot" style="background:${data.shades.held};border-radius:0"></i>held</span>` +
  `<span><i class="dot" style="background:${data.shades.new};border-radius:0"></i>held from this slot on</span>`;
find("play").onclick = () => { if (timer === null && at + 1 === data.slots.length) show(0); play(timer === null); };
find("back").onclick = () => { play(false); show(at - 1); };
find("next").onclick = () => { play(false); show(at + 1); };
find("slider").oninput = event => { play(false); show(+event.target.value); };
find("speed").onchange = () => { if (timer !== null) play(true); };
document.onclick = event => {
  const user = event.target.closest("[data-user]");
  if (user) { picked = picked === +user.dataset.user ? -1 : +user.dataset.user; show(at); }
};
document.onkeydown = event => {
  if (["INPUT", "SELECT", "BUTTON"].includes(event.target.tagName)) return;
  if (event.key === "ArrowLeft") find("back").click();
  if (event.key === "ArrowRight") find("next").click();
  if (event.key === " ") { event.preventDefault(); find("play").click(); }
};
show(0);
</script></body></html>
"""
