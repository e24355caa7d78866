// Timelines: a press on a strip goes there, and plays the video from there where the page reaches it.

const player = document.createElement("video");
player.controls = true;
player.playsInline = true;
player.preload = "metadata";
let shownStrip = null; // whose video is in the player

const clockText = (seconds) => { // 75.04 -> 1:15.0, cut as elsewhere on the page
  const tenths = Math.floor(10 * seconds + 1e-6), minutes = Math.floor(tenths / 600), hours = Math.floor(minutes / 60);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return (hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}` : minutes) + ":" + rest;
};
const durationOf = (strip) => Number(strip.getAttribute("aria-valuemax")) || 1;
const placeOf = (strip) => Number(strip.getAttribute("aria-valuenow"));

function namesAt(strip, side, seconds) {
  const spans = Array.from(strip.querySelectorAll(`.lane.${side} span`));
  const found = spans.filter((span) => Number(span.dataset.from) <= seconds && seconds < Number(span.dataset.to));
  return found.map((span) => span.textContent).join(", ") || "nothing";
}

function moveTo(strip, seconds) {
  const place = Math.min(Math.max(seconds, 0), durationOf(strip)), box = strip.closest(".timeline");
  const says = `true: ${namesAt(strip, "truth", place)}; answer: ${namesAt(strip, "found", place)}`;
  strip.querySelector(".head").style.left = `${(100 * place) / durationOf(strip)}%`;
  strip.setAttribute("aria-valuenow", place.toFixed(2));
  strip.setAttribute("aria-valuetext", `${clockText(place)}, ${says}`);
  box.querySelector(".clock").textContent = clockText(place);
  box.querySelector(".says").textContent = says;
}

function showVideo(strip) { // the one player moves to the strip that was pressed
  if (shownStrip === strip) return;
  player.pause();
  shownStrip = strip;
  strip.closest(".timeline").querySelector(".screen").replaceChildren(player);
  player.setAttribute("aria-label", strip.getAttribute("aria-label").replace("Position in ", ""));
  player.src = strip.dataset.video;
}

function goTo(strip, seconds, isPlaying) {
  moveTo(strip, seconds);
  if (!strip.dataset.video) return;
  if (!isPlaying && shownStrip !== strip) return;
  showVideo(strip);
  player.currentTime = placeOf(strip) + Number(strip.dataset.offset);
  if (isPlaying) player.play().catch(() => {}); // the error is told by the player's own event
}

function toStart(strip, step) { // the next true start, or the one before
  const starts = Array.from(strip.querySelectorAll(".lane.truth span"), (span) => Number(span.dataset.from)).sort((a, b) => a - b);
  const place = placeOf(strip);
  const target = step > 0 ? starts.find((start) => start > place + 0.05) : starts.filter((start) => start < place - 0.5).at(-1);
  return target ?? place;
}

const STRIP_KEYS = {
  ArrowLeft: (strip, event) => goTo(strip, placeOf(strip) - (event.shiftKey ? 10 : 1), false),
  ArrowRight: (strip, event) => goTo(strip, placeOf(strip) + (event.shiftKey ? 10 : 1), false),
  Home: (strip) => goTo(strip, 0, false),
  End: (strip) => goTo(strip, durationOf(strip), false),
  n: (strip) => goTo(strip, toStart(strip, 1), false),
  p: (strip) => goTo(strip, toStart(strip, -1), false),
  Enter: (strip) => (shownStrip === strip && !player.paused ? player.pause() : goTo(strip, placeOf(strip), true)),
};
STRIP_KEYS[" "] = STRIP_KEYS.Enter;

document.querySelectorAll(".strip").forEach((strip) => {
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    goTo(strip, (durationOf(strip) * (event.clientX - box.left)) / box.width, true);
  });
  strip.addEventListener("keydown", (event) => {
    const action = STRIP_KEYS[event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    action(strip, event);
  });
  moveTo(strip, 0);
});

function follow() {
  if (shownStrip) moveTo(shownStrip, player.currentTime - Number(shownStrip.dataset.offset));
  if (!player.paused) requestAnimationFrame(follow);
}
player.addEventListener("play", follow);
player.addEventListener("seeked", follow);
player.addEventListener("error", () => {
  const note = document.createElement("p");
  note.className = "note";
  note.textContent = `The browser cannot play ${shownStrip.dataset.video}: was it moved, or the page?`;
  shownStrip.closest(".timeline").querySelector(".screen").replaceChildren(note);
  delete shownStrip.dataset.video;
  shownStrip = null;
});
