// What happens between the words and the picture, a card a part: what it is called in
// the story, in diffusers, and in which chapter it is built.
import { drawDifference, drawLatents, drawLevels, drawPicture, easel, h } from "./draw.js";

// Of a chapter: its page and its name. The names are those of the story.
const CHAPTERS = {
  "06": ["tokenizer.html", "Words for Dali"],
  "07": ["text_encoder.html", "What the words say"],
  "04": ["scheduler.html", "The mistake wand"],
  "03": ["sd_unet.html", "Dali's brain"],
  "08": ["conditioning.html", "How a picture listens"],
  "05": ["samplers.html", "The same picture in ten steps"],
  "09": ["vae.html", "The size wand"],
};

const number = value => Number(value).toLocaleString("en", { maximumFractionDigits: 2 });
const fixed = value => (Number.isFinite(value) ? value.toFixed(2) : "0");

// A card: its headline, its names, its text, and a row of drawings for each lane.
class Card {
  constructor(home, { title, code, chapters, text }) {
    this.body = h("div", { class: "play-rows" });
    this.note = h("p", { class: "play-note" });
    const links = chapters.map(key => {
      const [page, name] = CHAPTERS[key];
      return h("a", { href: home + page }, `${key} ${name}`);
    });
    const codes = code.map(name => h("code", {}, name));
    this.element = h(
      "section",
      { class: "play-card" },
      h("h3", {}, title),
      h("p", { class: "play-names" }, codes, links),
      h("p", {}, text),
      this.body,
      this.note,
    );
  }

  clear() {
    this.made = null;
    this.body.replaceChildren();
    this.note.textContent = "";
  }

  // One row for each lane; drawings are made once and drawn on again.
  rows(count, make) {
    if (this.made?.length !== count) {
      this.made = Array.from({ length: count }, (_, lane) => make(lane, count > 1));
      this.body.replaceChildren(...this.made.map(row => row.element));
    }
    return this.made;
  }
}

const mark = (lane, several) =>
  several ? h("b", { class: `play-lane lane-${lane}` }, "AB"[lane]) : null;

// A row of drawings with a word below each and a sign between them.
function drawings(lane, several, names, signs = [], kind = "") {
  const easels = names.map(([name, label]) => ({ name, easel: easel(label, kind) }));
  const parts = easels.flatMap(({ name, easel }, i) => [
    i && signs[i - 1] ? h("span", { class: "play-sign" }, signs[i - 1]) : null,
    h("figure", {}, easel, h("figcaption", {}, name)),
  ]);
  const element = h("div", { class: "play-row" }, mark(lane, several), parts);
  return { element, easels: easels.map(one => one.easel) };
}

export class Cards {
  // `finger` is called when one is on a bar of the noise levels.
  constructor(home, finger) {
    this.finger = finger;
    this.words = new Card(home, {
      title: "Your words become numbers",
      code: ["CLIPTokenizer", "CLIPTextModel"],
      chapters: ["06", "07"],
      text: "Dali reads no letters. Each word is looked up in a list, and what it means beside the others is worked out. What stands in the list is called a token.",
    });
    this.noise = new Card(home, {
      title: "Dali finds the noise",
      code: ["UNet2DConditionModel"],
      chapters: ["03", "04"],
      text: "The canvas is a few small sheets of numbers (latents), orange above zero and blue below, and begins as noise from your seed. He says what of it is noise; what is left is his picture.",
    });
    this.guidance = new Card(home, {
      title: "He answers twice, and you turn up your words",
      code: ["guidance_scale"],
      chapters: ["08"],
      text: "Once without your words (or for what it is not to be, the negative prompt) and once with them. Where the two differ is what your words do.",
    });
    this.step = new Card(home, {
      title: "A step, and not a leap",
      code: ["DPMSolverMultistepScheduler"],
      chapters: ["05", "04"],
      text: "At first he only guesses. So the wand takes away a little of the noise, and he looks again. Grey is noise, green is picture: the shares of card 2, squared.",
    });
    this.wand = new Card(home, {
      title: "Auto's wand makes it large",
      code: ["AutoencoderKL.decode"],
      chapters: ["09"],
      text: "Painting small is quick. A second net has learnt which pixels the small numbers stand for.",
    });
    this.round = h("p", { class: "play-round" }, "Again at every step");
    const loop = [this.noise, this.guidance, this.step].map(card => card.element);
    const again = h("div", { class: "play-loop" }, this.round, h("div", { class: "play-two" }, loop));
    this.element = h("div", { class: "play-cards" }, this.words.element, again, this.wand.element);
  }

  // Of another model's painting nothing stays.
  clear() {
    for (const card of [this.noise, this.guidance, this.step, this.wand]) card.clear();
    this.round.textContent = "Again at every step";
  }

