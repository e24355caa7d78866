// Spans of time with a label, and what becomes of those that a new one meets. Pure: no page, no server.

export const BACKGROUND = "background";
export const UNLABELLED = "unlabelled";
const TOUCHING_SECONDS = 1e-3; // as the server has it: what shares less does not overlap

const overlap = (one, other) => Math.min(one.end, other.end) - Math.max(one.start, other.start) > TOUCHING_SECONDS;

// Edits that put a span among stretches: equal labels join, others give way where there may be one at a time.
export function editsToPut(span, stretches, mayOverlap) {
  if (span.label === BACKGROUND) return editsToFill(span, stretches);
  const edits = [];
  const whole = { ...span };
  let id = null;
  let version = null;
  for (const other of stretches) {
    const isSame = other.label === span.label;
    if (!overlap(other, span) || (mayOverlap && !isSame && other.label !== BACKGROUND)) continue;
    if (isSame) {
      whole.start = Math.min(whole.start, other.start);
      whole.end = Math.max(whole.end, other.end);
      if (id === null) ({ id, version } = other);
      else edits.push({ id: other.id, version: other.version, to: null });
    } else {
      edits.push(...cut(other, span));
    }
  }
  edits.push({ id, version, to: toJson(whole) });
  return edits;
}

// Background takes only what is free.
function editsToFill(span, stretches) {
  const edits = [];
  let at = span.start;
  for (const other of [...stretches].sort((one, two) => one.start - two.start)) {
    if (!overlap(other, span)) continue;
    if (other.start > at + TOUCHING_SECONDS) edits.push(newEdit({ ...span, start: at, end: other.start }));
    at = Math.max(at, other.end);
  }
  if (at < span.end - TOUCHING_SECONDS) edits.push(newEdit({ ...span, start: at }));
  return edits;
}

// What is left of a stretch outside a span: nothing, one part, or two.
function cut(stretch, span) {
  const parts = [];
  if (stretch.start < span.start - TOUCHING_SECONDS) parts.push({ ...stretch, end: span.start });
  if (stretch.end > span.end + TOUCHING_SECONDS) parts.push({ ...stretch, start: span.end });
  const [first, second] = parts;
  const edits = [{ id: stretch.id, version: stretch.version, to: first ? toJson(first) : null }];
  return second ? [...edits, newEdit(second)] : edits;
}

const newEdit = (span) => ({ id: null, version: null, to: toJson(span) });
export const toJson = ({ label, start, end }) => [label, start, end];

// How far an edge may go: to the next stretch, where there may be one at a time.
export function limitsOf(stretch, stretches, mayOverlap, seconds) {
  const limits = { start: 0, end: seconds };
  for (const other of stretches) {
    if (other.id === stretch.id || (mayOverlap && other.label !== stretch.label)) continue;
    if (other.end <= stretch.start + TOUCHING_SECONDS) limits.start = Math.max(limits.start, other.end);
    if (other.start >= stretch.end - TOUCHING_SECONDS) limits.end = Math.min(limits.end, other.start);
  }
  return limits;
}

// The place of the last of increasing numbers that is not more than a value.
export function placeOf(numbers, value) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle + 1;
    else high = middle;
  }
  return Math.max(0, low - 1);
}

const indexes = new WeakMap(); // of an array of spans: their starts, and how far those up to each reach

function indexOf(spans) {
  if (!indexes.has(spans)) {
    let end = -Infinity;
    const reach = spans.map((span) => (end = Math.max(end, span.end)));
    indexes.set(spans, { starts: spans.map((span) => span.start), reach });
  }
  return indexes.get(spans);
}

// Those of the spans, which must be sorted by start and stay as they are, that reach into a part of time.
export function spansIn(spans, start, end) {
  const { starts, reach } = indexOf(spans);
  const near = spans.slice(placeOf(reach, start), placeOf(starts, end) + 1);
  return near.filter((span) => span.end > start && span.start < end);
}

export function clock(seconds, digits = 2) {
  const scale = 10 ** digits;
  const all = Math.floor(seconds * scale + 1e-6);
  const [whole, part] = [Math.floor(all / scale), all % scale];
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const head = hours ? `${hours}:${String(minutes).padStart(2, "0")}` : `${minutes}`;
  const tail = digits ? `.${String(part).padStart(digits, "0")}` : "";
  return `${head}:${String(whole % 60).padStart(2, "0")}${tail}`;
}
