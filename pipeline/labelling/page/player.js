// The player: the exact picture of the server while it stands still; while it plays the browser's own, where it can.

import { placeOf } from "./spans.js";

const CAN_PLAY = { h264: "avc1.42E01E", hevc: "hev1", av1: "av01.0.04M.08", vp9: "vp9", vp8: "vp8" };
const ROUNDING_SECONDS = 1e-6;

export class Player {
  // `onMove` is called after each move, `onFault` with what is wrong with a picture.
  constructor(figure, onMove, onFault) {
    [this.figure, this.onMove, this.onFault] = [figure, onMove, onFault];
    this.video = figure.querySelector("video");
    this.image = null;
    this.times = new Float64Array(0);
    [this.frame, this.number, this.seconds, this.speed] = [0, null, 0, 1];
    this.isPlaying = false;
    this.isLoading = false;
    this.shown = null; // address of the picture on the page
    this.video.addEventListener("ended", () => this.pause());
    this.video.addEventListener("error", () => this.playPictures());
  }

  open(number, facts, times) {
    this.pause();
    this.closeVideo();
    [this.number, this.facts, this.times, this.seconds] = [number, facts, times, facts?.seconds ?? 0];
    [this.frame, this.shown] = [0, null];
    this.figure.style.aspectRatio = facts ? `${facts.width} / ${facts.height}` : "";
    this.image?.remove();
    this.image = null;
    this.moved();
  }

  closeVideo() {
    this.video.hidden = true;
    if (this.video.getAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load();
    }
  }

  get time() {
    return this.times[this.frame] ?? 0;
  }

  frameAt(seconds) {
    return placeOf(this.times, seconds + ROUNDING_SECONDS);
  }

  // The picture after that one begins then; after the last the video ends.
  endOf(frame) {
    return frame + 1 < this.times.length ? this.times[frame + 1] : this.seconds;
  }

  goTo(frame) {
    this.frame = Math.max(0, Math.min(this.times.length - 1, frame));
    if (this.isPlaying) this.pause();
    else this.moved();
  }

  moved() {
    this.onMove();
    if (!(this.isPlaying && this.usesBrowser)) this.show();
  }

  // One picture is asked for at a time: who holds an arrow key down sees as many as the server can give.
  async show() {
    if (this.isLoading || this.number === null || !this.times.length) return;
    const address = `pictures/${this.number}/${this.frame}.jpg`;
    if (address === this.shown) return;
    this.isLoading = true;
    const [number, image] = [this.number, new Image()];
    try {
      image.src = address;
      await image.decode();
      if (number === this.number) this.swap(image, address);
    } catch {
      if (number === this.number) await this.tellFault(address);
    } finally {
      this.isLoading = false;
    }
    if (this.shown !== `pictures/${this.number}/${this.frame}.jpg`) this.show();
  }

  swap(image, address) {
    image.alt = `Picture ${address.match(/(\d+)\.jpg$/)[1]}`;
    image.dataset.frame = address.match(/(\d+)\.jpg$/)[1];
    if (this.image) this.image.replaceWith(image);
    else this.figure.prepend(image);
    [this.image, this.shown] = [image, address];
    if (!this.isPlaying) this.video.hidden = true;
  }

  async tellFault(address) {
    this.shown = address; // not asked for again and again
    const answer = await fetch(address).catch(() => null);
    this.onFault(answer && !answer.ok ? await answer.text() : "the picture cannot be shown");
  }

  get canUseBrowser() {
    const codec = CAN_PLAY[this.facts?.codec];
    if (!codec) return false;
    const isMp4 = this.facts.container.includes("mp4");
    const isWebm = this.facts.container.includes("webm");
    if (!isMp4 && !isWebm) return false;
    return this.video.canPlayType(`video/${isMp4 ? "mp4" : "webm"}; codecs="${codec}"`) === "probably";
  }

  // To the picture `last`, or, without one, to the end.
  toggle(last = null) {
    if (this.isPlaying) this.pause();
    else this.play(last);
  }

  play(last) {
    if (!this.times.length) return;
    this.last = last;
    if (this.frame >= this.times.length - 1) this.frame = 0;
    this.isPlaying = true;
    this.usesBrowser = this.canUseBrowser && !this.hasFailed;
    if (this.usesBrowser) this.playVideo();
    else this.playPictures();
    this.onMove();
  }

  async playVideo() {
    if (!this.video.getAttribute("src")) this.video.src = `videos/${this.number}/file`;
    try {
      this.video.currentTime = this.time;
      this.video.playbackRate = this.speed;
      await this.video.play();
    } catch {
      if (this.isPlaying && this.usesBrowser) this.playPictures();
      return;
    }
    const follow = () => {
      if (!this.isPlaying || !this.usesBrowser) return;
      this.video.hidden = false;
      this.frame = this.frameAt(this.video.currentTime);
      if (this.isAtLast) return this.stop();
      this.onMove();
      requestAnimationFrame(follow);
    };
    follow();
  }

  playPictures() {
    if (!this.isPlaying) return;
    this.usesBrowser = false;
    this.video.hidden = true;
    const [begin, from] = [performance.now(), this.time];
    const turn = (this.turn = (this.turn ?? 0) + 1); // another one ends this one
    const step = (now) => {
      if (!this.isPlaying || this.usesBrowser || turn !== this.turn) return;
      const seconds = from + ((now - begin) / 1000) * this.speed;
      this.frame = this.frameAt(seconds);
      if (this.isAtLast) return this.stop();
      this.moved();
      if (seconds >= this.seconds) this.pause();
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  get isAtLast() {
    return this.last !== null && this.frame >= this.last;
  }

  stop() {
    this.pause();
    this.goTo(this.last);
  }

  pause() {
    if (this.isPlaying && this.usesBrowser) {
      this.video.pause();
      if (!this.video.hidden) this.frame = this.frameAt(this.video.currentTime);
    }
    this.isPlaying = false;
    this.moved();
    if (this.shown === `pictures/${this.number}/${this.frame}.jpg`) this.video.hidden = true;
  }

  setSpeed(speed) {
    this.speed = speed;
    this.video.playbackRate = speed;
    if (this.isPlaying && !this.usesBrowser) this.playPictures();
  }
}
