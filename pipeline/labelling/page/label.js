// The labelling page: which video is open, what is marked and selected, and what keys and buttons do.

import { Look, VideoList, byId, setText, showLabels, showStretches } from "./lists.js";
import { Player } from "./player.js";
import { connect, getBytes, getJson, post } from "./server.js";
import { BACKGROUND, UNLABELLED, clock, editsToPut, toJson } from "./spans.js";
import { Timeline } from "./timeline.js";

const lines = new Map(); // number -> line of a video
const look = new Look();
let folder = { labels: [], may_overlap: false };
let video = null; // the open one: number, stretches, drafts, rest, revision
let selected = null; // id of a stretch
let marked = null; // start and end of one to be, in seconds; either may be null
let offered = null; // start and end of what was offered, until all of it is labelled
let usedLabel = null;
let isBusy = false;
let wasLearning = false;
let lastTurn = Promise.resolve(); // when what was pressed last is done

const player = new Player(byId("picture"), showMoment, (words) => tell(words));
const timeline = new Timeline(byId("canvas"), byId("overview"), look, {
  seek: (seconds) => player.goTo(player.frameAt(seconds)),
  select: (stretch) => select(stretch?.id ?? null),
  mark: (start, end) => mark({ start: snap(start), end: snap(end) }),
  edge: (stretch, side, seconds) => inTurn(() => moveEdge(stretch, side, seconds)),
  snap,
  view: showNearby,
});
const videos = new VideoList(byId("video-list"), open);

// Words for those who see and for those who listen

function tell(words) {
  byId("notice").hidden = words === "";
  setText(byId("notice"), words);
}

function say(words) {
  byId("announcer").textContent = words;
}

// News of the server

connect({
  begin: start,
  state: showState,
  connection(state) {
    showSaved(state === "live" ? folder.problem : null, state);
  },
});

async function start() {
  const told = await getJson("folder.json");
  setText(byId("folder"), told.folder);
  document.title = `${told.folder} · clipgru label`;
  showState(told);
  const wanted = Number(location.hash.slice(1));
  const first = lines.get(video?.number ?? wanted) ?? told.videos.find((line) => line.rest !== BACKGROUND) ?? told.videos[0];
  if (first) await open(first.number, video?.number === first.number);
}

function showState(told) {
  const hasNewLabel = String(told.labels) !== String(folder.labels);
  folder = { ...folder, ...told };
  look.labels = told.labels;
  timeline.content.labels = told.labels.filter((label) => label !== UNLABELLED);
  timeline.mayOverlap = told.may_overlap;
  showSaved(told.problem, "live");
  for (const line of told.videos ?? []) lines.set(line.number, line);
  if (told.videos) videos.show(told.videos);
  else if (lines.size === 0) return;
  showLearning(told.learning);
  showFound();
  showShare();
  if (hasNewLabel) showNearby(); // now it has a colour
  const line = lines.get(video?.number);
  if (line && !isBusy && (line.revision !== video.revision || line.drafts_revision !== video.draftsRevision)) refresh();
  timeline.draw();
}

function showSaved(problem, state) {
  const words = { stalled: "No connection", ended: "Ended", connecting: "Connecting" };
  const badge = byId("saved");
  badge.dataset.state = state === "live" ? (problem ? "stalled" : "saved") : state;
  setText(badge, state === "live" ? (problem ? "Not saved" : "Saved") : words[state]);
  if (state === "ended") tell("The program has ended. All that was saved is in the manifest.");
  else if (state === "stalled") tell("The connection is lost; this page goes on trying.");
  else if (problem) tell(`Not saved yet, and kept until it can be: ${problem}`);
  else if (badge.dataset.was !== "saved") tell("");
  badge.dataset.was = badge.dataset.state;
}

function showLearning(learning) {
  if (!learning) return;
  setText(byId("learning-words"), learning.words);
  byId("learn").disabled = !learning.can_learn;
  if (learning.state === "idle" && wasLearning) say(learning.words);
  wasLearning = learning.state === "learning";
  const bar = byId("learning-progress");
  bar.hidden = learning.state === "idle";
  if (learning.share == null) bar.removeAttribute("value");
  else bar.value = learning.share;
  const entries = Object.entries(learning.figures ?? {}).map(([name, text]) => {
    const pair = document.createElement("div");
    const [term, value] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, value.textContent] = [name, text];
    pair.append(term, value);
    return pair;
  });
  byId("learning-figures").replaceChildren(...entries);
}

// A video

