// The pipeline of chapter 14, `LatentDiffusionPipeline`, in JavaScript: a sentence and a
// seed become a picture, and every number on the way can be looked at.
import { Names } from "./names.js";
import { download, fetchJson, missing, ServerNetworks, WorkerNetworks } from "./networks.js";
import { seededNoise } from "./noise.js";
import { DPMSolverMultistepScheduler, guide } from "./sampler.js";
import { CLIPTokenizer } from "./tokenizer.js";

export const listModels = () => fetchJson("models/index.json");

export class Painter {
  // `entry`: of models/index.json, {name, runtime}.
  static async open({ name, runtime }) {
    const facts = await fetchJson(`models/${name}/model.json`);
    return new Painter(name, facts, runtime);
  }

  constructor(name, facts, runtime) {
    const folder = `models/${name}`;
    this.name = name;
    this.facts = facts;
    this.folder = folder;
    this.tokenizer = new CLIPTokenizer(facts.tokenizer);
    const networks = (facts.files ?? []).map(file => ({
      ...file,
      url: `${folder}/${file.file}`,
    }));
    this.files = facts.files ? [{ ...runtime, url: `models/${runtime.file}` }, ...networks] : [];
    const { knows, names } = facts;
    this.names = names && new Names({ things: knows.things, ...names });
    this.words = new Map(); // what the text encoder said of a text
  }

  // Where Python paints there is nothing to fetch.
  get isServed() {
    return !this.files.length;
  }

  // Bytes that the first picture has to fetch.
  missing() {
    return missing(this.files);
  }

  // Fetch and start the networks, once; after a failure, again.
  load(tell = () => {}) {
    this.tell = tell;
    this.loading ??= this.start().catch(error => {
      this.loading = null;
      throw error;
    });
    return this.loading;
  }

  async start() {
    if (!this.facts.files) {
      this.networks = new ServerNetworks(this.folder);
      return;
    }
    const parts = await download(this.files, (...got) => this.tell(...got));
    const networks = new WorkerNetworks();
    await networks.open(parts).catch(error => {
      networks.close();
      throw error;
    });
    this.networks = networks;
  }

  // A text as it is painted, and what there is to say of its names.
  understood(text) {
    return this.names?.complete(text) ?? { text, notes: [] };
  }

  // What the U-Net hears of what is not wished and of what is: one vector a token each.
  async encode(negative, prompt) {
    const key = JSON.stringify([negative, prompt]);
    if (!this.words.has(key)) {
      const ids = Int32Array.from([negative, prompt].flatMap(t => this.tokenizer.encode(t)));
      const input = { data: ids, dims: [2, ids.length / 2] };
      const { data } = await this.networks.run("text_encoder", { ids: input });
      if (this.words.size > 100) this.words.clear();
      this.words.set(key, data);
    }
    return this.words.get(key);
  }

  // The size wand: two latents to two pictures in [-1, 1], channels first.
  async decode(...latents) {
    const { channels, side } = this.facts;
    const input = { data: joined(latents), dims: [2, channels, side, side] };
    const { data } = await this.networks.run("decoder", { latents: input });
    return halves(data);
  }

  // The U-Net's two answers: to what the picture is not to be, and to the prompt.
  async answers(x, t, states) {
    const { channels, side, tokenizer, width } = this.facts;
    const { data } = await this.networks.run("unet", {
      x: { data: joined([x, x]), dims: [2, channels, side, side] },
      t: { data: Float32Array.of(t, t), dims: [2] },
      states: { data: states, dims: [2, tokenizer.length, width] },
    });
    return halves(data);
  }

  // Paint one picture; each step is handed over as it comes, and holds what was in it.
  async *paint({ prompt, negative = "", seed, steps, scale }) {
    const { channels, side, scheduler } = this.facts;
    const states = await this.encode(negative, prompt);
    const sampler = new DPMSolverMultistepScheduler(scheduler, steps);
    let x = seededNoise(channels * side ** 2, seed);
    for (const [i, t] of sampler.timesteps.entries()) {
      const [without, withText] = await this.answers(x, t, states);
      const answer = guide(without, withText, scale);
      const step = sampler.step(answer, x, i);
      const [x0Without, x0With] = [without, withText].map(a => sampler.split(a, x, i).x0);
      const shares = sampler.shares(i);
      const sigma = sampler.sigmas[i];
      yield { i, t, x, sigma, shares, x0Without, x0With, ...step };
      x = step.next;
    }
  }
}

const halves = data => [data.slice(0, data.length / 2), data.slice(data.length / 2)];

function joined([a, b]) {
  const both = new Float32Array(2 * a.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}
