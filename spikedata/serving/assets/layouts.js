// A file whose camera nothing tells: what it would be, as pictures to click.

import { address, at, count, getJson, make, post, showError, significant } from "./common.js";

export class Layouts {
  constructor(onOpened) {
    this.onOpened = onOpened;
  }

  async show(file, set) {
    const view = at("layout-view");
    this.file = file;
    const failure = set.failures.find((one) => one.file === file);
    const back = make("button", { text: "← all clips" });
    back.addEventListener("click", () => this.onOpened(null));
    const head = make("div", { id: "clip-head" }, back, make("h2", { text: failure?.id ?? "?" }));
    const told = make("p", { className: "quiet", text: failure?.error ?? "" });
    const list = make("div", { className: "candidates" });
    const wait = make("p", { className: "quiet", text: "trying layouts …" });
    view.replaceChildren(head, told, wait, list);
    try {
      const found = await getJson("api/layouts", { file, v: set.version });
      if (this.file !== file) return;
      wait.textContent = found.candidates.length
        ? "Which of these is it? Click the picture that looks like one. " + (set.why_fixed === null
          ? "The camera is saved in metadata.jsonl."
          : "It counts until the server ends: nothing is saved here.")
        : "No layout fits this file.";
      this.all = make("input", { type: "checkbox", checked: found.alike > 1 });
      if (found.alike > 1) {
        const text = ` for all ${count(found.alike)} files whose size fits it`;
        list.before(make("label", { className: "control" }, this.all, text));
      }
      this.turned = make("input", { type: "checkbox" });
      this.turned.addEventListener("change", () => {
        list.classList.toggle("turned", this.turned.checked);
      });
      const text = " turned upside down";
      list.before(make("label", { className: "control" }, this.turned, text));
      list.append(...found.candidates.map((one, number) => this.candidate(one, number, set)));
    } catch (error) {
      wait.textContent = error.message;
    }
  }

  candidate(one, number, set) {
    const image = make("img", { alt: `as ${one.name}` });
    image.src = address("api/layout", { file: this.file, number, v: set.version });
    image.style.aspectRatio = `${one.width_px} / ${one.height_px}`;
    const best = number === 0 ? ` · ${one.verdict}` : "";
    const told = `${count(one.ticks)} ticks of ${one.height_px} × ${one.width_px}, ` +
      `neighbours alike ${significant(one.score, 2)}${one.note ? `. ${one.note}` : ""}`;
    const button = make(
      "button",
      { className: "candidate" },
      image,
      make("strong", { text: `${one.name}${best}` }),
      make("span", { className: "quiet", text: told }),
    );
    button.dataset.turns = one.turned !== null;
    button.addEventListener("click", () => {
      this.choose(this.turned.checked ? one.turned ?? one.name : one.name);
    });
    return button;
  }

  async choose(camera) {
    const every = this.all.checked;
    try {
      const done = await post("api/camera", { file: this.file, camera, every });
      this.onOpened(done.opened, done.told);
    } catch (error) {
      showError(error.message);
    }
  }
}