async function open(number, isSame = false) {
  const frame = isSame ? player.frame : 0;
  const told = await getJson(`videos/${number}.json`).catch((error) => tell(error.message));
  if (!told) return;
  if (!isSame) [selected, marked, offered] = [null, null, null];
  video = { number, draftsRevision: null };
  location.replace(`#${number}`);
  setText(byId("video-name"), told.name);
  tell(told.fault ? `${told.fault}. Its labels are kept.` : folder.problem ? byId("notice").textContent : "");
  let times = new Float64Array(0);
  if (told.facts) times = new Float64Array((await getBytes(`videos/${number}/times`)).bytes);
  timeline.content.seconds = told.facts?.seconds ?? Math.max(0, ...told.stretches.map((stretch) => stretch.span[2] ?? 0));
  timeline.content.scores = null;
  take(told);
  player.open(number, told.facts, times);
  if (frame) player.goTo(frame);
  if (!isSame) timeline.open(timeline.content.seconds);
  showNearby();
  videos.mark(number);
  loadScores();
}

function take(told) {
  const end = timeline.content.seconds;
  const read = ({ id, version, span }) => ({ id, version, label: span[0], start: span[1], end: span[2] ?? end });
  const stretches = told.stretches.map(read);
  const drafts = (told.drafts ?? []).map(({ span, score, whole }) => ({
    isDraft: true,
    label: span[0] === "?" ? null : span[0],
    start: span[1],
    end: span[2] ?? end,
    score,
    whole,
  }));
  const line = lines.get(video.number);
  video = { ...video, stretches, drafts, rest: told.rest, revision: told.revision, draftsRevision: line?.drafts_revision };
  Object.assign(timeline.content, { stretches, drafts });
  if (!stretches.some((stretch) => stretch.id === selected)) selected = null;
  showMoment();
  showNearby();
  showShare();
}

async function refresh() {
  const { number, draftsRevision } = video;
  isBusy = true;
  try {
    const told = await getJson(`videos/${number}.json`);
    if (video.number !== number) return;
    take(told);
    if (video.draftsRevision !== draftsRevision) loadScores();
  } catch (error) {
    tell(error.message);
  } finally {
    isBusy = false;
  }
}

async function loadScores() {
  const { number } = video;
  const found = await getBytes(`videos/${number}/scores`).catch(() => null);
  if (video.number !== number) return;
  timeline.content.scores = null;
  if (found) {
    const values = new Uint8Array(found.bytes);
    const labels = JSON.parse(found.headers.get("x-labels"));
    const fps = Number(found.headers.get("x-sample-fps"));
    timeline.content.scores = { values, labels, fps, count: values.length / labels.length };
  }
  timeline.draw();
}

// The moment

function snap(seconds) {
  const frame = player.frameAt(seconds);
  const [before, after] = [player.times[frame] ?? 0, player.endOf(frame)];
  return seconds - before <= after - seconds ? before : after;
}

const meets = (span, other) => span.start < other.end && other.start < span.end;
const covers = (span, seconds) => span.start <= seconds + 1e-6 && seconds + 1e-6 < span.end;
const draftHere = () => video?.drafts?.find((draft) => covers(draft, player.time)) ?? null;
const stretchHere = () => video?.stretches?.find((stretch) => covers(stretch, player.time)) ?? null;
const theSelected = () => video?.stretches?.find((stretch) => stretch.id === selected) ?? null;

function showMoment() {
  timeline.time = player.time;
  timeline.follow();
  timeline.selected = theSelected();
  timeline.marked = marked;
  timeline.offered = offered;
  timeline.draw();
  const here = stretchHere() ?? draftHere();
  const what = here ? `${here.isDraft ? "draft " : ""}${here.label ?? "something"}` : "nothing labelled";
  const words = `${clock(player.time)} · picture ${player.frame + 1} of ${player.times.length}`;
  setText(byId("picture").querySelector("figcaption"), player.times.length ? words : "No picture");
  setText(byId("play"), player.isPlaying ? "Pause" : "Play");
  const slider = byId("slider");
  slider.setAttribute("aria-valuemax", String(Math.max(0, player.times.length - 1)));
  slider.setAttribute("aria-valuenow", String(player.frame));
  slider.setAttribute("aria-valuetext", `${words}, ${what}`);
  const now = marked && { start: marked.start, end: marked.end };
  const text = now ? `marked ${now.start === null ? "…" : clock(now.start)} – ${now.end === null ? "…" : clock(now.end)}` : "";
  setText(byId("marked"), text || (theSelected() ? `selected: ${theSelected().label}` : ""));
  showHere();
}

function showHere() {
  const here = theSelected() ?? stretchHere() ?? draftHere();
  if (here === video?.shownHere) return;
  if (video) video.shownHere = here;
  showNearby();
}

