// A small figure inside a chapter: one slider, a few pictures, each from its own noise
// that stays the same. The page holds
//   <div class="play-live" data-live="steps" data-prompts="a sentence|another">…</div>
// with "steps" or "scale"; what stands inside is shown where no JavaScript runs.
import { drawPicture, easel, h } from "./draw.js";
import { listModels, Painter } from "./painter.js";

const KINDS = {
  steps: { label: "steps", min: 1, max: 30, step: 1 },
  scale: { label: "guidance", min: 0, max: 8, step: 0.5 },
};

let opened; // one painter for all figures of a page
const open = () =>
  (opened ??= listModels()
    .then(({ models: [{ name }], runtime }) => Painter.open({ name, runtime }))
    .catch(error => {
      opened = null;
      throw error;
    }));

class Figure {
  constructor(root) {
    this.kind = root.dataset.live;
    this.prompts = root.dataset.prompts.split("|");
    const { label, ...range } = KINDS[this.kind];
    this.slider = h("input", { type: "range", ...range, "aria-label": label, disabled: true });
    this.value = h("output");
    this.button = h("button", { type: "button", class: "play-plain" }, "Paint here");
    this.status = h("p", { class: "play-status", role: "status" });
    this.easels = this.prompts.map(prompt => easel(prompt));
    const pictures = this.prompts.map((prompt, i) =>
      h("figure", {}, this.easels[i], h("figcaption", {}, prompt)));
    const controls = h("div", { class: "play-control" }, this.button,
      h("label", {}, `${label} `, this.slider), this.value);
    root.classList.add("play");
    root.replaceChildren(controls, this.status, h("div", { class: "play-strip" }, pictures));
    this.button.addEventListener("click", () => this.begin());
    this.slider.addEventListener("input", () => this.paint().catch(error => this.fail(error)));
    this.kept = new Map(); // pictures of a value of the slider
    this.turn = 0;
    this.ready().catch(error => this.fail(error));
  }

  async ready() {
    this.painter = await open();
    this.slider.value = this.painter.facts[this.kind];
    this.value.textContent = this.slider.value;
    const size = `${Math.round((await this.painter.missing()) / 1e6)} MB`;
    this.status.textContent = size === "0 MB" ? "" : `The first picture fetches the painter, ${size}, once.`;
  }

  async begin() {
    this.button.disabled = true;
    try {
      if (!this.painter) await this.ready();
      await this.painter.load((got, all) => {
        this.status.textContent = `Fetching the painter: ${Math.round((100 * got) / all)}%`;
      });
      this.button.hidden = true;
      this.slider.disabled = false;
      this.slider.focus();
      await this.paint();
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.button.hidden = this.button.disabled = false;
    this.status.textContent = `The painter did not come (${error.message}).`;
  }

  // Paint for where the slider stands; when it moves on, what is half done is left.
  async paint() {
    const turn = ++this.turn;
    const value = this.slider.value;
    this.value.textContent = value;
    const { facts } = this.painter;
    const settings = { steps: facts.steps, scale: facts.scale, [this.kind]: Number(value) };
    this.status.textContent = "Painting …";
    const key = seed => `${seed} ${value}`;
    for (const [seed, prompt] of this.prompts.entries()) {
      const picture = this.kept.get(key(seed)) ?? (await this.one(prompt, seed, settings, turn));
      if (!picture) return;
      this.kept.set(key(seed), picture);
      if (turn !== this.turn) return;
      drawPicture(this.easels[seed], picture);
      this.easels[seed].setAttribute("aria-label", `${prompt}, ${KINDS[this.kind].label} ${value}`);
    }
    this.status.textContent = `${settings.steps} step${settings.steps > 1 ? "s" : ""}, guidance ${settings.scale}: ` +
      `${2 * settings.steps} answers of the U-Net for each picture.`;
  }

  async one(prompt, seed, settings, turn) {
    let last;
    for await (const step of this.painter.paint({ prompt, seed, ...settings })) {
      if (turn !== this.turn) return null;
      last = step;
    }
    return (await this.painter.decode(last.next, last.next))[0];
  }
}

for (const root of document.querySelectorAll(".play-live")) new Figure(root);