  // The tokens of each lane's prompt.
  showWords(lanes, { tokenizer, facts }) {
    const several = lanes.length > 1;
    const rows = lanes.map(({ prompt, negative }, lane) => {
      const line = (text, label) => {
        const tokens = tokenizer.tokenize(text);
        const known = tokens.slice(0, tokenizer.length - 2);
        const chips = known.map((token, i) => chip(tokenizer, known, token, i));
        const more = tokens.length - known.length;
        return h(
          "div",
          { class: "play-tokens" },
          label,
          chips.length ? chips : h("span", { class: "play-quiet" }, "no words"),
          more ? h("span", { class: "play-quiet" }, `and ${number(more)} that nobody reads`) : null,
        );
      };
      const not = negative && line(negative, h("b", { class: "play-quiet" }, "not"));
      return h("div", {}, line(prompt, mark(lane, several)), not || null);
    });
    this.words.body.replaceChildren(...rows);
    this.words.note.textContent =
      `With a start, an end and padding these are ${tokenizer.length} places; ` +
      `each becomes ${facts.width} numbers, which the painter looks at.`;
  }

  // One step of each lane. `steps`: what the painter handed over, or null.
  showStep(steps, { facts }, all) {
    const { channels } = facts;
    const count = steps.length;
    const latents = "sheets of numbers";
    const noise = this.noise.rows(count, (lane, several) =>
      drawings(
        lane,
        several,
        [
          ["canvas", `The canvas as ${latents}`],
          ["noise", `The noise that the net sees in it, as ${latents}`],
          ["picture", `The clean picture as the net sees it, as ${latents}`],
        ],
        ["−", "→"],
        "latents",
      ),
    );
    const [{ easels: [levels] }] = this.step.rows(1, () => {
      const canvas = easel("The share of noise and of picture at each step", "levels");
      canvas.addEventListener("pointerdown", this.finger);
      canvas.addEventListener("pointermove", event => event.buttons && this.finger(event));
      return { element: h("div", { class: "play-row" }, canvas), easels: [canvas] };
    });
    const wand = this.wand.rows(count, (lane, several) =>
      drawings(
        lane,
        several,
        [
          [`${number(channels * facts.side ** 2)} numbers`, `The picture as ${latents}`],
          [`${number(3 * facts.pixels ** 2)} numbers`, "The picture in pixels"],
        ],
        ["→"],
        "latents",
      ),
    );
    for (const [lane, step] of steps.entries()) {
      const [canvas, found, left] = noise[lane].easels;
      drawLatents(canvas, step.x, channels);
      drawLatents(found, step.noise, channels);
      drawLatents(left, step.x0, channels);
      const [small, large] = wand[lane].easels;
      drawLatents(small, step.x0, channels);
      if (step.seen) drawPicture(large, step.seen);
    }
    const every = all[0].map(one => one.shares);
    drawLevels(levels, [...every, ...rest(every, steps[0].of)], steps[0].i);
    this.noise.note.textContent = mixture(steps[0]);
    this.step.note.textContent = stepText(steps[0]);
    this.wand.note.textContent =
      `${channels} sheets of ${facts.side} × ${facts.side} become ` +
      `${facts.pixels} × ${facts.pixels} pixels of three colours.`;
  }

  // The two answers, as pictures: [{without, withText}] of each lane.
  showAnswers(pairs, lanes) {
    const rows = this.guidance.rows(pairs.length, (lane, several) =>
      drawings(lane, several, [
        ["without", "The picture that the net sees without your words"],
        ["with", "The picture that the net sees with your words"],
        ["difference", "Where the two differ: the bluer, the more"],
      ]),
    );
    for (const [lane, { without, withText }] of pairs.entries()) {
      const [one, other, far] = rows[lane].easels;
      const { negative } = lanes[lane];
      one.nextSibling.textContent = negative ? "but no" : "without";
      one.setAttribute("aria-label", `The picture that the net sees ${negative ? "of what it is not to be" : "without your words"}`);
      drawPicture(one, without);
      drawPicture(other, withText);
      drawDifference(far, without, withText);
    }
    this.guidance.note.textContent = lanes
      .map(({ scale, negative }, lane) => (lanes.length > 1 ? `${"AB"[lane]}: ` : "") + guidanceText(scale, negative))
      .join(" ");
  }
}

const rest = (shares, n) => Array(Math.max(0, n - shares.length)).fill([0, 1]);

function chip(tokenizer, tokens, token, i) {
  const ends = text => text.endsWith("</w>") || tokenizer.specials.includes(text);
  const piece = !ends(token) || (i > 0 && !ends(tokens[i - 1]));
  const shown = token.replace("</w>", "");
  return h(
    "span",
    { class: piece ? "play-chip piece" : "play-chip" },
    shown,
    h("small", {}, String(tokenizer.vocab[token] ?? "?")),
  );
}

function mixture({ shares: [picture, noise] }) {
  return `Now the canvas is ${fixed(picture)} × picture + ${fixed(noise)} × noise.`;
}

function stepText({ kept, gain, bend }) {
  const on = bend ? `, moved on by ${fixed(bend)} of its last change` : "";
  return `New canvas = ${fixed(kept)} × canvas + ${fixed(gain)} × picture${on}.`;
}

function guidanceText(scale, negative) {
  if (scale === 0)
    return `Guidance 0: ${negative ? "only what it is not to be is heard" : "your words are not heard"}.`;
  if (scale === 1)
    return `Guidance 1: the second answer, as it is${negative ? "; what it is not to be is not heard" : ""}.`;
  if (scale < 0) return `Guidance ${number(scale)}: away from your words.`;
  const on = scale > 1 ? ", through it and on" : "";
  return `Guidance ${number(scale)}: ${number(scale)} times the way from the first answer to the second${on}.`;
}