function showNearby() {
  if (!video?.stretches) return;
  const spans = [...timeline.inView(video.stretches), ...timeline.inView(video.drafts)];
  spans.sort((one, other) => one.start - other.start);
  byId("stretch-none").hidden = spans.length > 0;
  showStretches(byId("stretch-list"), look, spans, theSelected() ?? stretchHere() ?? draftHere(), {
    go(span) {
      player.goTo(player.frameAt(span.start));
      select(span.isDraft ? null : span.id);
    },
    accept: (draft) => inTurn(() => accept(draft)),
    reject: (draft) => inTurn(() => reject(draft)),
    remove: (stretch) => inTurn(() => remove(stretch)),
  });
}

function showShare() {
  const line = lines.get(video?.number);
  if (!line) return;
  const share = line.rest === BACKGROUND ? 1 : line.seconds ? line.labelled_seconds / line.seconds : 0;
  setText(byId("video-share"), line.rest === BACKGROUND ? "all of it labelled" : `${Math.floor(share * 100)} % labelled`);
  setText(byId("finish"), line.rest === BACKGROUND ? "The rest is not labelled" : "The rest is background");
}

// Changes

// Keys may be quicker than the server: what one does is done on what the one before it has made.
function inTurn(act) {
  const turn = lastTurn.then(act);
  lastTurn = turn.catch(() => null);
  return turn;
}

async function send(values, words) {
  isBusy = true;
  try {
    const told = await post("changes", { video: video.number, ...values });
    if (told.isLate) {
      tell(`Somebody else was quicker: ${told.message}. Nothing was changed; look, and try again.`);
      say(`not done: ${told.message}`);
      isBusy = false;
      await refresh();
      return false;
    }
    take(told);
    showSaved(told.problem, "live");
    say(words);
    return true;
  } catch (error) {
    tell(error.message);
    return false;
  } finally {
    isBusy = false;
  }
}

async function put(span) {
  const edits = editsToPut(span, video.stretches, folder.may_overlap);
  if (!edits.length) {
    [marked, offered] = [null, null];
    showMoment();
    return say("all of it is labelled already");
  }
  const words = `${span.label} from ${clock(span.start)} to ${clock(span.end)}`;
  if (!(await send({ edits }, `labelled ${words}`))) return;
  if (span.label !== BACKGROUND) usedLabel = span.label;
  if (offered && (span.label === BACKGROUND || !meets(span, offered))) offered = null;
  [marked, selected] = [null, null]; // the next i begins another one
  showMoment();
  showNearby();
  showFound();
}

function moveEdge(stretch, side, seconds) {
  const to = { ...stretch, [side]: seconds };
  if (to.end <= to.start) return say("a stretch ends after it begins");
  const edit = { id: stretch.id, version: stretch.version, to: toJson(to) };
  const cuts = editsToPut(to, video.stretches.filter((other) => other.id !== stretch.id), folder.may_overlap).slice(0, -1);
  return send({ edits: [...cuts, edit] }, `${stretch.label} from ${clock(to.start)} to ${clock(to.end)}`);
}

function pick(label) {
  // What was offered is marked, but a draft in it is meant before the whole.
  if (marked !== null && marked === offered && label !== BACKGROUND && draftHere()) return accept(draftHere(), label);
  if (marked?.start != null && marked?.end != null && marked.start < marked.end) return put({ label, ...marked });
  const chosen = theSelected();
  if (chosen && label !== chosen.label) {
    const edit = { id: chosen.id, version: chosen.version, to: toJson({ ...chosen, label }) };
    usedLabel = label === BACKGROUND ? usedLabel : label;
    return send({ edits: [edit] }, `now ${label}`);
  }
  if (marked?.start != null) return put({ label, start: marked.start, end: player.endOf(player.frame) });
  if (label === BACKGROUND && offered) return put({ label, ...offered });
  const draft = draftHere();
  if (draft) return accept(draft, label);
  usedLabel = label;
  showFound();
  return say(`${label}: from where to where? Mark it with i and o`);
}

const accept = (draft, label = draft.label) => (label === null ? say("what moves here? Its number, or / and its name; x if it is nothing") : put({ label, start: draft.start, end: draft.end }));
const reject = (draft) => send({ reject: [draft.whole] }, `rejected ${draft.label ?? "something"} from ${clock(draft.start)} to ${clock(draft.end)}`);
const remove = (stretch) => send({ edits: [{ id: stretch.id, version: stretch.version, to: null }] }, `removed ${stretch.label}`);

