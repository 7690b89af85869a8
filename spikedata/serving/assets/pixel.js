// One pixel and its neighbours: when they fired, and how long it took each time.

import { at, count, fitted, getJson, make, milliseconds, significant } from "./common.js";

const SPANS = [200, 1000, 4000, 16000];
const COLOURS = { axis: "#8b93a1", other: "#5f6b7c", own: "#ffd34d", line: "#2b3038", now: "#6ab7ff" };

export class PixelPanel {
  constructor() {
    this.told = make("p", { className: "quiet", text: "Click a pixel of the picture." });
    this.span = make(
      "select",
      { ariaLabel: "Ticks shown" },
      ...SPANS.map((ticks) => make("option", { value: ticks, text: `${count(ticks)} ticks` })),
    );
    this.span.value = 1000;
    this.span.addEventListener("change", () => this.load());
    this.raster = make("canvas");
    this.sequence = make("canvas");
    this.histogram = make("canvas");
    const pair = make("div", { className: "pair" }, this.sequence, this.histogram);
    this.plots = make("div", { hidden: true }, this.raster, pair);
    const head = make("div", { className: "panel-head" }, this.told, this.span);
    at("pixel").append(head, this.plots);
    new ResizeObserver(() => this.draw()).observe(at("pixel"));
  }

  open(clip) {
    this.clip = clip;
    this.found = null;
    this.pixel = null;
    this.plots.hidden = true;
    this.told.textContent = "Click a pixel of the picture.";
  }

  show(pixel, tick) {
    this.pixel = pixel;
    this.tick = tick;
    return this.load();
  }

  // The time that is shown moves along with the player.
  follow(tick) {
    this.tick = tick;
    if (!this.found) return;
    const { start, ticks } = this.found;
    if (tick < start || tick >= start + ticks) this.load();
    else this.draw();
  }

  async load() {
    if (!this.pixel) return;
    const { clip, pixel } = this;
    const ticks = Math.min(clip.ticks, Number(this.span.value));
    const start = Math.max(0, Math.min(clip.ticks - ticks, Math.round(this.tick - ticks / 3)));
    try {
      const found = await getJson("api/pixel", { id: clip.id, ...pixel, start, ticks });
      if (this.clip !== clip || this.pixel !== pixel) return;
      this.found = found;
      this.draw();
    } catch (error) {
      this.told.textContent = error.message;
    }
  }

  draw() {
    const { found, clip } = this;
    if (!found || !clip) return;
    this.plots.hidden = false;
    const own = found.trains.find(({ x, y }) => x === found.x && y === found.y);
    const intervals = own.ticks.slice(1).map((tick, n) => tick - own.ticks[n]);
    const mean = intervals.length ? intervals.reduce((a, b) => a + b, 0) / intervals.length : null;
    const spread = mean === null
      ? null
      : Math.sqrt(intervals.reduce((sum, one) => sum + (one - mean) ** 2, 0) / intervals.length);
    const rate = own.ticks.length / found.ticks;
    this.told.textContent =
      `x ${found.x}, y ${found.y}: ${count(own.ticks.length)} spikes in ${count(found.ticks)} ticks ` +
      `(${milliseconds(found.ticks, clip.tick_rate_hz)}), ${significant(rate)} a tick; ` +
      `interval ${significant(mean)} ± ${significant(spread, 2)} ticks`;
    this.drawRaster(found);
    this.drawSequence(found, own.ticks, intervals);
    this.drawHistogram(intervals);
  }

  drawRaster(found) {
    const row = 13;
    const left = 74;
    const { pen, width } = fitted(this.raster, found.trains.length * row + 24);
    const scale = (width - left - 8) / found.ticks;
    const place = (tick) => left + (tick - found.start + 0.5) * scale;
    found.trains.forEach((train, n) => {
      const isOwn = train.x === found.x && train.y === found.y;
      pen.fillStyle = isOwn ? COLOURS.own : COLOURS.axis;
      pen.textAlign = "right";
      pen.fillText(`${train.x}, ${train.y}`, left - 8, n * row + 11);
      pen.fillStyle = isOwn ? COLOURS.own : COLOURS.other;
      const thick = Math.max(1, Math.min(3, scale * 0.8));
      for (const tick of train.ticks) {
        pen.fillRect(place(tick) - thick / 2, n * row + 2, thick, row - 3);
      }
    });
    this.drawTimes(pen, found, place, 0, found.trains.length * row + 2);
  }

