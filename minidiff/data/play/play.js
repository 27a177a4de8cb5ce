// The page that paints. The lesson is in sampler.js, tokenizer.js, noise.js and
// painter.js; here is what the reader's hands do.
import { Cards } from "./cards.js";
import { Desk } from "./desk.js";
import { drawFilm, drawLatents, drawPicture, easel, h, pixelsOf } from "./draw.js";
import { seededNoise } from "./noise.js";
import { listModels, Painter } from "./painter.js";

const root = document.getElementById("play");
const home = root.dataset.home ?? "";
const megabytes = bytes => `${Math.round(bytes / 1e6)} MB`;
// Of a very long text, the whole words at its head.
const head = text => (text.length > 2000 ? text.slice(0, 2000).replace(/\s\S*$/, "") : text);
const words = text => (text.trim() ? `“${text.slice(0, 80)}${text.length > 80 ? "…" : ""}”` : "no words");

class Play {
  constructor() {
    this.desk = new Desk({
      paint: () => this.paint({ show: true }),
      stop: () => this.stop(),
      changed: () => this.shown && this.paint(),
      choose: name => this.choose(name),
    });
    this.status = h("p", { class: "play-status", role: "status" });
    this.bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "Download" });
    this.stage = h("div", { class: "play-stage" });
    this.film = h("canvas", { class: "play-film", "aria-hidden": "true" });
    this.scrub = h("input", { type: "range", min: 0, max: 0, step: 1, "aria-label": "Step" });
    this.replay = h("button", { type: "button", class: "play-plain" }, "Play again");
    this.where = h("output", { class: "play-where" });
    this.scrubber = h("div", { class: "play-scrubber", hidden: true }, this.film, this.scrub,
      h("div", { class: "play-under" }, this.where, this.replay));
    this.cards = new Cards(home, event => this.finger(event, Number(this.scrub.max)));
    const heading = h("h2", { id: "what-happens" }, "What happens, step by step");
    const cast = h("p", { class: "play-status" }, "The course tells it as a story: ",
      h("b", {}, "Dali"), " is the net that paints, and ", h("b", {}, "Auto"),
      " has a wand that makes pictures small and large again. Below are the parts, ",
      "by the name that each has in the story and in the library diffusers.");
    this.line = h("div", { class: "play-line" }, this.status, this.desk.stopButton);
    root.replaceChildren(this.desk.form, this.line, this.bar, this.stage, this.scrubber,
      heading, cast, this.cards.element);
    this.scrub.addEventListener("input", () => {
      clearInterval(this.film.playing);
      this.look(Number(this.scrub.value), true);
    });
    this.replay.addEventListener("click", () => this.playAgain());
    this.film.addEventListener("pointerdown", event => this.finger(event));
    this.film.addEventListener("pointermove", event => event.buttons && this.finger(event));
    new ResizeObserver(() => this.shown && this.look(this.at)).observe(this.film);
    this.turn = 0; // which painting is on; an older one stops when it sees another number
  }

  say(text, state = root.dataset.state) {
    root.dataset.state = state;
    // who listens hears how it ends, and not each step of the way
    this.status.setAttribute("aria-live", ["loading", "painting"].includes(state) ? "off" : "polite");
    this.status.textContent = text;
  }

  // ------------------------------------------------------------------ before

  async start() {
    try {
      this.index = await listModels();
    } catch (error) {
      return this.say(`The page's own files did not come (${error.message}): load it again.`, "error");
    }
    const { models } = this.index;
    const asked = new URLSearchParams(location.search).get("model");
    await this.choose((models.find(({ name }) => name === asked) ?? models[0]).name);
    if (this.painter && this.fromAddress()) this.stillOfFields();
  }

  // Take another model to the desk; who paints waits until it is there.
  choose(name) {
    const opening = this.open(name).finally(() => {
      if (this.opening === opening) this.opening = null;
    });
    return (this.opening = opening);
  }

  // What the reader has typed stays.
  async open(name) {
    const turn = ++this.turn;
    const { desk } = this;
    desk.busy(false);
    this.bar.hidden = true;
    this.painters ??= {};
    const entry = { name, runtime: this.index.runtime };
    let painter;
    if (!this.painters[name]) this.say("Opening the model …", "loading");
    try {
      painter = this.painters[name] ??= await Painter.open(entry);
    } catch (error) {
      if (turn !== this.turn) return;
      desk.showModels(this.index.models, this.painter?.name);
      return this.say(`That model did not come (${error.message}): choose it again.`, "error");
    }
    if (turn !== this.turn) return;
    const before = this.painter?.facts.ideas ?? [];
    const typed = desk.prompts[0].value.trim();
    this.painter = painter;
    const { ideas, steps, scale } = painter.facts;
    desk.showModels(this.index.models, name);
    desk.showIdeas(ideas, idea => this.take(idea));
    desk.showKnown(painter.facts.knows);
    desk.steps.set(steps);
    desk.scales[0].set(scale);
    if (before.some(({ prompt }) => prompt === desk.prompts[1].value)) desk.prompts[1].value = ideas[0]?.prompt ?? "";
    const isOurs = !typed || before.some(({ prompt }) => prompt === typed);
    if (ideas.length && isOurs) desk.take(ideas[0]);
    this.shown = null;
    this.scrubber.hidden = true;
    this.cards.clear();
    this.still(ideas[0]);
    this.cards.showWords(this.desk.texts(), painter);
    await this.greet();
  }

  // Until the first painting: the noise of the seed, and a picture that was made of it.
  still({ seed, picture, prompt } = {}) {
    this.stage.classList.remove("several");
    if (!picture && seed === undefined) return this.stage.replaceChildren();
    const { channels, side } = this.painter.facts;
    const noise = easel(`Noise from seed ${seed}, as sheets of numbers`);
    drawLatents(noise, seededNoise(channels * side ** 2, seed), channels);
    const image = picture && h("figure", {},
      h("img", { src: picture, class: "play-easel", alt: `Painted before: ${prompt}` }),
      h("figcaption", {}, "what the same model made of it before"));
    const pair = h("div", { class: "play-pair play-still" },
      h("figure", {}, noise, h("figcaption", {}, `noise from seed ${seed}`)), image || null);
    this.stage.replaceChildren(pair);
  }

  // The same, where the words and the seed came with the address.
  stillOfFields() {
    const { painter, desk } = this;
    const [{ prompt }] = desk.texts();
    const seed = Number(desk.seed.value);
    const idea = painter.facts.ideas.find(one => one.prompt === prompt && one.seed === seed);
    this.still(idea ?? (Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32 ? { seed } : {}));
    this.cards.showWords(desk.texts(), painter);
  }

  async greet() {
    const { painter, turn } = this;
    if (painter.isServed) return this.say("Python paints: press Paint.", "idle");
    const needs = { WebAssembly: "object", Worker: "function", DecompressionStream: "function" };
    const none = Object.keys(needs).find(name => typeof globalThis[name] !== needs[name]);
    if (none) {
      this.cannot = `This browser has no ${none}, so nothing can be painted here. ` +
        "The pictures beside the ideas were painted before.";
      return this.say(this.cannot, "error");
    }
    const bytes = await painter.missing();
    if (turn !== this.turn) return;
    if (!bytes) this.say("The painter is here from your last visit: press Paint.", "idle");
    else
      this.say(`The first Paint fetches the painter, ${megabytes(bytes)}. ` +
        "It stays in this browser; what you type never leaves it.", "idle");
  }

  // ?prompt=...&seed=... as an earlier painting left it in the address; was there any?
  fromAddress() {
    const given = new URLSearchParams(location.search);
    const { desk } = this;
    const put = { prompt: v => (desk.prompts[0].value = v), negative: v => (desk.negatives[0].value = v),
      seed: v => (desk.seed.value = v), steps: v => desk.steps.set(v), scale: v => desk.scales[0].set(v) };
    const known = [...given].filter(([key]) => Object.hasOwn(put, key));
    for (const [key, value] of known) put[key](value);
    return known.length > 0;
  }

  toAddress([{ prompt, negative, seed, steps, scale }]) {
    const given = new URLSearchParams({ prompt: prompt.slice(0, 500), seed, steps, scale });
    if (this.painter.name !== this.index.models[0].name) given.set("model", this.painter.name);
    if (negative) given.set("negative", negative.slice(0, 500));
    history.replaceState(null, "", `?${given}`);
  }

  take(idea) {
    this.desk.take(idea);
    return this.paint({ show: true });
  }

  // ------------------------------------------------------------------ painting

  stop() {
    this.turn++;
    this.desk.busy(false);
    this.bar.hidden = true;
    this.say(this.shown ? "Stopped. What there is can be looked at." : "Stopped.", "idle");
  }

  // `show`: on a small screen, go to where it is painted.
  async paint({ show = false } = {}) {
    if (this.cannot) return this.say(this.cannot, "error");
    while (this.opening) await this.opening;
    if (!this.painter) return this.start();
    const turn = ++this.turn;
    const gone = () => turn !== this.turn;
    const { painter, desk } = this;
    clearInterval(this.film.playing);
    let lanes;
    try {
      lanes = desk.read(show);
    } catch (error) {
      const cut = root.dataset.state === "painting" ? " The painting was stopped." : "";
      desk.busy(false);
      this.bar.hidden = true;
      return this.say(`${error.message}.${cut}`, this.shown ? "done" : "idle");
    }
    desk.busy(true);
    if (show && this.line.getBoundingClientRect().top > 0.7 * innerHeight) this.line.scrollIntoView();
    try {
      const first = performance.now();
      await this.fetchPainter(painter, gone);
      if (gone()) return;
      this.toAddress(lanes);
      lanes = lanes.map(lane => this.understood(lane));
      this.cards.showWords(lanes, painter);
      await this.paintLanes(lanes, gone, first);
    } catch (error) {
      if (!gone()) this.fail(error);
    } finally {
      if (!gone()) desk.busy(false);
    }
  }

  async fetchPainter(painter, gone) {
    if (painter.networks) return;
    this.say("Fetching the painter …", "loading");
    await painter.load((got, all) => {
      if (gone()) return;
      this.bar.hidden = false;
      this.bar.value = got / all;
      const done = got === all;
      this.say(done ? "Waking the painter …" : `Fetching the painter: ${Math.floor(got / 1e6)} of ${megabytes(all)}`);
    });
    if (!gone()) this.bar.hidden = true;
  }

  fail(error) {
    this.bar.hidden = true;
    const loading = root.dataset.state === "loading";
    const what = loading ? "The painter did not come" : "The painter stopped";
    this.say(`${what} (${error.message}). Press Paint to try again${loading ? "; what has come is kept" : ""}.`, "error");
  }

  async paintLanes(lanes, gone, first) {
    const { painter } = this;
    const { steps } = lanes[0];
    const notes = this.notes(lanes);
    const none = () => lanes.map(() => []);
    const painting = { lanes, steps: none(), canvases: none(), films: none() };
    const brushes = lanes.map(lane => painter.paint(lane));
    const begun = performance.now();
    this.say(`Step 1 of ${steps}`, "painting");
    for (let i = 0; i < steps; i++) {
      for (const [lane, brush] of brushes.entries()) {
        const { value: step } = await brush.next();
        const pictures = await painter.decode(step.x, step.x0);
        if (gone()) return;
        this.keep(painting, lane, step, ...pictures);
      }
      if (!i) this.set(painting, performance.now() - first);
      this.pace = (performance.now() - begun) / (i + 1);
      if (i + 1 < steps) this.say(`Step ${i + 2} of ${steps}`);
      if (this.follows) await this.look(i);
      await new Promise(requestAnimationFrame);
      if (gone()) return;
    }
    const took = performance.now() - begun;
    Object.assign(root.dataset, { ms: Math.round(took), first: Math.round(painting.first) });
    const each = Math.round(took / steps / lanes.length);
    const line = `${steps} ${steps > 1 ? "steps" : "step"} in ${(took / 1000).toFixed(1)} s, ${each} ms each.`;
    this.say([line, ...notes].join(" "), "done");
    this.desk.busy(false);
    await this.look(this.follows ? steps : this.at);
  }

  // With whole names, and what there is to say of them.
  understood(lane) {
    const [prompt, negative] = [lane.prompt, lane.negative].map(text => this.painter.understood(text));
    return { ...lane, prompt: prompt.text, negative: negative.text, said: [...prompt.notes, ...negative.notes] };
  }

  // What is worth a word when it is painted.
  notes(lanes) {
    const { tokenizer } = this.painter;
    const texts = lanes.flatMap(({ prompt, negative }) => [prompt, negative]);
    const unknown = [...new Set(texts.flatMap(text => tokenizer.unknownWords(head(text))))];
    const shown = unknown.slice(0, 5).map(word => `“${word.slice(0, 40)}”`).join(", ");
    const more = unknown.length > 5 ? ` and ${unknown.length - 5} more` : "";
    const notes = [...new Set(lanes.flatMap(({ said }) => said))].slice(0, 4).map(line => line.slice(0, 200));
    if (unknown.length) notes.push(`Dali has never met ${shown}${more}; he paints what he understands of the rest.`);
    const most = tokenizer.length - 2; // besides a start and an end
    if (lanes.some(({ prompt }) => tokenizer.tokenize(head(prompt)).length > most))
      notes.push(`He reads only the first ${most} pieces.`);
    if (lanes.some(({ prompt }) => !prompt.trim())) notes.push("Without words he paints anything.");
    return notes;
  }

  // A step and its pictures: the canvas before it, and what Dali saw in that.
  keep(painting, lane, step, canvas, seen) {
    const { steps } = painting.lanes[lane];
    painting.steps[lane].push(Object.assign(step, { of: steps, seen }));
    painting.canvases[lane].push(canvas);
    painting.films[lane].push(pixelsOf(seen));
    if (step.i + 1 < steps) return;
    painting.canvases[lane].push(seen); // the last step goes all the way
    painting.films[lane].push(pixelsOf(seen));
  }

  // ------------------------------------------------------------------ looking

  // The first step of a painting is there: it takes the stage.
  set(painting, first) {
    painting.first = first;
    this.shown = painting;
    this.follows = true;
    const several = painting.lanes.length > 1;
    this.easels = painting.lanes.map((_, lane) => [easel("The canvas"), easel("What Dali sees in it")]);
    const sides = painting.lanes.map(({ prompt, scale }, lane) => {
      const [canvas, seen] = this.easels[lane];
      const head = several
        ? h("p", { class: "play-side" }, h("b", { class: `play-lane lane-${lane}` }, "AB"[lane]), `${words(prompt)}, guidance ${scale}`)
        : null;
      return h("div", { class: "play-pair" }, head,
        h("figure", {}, canvas, h("figcaption", {}, "the canvas, made large")),
        h("figure", {}, seen, h("figcaption", {}, "what Dali sees in it")));
    });
    this.stage.replaceChildren(...sides);
    this.stage.classList.toggle("several", several);
    this.scrub.max = painting.lanes[0].steps;
    this.scrubber.hidden = false;
    this.film.style.setProperty("--lanes", painting.lanes.length);
  }

  // Show the canvas before step `at` + 1; the last place is the finished picture.
  async look(at, byHand = false) {
    const { shown, painter } = this;
    if (!shown) return;
    const { steps } = shown.lanes[0];
    const last = Math.min(...shown.canvases.map(list => list.length)) - 1;
    at = Math.max(0, Math.min(at, last));
    if (byHand) this.follows = at === last;
    this.at = at;
    this.scrub.value = at;
    const i = Math.min(at, steps - 1);
    const label = at === steps ? `The end, after ${steps} ${steps > 1 ? "steps" : "step"}` : `Before step ${at + 1} of ${steps}`;
    this.where.textContent = label;
    this.cards.round.textContent = `Again at every step: ${at === steps ? steps : at + 1} of ${steps}`;
    this.scrub.setAttribute("aria-valuetext", label);
    const now = shown.steps.map(list => list[i]);
    for (const [lane, [canvas, seen]] of this.easels.entries()) {
      const noise = Math.round(100 * (at === steps ? 0 : now[lane].shares[1] ** 2));
      drawPicture(canvas, shown.canvases[lane][at]);
      drawPicture(seen, at === steps ? shown.canvases[lane][at] : now[lane].seen);
      canvas.setAttribute("aria-label", `The canvas: ${noise}% noise`);
      seen.setAttribute("aria-label", `What Dali sees in it, painting ${words(shown.lanes[lane].prompt)}`);
    }
    drawFilm(this.film, shown.films, steps + 1, at);
    this.cards.showStep(now, painter, shown.steps);
    const slow = root.dataset.state === "painting" && this.pace > 200;
    if (!slow || i % 4 === 0) await this.showAnswers(now, shown, painter);
  }

  // The two answers of guidance have to be enlarged first, once for each step.
  async showAnswers(now, shown, painter) {
    const wanted = (this.wanted = {});
    try {
      for (const step of now)
        step.answers ??= await painter.decode(step.x0Without, step.x0With);
    } catch (error) {
      if (shown === this.shown) this.say(`The two answers cannot be shown (${error.message}).`);
      return;
    }
    if (wanted !== this.wanted || shown !== this.shown) return;
    const pairs = now.map(({ answers: [without, withText] }) => ({ without, withText }));
    this.cards.showAnswers(pairs, shown.lanes);
  }

  // A finger on the film, or on one of `places` of another strip.
  finger(event, places = Number(this.scrub.max) + 1) {
    clearInterval(this.film.playing);
    const { left, width } = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - left) / width;
    this.look(Math.min(Math.floor(share * places), places - 1), true);
  }

  playAgain() {
    clearInterval(this.film.playing);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let at = 0;
    this.look(at, true);
    this.film.playing = setInterval(() => {
      at++;
      this.look(at, true);
      if (at >= Number(this.scrub.max)) clearInterval(this.film.playing);
    }, calm ? 800 : 180);
  }
}

const play = new Play();
play.start();
