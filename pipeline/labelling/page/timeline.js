// The timeline: stretches, drafts and scores over time, drawn on a canvas; only what is in view is drawn.

import { BACKGROUND, clock, limitsOf, spansIn } from "./spans.js";

const AXIS_PX = 22;
const TRACK_PX = 30;
const ALONE_PX = 76; // a single track for all labels
const MAX_PX = 420;
const EDGE_PX = 7; // as near as a finger or a mouse gets
const STEPS = [0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

export class Timeline {
  // `on.seek(seconds)`, `on.select(stretch)`, `on.mark(start, end)` and `on.edge(stretch, side, seconds)` are called.
  constructor(canvas, overview, look, on) {
    [this.canvas, this.overview, this.look, this.on] = [canvas, overview, look, on];
    this.view = { start: 0, end: 1 };
    this.content = { seconds: 0, stretches: [], drafts: [], labels: [], scores: null };
    [this.hasTracks, this.hasCurves, this.time, this.isDue] = [true, true, 0, false];
    [this.selected, this.marked, this.offered, this.drag] = [null, null, null, null];
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => this.release());
    canvas.addEventListener("pointercancel", () => (this.drag = null));
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    overview.addEventListener("pointerdown", (event) => this.pan(event, true));
    overview.addEventListener("pointermove", (event) => event.buttons && this.pan(event, false));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  open(seconds) {
    this.view = { start: 0, end: Math.max(seconds, 1e-3) };
    this.draw();
  }

  // Zoom and place

  zoom(factor, at = this.time) {
    const { seconds } = this.content;
    const span = Math.min(seconds, Math.max(0.5, (this.view.end - this.view.start) * factor));
    const share = (at - this.view.start) / (this.view.end - this.view.start);
    this.lookFrom(at - span * Math.min(1, Math.max(0, share)), span);
  }

  lookFrom(start, span = this.view.end - this.view.start) {
    const from = Math.max(0, Math.min(this.content.seconds - span, start));
    this.view = { start: from, end: from + span };
    this.draw();
    this.on.view();
  }

  // Keep the present in view.
  follow() {
    const { start, end } = this.view;
    if (this.time >= start && this.time <= end) return;
    const span = end - start;
    this.lookFrom(this.time < start ? this.time - 0.9 * span : this.time - 0.1 * span, span);
  }

  xOf(seconds) {
    return ((seconds - this.view.start) / (this.view.end - this.view.start)) * this.width;
  }

  secondsAt(x) {
    const { start, end } = this.view;
    return Math.max(0, Math.min(this.content.seconds, start + (x / this.width) * (end - start)));
  }

  // The mouse

  press(event) {
    const [x, y] = [event.offsetX, event.offsetY];
    this.canvas.setPointerCapture(event.pointerId);
    const edge = y > AXIS_PX ? this.edgeAt(x, y) : null;
    if (edge) {
      this.on.select(edge.stretch);
      const limits = limitsOf(edge.stretch, this.content.stretches, this.mayOverlap, this.content.seconds);
      this.drag = { ...edge, limits, seconds: edge.stretch[edge.side] };
    } else if (event.shiftKey) {
      this.drag = { from: this.secondsAt(x) };
    } else {
      this.drag = { isScrubbing: true };
      this.on.seek(this.secondsAt(x));
      this.on.select(y > AXIS_PX ? this.stretchAt(x, y) : null);
    }
  }

  move(event) {
    const [x, y] = [event.offsetX, event.offsetY];
    if (!this.drag) {
      this.canvas.style.cursor = y > AXIS_PX && this.edgeAt(x, y) ? "ew-resize" : "pointer";
    } else if (this.drag.side) {
      const { limits, stretch, side } = this.drag;
      const seconds = this.on.snap(Math.max(limits.start, Math.min(limits.end, this.secondsAt(x))));
      const other = side === "start" ? stretch.end : stretch.start;
      if (side === "start" ? seconds < other : seconds > other) this.drag.seconds = seconds;
      this.on.seek(side === "start" ? this.drag.seconds : this.drag.seconds - 1e-4);
    } else if (this.drag.isScrubbing) {
      this.on.seek(this.secondsAt(x));
    } else {
      this.on.mark(Math.min(this.drag.from, this.secondsAt(x)), Math.max(this.drag.from, this.secondsAt(x)));
    }
    this.draw();
  }

  release() {
    const drag = this.drag;
    this.drag = null;
    if (drag?.side && drag.seconds !== drag.stretch[drag.side]) this.on.edge(drag.stretch, drag.side, drag.seconds);
    this.draw();
  }

  wheel(event) {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, this.secondsAt(event.offsetX));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const pixels = event.deltaX || event.deltaY;
      this.lookFrom(this.view.start + (pixels / this.width) * (this.view.end - this.view.start));
    }
  }

  pan(event, isFirst) {
    if (isFirst) this.overview.setPointerCapture(event.pointerId);
    const at = (event.offsetX / this.overview.clientWidth) * this.content.seconds;
    this.lookFrom(at - (this.view.end - this.view.start) / 2);
  }

  // The selected one's edges go before those of its neighbours.
  edgeAt(x, y) {
    const near = this.inView(this.content.stretches).filter((stretch) => this.isOnTrack(stretch, y));
    near.sort((one, other) => (other.id === this.selected?.id) - (one.id === this.selected?.id));
    for (const stretch of near) {
      const [left, right] = [this.xOf(stretch.start), this.xOf(stretch.end)];
      const reach = Math.min(EDGE_PX, Math.max(2, (right - left) / 3));
      if (Math.abs(x - left) <= EDGE_PX && x <= left + reach) return { stretch, side: "start" };
      if (Math.abs(x - right) <= EDGE_PX && x >= right - reach) return { stretch, side: "end" };
    }
    return null;
  }

  stretchAt(x, y) {
    const seconds = this.secondsAt(x);
    return this.inView(this.content.stretches).find((s) => s.start <= seconds && seconds < s.end && this.isOnTrack(s, y)) ?? null;
  }

  isOnTrack(stretch, y) {
    const track = this.trackOf(stretch.label);
    return y >= track.top && y <= track.top + track.height;
  }

  inView(spans) {
    return spansIn(spans, this.view.start, this.view.end);
  }

  // Those that are worth drawing: of thousands thinner than a pixel, the first in each pixel of a row.
  thinned(spans, xOf, rowOf) {
    const last = new Map();
    return spans.filter((span) => {
      const [pixel, row] = [Math.floor(xOf(span.start)), rowOf(span)];
      const isHidden = last.get(row) === pixel && xOf(span.end) < pixel + 1 && span.id !== this.selected?.id;
      last.set(row, pixel);
      return !isHidden;
    });
  }

  // Drawing

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      this.paint();
      this.paintOverview();
    });
  }

  get tracks() {
    if (!this.hasTracks) return [null];
    return this.content.labels.length ? this.content.labels : [null];
  }

  trackOf(label) {
    if (!this.hasTracks) return { top: AXIS_PX, height: ALONE_PX };
    if (label === BACKGROUND || label === null || !this.content.labels.includes(label)) {
      return { top: AXIS_PX, height: this.tracks.length * this.trackPx };
    }
    return { top: AXIS_PX + this.content.labels.indexOf(label) * this.trackPx, height: this.trackPx };
  }

  get trackPx() {
    return Math.max(14, Math.min(TRACK_PX, (MAX_PX - AXIS_PX) / this.tracks.length));
  }

  prepare(canvas, height) {
    const width = canvas.parentElement.clientWidth;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    return [context, width];
  }

  paint() {
    const height = AXIS_PX + (this.hasTracks ? this.tracks.length * this.trackPx : ALONE_PX) + 2;
    const [context, width] = this.prepare(this.canvas, height);
    [this.width, this.height] = [width, height];
    this.colours = this.look.colours();
    if (!this.content.seconds) return;
    this.paintTracks(context);
    if (this.hasCurves) this.paintCurves(context);
    for (const draft of this.inView(this.content.drafts)) this.paintDraft(context, draft);
    const stretches = this.inView(this.content.stretches);
    const drawn = this.thinned(stretches, (seconds) => this.xOf(seconds), (span) => this.trackOf(span.label).top);
    for (const stretch of drawn) this.paintStretch(context, this.dragged(stretch));
    this.paintMarked(context);
    this.paintAxis(context);
    this.paintOffered(context);
    const x = this.xOf(this.time);
    context.fillStyle = this.colours.now;
    context.fillRect(x - 1, 0, 2, height);
    context.beginPath();
    context.moveTo(x - 6, 0);
    context.lineTo(x + 6, 0);
    context.lineTo(x, 8);
    context.fill();
  }

  dragged(stretch) {
    if (this.drag?.stretch?.id !== stretch.id) return stretch;
    return { ...stretch, [this.drag.side]: this.drag.seconds };
  }

  paintTracks(context) {
    this.tracks.forEach((label, place) => {
      const { top, height } = label === null ? this.trackOf(null) : this.trackOf(label);
      context.fillStyle = place % 2 ? this.colours.card : this.colours.track;
      context.fillRect(0, top, this.width, height);
    });
  }

  paintNames(context) {
    if (!this.hasTracks) return;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "top";
    for (const label of this.content.labels) {
      const { top } = this.trackOf(label);
      context.fillStyle = this.colours.card;
      context.globalAlpha = 0.75;
      context.fillRect(2, top + 1, context.measureText(label).width + 6, 13);
      context.globalAlpha = 1;
      context.fillStyle = this.colours.soft;
      context.fillText(label, 5, top + 2);
    }
  }

  paintAxis(context) {
    this.paintNames(context);
    context.fillStyle = this.colours.card;
    context.fillRect(0, 0, this.width, AXIS_PX);
    const { start, end } = this.view;
    const step = STEPS.find((some) => (some / (end - start)) * this.width > 70) ?? 7200;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = this.colours.soft;
    for (let place = Math.ceil(start / step); place * step <= end; place += 1) {
      const x = this.xOf(place * step);
      context.fillRect(x, AXIS_PX - 6, 1, 6);
      const text = clock(place * step, step < 0.1 ? 2 : step < 1 ? 1 : 0);
      context.fillText(text, Math.min(x + 3, this.width - context.measureText(text).width), 9);
    }
    context.fillStyle = this.colours.line;
    context.fillRect(0, AXIS_PX - 1, this.width, 1);
  }

  // A curve has as many points as there are pixels: of each the greatest score.
  paintCurves(context) {
    const { scores } = this.content;
    if (!scores) return;
    for (const [column, label] of scores.labels.entries()) {
      if (!this.content.labels.includes(label)) continue;
      const { top, height } = this.trackOf(label);
      context.beginPath();
      context.moveTo(0, top + height);
      for (let x = 0; x <= this.width; x += 1) {
        const from = Math.floor(this.secondsAt(x) * scores.fps);
        const to = Math.max(from + 1, Math.floor(this.secondsAt(x + 1) * scores.fps));
        let most = 0;
        for (let row = from; row < Math.min(to, scores.count); row += 1) {
          most = Math.max(most, scores.values[row * scores.labels.length + column]);
        }
        context.lineTo(x, top + height - (most / 255) * (height - 3));
      }
      context.lineTo(this.width, top + height);
      context.globalAlpha = 0.28;
      context.fillStyle = this.look.style(label).colour;
      context.fill();
      context.globalAlpha = 0.9;
      context.strokeStyle = this.look.style(label).colour;
      context.lineWidth = 1;
      context.stroke();
      context.globalAlpha = 1;
    }
  }

  box(span) {
    const { top, height } = this.trackOf(span.label);
    const [left, right] = [Math.max(-4, this.xOf(span.start)), Math.min(this.width + 4, this.xOf(span.end))];
    return { left, top: top + 3, width: Math.max(2, right - left), height: height - 6 };
  }

  paintStretch(context, stretch) {
    const { left, top, width, height } = this.box(stretch);
    const style = this.look.style(stretch.label);
    if (stretch.label === BACKGROUND) {
      context.fillStyle = this.colours.soft;
      context.globalAlpha = 0.25;
      context.fillRect(left, top, width, height);
      context.globalAlpha = 1;
    } else {
      context.fillStyle = style.colour;
      context.fillRect(left, top, width, height);
      this.paintEdge(context, style.edge, left, top, width, height);
      this.paintText(context, stretch.label, style.ink, left, top, width, height);
    }
    const isSelected = this.selected?.id === stretch.id;
    context.strokeStyle = isSelected ? this.colours.ink : this.colours.card;
    context.lineWidth = isSelected ? 2.5 : 1;
    context.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
    if (isSelected) {
      context.fillStyle = this.colours.ink;
      for (const x of [left, left + width]) context.fillRect(x - 3, top + height / 2 - 7, 6, 14);
    }
  }

  // After the eighth label colours begin again, with an edge.
  paintEdge(context, edge, left, top, width, height) {
    context.fillStyle = "#000";
    if (edge & 1) context.fillRect(left, top + height - 3, width, 3);
    if (edge & 2) context.fillRect(left, top, width, 3);
  }

  paintText(context, text, ink, left, top, width, height) {
    const room = Math.min(this.width, left + width) - Math.max(0, left) - 8;
    if (room < 14) return;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillStyle = ink;
    context.fillText(text, Math.max(0, left) + 5, top + height / 2 + 0.5);
    context.restore();
  }

  paintDraft(context, draft) {
    const { left, top, width, height } = this.box(draft);
    const style = this.look.style(draft.label);
    context.globalAlpha = 0.18;
    context.fillStyle = style.colour;
    context.fillRect(left, top, width, height);
    context.globalAlpha = 1;
    context.setLineDash([5, 3]);
    context.strokeStyle = this.colours.ink;
    context.lineWidth = 1.25;
    context.strokeRect(left + 0.5, top + 0.5, width - 1, height - 1);
    context.setLineDash([]);
    this.paintText(context, `${draft.label ?? "something"}?`, this.colours.ink, left, top, width, height);
  }

  paintMarked(context) {
    if (!this.marked) return;
    const start = this.marked.start ?? this.marked.end;
    const end = this.marked.end ?? Math.max(this.time, start);
    const [left, right] = [this.xOf(start), this.xOf(end)];
    context.globalAlpha = 0.22;
    context.fillStyle = this.colours.now;
    context.fillRect(left, AXIS_PX, Math.max(2, right - left), this.height - AXIS_PX);
    context.globalAlpha = 1;
    for (const x of [left, right]) context.fillRect(x - 1, AXIS_PX, 2, this.height - AXIS_PX);
  }

  paintOffered(context) {
    if (!this.offered) return;
    const [left, right] = [this.xOf(this.offered.start), this.xOf(this.offered.end)];
    context.fillStyle = this.colours.accent;
    context.fillRect(left, AXIS_PX - 4, Math.max(2, right - left), 4);
  }

  paintOverview() {
    const [context, width] = this.prepare(this.overview, 20);
    const { seconds, stretches } = this.content;
    if (!seconds) return;
    context.fillStyle = this.colours.track;
    context.fillRect(0, 4, width, 12);
    const drawn = this.thinned(stretches, (at) => (at / seconds) * width, () => 0);
    for (const stretch of drawn) {
      context.fillStyle = stretch.label === BACKGROUND ? this.colours.line : this.look.style(stretch.label).colour;
      context.fillRect((stretch.start / seconds) * width, 4, Math.max(1, ((stretch.end - stretch.start) / seconds) * width), 12);
    }
    context.strokeStyle = this.colours.accent;
    context.lineWidth = 2;
    const left = (this.view.start / seconds) * width;
    context.strokeRect(left + 1, 1, Math.max(4, ((this.view.end - this.view.start) / seconds) * width - 2), 18);
    context.fillStyle = this.colours.now;
    context.fillRect((this.time / seconds) * width - 1, 0, 2, 20);
  }
}
