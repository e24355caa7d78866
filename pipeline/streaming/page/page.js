// The live page: takes the state of all sources from /events and shows it. Asks nobody but its own server.

const HISTORY_SECONDS = 60;
const SILENCE_MS = 15_000; // the server says something every 5 s; after this long the connection counts as dead
const ANNOUNCE_MS = 4_000; // a screen reader is told one change at most in this time
const NUM_COLOURS = 8; // each with a pattern, in page.css; a thick edge tells the labels after them apart
const NUM_EDGES = 4;
const STATES = { connecting: "Connecting", live: "Live", stalled: "Stalled", paused: "Paused", ended: "Ended" };
const FLAT_LABEL_PX = 44; // a narrower stretch of the strip carries no words

const CALM_MS = 1_000; // between two moves of the strip, for those who asked for less motion
const wantsLittleMotion = matchMedia("(prefers-reduced-motion: reduce)");

const byId = (id) => document.getElementById(id);
const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
const milliseconds = (value) => (value == null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)}\u00a0ms`);

function clock(seconds) {
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  return `${minutes}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds - whole) * 10)}`;
}

// One source on the page.

class Source {
  constructor(number) {
    this.number = number;
    this.runs = new Map(); // number -> stretch of one label
    this.shown = new Map(); // number -> its element on the strip
    this.movedAt = -Infinity; // when the strip moved last
    this.element = byId("source").content.firstElementChild.cloneNode(true);
    this.heading = this.find("h2");
    this.heading.id = `source-${number}`;
    this.element.setAttribute("aria-labelledby", this.heading.id);
    this.picture = { wanted: null, shown: null, isLoading: false };
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  show(state) {
    this.state = state;
    setText(this.heading, state.name);
    const badge = this.find(".state");
    badge.dataset.state = state.state;
    setText(badge, STATES[state.state] ?? state.state);
    this.element.classList.toggle("is-still", state.state === "stalled" || state.state === "ended");
    this.find(".message").hidden = state.message === "";
    setText(this.find(".message"), state.message);
    setText(this.find(".open .caption"), state.state === "live" ? "Now" : "Last");
    setText(this.find(".axis span:last-child"), state.state === "live" ? "now" : "last picture");
    this.showTop(state.top);
    this.showFigures(state);
    this.takeRuns(state);
    this.showOpen(state.label);
    if (!wantsLittleMotion.matches || performance.now() - this.movedAt > CALM_MS) {
      this.movedAt = performance.now();
      this.showStrip(state.time_seconds ?? 0);
    }
    this.picture.wanted = state.picture;
    this.loadPicture();
  }

  showOpen(label) {
    const open = this.find(".open");
    open.classList.toggle("is-nothing", label == null);
    setText(open.querySelector("strong"), label ?? "nothing recognised");
    const newest = [...this.runs.values()].at(-1);
    const style = label != null && newest?.label === label ? newest.style : null;
    const swatch = open.querySelector(".swatch");
    swatch.hidden = style == null;
    swatch.className = `swatch ${styleClass(style)}`;
  }

  showTop(top) {
    const list = this.find(".top");
    while (list.children.length > top.length) list.lastElementChild.remove();
    while (list.children.length < top.length) list.append(makeScore());
    top.forEach(({ label, score }, index) => {
      const [name, figure, bar] = list.children[index].children;
      setText(name, label);
      setText(figure, score == null ? "–" : `${(score * 100).toFixed(0)} %`);
      bar.firstElementChild.style.transform = `scaleX(${Math.min(1, Math.max(0, score ?? 0))})`;
    });
  }

  showFigures(state) {
    for (const cell of this.element.querySelectorAll("[data-figure]")) {
      const name = cell.dataset.figure;
      if (name === "stages") {
        const stages = Object.entries(state.stage_ms);
        setText(cell, stages.map(([stage, value]) => `${stage} ${milliseconds(value)}`).join(", ") || "–");
      } else if (name in state) {
        setText(cell, state[name].toLocaleString("en"));
      } else {
        setText(cell, milliseconds(state.latency_ms[name]));
      }
    }
  }

  takeRuns(state) {
    for (const run of state.runs) this.runs.set(run.number, run);
    for (const number of this.runs.keys()) {
      if (number < state.oldest_run) this.runs.delete(number);
    }
    for (const [number, element] of this.shown) {
      if (!this.runs.has(number)) {
        element.remove();
        this.shown.delete(number);
      }
    }
  }

  showStrip(now) {
    const strip = this.find(".strip");
    const width = strip.clientWidth;
    const totals = new Map(); // label -> seconds and style
    for (const run of this.runs.values()) {
      const start = Math.max(run.start_seconds, now - HISTORY_SECONDS);
      const seconds = Math.max(0, run.end_seconds - start);
      const element = this.shown.get(run.number) ?? this.addStretch(strip, run);
      element.style.left = `${100 - ((now - start) / HISTORY_SECONDS) * 100}%`;
      element.style.width = `${(seconds / HISTORY_SECONDS) * 100}%`;
      if (run.label == null) continue;
      element.title = `${run.label}: ${clock(run.start_seconds)} to ${clock(run.end_seconds)}`;
      element.firstElementChild.hidden = (seconds / HISTORY_SECONDS) * width < FLAT_LABEL_PX;
      const total = totals.get(run.label) ?? { seconds: 0, style: run.style };
      totals.set(run.label, { ...total, seconds: total.seconds + seconds });
    }
    this.showLegend(totals);
  }

  addStretch(strip, run) {
    const element = document.createElement("span");
    element.className = run.label == null ? "is-none" : styleClass(run.style);
    if (run.label != null) {
      element.append(document.createElement("i"));
      element.firstElementChild.textContent = run.label;
    }
    strip.append(element);
    this.shown.set(run.number, element);
    return element;
  }

  showLegend(totals) {
    const legend = this.find(".legend");
    const labels = [...totals].sort((one, other) => one[1].style - other[1].style);
    while (legend.children.length > labels.length) legend.lastElementChild.remove();
    while (legend.children.length < labels.length) legend.append(makeLegendEntry());
    labels.forEach(([label, { seconds, style }], index) => {
      const [swatch, name, figure] = legend.children[index].children;
      swatch.className = `swatch ${styleClass(style)}`;
      setText(name, label);
      setText(figure, `${seconds.toFixed(0)} s`);
    });
    const words = labels.map(([label, { seconds }]) => `${label} ${seconds.toFixed(0)} s`).join(", ");
    this.find(".strip").setAttribute("aria-label", words || "nothing recognised");
  }

  // At most one request a source is under way: a slow connection shows fewer pictures, and is never behind.
  async loadPicture() {
    const picture = this.picture;
    const isHeld = byId("hold").checked && picture.shown != null;
    if (picture.isLoading || isHeld || picture.wanted == null || picture.wanted === picture.shown) return;
    picture.isLoading = true;
    const wanted = picture.wanted;
    const seconds = this.state.time_seconds ?? 0;
    try {
      const answer = await fetch(`pictures/${this.number}.jpg`);
      if (answer.status === 200) await this.showPicture(await answer.blob(), seconds);
      picture.shown = wanted;
    } catch {
      // The connection is gone, or the picture is broken: the next state asks again.
    } finally {
      picture.isLoading = false;
    }
    if (this.element.isConnected && picture.wanted !== wanted) this.loadPicture();
  }

  async showPicture(blob, seconds) {
    const image = this.find("img");
    const address = URL.createObjectURL(blob);
    const before = image.src;
    image.src = address;
    try {
      await image.decode();
    } finally {
      if (before) URL.revokeObjectURL(before);
    }
    image.hidden = false;
    image.alt = `Picture of ${this.state.name}`;
    this.find(".picture").style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
    setText(this.find("figcaption"), clock(seconds));
  }

  leave() {
    this.element.remove();
    URL.revokeObjectURL(this.find("img").src);
  }
}

function styleClass(style) {
  if (style == null) return "";
  return `style style-${style % NUM_COLOURS} edge-${Math.floor(style / NUM_COLOURS) % NUM_EDGES}`;
}

function makeScore() {
  const item = document.createElement("li");
  item.innerHTML = '<span class="name"></span><span class="score"></span><span class="bar" aria-hidden="true"><span></span></span>';
  return item;
}

function makeLegendEntry() {
  const item = document.createElement("li");
  item.innerHTML = '<span class="swatch" aria-hidden="true"></span><span></span> <b></b>';
  return item;
}

// All of them.

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
  if (before?.state === now.state && before.label === now.label) return;
  // The whole of it: the newest words take the place of those not yet said.
  const words = now.state === "live" ? (now.label ?? "nothing recognised") : (STATES[now.state] ?? now.state);
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
byId("quit").addEventListener("click", () => {
  byId("confirm").returnValue = "cancel";
  byId("confirm").showModal();
});
byId("confirm").addEventListener("close", () => {
  if (byId("confirm").returnValue === "quit") press("quit");
});
byId("hold").addEventListener("change", () => sources.forEach((source) => source.loadPicture()));
document.addEventListener("visibilitychange", connect);
connect();
