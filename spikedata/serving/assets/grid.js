// The grid: tiles of clips, whose pictures are asked for as they come into sight.

import { at, count, get, harmless, hue, make, milliseconds } from "./common.js";

const AT_ONCE = 4;
const SMALL_PX = 84; // below this a tile has no text of its own

// How many clips a page has: about two screens of them.
export function pageSize(tile) {
  if (tile < 48) return 2000;
  if (tile < SMALL_PX) return 600;
  return tile < 150 ? 240 : 96;
}

// Pictures of tiles in sight: stills first, many in one answer, so that a screen of tiny tiles is not
// a thousand requests; what goes out of sight is not waited for.
class Loader {
  constructor(grid) {
    this.grid = grid;
    this.waiting = { still: [], moving: [] };
    this.running = 0;
  }

  ask(tile, kind) {
    this.forget(tile, kind);
    this.waiting[kind].push(tile);
    this.next();
  }

  forget(tile, kind) {
    this.waiting[kind] = this.waiting[kind].filter((other) => other !== tile);
  }

  next() {
    while (this.running < AT_ONCE) {
      const kind = this.waiting.still.length ? "still" : "moving";
      const many = kind === "moving" ? 1 : this.grid.tilePx < SMALL_PX ? 48 : 8;
      const tiles = this.waiting[kind].splice(0, many);
      if (!tiles.length) return;
      this.running += 1;
      const load = kind === "still" ? this.stills(tiles) : tiles[0].load(kind);
      load.finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  async stills(tiles) {
    const stop = new AbortController();
    // Once all of them are out of sight nobody waits.
    tiles.forEach((tile) => {
      tile.stop = { abort: () => tiles.every((one) => !one.isSeen) && stop.abort() };
    });
    try {
      const ids = JSON.stringify(tiles.map((tile) => tile.clip.id));
      const about = { ids, px: this.grid.sidePx(), v: this.grid.version };
      const buffer = await (await get("api/stills", about, stop.signal)).arrayBuffer();
      const view = new DataView(buffer);
      let from = 0;
      for (const tile of tiles) {
        const length = view.getUint32(from, true);
        if (length) tile.have("still", new Blob([new Uint8Array(buffer, from + 4, length)]));
        else await tile.load("still"); // which tells why there is none
        from += 4 + length;
      }
    } catch (error) {
      if (error.name !== "AbortError") tiles.forEach((tile) => tile.fail(error.message));
    }
  }
}

class Tile {
  constructor(grid, clip) {
    this.grid = grid;
    this.clip = clip;
    this.pictures = {};
    this.image = make("img", { alt: "", draggable: false });
    this.image.style.aspectRatio = `${clip.width_px} / ${clip.height_px}`;
    this.label = make("span", { className: "tile-label" });
    this.id = make("span", { className: "tile-id", text: clip.id, title: clip.id });
    this.split = make("span", { className: "tile-split" });
    const line = make("span", { className: "tile-line" }, this.id, this.split);
    this.element = make("button", { className: "tile" }, this.image, this.label, line);
    this.element.tile = this;
    this.element.setAttribute("aria-label", clip.id);
    this.element.addEventListener("click", () => grid.onOpen(this.clip));
    this.element.addEventListener("focus", () => grid.detail(this));
    this.element.addEventListener("mouseenter", () => this.hover(true));
    this.element.addEventListener("mouseleave", () => this.hover(false));
    this.tell();
  }

  tell() {
    const { label, split } = this.clip;
    this.label.textContent = label ?? "unlabelled";
    this.label.title = label ?? "";
    this.element.classList.toggle("unlabelled", label === null);
    const colour = label === null ? "transparent" : `hsl(${hue(label)} 70% 60%)`;
    this.element.style.setProperty("--class", colour);
    this.split.textContent = split ?? "";
    this.split.dataset.split = split ?? "";
  }

  hover(inside) {
    if (inside) this.grid.detail(this);
    if (this.grid.plays) return;
    if (inside && !this.pictures.moving) this.grid.loader.ask(this, "moving");
    this.isHovered = inside;
    this.draw();
  }

  see(isSeen) {
    this.isSeen = isSeen;
    const { loader, plays } = this.grid;
    for (const kind of ["still", "moving"]) {
      if (!isSeen) loader.forget(this, kind);
      else if (!this.pictures[kind] && (kind === "still" || plays)) loader.ask(this, kind);
    }
    if (!isSeen) this.stop?.abort();
  }

  async load(kind) {
    this.stop = new AbortController();
    try {
      const about = { id: this.clip.id, px: this.grid.sidePx(), v: this.grid.version };
      const response = await get(`api/${kind}`, about, this.stop.signal);
      this.have(kind, await response.blob());
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error.message);
    }
  }

  have(kind, blob) {
    if (this.pictures[kind]) URL.revokeObjectURL(this.pictures[kind]);
    this.pictures[kind] = URL.createObjectURL(blob);
    this.draw();
  }

  draw() {
    const moves = this.grid.plays || this.isHovered;
    const picture = (moves && this.pictures.moving) || this.pictures.still || this.pictures.moving;
    if (picture && this.image.src !== picture) this.image.src = picture;
  }

  fail(told) {
    this.element.classList.add("failed");
    this.element.title = told;
    if (!this.element.querySelector(".tile-error")) {
      this.image.after(make("span", { className: "tile-error", text: told }));
    }
  }

  remove() {
    this.see(false);
    for (const picture of Object.values(this.pictures)) URL.revokeObjectURL(picture);
    this.element.remove();
  }
}

export class Grid {
  constructor(onOpen) {
    this.onOpen = onOpen;
    this.loader = new Loader(this);
    this.tiles = [];
    this.observer = new IntersectionObserver(
      (entries) => entries.forEach((entry) => entry.target.tile.see(entry.isIntersecting)),
      { rootMargin: "150px" },
    );
  }

