// The fields above the picture, and what stands in them.
import { h } from "./draw.js";

const WHOLE = { steps: [1, 100], seed: [0, 2 ** 32 - 1] };
const SCALE = [-20, 20];

const labelled = (name, input, ...more) =>
  h("label", { class: "play-field" }, h("span", {}, name), h("span", { class: "play-in" }, input, more));

// A slider, and the same number to type.
function slider(name, label, what, { min, max, step, value }) {
  const typed = h("input", { type: "number", name, step: "any", value, inputmode: "decimal",
    "aria-label": `${label}, typed` });
  const slid = h("input", { type: "range", min, max, step, value, "aria-label": label });
  slid.addEventListener("input", () => (typed.value = slid.value));
  typed.addEventListener("input", () => (slid.value = typed.value));
  const set = number => (typed.value = slid.value = number);
  return { field: labelled(`${label}: ${what}`, slid, typed), input: typed, set };
}

export class Desk {
  // `changed()` is called when a setting is another.
  constructor({ paint, stop, changed, choose }) {
    this.button = h("button", { type: "submit", class: "play-paint" }, "Paint");
    this.stopButton = h("button", { type: "button", class: "play-plain", hidden: true, onclick: stop }, "Stop");
    this.prompts = [0, 1].map(lane => this.text("prompt", lane));
    this.negatives = [0, 1].map(lane => this.text("negative", lane));
    this.scales = [0, 1].map(() =>
      slider("scale", "guidance", "how loud your words are", { min: 0, max: 8, step: 0.5, value: 2 }),
    );
    this.steps = slider("steps", "steps", "how often he looks", { min: 1, max: 50, step: 1, value: 15 });
    this.seed = h("input", { type: "number", name: "seed", min: 0, step: 1, value: 0, inputmode: "numeric" });
    const dice = h("button", { type: "button", class: "play-plain", "aria-label": "Another seed",
      onclick: () => this.roll(changed) }, "another");
    this.models = h("select", { name: "model" });
    this.models.addEventListener("change", () => choose(this.models.value));
    this.modelField = labelled("model", this.models);
    this.both = h(
      "button",
      { type: "button", class: "play-plain", "aria-pressed": "false", onclick: () => this.twice(changed) },
      "Side by side",
    );
    this.ideas = h("div", { class: "play-ideas", role: "group", "aria-label": "Ideas" });
    this.known = h("details", { class: "play-known", hidden: true });
    this.second = h("fieldset", { class: "play-second", hidden: true }, this.laneFields(1));
    this.form = h(
      "form",
      { class: "play-desk", novalidate: true },
      h("div", { class: "play-say" }, this.prompts[0], this.button),
      this.ideas,
      this.known,
      h("div", { class: "play-fields" }, this.modelField, this.scales[0].field,
        labelled("but no: what it is not to be", this.negatives[0]), this.steps.field,
        labelled("seed: which noise it begins with", this.seed, dice), this.both),
      this.second,
    );
    this.form.addEventListener("submit", event => {
      event.preventDefault();
      paint();
    });
    this.form.addEventListener("change", event => {
      const { name, type } = event.target;
      if (type === "range" || ["seed", "steps", "scale"].includes(name)) changed();
    });
  }

  text(name, lane) {
    const labels = { prompt: "What to paint", negative: "What it is not to be" };
    const placeholder = name === "prompt" ? "a red circle above a blue square" : "nothing";
    const label = labels[name] + (lane ? ", side B" : "");
    const many = name === "prompt";
    const field = h(many ? "textarea" : "input", {
      name, placeholder, "aria-label": label, autocomplete: "off", dir: "auto", spellcheck: "false",
      enterkeyhint: "go", ...(many ? { rows: 1 } : { type: "text" }),
    });
    field.addEventListener("keydown", event => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    return field;
  }

  laneFields(lane) {
    return [
      h("legend", {}, "Side B: the same noise, other words or another guidance"),
      h("div", { class: "play-say" }, this.prompts[lane]),
      h("div", { class: "play-fields" }, this.scales[lane].field, labelled("but no: what it is not to be", this.negatives[lane])),
    ];
  }

  twice(changed) {
    const on = this.second.hidden;
    this.second.hidden = !on;
    this.both.setAttribute("aria-pressed", on);
    if (on && !this.prompts[1].value) {
      this.prompts[1].value = this.prompts[0].value;
      this.scales[1].set(Number(this.scales[0].input.value) === 1 ? 4 : 1);
    }
    changed();
  }

  roll(changed) {
    this.seed.value = Math.floor(Math.random() * 10000);
    changed();
  }

  // Ideas to click: sentences, with the pictures that they made.
  showIdeas(ideas, take) {
    const chips = ideas.map(idea =>
      h("button", { type: "button", class: "play-idea", onclick: () => take(idea) },
        h("span", { class: "play-thumb", style: `background-image: url(${idea.picture})` }), h("span", {}, idea.prompt)),
    );
    this.ideas.replaceChildren(...chips);
  }

  // What a model was taught, {"sizes": ["small", ...], ...}; of another model nobody knows.
  showKnown(knows) {
    this.known.hidden = !knows;
    const rows = Object.entries(knows ?? {}).map(([name, words]) =>
      h("p", {}, h("b", {}, name), ` ${words.join(", ")}`));
    const first = "One thing in a picture, or two. Most other words he has never met.";
    this.known.replaceChildren(h("summary", {}, "What can he paint?"), h("p", {}, first), ...rows);
  }

  showModels(models, chosen) {
    const about = ({ title, pixels, bytes }) =>
      bytes ? `${title}, ${pixels} × ${pixels}, ${Math.round(bytes / 1e6)} MB` : title;
    const options = models.map(model =>
      h("option", { value: model.name, selected: model.name === chosen }, about(model)));
    this.models.replaceChildren(...options);
    this.modelField.hidden = models.length < 2;
  }

  take({ prompt, seed }) {
    this.prompts[0].value = prompt;
    this.seed.value = seed;
    this.negatives[0].value = "";
  }

  // The words of each side.
  texts() {
    const lanes = this.second.hidden ? [0] : [0, 1];
    return lanes.map(lane => ({
      prompt: this.prompts[lane].value.toWellFormed?.() ?? this.prompts[lane].value,
      negative: this.negatives[lane].value.trim(),
    }));
  }

  // What is to be painted, or an Error that says which field is wrong and what it wants;
  // `go` there, unless the reader is at another one.
  read(go) {
    for (const input of this.form.querySelectorAll("[aria-invalid]"))
      input.removeAttribute("aria-invalid");
    const [seed, steps] = [whole(this.seed, "seed", go), whole(this.steps.input, "steps", go)];
    return this.texts().map((texts, lane) => ({
      ...texts,
      scale: between(this.scales[lane].input, "guidance", ...SCALE, go),
      seed,
      steps,
    }));
  }

  busy(on) {
    if (!on && document.activeElement === this.stopButton) this.button.focus();
    this.stopButton.hidden = !on;
  }
}

function between(input, name, low, high, go, kind = "a number", fits = Number.isFinite) {
  const value = input.value.trim() === "" ? NaN : Number(input.value);
  if (fits(value) && value >= low && value <= high) return value;
  input.setAttribute("aria-invalid", "true");
  if (go) input.focus();
  const said = value => value.toLocaleString("en");
  throw new RangeError(`${name}: ${kind} from ${said(low)} to ${said(high)}, please`);
}

const whole = (input, name, go) =>
  between(input, name, ...WHOLE[name], go, "a whole number", Number.isInteger);
