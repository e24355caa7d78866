"use strict";

// Tables: a press on a heading sorts by it, another one the other way round.

const valueOf = (cell) => (cell.dataset.order === undefined ? cell.textContent.trim().toLowerCase() : Number(cell.dataset.order));
const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));

function sortBy(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const rows = Array.from(body.rows);
  const isNumber = rows.length > 0 && rows[0].cells[column].dataset.order !== undefined;
  const before = heading.getAttribute("aria-sort");
  const isUp = before ? before !== "ascending" : !isNumber; // numbers: the largest first
  rows.sort((a, b) => (isUp ? 1 : -1) * compare(valueOf(a.cells[column]), valueOf(b.cells[column])));
  body.append(...rows);
  table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", isUp ? "ascending" : "descending");
}

document.querySelectorAll(".sortable thead th").forEach((heading) => {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
});

// The list of videos: only those with the words, or only the wrong ones.

function filterVideos(section) {
  const words = section.querySelector("input[type=search]").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wrongOnly = section.querySelector("input[type=checkbox]").checked;
  const rows = Array.from(section.querySelectorAll("tbody tr"));
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word)) || (wrongOnly && !row.querySelector(".wrong"));
  }
  section.querySelector("[role=status]").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
}

document.querySelectorAll(".tools").forEach((tools) => {
  tools.hidden = false; // of no use without this script
  const section = tools.closest("section");
  tools.addEventListener("input", () => filterVideos(section));
  filterVideos(section);
});

// Clips: pictures in a row, of which one is shown; one clip plays at a time.

const PICTURE_MS = 160;
let playing = null;
let timer = null;

function show(player, place) {
  const count = Number(player.dataset.count);
  player.dataset.shown = (place + count) % count;
  player.style.setProperty("--shown", player.dataset.shown);
}

function stop() {
  clearInterval(timer);
  playing?.setAttribute("aria-pressed", "false");
  playing = null;
}

function play(player) {
  stop();
  playing = player;
  player.setAttribute("aria-pressed", "true");
  timer = setInterval(() => show(player, Number(player.dataset.shown) + 1), PICTURE_MS);
}

document.querySelectorAll(".player").forEach((player) => {
  show(player, Math.floor(Number(player.dataset.count) / 2));
  player.addEventListener("click", () => (player === playing ? stop() : play(player)));
  player.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    stop();
    show(player, Number(player.dataset.shown) + step);
  });
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });
