// The live page: takes the state of all sources from /events and shows it. Asks nobody but its own server.

import { STATES, Source, byId, setText } from "./source.js";

const SILENCE_MS = 15_000; // the server says something every 5 s; after this long the connection counts as dead
const ANNOUNCE_MS = 4_000; // a screen reader is told one change at most in this time

// All sources.

const sources = new Map(); // number -> Source

function showSources(states) {
  const numbers = new Set(states.map((state) => state.number));
  for (const [number, source] of sources) {
    if (numbers.has(number)) continue;
    announce(number, `${source.state.name} has left`);
    source.leave();
    sources.delete(number);
  }
  states.forEach((state, index) => {
    const source = sources.get(state.number) ?? new Source(state.number);
    sources.set(state.number, source);
    const place = byId("sources").children[index] ?? null;
    if (place !== source.element) byId("sources").insertBefore(source.element, place);
    announceChange(source.state, state);
    source.show(state);
  });
  byId("nothing").hidden = states.length > 0;
  showButtons(states);
}

function showButtons(states) {
  const isPaused = states.some((state) => state.state === "paused");
  setText(byId("pause"), isPaused ? "Resume" : "Pause");
}

// For screen readers: the newest change of each source, one after the other with pauses.

const announcements = new Map(); // source number -> words
let announcing = null;

function announceChange(before, now) {
  if (before?.state === now.state && before.labels.join() === now.labels.join()) return;
  // The whole of it: the newest words take the place of those not yet said.
  const words = now.state === "live" ? (now.labels.join(", ") || "nothing recognised") : (STATES[now.state] ?? now.state);
  announce(now.number, `${now.name}: ${words}`);
}

function announce(number, words) {
  announcements.set(number, words);
  announcing ??= setTimeout(sayNext, 500);
}

function sayNext() {
  byId("announcer").textContent = [...announcements.values()].join(". ");
  announcements.clear();
  announcing = setTimeout(() => {
    announcing = null;
    if (announcements.size > 0) sayNext();
  }, ANNOUNCE_MS);
}

// The connection. It is closed while nobody looks at the page, so that hidden tabs cost nothing.

let events = null;
let token = null;
let version = null;
let hasEnded = false;
let silence = null;

function connect() {
  disconnect();
  if (hasEnded || document.hidden) return;
  events = new EventSource("events");
  events.addEventListener("hello", (event) => greet(JSON.parse(event.data)));
  events.addEventListener("sources", (event) => {
    stillThere();
    showSources(JSON.parse(event.data));
  });
  events.addEventListener("beat", stillThere);
  events.addEventListener("end", finish);
  events.addEventListener("error", () => {
    showConnection("stalled", "Connection lost", "The connection is lost; this page goes on trying.");
    clearTimeout(silence);
    if (events?.readyState === EventSource.CLOSED) silence = setTimeout(connect, 5_000);
  });
  stillThere();
}

function disconnect() {
  events?.close();
  events = null;
  clearTimeout(silence);
}

function greet(hello) {
  if (version !== null && version !== hello.version) location.reload(); // another program has come back
  if (token !== null && token !== hello.token) showSources([]); // another run of it: its numbers mean other sources
  ({ token, version } = hello);
  stillThere();
  showConnection("live", "Connected", "");
}

function stillThere() {
  clearTimeout(silence);
  silence = setTimeout(connect, SILENCE_MS);
}

function finish() {
  hasEnded = true;
  disconnect();
  showConnection("ended", "Ended", "The program has ended. This is what it showed last.");
}

function showConnection(state, words, notice) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), words);
  byId("notice").hidden = notice === "";
  setText(byId("notice"), notice);
  for (const name of ["pause", "reset", "quit"]) byId(name).disabled = state !== "live";
  if (notice) announce("connection", notice);
}

async function press(name) {
  try {
    const answer = await fetch(`commands/${name}`, { method: "POST", headers: { "X-Clipgru-Token": token } });
    byId("notice").hidden = answer.ok;
    if (!answer.ok) setText(byId("notice"), `${name}: ${await answer.text()}`);
  } catch {
    byId("notice").hidden = false;
    setText(byId("notice"), `${name}: the server does not answer.`);
  }
}

byId("pause").addEventListener("click", () => press("pause"));
byId("reset").addEventListener("click", () => press("reset"));
byId("quit").addEventListener("click", () => byId("confirm").showModal());
// Not on "close", which comes later, perhaps after another answer.
byId("confirm").addEventListener("submit", (event) => {
  if (event.submitter.value === "quit") press("quit");
});
byId("hold").addEventListener("change", () => sources.forEach((source) => source.loadPicture()));
document.addEventListener("visibilitychange", connect);
connect();
