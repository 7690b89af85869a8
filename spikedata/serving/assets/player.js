// The player: pictures of one clip in time. The server sends rates, 16 bits a pixel, so that white is
// chosen here without asking again.

import { at, count, drawMarks, fitted, get, make, milliseconds, showError, significant } from "./common.js";

const BATCH_BYTES = 6e6;
const KEPT_BYTES = 200e6;
const SPEEDS = [1, 2, 5, 10, 25, 50];
const METHODS = [["tfp", "TFP, mean"], ["tfi", "TFI, interval"], ["adaptive", "adaptive"]];
const BRIGHT = 0.995; // this share of the pixels stays below white
const DARKEST_WHITE = 0.004;

export const nextMethod = (method) => {
  const names = METHODS.map(([name]) => name);
  return names[(names.indexOf(method) + 1) % names.length];
};

export class Player {
  constructor({ onChange, onPick }) {
    this.onChange = onChange;
    this.onPick = onPick;
    this.frames = new Map();
    at("method").append(...METHODS.map(([value, text]) => make("option", { value, text })));
    at("speed").append(
      ...SPEEDS.map((speed) => make("option", { value: speed, text: `${speed} pictures/s` })),
    );
    at("play").addEventListener("click", () => this.toggle());
    at("first").addEventListener("click", () => this.go(0));
    at("less").addEventListener("click", () => this.move(-1));
    at("more").addEventListener("click", () => this.move(1));
    at("scrub").addEventListener("input", () => this.go(Number(at("scrub").value)));
    for (const name of ["method", "window", "step", "speed"]) {
      at(name).addEventListener("change", () => this.set({ [name]: at(name).value }));
    }
    at("white").addEventListener("input", () => {
      this.set({ white: DARKEST_WHITE ** (1 - at("white").value / 100) });
    });
    at("white-auto").addEventListener("click", () => this.set({ white: null }));
    at("marks").addEventListener("click", (event) => this.pick(event));
    at("marks").addEventListener("mousemove", (event) => this.point(event));
    at("marks").addEventListener("mouseleave", () => this.point(null));
    new ResizeObserver(() => this.fit()).observe(at("screen"));
  }

  open(clip, version, chosen) {
    this.close();
    this.clip = clip;
    this.version = version;
    this.marked = null;
    const told = clip.attributes.annotations;
    this.boxes = (Array.isArray(told) ? told : []).filter((one) => one?.kind === "box");
    this.autoWhite = null;
    this.shown = null;
    this.frames.clear();
    this.chosen = { method: "tfp", window: 32, step: 8, speed: 25, white: null, tick: 0, ...chosen };
    at("picture").width = clip.width_px;
    at("picture").height = clip.height_px;
    this.pen = at("picture").getContext("2d");
    this.pen.clearRect(0, 0, clip.width_px, clip.height_px);
    this.image = this.pen.createImageData(clip.width_px, clip.height_px);
    this.words = new Uint32Array(this.image.data.buffer);
    this.set({});
    this.fit();
  }

  close() {
    this.pause();
    this.asked?.abort();
    this.clip = null;
  }

  // --- what is chosen ----------------------------------------------------------------------

  set(changes) {
    const before = `${this.chosen.method} ${this.chosen.window}`;
    const chosen = Object.assign(this.chosen, changes);
    const whole = (value, most, fallback) =>
      Math.min(most, Math.max(1, Math.round(Number(value)) || fallback));
    chosen.window = whole(chosen.window, Math.min(8192, this.clip.ticks), 32);
    chosen.step = whole(chosen.step, this.clip.ticks, 8);
    chosen.speed = SPEEDS.includes(Number(chosen.speed)) ? Number(chosen.speed) : 25;
    chosen.method = METHODS.some(([name]) => name === chosen.method) ? chosen.method : "tfp";
    chosen.white = chosen.white === null ? null : Math.min(1, Number(chosen.white)) || null;
    this.last = this.clip.ticks - chosen.window;
    at("method").value = chosen.method;
    at("window").value = chosen.window;
    at("window").max = Math.min(8192, this.clip.ticks);
    at("window-ms").textContent = milliseconds(chosen.window, this.clip.tick_rate_hz);
    at("step").value = chosen.step;
    at("speed").value = chosen.speed;
    at("scrub").max = this.last;
    if (before !== `${chosen.method} ${chosen.window}` || this.autoWhite === null) {
      this.frames.clear();
      this.autoWhite = null;
      this.findWhite();
    }
    this.setWhite();
    this.go(Math.min(this.last, Math.max(0, Number(chosen.tick) || 0)));
  }

