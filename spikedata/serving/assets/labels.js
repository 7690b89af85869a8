// Labels by keyboard. What is typed is shown at once and saved one after the other; what could not be
// saved is told with its value, and the clip is shown as the server has it.

import { at, getJson, harmless, hue, make, post, showError } from "./common.js";

const KEYS = ["label", "captions", "split", "group"];
const SPLIT_KEYS = { t: "train", v: "validation", e: "test", x: null };

const pickKeys = (clip) =>
  Object.fromEntries(KEYS.filter((key) => key in clip).map((key) => [key, clip[key]]));

export class Labels {
  // onChanged(clip) is called whenever a clip's labels are others; onNew() for a class not seen yet.
  constructor({ onChanged, onNew, onAdvance }) {
    Object.assign(this, { onChanged, onNew, onAdvance });
    this.queue = Promise.resolve();
    this.pending = 0;
    this.known = new Map(); // what the server last said of clips that wait to be saved
    this.classes = [];
    const own = { label: "edit-label", group: "edit-group", captions: "edit-captions" };
    for (const [key, name] of Object.entries(own)) {
      at(name).addEventListener("change", () => this.take(key));
      at(name).addEventListener("keydown", (event) => this.typed(event, key));
    }
    for (const split of ["train", "validation", "test", null]) {
      const button = make("button", { type: "button", text: split ?? "none" });
      const key = Object.keys(SPLIT_KEYS).find((one) => SPLIT_KEYS[one] === split);
      button.append(make("kbd", { text: key }));
      button.value = split ?? "";
      button.addEventListener("click", () => this.save(this.clip, { split }));
      at("edit-split").append(button);
    }
    at("undo").addEventListener("click", () => this.undo());
    window.addEventListener("beforeunload", (event) => {
      if (this.pending) event.preventDefault();
    });
  }

  setSet(set) {
    this.why = set.why_fixed;
    this.classes = set.counts.labels.map(([name]) => name).filter(Boolean);
    at("classes").replaceChildren(...this.classes.map((value) => make("option", { value })));
    at("digits").replaceChildren(
      ...this.classes.slice(0, 9).map((name, n) => {
        const button = make("button", { type: "button" }, make("kbd", { text: n + 1 }), name);
        button.style.setProperty("--class", `hsl(${hue(name)} 70% 60%)`);
        button.addEventListener("click", () => this.label(this.clip, name));
        return button;
      }),
    );
    at("fixed").hidden = this.why === null;
    at("fixed").textContent = `Read-only: ${this.why}.`;
    at("undo").hidden = this.why !== null;
    for (const field of at("form").querySelectorAll("input, textarea, button")) {
      if (field.id !== "advance") field.disabled = this.why !== null;
    }
  }

  open(clip) {
    this.clip = clip;
    this.fill();
  }

  fill() {
    const { clip } = this;
    if (!clip) return;
    at("edit-label").value = clip.label ?? "";
    at("edit-group").value = clip.group ?? "";
    at("edit-captions").value = clip.captions.join("\n");
    for (const button of at("edit-split").querySelectorAll("button")) {
      button.classList.toggle("chosen", button.value === (clip.split ?? ""));
    }
    at("torn").hidden = !clip.torn;
    if (clip.torn) {
      const sides = Object.entries(clip.torn).map(([split, clips]) => `${split} ${clips}`);
      at("torn").textContent =
        `Group ${harmless(clip.group)} is on several sides of a split (${sides.join(", ")}): its clips share ` +
        "a scene, so what is tested was seen in training.";
    }
  }

  // --- keys --------------------------------------------------------------------------------

  // Whether the key was one of ours; the clip is the open one, or the tile in focus.
  key(event, clip) {
    if (event.key === "u" || (event.key === "z" && (event.ctrlKey || event.metaKey))) {
      this.undo();
      return true;
    }
    if (!clip || event.ctrlKey || event.metaKey || event.altKey) return false;
    if (/^[1-9]$/.test(event.key)) {
      const name = this.classes[Number(event.key) - 1];
      if (name !== undefined) this.label(clip, name);
      return true;
    }
    if (event.key in SPLIT_KEYS) {
      this.save(clip, { split: SPLIT_KEYS[event.key] });
      return true;
    }
    return false;
  }

  typed(event, key) {
    const isLong = event.target.tagName === "TEXTAREA";
    if (event.key === "Escape") {
      this.fill();
      event.target.blur();
    } else if (event.key === "Enter" && (!isLong || event.ctrlKey)) {
      event.preventDefault();
      event.target.blur(); // which is a change, if it is one
      if (key === "label") this.advance();
    } else return;
    event.stopPropagation();
  }

  take(key) {
    const text = at(`edit-${key}`).value;
    const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
    this.save(this.clip, { [key]: key === "captions" ? lines : text.trim() || null });
  }

  label(clip, name) {
    this.save(clip, { label: name });
    if (clip === this.clip) this.advance();
  }

  advance() {
    if (at("advance").checked) this.onAdvance();
  }

  // --- saving ------------------------------------------------------------------------------

  save(clip, changes) {
    if (!clip) return;
    if (this.why !== null) {
      showError(`${clip.id}: not changed. Read-only: ${this.why}.`);
      return;
    }
    const same = Object.entries(changes).every(
      ([key, value]) => JSON.stringify(clip[key]) === JSON.stringify(value),
    );
    if (same) return;
    if (!this.known.has(clip.id)) this.known.set(clip.id, { said: pickKeys(clip), waiting: [] });
    const known = this.known.get(clip.id);
    known.waiting.push(changes);
    this.changed({ id: clip.id, ...changes });
    Object.assign(clip, changes);
    // What the server says, and what it will be told yet.
    const take = (found) => {
      known.said = pickKeys(found);
      known.waiting.shift();
      if (!known.waiting.length) this.known.delete(clip.id);
      return Object.assign({}, found, ...known.waiting);
    };
    const send = async () => {
      // A label that was saved just now may have changed the captions, too.
      const was = Object.fromEntries(Object.keys(changes).map((key) => [key, known.said[key]]));
      const done = await post("api/label", { id: clip.id, changes, was });
      return { ...done, clip: take(done.clip) };
    };
    const mend = async () => this.changed(take(await getJson("api/clip", { id: clip.id })));
    this.run(send, mend, `${clip.id}: ${JSON.stringify(changes)} is not saved`);
  }

  undo() {
    if (this.why !== null) return;
    this.run(() => post("api/undo", {}), async () => {}, "not undone");
  }

  // Everything is sent in the order in which it was done.
  run(send, mend, failed) {
    this.pending += 1;
    at("saved").textContent = "saving …";
    this.queue = this.queue.then(async () => {
      let told = "";
      try {
        const { clip, ...torn } = await send();
        this.changed(clip);
        if (clip.label && !this.classes.includes(clip.label)) await this.onNew();
        told = `saved ${clip.id}`;
        this.onTorn?.(torn);
      } catch (error) {
        showError(`${failed}: ${error.message}`);
        await mend().catch(() => {}); // told already
      }
      this.pending -= 1;
      at("saved").textContent = this.pending ? `saving ${this.pending} …` : told;
    });
  }

  changed(clip) {
    if (clip.id === this.clip?.id) {
      const typing = document.activeElement;
      Object.assign(this.clip, clip);
      if (!at("form").contains(typing) || typing.tagName === "BUTTON") this.fill();
    }
    this.onChanged({ id: clip.id, ...pickKeys(clip) });
  }
}
