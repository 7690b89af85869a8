// The health of a clip's camera: rate map with its marked pixels, flicker, rate over time, losses.

import { at, count, drawMarks, fitted, get, getJson, make, milliseconds } from "./common.js";
import { marksTo } from "./pixel.js";

const COLOURS = { hot: "#ff6b5e", dead: "#6ab7ff", saturated: "#ffb13d" };
const AXIS = "#8b93a1";
const LINE = "#2b3038";
const CURVE = "#7fd6a4";
const MAP_PX = 360;
const FEW = 80; // pixels of a kind that are ringed

export class HealthPanel {
  constructor(onMarks) {
    this.onMarks = onMarks;
    this.findings = make("ul", { className: "findings" });
    this.legend = make("div", { className: "legend" });
    this.map = make("canvas", { className: "rate-map" });
    this.rings = make("canvas", { className: "rings" });
    this.spectrum = make("canvas");
    this.course = make("canvas");
    this.lost = make("p", { className: "quiet" });
    const picture = make("div", { className: "map" }, this.map, this.rings);
    const left = make("div", {}, picture, this.legend);
    const right = make("div", { className: "curves" }, this.spectrum, this.course, this.lost);
    this.parts = make("div", { className: "health-parts", hidden: true }, left, right);
    at("health").append(this.findings, this.parts);
    new ResizeObserver(() => this.draw()).observe(at("health"));
  }

  open(clip, version) {
    this.clip = clip;
    this.version = version;
    this.found = null;
    this.parts.hidden = true;
    this.findings.replaceChildren();
  }

  async show() {
    const { clip } = this;
    if (this.found || !clip) return;
    this.findings.replaceChildren(make("li", { className: "quiet", text: "measuring …" }));
    try {
      const about = { id: clip.id, v: this.version };
      const found = await getJson("api/health", about);
      const rates = new Uint16Array(await (await get("api/rates", about)).arrayBuffer());
      const kinds = new Uint8Array(await (await get("api/marked", about)).arrayBuffer());
      if (this.clip !== clip) return;
      this.found = found;
      this.rates = rates;
      this.kinds = kinds;
    } catch (error) {
      this.findings.replaceChildren(make("li", { className: "warning", text: error.message }));
      return;
    }
    this.findings.replaceChildren(...this.found.findings.map((text) => make("li", { text })));
    this.tellPixels();
    this.tellLost();
    this.parts.hidden = false;
    this.draw();
    this.onMarks(this.marks());
  }

  // Places of each kind; few are ringed, of many each is coloured.
  marks() {
    const width = this.clip.width_px;
    return Object.keys(COLOURS).map((kind, n) => {
      const pixels = [];
      this.kinds.forEach((is, place) => {
        if (is === n + 1) pixels.push([place % width, Math.floor(place / width)]);
      });
      return { colour: COLOURS[kind], pixels, few: pixels.length <= FEW };
    });
  }

  tellPixels() {
    this.legend.replaceChildren(
      ...Object.entries(this.found.pixels).map(([kind, about]) => {
        const dot = make("span", { className: "dot" });
        dot.style.background = COLOURS[kind];
        return make("span", {}, dot, `${count(about.count)} ${kind}`);
      }),
    );
  }

  tellLost() {
    const { lost } = this.found;
    const rate = this.clip.tick_rate_hz;
    const spans = lost
      .slice(0, 20)
      .map(([tick, ticks]) => `about ${count(ticks)} before tick ${count(tick)} (${milliseconds(tick, rate)})`);
    const more = lost.length > 20 ? ` and ${count(lost.length - 20)} more` : "";
    this.lost.textContent = lost.length ? `Lost ticks: ${spans.join("; ")}${more}.` : "No tick was lost.";
  }