  setWhite() {
    const white = this.chosen.white ?? this.autoWhite ?? 0.5;
    at("white").value = 100 * (1 - Math.log(white) / Math.log(DARKEST_WHITE));
    const told = this.chosen.white === null ? "auto " : "";
    at("white-told").textContent = `${told}${significant(white, 2)} spikes/tick`;
    this.grey = new Uint32Array(65536);
    for (let rate = 0; rate < 65536; rate += 1) {
      const level = Math.round(255 * Math.min(1, rate / 65535 / white));
      this.grey[rate] = 0xff000000 | (level << 16) | (level << 8) | level;
    }
    if (this.shown) this.draw(this.shown);
  }

  // White of pictures spread over the whole clip, so that it is the same throughout.
  async findWhite() {
    const clip = this.clip;
    const step = Math.max(1, Math.floor(this.last / 7));
    try {
      const pictures = await this.fetch(0, step, 8);
      if (this.clip !== clip || !pictures.length) return;
      const histogram = new Uint32Array(65536);
      for (const picture of pictures) for (const rate of picture) histogram[rate] += 1;
      let left = (1 - BRIGHT) * pictures.length * pictures[0].length;
      let rate = 65535;
      while (rate > 0 && (left -= histogram[rate]) >= 0) rate -= 1;
      this.autoWhite = Math.max(DARKEST_WHITE, rate / 65535);
      this.setWhite();
    } catch (error) {
      if (error.name !== "AbortError") showError(`${clip.id}: ${error.message}`);
    }
  }

  // --- getting pictures --------------------------------------------------------------------

  async fetch(start, step, most, signal) {
    const { clip, chosen } = this;
    const { method, window } = chosen;
    const pixels = clip.width_px * clip.height_px;
    const many = Math.max(1, Math.min(32, most, Math.floor(BATCH_BYTES / (2 * pixels))));
    const about = { id: clip.id, method, window, start, step, count: many, v: this.version };
    const buffer = await (await get("api/frames", about, signal)).arrayBuffer();
    const pictures = [];
    for (let from = 0; from + 2 * pixels <= buffer.byteLength; from += 2 * pixels) {
      pictures.push(new Uint16Array(buffer, from, pixels));
    }
    if (this.clip === clip && chosen.method === method && chosen.window === window) {
      pictures.forEach((picture, n) => this.frames.set(start + n * step, picture));
      const room = Math.max(64, KEPT_BYTES / (2 * pixels));
      for (const tick of this.frames.keys()) {
        if (this.frames.size <= room) break;
        this.frames.delete(tick);
      }
    }
    return pictures;
  }

