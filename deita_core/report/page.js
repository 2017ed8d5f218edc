"use strict";
// Texts are data: they reach the page only as text nodes.
(async () => {
  const byId = (id) => document.getElementById(id);
  const SHOWN = 200, NEAR = 9;
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const words = (name) => name.replaceAll("_", " ");
  const count = (n) => n.toLocaleString("en");

  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const isDark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; redraw(); });

  let redraw = () => {};
  let page;
  try {
    const bytes = Uint8Array.from(atob(byId("data").textContent), (c) => c.charCodeAt(0));
    page = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
  } catch (error) {
    byId("broken").hidden = false;
    byId("broken").textContent = "This browser cannot unpack the rows of this page, so only its figures are shown (" + error.name + ").";
    return;
  }
  const points = page.points, size = points.id.length;
  // Some fates are rare; those are offered only if there is such a row.
  const there = new Set(["selected", "near_duplicate", "over_budget", "rejected", ...points.fate]);
  const FATES = ["selected", "near_duplicate", "redundant", "over_quota", "over_budget", "filtered", "contaminated", "rejected"]
    .filter((fate) => there.has(fate));

  // -- rows

  const decimal = (value) => value === null ? "none" : value.toFixed(2);
  const said = (i) => {
    const parts = [];
    const score = points.score[i];
    if (points.rank[i] !== null) parts.push("rank " + count(points.rank[i]));
    if (score !== null) parts.push("score " + score.toFixed(2) + " (complexity " + decimal(points.complexity[i]) + ", quality " + decimal(points.quality[i]) + ")");
    if (points.similarity[i] !== null) parts.push("nearest selected above: " + points.similarity[i].toFixed(3));
    parts.push(page.files[points.file[i]] + ":" + points.line[i], "id " + points.id[i]);
    return parts.join(" · ");
  };
  const facts = (i) => {
    const line = make("p", undefined, "facts");
    line.append(make("b", words(points.fate[i])), " · " + said(i));
    return line;
  };
  const card = (i) => {
    const article = make("article", undefined, "row");
    article.append(facts(i));
    for (const [role, text] of page.texts[i] || [["", points.begins[i] + " …"]]) {
      if (role) article.append(make("p", role, "role"));
      const shown = make("p", text, "text");
      shown.dir = "auto";
      article.append(shown);
    }
    return article;
  };
  const differing = (parts) => {
    const shown = make("p", undefined, "text");
    shown.dir = "auto";
    for (const [differs, text] of parts) shown.append(differs ? make("mark", text) : text);
    return shown;
  };
  const pair = (found) => {
    const box = make("div", undefined, "pair");
    box.append(make("h3", "similarity " + found.similarity.toFixed(4)));
    found.rows.forEach((i, side) => {
      const article = make("article", undefined, "row");
      article.append(facts(i), differing(found.parts[side]));
      box.append(article);
    });
    return box;
  };
  const fill = (container, rows, shape) => {
    if (rows.length) container.append(...rows.map(shape));
    else container.append(make("p", "None.", "note"));
  };
  for (const box of document.querySelectorAll("[data-list]")) fill(box, page.lists[box.dataset.list], card);
  for (const box of document.querySelectorAll("[data-pairs]")) fill(box, page.pairs[box.dataset.pairs], pair);

  // -- the map

  const canvas = byId("canvas"), tip = byId("tip"), pen = canvas.getContext("2d");
  const state = { fates: new Set(FATES), query: "", region: null, chosen: null, drag: null };
  const HUES = 12;
  const ofScore = points.score.filter((score) => score !== null);
  const least = ofScore.reduce((a, b) => Math.min(a, b), Infinity), most = ofScore.reduce((a, b) => Math.max(a, b), -Infinity);
  let haystack = null;
  let shown = [], at = [], grid = new Map();

  const hue = (n) => {
    const second = Math.floor(n / HUES) % 2, light = isDark() ? [62, 80] : [45, 28];
    return "hsl(" + ((n % HUES) * 360 / HUES) + " 65% " + light[second] + "%)";
  };
  const shade = (share) => "hsl(" + (230 - 190 * share) + " 80% " + (isDark() ? 45 + 25 * share : 60 - 20 * share) + "%)";
  const painter = () => {
    const by = byId("colour").value;
    const fates = Object.fromEntries(FATES.map((fate) => [fate, colour(fate)]));
    if (by === "score") return (i) => points.score[i] === null ? fates.rejected : shade((points.score[i] - least) / (most - least || 1));
    if (by === "file") return (i) => hue(points.file[i]);
    if (by === "cluster") return (i) => hue(points.cluster[i] || 0);
    return (i) => fates[points.fate[i]];
  };
  const legend = () => {
    const by = byId("colour").value, box = byId("legend");
    const key = (name, paint) => {
      const line = make("span", " " + name);
      const spot = make("i", undefined, "key");
      spot.style.background = paint;
      line.prepend(spot);
      return line;
    };
    let keys = FATES.map((fate) => key(words(fate), colour(fate)));
    if (by === "score") keys = [key("score " + least.toFixed(1), shade(0)), key(most.toFixed(1), shade(1))];
    if (by === "file") keys = page.files.slice(0, 2 * HUES).map((file, n) => key(file, hue(n)));
    if (by === "cluster") keys = Object.entries(page.clusters).map(([n, name]) => key(name, hue(Number(n))));
    box.replaceChildren(...keys);
  };
  const find = () => {
    if (!haystack) haystack = points.begins.map((begins, i) => {
      const texts = (page.texts[i] || []).map((message) => message[1]);
      return [begins, points.id[i], ...texts].join("\n").toLowerCase();
    });
    const query = state.query.toLowerCase(), region = state.region;
    shown = [];
    for (let i = 0; i < size; i++) {
      if (!state.fates.has(points.fate[i])) continue;
      if (query && !haystack[i].includes(query)) continue;
      if (region && !(points.x[i] >= region[0] && points.x[i] <= region[2] && points.y[i] >= region[1] && points.y[i] <= region[3])) continue;
      shown.push(i);
    }
  };
  const list = () => {
    const items = shown.slice(0, SHOWN).map((i) => {
      const item = make("li"), button = make("button");
      button.type = "button";
      const begins = make("span", points.begins[i]);
      begins.dir = "auto";
      button.append(begins, make("small", words(points.fate[i]) + (points.rank[i] === null ? "" : " · rank " + count(points.rank[i]))));
      button.addEventListener("click", () => choose(i, true));
      item.append(button);
      return item;
    });
    byId("found").replaceChildren(...items);
    const beyond = shown.length > SHOWN ? ", the first " + SHOWN + " listed" : "";
    byId("count").textContent = count(shown.length) + " of " + count(size) + " rows" + beyond;
  };
  const EDGE = 8, SIDE = 4095;
  const inside = () => [canvas.clientWidth - 2 * EDGE, canvas.clientHeight - 2 * EDGE];
  const draw = () => {
    const ratio = devicePixelRatio || 1, [wide, high] = inside();
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const paint = painter(), spot = size > 10000 ? 2 : size > 1000 ? 3 : 6;
    at = new Array(size);
    grid = new Map();
    // The selected ones come last, on top.
    for (const i of [...shown].reverse()) {
      if (points.x[i] === null) continue;
      const x = EDGE + points.x[i] / SIDE * wide, y = EDGE + (1 - points.y[i] / SIDE) * high;
      at[i] = [x, y];
      const cell = Math.floor(x / NEAR) + ":" + Math.floor(y / NEAR);
      if (grid.has(cell)) grid.get(cell).push(i); else grid.set(cell, [i]);
      pen.fillStyle = paint(i);
      pen.fillRect(x - spot / 2, y - spot / 2, spot, spot);
    }
    if (state.chosen !== null && at[state.chosen]) {
      pen.strokeStyle = colour("ink");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(...at[state.chosen], 8, 0, 7);
      pen.stroke();
    }
    if (state.drag) {
      const [x, y, ax, ay] = state.drag;
      pen.strokeStyle = colour("cut");
      pen.strokeRect(x, y, ax - x, ay - y);
    }
    legend();
  };
  const nearest = (x, y) => {
    let best = null, least = NEAR * NEAR;
    const column = Math.floor(x / NEAR), row = Math.floor(y / NEAR);
    for (let c = column - 1; c <= column + 1; c++) for (let r = row - 1; r <= row + 1; r++)
      for (const i of grid.get(c + ":" + r) || []) {
        const away = (at[i][0] - x) ** 2 + (at[i][1] - y) ** 2;
        if (away <= least) { least = away; best = i; }
      }
    return best;
  };
  const choose = (i, focus) => {
    state.chosen = i;
    byId("row").replaceChildren(card(i));
    if (focus) byId("row").focus();
    draw();
  };
  const update = () => { find(); list(); draw(); };
  redraw = draw;

  for (const fate of FATES) {
    const label = make("label"), box = make("input");
    box.type = "checkbox";
    box.checked = true;
    box.value = fate;
    box.addEventListener("change", () => { if (box.checked) state.fates.add(fate); else state.fates.delete(fate); update(); });
    label.append(box, " " + words(fate));
    byId("fates").append(label);
  }
  let waiting = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = event.target.value.trim(); update(); }, 120);
  });
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("colour").addEventListener("change", draw);
  byId("clear").addEventListener("click", () => { state.region = null; byId("clear").hidden = true; update(); });

  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event);
    state.drag = [x, y, x, y];
    // A rectangle may end outside the map.
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (state.drag) { state.drag[2] = x; state.drag[3] = y; draw(); return; }
    const i = nearest(x, y);
    tip.hidden = i === null;
    if (i === null) return;
    tip.textContent = points.begins[i];
    tip.style.left = Math.min(x + 12, Math.max(0, canvas.clientWidth - 220)) + "px";
    tip.style.top = (y + 12) + "px";
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointercancel", () => { state.drag = null; draw(); });
  canvas.addEventListener("pointerup", (event) => {
    const drag = state.drag, [x, y] = place(event);
    state.drag = null;
    if (!drag) return;
    if (Math.hypot(x - drag[0], y - drag[1]) < 5) {
      const i = nearest(x, y);
      if (i !== null) choose(i, false);
      return;
    }
    const [wide, high] = inside();
    const across = [drag[0], x].map((v) => (v - EDGE) / wide * SIDE).sort((a, b) => a - b);
    const up = [drag[1], y].map((v) => (1 - (v - EDGE) / high) * SIDE).sort((a, b) => a - b);
    state.region = [across[0], up[0], across[1], up[1]];
    byId("clear").hidden = false;
    update();
  });
  byId("controls").hidden = false;
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  update();
  root.dataset.ready = "1";
})();