  draw() {
    if (!this.found) return;
    this.drawMap();
    const { frequency_hz: hz, amplitude } = this.found.spectrum;
    const percent = amplitude.map((value) => 100 * value);
    const text = "flicker of the mean rate, % at each frequency, Hz";
    this.drawCurve(this.spectrum, hz, percent, text, Math.log, [100, 120]);
    const { tick, rate } = this.found.rate_over_time;
    this.drawCurve(this.course, tick, rate, "mean rate, spikes a tick, over ticks", (tick) => tick, []);
  }

  drawMap() {
    const { width_px: width, height_px: height } = this.clip;
    this.map.width = width;
    this.map.height = height;
    const pen = this.map.getContext("2d");
    const image = pen.createImageData(width, height);
    const sorted = Uint16Array.from(this.rates).sort();
    const white = Math.max(1, sorted[Math.floor(0.995 * (sorted.length - 1))]);
    this.rates.forEach((rate, n) => {
      const level = 255 * Math.min(1, rate / white);
      image.data.set([level, level, level, 255], 4 * n);
    });
    pen.putImageData(image, 0, 0);
    const scale = MAP_PX / Math.max(width, height);
    for (const canvas of [this.map, this.rings]) {
      canvas.style.width = `${Math.round(width * scale)}px`;
      canvas.style.height = `${Math.round(height * scale)}px`;
    }
    const rings = fitted(this.rings, Math.round(height * scale)).pen;
    drawMarks(rings, this.marks(), scale, 5);
  }

  // Values along something, whose places on the axis are those of ``scale``.
  drawCurve(canvas, along, values, title, scale, guides) {
    const left = 52;
    const { pen, width, height } = fitted(canvas, 140);
    const bottom = height - 20;
    pen.fillStyle = AXIS;
    pen.textAlign = "left";
    pen.fillText(title, left, 11);
    if (along.length < 2) {
      pen.fillText("too short to tell", left, 40);
      return;
    }
    const [first, last] = [along[0], along[along.length - 1]];
    const most = Math.max(1e-9, ...values) * 1.08;
    const long = scale(last) - scale(first);
    const place = (one) => left + ((scale(one) - scale(first)) / long) * (width - left - 10);
    const level = (value) => bottom - (value / most) * (bottom - 20);
    for (const mark of levels(most)) {
      pen.fillStyle = LINE;
      pen.fillRect(left, level(mark), width - left - 10, 1);
      pen.fillStyle = AXIS;
      pen.textAlign = "right";
      pen.fillText(mark, left - 6, level(mark) + 4);
    }
    pen.fillStyle = "#4a5260";
    const within = guides.filter((guide) => guide > first && guide < last);
    for (const guide of within) pen.fillRect(place(guide), 18, 1, bottom - 18);
    pen.strokeStyle = CURVE;
    pen.lineWidth = 1.3;
    pen.beginPath();
    along.forEach((one, n) => pen.lineTo(place(one), level(values[n])));
    pen.stroke();
    pen.fillStyle = AXIS;
    pen.textAlign = "left";
    const isFree = within.every((guide) => place(guide) > left + 60);
    if (isFree) pen.fillText(Number(first.toPrecision(2)), left, height - 5);
    within.forEach((guide, n) => {
      const isLast = n === within.length - 1; // two guides are near each other
      pen.textAlign = isLast ? "left" : "right";
      pen.fillText(guide, place(guide) + (isLast ? 2 : -2), height - 5);
    });
    pen.textAlign = "right";
    if (within.some((guide) => place(guide) > width - 80)) return;
    pen.fillText(count(Math.round(last)), width - 10, height - 5);
  }
}

// Round numbers of any size up to the most.
function levels(most) {
  if (most >= 3) return marksTo(most);
  const power = 10 ** Math.floor(Math.log10(most / 3));
  const step = [1, 2, 5, 10].map((times) => times * power).find((one) => one >= most / 3);
  const found = [];
  for (let n = 1; n * step <= most; n += 1) found.push(Number((n * step).toPrecision(3)));
  return found;
}