  show(listed, { tilePx, plays }) {
    const fresh = listed.version !== this.version;
    this.version = listed.version;
    this.resize(tilePx);
    this.plays = plays;
    const kept = new Map(this.tiles.map((tile) => [tile.clip.id, tile]));
    this.tiles.forEach((tile) => this.observer.unobserve(tile.element));
    this.tiles = listed.clips.map((clip) => {
      const tile = fresh ? undefined : kept.get(clip.id);
      if (!tile) return new Tile(this, clip);
      kept.delete(clip.id);
      tile.clip = clip;
      tile.tell();
      return tile;
    });
    kept.forEach((tile) => tile.remove());
    at("tiles").replaceChildren(...this.tiles.map((tile) => tile.element));
    this.tiles.forEach((tile) => this.observer.observe(tile.element));
    if (!listed.total) at("tiles").append(make("p", { className: "quiet", text: "No clip fits." }));
    const first = listed.page * listed.size + 1;
    const last = first + listed.clips.length - 1;
    at("page-told").textContent = listed.total
      ? `${count(first)}–${count(last)} of ${count(listed.total)}`
      : "";
    at("page-back").disabled = listed.page === 0;
    at("page-on").disabled = listed.page >= listed.pages - 1;
    at("pager").hidden = listed.pages < 2 && listed.total < 1;
  }

  // Longer side of the pictures that are asked for, in the screen's own pixels.
  sidePx() {
    return Math.round(this.tilePx * Math.min(2, window.devicePixelRatio || 1));
  }

  resize(tilePx) {
    this.tilePx = tilePx;
    at("tiles").style.setProperty("--tile", `${tilePx}px`);
    at("tiles").classList.toggle("small", tilePx < SMALL_PX);
    at("detail").hidden = tilePx >= SMALL_PX;
    at("preview").hidden = tilePx >= SMALL_PX || !at("preview").src;
  }

  setPlays(plays) {
    this.plays = plays;
    this.tiles.forEach((tile) => {
      if (tile.isSeen) tile.see(true);
      tile.draw();
    });
  }

  tell(clip) {
    const tile = this.tiles.find((one) => one.clip.id === clip.id);
    if (!tile) return;
    Object.assign(tile.clip, clip);
    tile.tell();
    if (tile === this.detailed) this.detail(tile);
  }

  // What a tile without text of its own shows, in the line below.
  detail(tile) {
    this.detailed = tile;
    const { id, label, split, group, captions, ticks, tick_rate_hz, camera } = tile.clip;
    const known = [id, label ?? "unlabelled", split, group, ...captions];
    const long = `${count(ticks)} ticks, ${milliseconds(ticks, tick_rate_hz)}`;
    at("detail-text").textContent = [...known, camera, long]
      .filter(Boolean)
      .map(harmless)
      .join("  ·  ");
    if (this.tilePx < SMALL_PX) this.preview(tile);
  }

  // A tiny tile's clip, large enough to be seen.
  async preview(tile) {
    if (this.previewed === tile) return;
    this.previewed = tile;
    this.stop?.abort();
    this.stop = new AbortController();
    try {
      const about = { id: tile.clip.id, px: 256, v: this.version };
      const blob = await (await get("api/moving", about, this.stop.signal)).blob();
      if (this.previewed !== tile) return;
      URL.revokeObjectURL(at("preview").src);
      at("preview").src = URL.createObjectURL(blob);
      at("preview").hidden = false;
    } catch (error) {
      if (error.name !== "AbortError") at("preview").hidden = true;
    }
  }

  focused() {
    return document.activeElement?.tile;
  }

  move(columns, rows) {
    const here = this.tiles.indexOf(this.focused());
    if (here < 0) {
      this.tiles[0]?.element.focus();
      return;
    }
    const top = this.tiles[0].element.offsetTop;
    const wide = this.tiles.findIndex((tile) => tile.element.offsetTop > top);
    const next = here + columns + rows * (wide < 0 ? this.tiles.length : wide);
    this.tiles[next]?.element.focus();
  }

  focus(clipId) {
    this.tiles.find((tile) => tile.clip.id === clipId)?.element.focus();
  }
}