  // One picture, or while playing those that come next; the newest wish is the one that counts.
  async want(tick, many = 1) {
    this.asked?.abort();
    const asked = new AbortController();
    this.asked = asked;
    try {
      await this.fetch(tick, this.chosen.step, many, asked.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.pause();
      showError(`${this.clip?.id}: ${error.message}`);
    } finally {
      if (this.asked === asked) this.asked = null;
    }
    if (this.clip && this.frames.has(this.chosen.tick)) this.show();
  }

  // --- showing them ------------------------------------------------------------------------

  go(tick) {
    this.chosen.tick = Math.min(this.last, Math.max(0, Math.round(tick)));
    this.show();
    if (!this.frames.has(this.chosen.tick)) this.want(this.chosen.tick);
    if (!this.isPlaying) this.onChange();
  }

  move(steps) {
    this.pause();
    this.go(this.chosen.tick + steps * this.chosen.step);
  }

  show() {
    const { clip, chosen } = this;
    const end = chosen.tick + chosen.window;
    at("scrub").value = chosen.tick;
    const now = milliseconds(chosen.tick, clip.tick_rate_hz);
    const whole = milliseconds(clip.ticks, clip.tick_rate_hz);
    at("clock").textContent =
      `tick ${count(chosen.tick)}–${count(end)} of ${count(clip.ticks)}   ·   ${now} of ${whole}` +
      (this.pointed ? `   ·   ${this.pointed()}` : "");
    if (this.boxes.length) this.mark();
    const picture = this.frames.get(chosen.tick);
    if (picture && picture !== this.shown) this.draw(picture);
  }

  draw(picture) {
    this.shown = picture;
    const { words, grey } = this;
    for (let pixel = 0; pixel < picture.length; pixel += 1) words[pixel] = grey[picture[pixel]];
    this.pen.putImageData(this.image, 0, 0);
  }

  toggle() {
    if (this.isPlaying) this.pause();
    else this.play();
  }

  play() {
    this.isPlaying = true;
    at("play").textContent = "⏸ pause";
    let due = performance.now();
    const turn = (now) => {
      if (!this.isPlaying) return;
      requestAnimationFrame(turn);
      if (now < due) return;
      const { tick, step, speed } = this.chosen;
      const next = tick + step > this.last ? 0 : tick + step;
      if (!this.asked) this.fill(next);
      if (!this.frames.has(next)) return;
      due = Math.max(due + 1000 / speed, now - 100);
      this.chosen.tick = next;
      this.show();
    };
    requestAnimationFrame(turn);
  }

  // Ask for the first picture that is missing of those that come next.
  fill(next) {
    const { step, speed } = this.chosen;
    for (let n = 0, tick = next; n < Math.max(16, speed); n += 1, tick += step) {
      if (tick > this.last) tick = 0;
      if (!this.frames.has(tick)) {
        this.want(tick, 32);
        return;
      }
    }
  }

  pause() {
    const was = this.isPlaying;
    this.isPlaying = false;
    at("play").textContent = "▶ play";
    if (was && this.clip) this.onChange();
  }

  // --- where one points ----------------------------------------------------------------------

  fit() {
    if (!this.clip) return;
    const { width_px: width, height_px: height } = this.clip;
    const room = at("screen").getBoundingClientRect();
    const high = Math.max(240, window.innerHeight - 430);
    const scale = Math.min(room.width / width, high / height);
    for (const name of ["picture", "marks"]) {
      at(name).style.width = `${Math.floor(width * scale)}px`;
      at(name).style.height = `${Math.floor(height * scale)}px`;
    }
    at("screen").style.height = `${Math.floor(height * scale)}px`;
    this.scale = scale;
    this.mark();
    this.drawTimeline();
  }

  pixelAt(event) {
    const room = at("marks").getBoundingClientRect();
    const { width_px: width, height_px: height } = this.clip;
    const x = Math.floor(((event.clientX - room.left) / room.width) * width);
    const y = Math.floor(((event.clientY - room.top) / room.height) * height);
    return { x: Math.min(width - 1, Math.max(0, x)), y: Math.min(height - 1, Math.max(0, y)) };
  }

  point(event) {
    const pixel = event && this.clip ? this.pixelAt(event) : null;
    this.pointed = pixel && (() => {
      const rate = this.shown ? this.shown[pixel.y * this.clip.width_px + pixel.x] / 65535 : null;
      return `x ${pixel.x}, y ${pixel.y}: ${significant(rate)} spikes/tick`;
    });
    if (this.clip) this.show();
  }

  pick(event) {
    if (!this.clip) return;
    this.picked = this.pixelAt(event);
    this.mark();
    this.onPick(this.picked);
  }

  // The pixel that was picked, and those that health marks.
  mark(marked = this.marked) {
    if (!this.clip) return;
    this.marked = marked;
    const canvas = at("marks");
    const { pen, width, height } = fitted(canvas, parseFloat(canvas.style.height) || 100);
    pen.clearRect(0, 0, width, height);
    drawMarks(pen, marked ?? [], this.scale, 4);
    this.drawBoxes(pen);
    if (!this.picked) return;
    const [x, y] = [(this.picked.x + 0.5) * this.scale, (this.picked.y + 0.5) * this.scale];
    const reach = Math.max(5, this.scale / 2 + 3);
    for (const [colour, thick] of [["#000", 4], ["#ffd34d", 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      pen.strokeRect(x - reach, y - reach, 2 * reach, 2 * reach);
    }
  }

  // Boxes that somebody drew around things, of the time that is shown.
  drawBoxes(pen) {
    const { tick, window } = this.chosen;
    pen.strokeStyle = "#7fd6a4";
    pen.fillStyle = "#7fd6a4";
    pen.lineWidth = 1.5;
    for (const box of this.boxes) {
      const [first, last] = [box.start_tick ?? box.tick ?? 0, box.end_tick ?? box.tick ?? Infinity];
      if (last < tick || first >= tick + window) continue;
      const [x, y, wide, high] = ["x", "y", "width", "height"].map((key) => box[key] * this.scale);
      pen.strokeRect(x, y, wide, high);
      pen.fillText(String(box.label ?? "").slice(0, 60), x + 2, y > 14 ? y - 4 : y + 14);
    }
  }

  // Where in time the camera lost something.
  drawTimeline() {
    const { pen, width, height } = fitted(at("timeline"), 8);
    pen.fillStyle = "#2b3038";
    pen.fillRect(0, 3, width, 2);
    pen.fillStyle = "#ff6b5e";
    for (const [tick] of this.clip.lost ?? []) {
      pen.fillRect((tick / this.clip.ticks) * width - 1, 0, 3, height);
    }
  }
}