function markEdge(side) {
  if (!player.times.length) return null;
  const seconds = side === "start" ? player.time : player.endOf(player.frame);
  const chosen = theSelected();
  if (chosen) return moveEdge(chosen, side, seconds);
  return mark({ start: marked?.start ?? null, end: marked?.end ?? null, [side]: seconds });
}

function mark(span) {
  if (span.start !== null && span.end !== null && span.start >= span.end) span.end = null;
  marked = span;
  selected = null;
  say(`marked ${span.start === null ? "" : `from ${clock(span.start)}`} ${span.end === null ? "" : `to ${clock(span.end)}`}`);
  showMoment();
}

function select(id) {
  if (id !== null) marked = null;
  selected = id;
  const chosen = theSelected();
  if (chosen) say(`selected ${chosen.label} from ${clock(chosen.start)} to ${clock(chosen.end)}`);
  showMoment();
  showNearby();
}

async function takeBack(address) {
  try {
    const told = await post(address, {});
    if (told.isLate) tell(`Not undone: ${told.message}.`);
    else if (told.video === null) say("nothing to take back");
    else {
      say(address === "undo" ? "undone" : "done again");
      if (told.video === video?.number) take(told);
      else await open(told.video);
    }
  } catch (error) {
    tell(error.message);
  }
}

function finish() {
  const isDone = video.rest === BACKGROUND;
  if (isDone) return send({ rest: UNLABELLED }, "the rest is not labelled");
  if (video.stretches.length) return send({ rest: BACKGROUND }, "the rest is background");
  return put({ label: BACKGROUND, start: 0, end: timeline.content.seconds });
}

// What next

async function next() {
  try {
    const told = await post("next", {});
    if (told.video === null) return say(folder.learning?.state === "embedding" ? "nothing to offer yet: the videos are being looked at" : "nothing more to offer: l learns from what is labelled, and finds more");
    if (told.video !== video?.number) await open(told.video);
    const span = Math.max(8, 3 * (told.end - told.start));
    timeline.lookFrom((told.start + told.end) / 2 - span / 2, Math.min(span, timeline.content.seconds));
    player.goTo(player.frameAt(told.start));
    marked = { start: snap(told.start), end: snap(told.end) };
    [selected, offered] = [null, marked];
    showMoment();
    return say(`${told.why}, from ${clock(told.start)} to ${clock(told.end)}: mark with i and o what happens, then 0 says that the rest is background`);
  } catch (error) {
    return tell(error.message);
  }
}

async function learn() {
  if (byId("learn").disabled) return say(folder.labels.length ? "it learns already" : "nothing is labelled yet: label a stretch or two, then learn");
  try {
    showLearning(await post("learn", { video: video?.number ?? null }));
  } catch (error) {
    tell(error.message);
  }
}

function jump(direction) {
  const edges = [...video.stretches, ...video.drafts].flatMap((span) => [player.frameAt(span.start), player.frameAt(span.end)]);
  const further = edges.filter((frame) => direction * (frame - player.frame) > 0);
  if (further.length) player.goTo(direction > 0 ? Math.min(...further) : Math.max(...further));
}

function step(direction) {
  const numbers = [...lines.keys()].sort((one, other) => one - other);
  const number = numbers[numbers.indexOf(video?.number) + direction];
  return number === undefined ? null : open(number);
}

// Labels

function found() {
  const text = byId("search").value.trim().toLowerCase();
  return folder.labels.filter((label) => label !== UNLABELLED && label.toLowerCase().includes(text));
}

function pickByNumber(number) {
  const label = folder.labels[number - 1];
  return label ? pick(label) : say(`no label has the number ${number} yet: press / and type the name of a new one`);
}

const named = (text) => folder.labels.find((label) => label.toLowerCase() === text.toLowerCase());

function showFound() {
  const text = byId("search").value.trim();
  const isNew = text && !named(text);
  byId("new-label").hidden = !isNew;
  setText(byId("new-label").firstElementChild, `New: ${text}`);
  setText(byId("new-label").lastElementChild, found().length ? "shift-enter" : "enter");
  showLabels(byId("label-list"), look, found(), usedLabel, (label) => inTurn(() => pick(label)));
}

function pickTyped(isNew) {
  const text = byId("search").value.trim();
  if (!text) return;
  const label = named(text) ?? (isNew ? null : found()[0]) ?? text;
  byId("search").value = "";
  byId("slider").focus();
  inTurn(() => pick(label)).then(showFound);
}

byId("search").addEventListener("input", showFound);
byId("search").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  pickTyped(event.shiftKey);
});
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  pickTyped(false); // a phone's keyboard may tell of no key
});
byId("new-label").addEventListener("click", () => pickTyped(true));
byId("filter").addEventListener("input", (event) => videos.filter(event.target.value));