  drawTimes(pen, found, place, top, bottom) {
    pen.fillStyle = COLOURS.axis;
    for (let n = 0; n <= 4; n += 1) {
      const tick = found.start + Math.round((n * found.ticks) / 4);
      pen.textAlign = n === 0 ? "left" : n === 4 ? "right" : "center";
      pen.fillText(n === 0 ? `tick ${count(tick)}` : count(tick), place(tick - 0.5), bottom + 14);
    }
    if (this.tick < found.start || this.tick >= found.start + found.ticks) return;
    pen.fillStyle = COLOURS.now;
    pen.fillRect(place(this.tick), top, 1.5, bottom - top);
  }

  drawSequence(found, ticks, intervals) {
    const left = 40;
    const { pen, width, height } = fitted(this.sequence, 150);
    const bottom = height - 20;
    const most = Math.max(2, ...intervals) * 1.1;
    const scale = (width - left - 8) / found.ticks;
    const place = (tick) => left + (tick - found.start + 0.5) * scale;
    const level = (interval) => bottom - (interval / most) * (bottom - 18);
    pen.fillStyle = COLOURS.axis;
    pen.textAlign = "left";
    pen.fillText("interval before each spike, ticks", left, 11);
    pen.textAlign = "right";
    for (const mark of marksTo(most)) {
      pen.fillStyle = COLOURS.line;
      pen.fillRect(left, level(mark), width - left - 8, 1);
      pen.fillStyle = COLOURS.axis;
      pen.fillText(mark, left - 6, level(mark) + 4);
    }
    pen.fillStyle = COLOURS.own;
    intervals.forEach((interval, n) => {
      pen.fillRect(place(ticks[n + 1]) - 1.25, level(interval) - 1.25, 2.5, 2.5);
    });
    this.drawTimes(pen, found, place, 18, bottom + 2);
  }

  drawHistogram(intervals) {
    const left = 44;
    const { pen, width, height } = fitted(this.histogram, 150);
    const bottom = height - 20;
    pen.fillStyle = COLOURS.axis;
    pen.textAlign = "left";
    pen.fillText("intervals of each length, ticks", left, 11);
    if (!intervals.length) {
      pen.fillText("fewer than two spikes", left, 40);
      return;
    }
    const low = Math.max(0, Math.min(...intervals) - 1);
    const wide = Math.max(1, Math.ceil((Math.max(...intervals) + 2 - low) / 60));
    const bars = Array(Math.ceil((Math.max(...intervals) + 2 - low) / wide)).fill(0);
    for (const interval of intervals) bars[Math.floor((interval - low) / wide)] += 1;
    const most = Math.max(...bars);
    const step = (width - left - 8) / bars.length;
    pen.textAlign = "right";
    for (const mark of marksTo(most)) {
      const y = bottom - (mark / most) * (bottom - 22);
      pen.fillStyle = COLOURS.line;
      pen.fillRect(left, y, width - left - 8, 1);
      pen.fillStyle = COLOURS.axis;
      pen.fillText(mark, left - 6, y + 4);
    }
    bars.forEach((number, n) => {
      const high = (number / most) * (bottom - 22);
      pen.fillStyle = COLOURS.own;
      pen.fillRect(left + n * step + 1, bottom - high, Math.max(1, step - 2), high);
    });
    pen.fillStyle = COLOURS.axis;
    pen.textAlign = "center";
    const every = Math.max(1, Math.ceil(bars.length / Math.max(2, Math.floor(width / 60))));
    for (let n = 0; n < bars.length; n += every) {
      pen.fillText(low + n * wide, left + (n + 0.5) * step, height - 5);
    }
  }
}

// A few round numbers up to the most.
export function marksTo(most) {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= rough) ?? power;
  const marks = [];
  for (let mark = Math.max(step, 0); mark <= most; mark += step) {
    if (step >= 1 || most < 3) marks.push(Number(mark.toPrecision(6)));
  }
  return marks;
}
