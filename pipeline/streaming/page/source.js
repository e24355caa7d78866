// One source on the page: its picture, scores, last minute and figures.

const HISTORY_SECONDS = 60;
const NUM_COLOURS = 8; // each with a pattern, in source.css; a thick edge tells the labels after them apart
const NUM_EDGES = 4;
const FLAT_LABEL_PX = 44; // a narrower stretch of the strip carries no words
const MAX_NAMED_LABELS = 2; // of a stretch whose height more labels share, none has words
const CALM_MS = 1_000; // between two moves of the strip, for those who asked for less motion
const wantsLittleMotion = matchMedia("(prefers-reduced-motion: reduce)");

export const STATES = { connecting: "Connecting", live: "Live", stalled: "Stalled", paused: "Paused", ended: "Ended" };
export const byId = (id) => document.getElementById(id);
export const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
const milliseconds = (value) => (value == null ? "–" : `${value.toFixed(value < 10 ? 1 : 0)}\u00a0ms`);

function clock(seconds) {
  const whole = Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  return `${minutes}:${String(whole % 60).padStart(2, "0")}.${Math.floor((seconds - whole) * 10)}`;
}

export class Source {
  constructor(number) {
    this.number = number;
    this.runs = new Map(); // number -> stretch in which the labels stay
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
    this.find(".message").hidden = state.message === "" || state.message === state.state;
    setText(this.find(".message"), state.message);
    setText(this.find(".open .caption"), state.state === "live" ? "Now" : "Last");
    setText(this.find(".axis span:last-child"), state.state === "live" ? "now" : "last picture");
    this.showTop(state.top);
    this.showFigures(state);
    this.takeRuns(state);
    this.showOpen(state.labels);
    if (!wantsLittleMotion.matches || performance.now() - this.movedAt > CALM_MS) {
      this.movedAt = performance.now();
      this.showStrip(state.time_seconds ?? 0);
    }
    this.picture.wanted = state.picture;
    this.loadPicture();
  }

  showOpen(labels) {
    const open = this.find(".open");
    const list = open.querySelector(".labels");
    const words = labels.length > 0 ? labels : ["nothing recognised"];
    open.classList.toggle("is-nothing", labels.length === 0);
    while (list.children.length > words.length) list.lastElementChild.remove();
    while (list.children.length < words.length) list.append(makeOpenLabel());
    const newest = [...this.runs.values()].at(-1);
    words.forEach((label, index) => {
      const [swatch, name] = list.children[index].children;
      const style = newest?.styles[newest.labels.indexOf(label)];
      setText(name, label);
      swatch.hidden = style == null;
      swatch.className = `swatch ${styleClass(style)}`;
    });
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
      if (run.labels.length === 0) continue;
      element.title = `${run.labels.join(", ")}: ${clock(run.start_seconds)} to ${clock(run.end_seconds)}`;
      const isFlat = (seconds / HISTORY_SECONDS) * width < FLAT_LABEL_PX || run.labels.length > MAX_NAMED_LABELS;
      element.classList.toggle("is-flat", isFlat);
      run.labels.forEach((label, index) => {
        const total = totals.get(label) ?? { seconds: 0, style: run.styles[index] };
        totals.set(label, { ...total, seconds: total.seconds + seconds });
      });
    }
    this.showLegend(totals);
  }

  addStretch(strip, run) {
    const element = document.createElement("span");
    element.className = run.labels.length === 0 ? "is-none" : "stretch";
    run.labels.forEach((label, index) => {
      const bar = document.createElement("b");
      bar.className = styleClass(run.styles[index]);
      bar.append(document.createElement("i"));
      bar.firstElementChild.textContent = label;
      element.append(bar);
    });
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

function makeOpenLabel() {
  const item = document.createElement("span");
  item.innerHTML = '<span class="swatch" aria-hidden="true"></span><strong></strong>';
  return item;
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