// Keys and buttons

const second = (direction) => player.goTo(player.frameAt(Math.max(0, player.time + direction + 1e-4)));
const actions = {
  "second-back": () => second(-1),
  "frame-back": () => player.goTo(player.frame - 1),
  play: () => player.toggle(lastToPlay()),
  "frame-on": () => player.goTo(player.frame + 1),
  "second-on": () => second(1),
  in: () => markEdge("start"),
  out: () => markEdge("end"),
  "zoom-in": () => timeline.zoom(0.5),
  "zoom-out": () => timeline.zoom(2),
  "zoom-all": () => timeline.lookFrom(0, timeline.content.seconds),
};
for (const button of document.querySelectorAll("[data-do]")) {
  button.addEventListener("click", () => inTurn(actions[button.dataset.do]));
}
for (const [id, act] of Object.entries({ undo: () => takeBack("undo"), redo: () => takeBack("redo"), next, learn, finish })) {
  byId(id).addEventListener("click", () => inTurn(act));
}
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("speed").addEventListener("change", (event) => player.setSpeed(Number(event.target.value)));
byId("tracks").addEventListener("change", (event) => {
  timeline.hasTracks = event.target.checked;
  timeline.draw();
});
byId("curves").addEventListener("change", (event) => {
  timeline.hasCurves = event.target.checked;
  timeline.draw();
});
// A button that was pressed with the mouse does not keep the keys: space plays again.
document.addEventListener("click", (event) => {
  if (event.detail > 0 && event.target.closest("button") && !byId("keys").open) byId("slider").focus({ preventScroll: true });
});

// Played inside what is offered, or a draft, it stops at the last picture of it: what is pressed then is about it.
function lastToPlay() {
  const whole = marked !== null && marked === offered && covers(offered, player.time) ? offered : draftHere();
  if (!whole) return null;
  const last = player.frameAt(whole.end - 1e-3);
  return player.frame < last ? last : null;
}

function accepted() {
  const draft = draftHere();
  const isMarked = marked?.start != null && marked?.end != null && usedLabel;
  if (isMarked && !(draft && marked === offered)) return pick(usedLabel);
  return draft ? accept(draft) : say("no draft here");
}

function rejected() {
  const draft = draftHere();
  return draft ? reject(draft) : say("no draft here");
}

function removed() {
  return theSelected() ? remove(theSelected()) : say("select a stretch with s first");
}

const keys = {
  " ": actions.play,
  ArrowLeft: actions["frame-back"],
  ArrowRight: actions["frame-on"],
  "shift ArrowLeft": actions["second-back"],
  "shift ArrowRight": actions["second-on"],
  Home: () => player.goTo(0),
  End: () => player.goTo(player.times.length - 1),
  "[": () => jump(-1),
  "]": () => jump(1),
  i: actions.in,
  o: actions.out,
  0: () => pick(BACKGROUND),
  Enter: accepted,
  x: rejected,
  s: () => (stretchHere() ? select(stretchHere().id) : say("no stretch here")),
  Escape: () => {
    [marked, offered] = [null, null];
    select(null);
  },
  Delete: () => removed(),
  Backspace: () => removed(),
  n: next,
  l: learn,
  f: finish,
  "+": actions["zoom-in"],
  "=": actions["zoom-in"],
  "-": actions["zoom-out"],
  a: actions["zoom-all"],
  "/": () => byId("search").focus(),
  PageUp: () => step(-1),
  PageDown: () => step(1),
  "?": () => byId("keys").showModal(),
  "ctrl z": () => takeBack("undo"),
  "ctrl shift z": () => takeBack("redo"),
  "ctrl y": () => takeBack("redo"),
};

function nameOf(event) {
  const isLetter = event.key.length === 1;
  const shift = event.shiftKey && (!isLetter || event.ctrlKey || event.metaKey) ? "shift " : "";
  return `${event.ctrlKey || event.metaKey ? "ctrl " : ""}${shift}${isLetter ? event.key.toLowerCase() : event.key}`;
}

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (byId("keys").open || event.altKey) return;
  if (target.matches("input[type=search]")) {
    if (event.key === "Escape") byId("slider").focus();
    return;
  }
  if (target.matches("select") || !video) return;
  if (target.matches("button, input") && (event.key === " " || event.key === "Enter")) return;
  const name = nameOf(event);
  const act = /^[1-9]$/.test(name) ? () => pickByNumber(Number(name)) : keys[name];
  if (!act) return;
  event.preventDefault();
  inTurn(act);
});
