// The lists beside the player: labels, stretches in view, videos.

import { BACKGROUND, UNLABELLED, clock } from "./spans.js";

export const byId = (id) => document.getElementById(id);
export const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

// Okabe and Ito's colours, told apart by the colour-blind, as on the live page; source.css has them too.
const COLOURS = ["#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#c3c9d2"];
const LIGHT_INK = 6; // white letters on this one
const MAX_SHOWN = 200; // stretches in the list

export class Look {
  constructor() {
    this.labels = [];
  }

  style(label) {
    const place = Math.max(0, this.labels.indexOf(label));
    if (label === BACKGROUND || label === UNLABELLED || label === null) return { colour: "#8b94a3", ink: "#000", edge: 0, place: null };
    const colour = place % COLOURS.length;
    return { colour: COLOURS[colour], ink: colour === LIGHT_INK ? "#fff" : "#000", edge: Math.floor(place / COLOURS.length) % 4, place: colour };
  }

  colours() {
    const css = getComputedStyle(document.documentElement);
    const named = (name) => css.getPropertyValue(`--${name}`).trim();
    return {
      card: named("card"),
      track: named("track"),
      ink: named("ink"),
      soft: named("soft"),
      line: named("line"),
      accent: named("accent"),
      now: named("danger"),
    };
  }
}

function swatch(look, label) {
  const element = document.createElement("span");
  const { place, edge } = look.style(label);
  element.className = place === null ? "swatch is-none" : `swatch style style-${place} edge-${edge}`;
  element.setAttribute("aria-hidden", "true");
  return element;
}

function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

export function showLabels(list, look, found, used, onPick) {
  const items = found.map((label, place) => {
    const button = make("button", "pick");
    button.type = "button";
    const number = look.labels.indexOf(label) + 1;
    button.append(swatch(look, label), make("span", "name", label));
    if (number && number <= 9) button.append(make("kbd", "", String(number)));
    button.setAttribute("aria-pressed", String(label === used));
    button.addEventListener("click", () => onPick(label));
    const item = document.createElement("li");
    item.append(button);
    if (place === 0) item.className = "first";
    return item;
  });
  const button = make("button", "pick");
  button.type = "button";
  button.append(swatch(look, BACKGROUND), make("span", "name", "background"), make("kbd", "", "0"));
  button.addEventListener("click", () => onPick(BACKGROUND));
  const last = document.createElement("li");
  last.append(button);
  list.replaceChildren(...items, last);
}

export function showStretches(list, look, spans, here, on) {
  const items = spans.slice(0, MAX_SHOWN).map((span) => {
    const item = document.createElement("li");
    const go = make("button", "go");
    go.type = "button";
    const times = `${clock(span.start)} – ${clock(span.end)}`;
    go.append(swatch(look, span.label), make("span", "name", span.label ?? "moves"), make("span", "times", times));
    go.setAttribute("aria-current", String(span === here));
    if (span.isDraft) {
      item.className = "draft";
      const score = span.score === null ? "" : ` ${Math.round(span.score * 100)} %`;
      go.insertBefore(make("span", "soft", `draft${score}`), go.lastChild);
    }
    go.addEventListener("click", () => on.go(span));
    item.append(go);
    if (span.isDraft) {
      if (span.label !== null) item.append(action("✓", `Accept ${span.label}, ${times}`, () => on.accept(span)));
      item.append(action("✗", `Reject ${span.label ?? "something"}, ${times}`, () => on.reject(span)));
    } else {
      item.append(action("×", `Remove ${span.label}, ${times}`, () => on.remove(span)));
    }
    return item;
  });
  if (spans.length > MAX_SHOWN) items.push(make("li", "soft", `and ${spans.length - MAX_SHOWN} more: zoom in`));
  const focused = list.contains(document.activeElement) ? [...list.querySelectorAll("button")].indexOf(document.activeElement) : -1;
  list.replaceChildren(...items);
  showWithin(list, list.querySelector("[aria-current=true]")?.parentElement);
  if (focused >= 0) list.querySelectorAll("button")[focused]?.focus();
}

// Scrolls the list alone: the page stays where it is.
function showWithin(list, item) {
  if (!item) return;
  const top = item.offsetTop - list.offsetTop;
  if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - item.offsetHeight) list.scrollTop = top;
}

function action(text, name, act) {
  const button = make("button", "small", text);
  button.type = "button";
  button.setAttribute("aria-label", name);
  button.title = name;
  button.addEventListener("click", act);
  return button;
}

// The list of videos: an item for each, made once and changed when its line changes.
export class VideoList {
  constructor(list, onOpen) {
    [this.list, this.onOpen, this.items, this.lines] = [list, onOpen, new Map(), new Map()];
  }

  show(lines) {
    for (const line of lines) {
      const item = this.items.get(line.number) ?? this.add(line);
      this.lines.set(line.number, line);
      const share = line.rest === BACKGROUND ? 1 : line.seconds ? line.labelled_seconds / line.seconds : 0;
      const [name, words, bar] = item.firstElementChild.children;
      setText(name, line.name);
      setText(words, line.fault ? "cannot be read" : describe(line, share));
      words.title = line.fault;
      bar.firstElementChild.style.transform = `scaleX(${share})`;
      item.classList.toggle("is-bad", Boolean(line.fault));
    }
  }

  add(line) {
    const item = document.createElement("li");
    const button = make("button", "video");
    button.type = "button";
    const bar = make("span", "bar");
    bar.append(make("span", ""));
    bar.setAttribute("aria-hidden", "true");
    button.append(make("span", "name"), make("span", "soft"), bar);
    button.addEventListener("click", () => this.onOpen(line.number));
    item.append(button);
    this.items.set(line.number, item);
    this.list.append(item);
    return item;
  }

  mark(number) {
    for (const [place, item] of this.items) item.firstElementChild.setAttribute("aria-current", String(place === number));
    showWithin(this.list, this.items.get(number));
  }

  filter(text) {
    for (const [number, item] of this.items) item.hidden = !this.lines.get(number).name.toLowerCase().includes(text.toLowerCase());
  }
}

function describe(line, share) {
  const count = line.num_stretches === 1 ? "1 stretch" : `${line.num_stretches} stretches`;
  const length = line.seconds === null ? "" : `${clock(line.seconds, 0)} · `;
  return `${length}${Math.floor(share * 100)} % · ${count}`;
}
