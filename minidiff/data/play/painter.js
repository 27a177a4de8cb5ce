// The pipeline of chapter 14, `LatentDiffusionPipeline`, in JavaScript: a sentence and a
// seed become a picture, and every number on the way can be looked at.
import { download, fetchJson, isKept, ServerNetworks, WorkerNetworks } from "./networks.js";
import { seededNoise } from "./noise.js";
import { DPMSolverMultistepScheduler, guide } from "./sampler.js";
import { CLIPTokenizer } from "./tokenizer.js";

export const listModels = () => fetchJson("models/index.json");

export class Painter {
  // `entry`: of models/index.json, {name, runtime}.
  static async open({ name, runtime }) {
    const facts = await fetchJson(`models/${name}/model.json`);
    return new Painter(facts, `models/${name}`, runtime);
  }

  constructor(facts, folder, runtime) {
    this.facts = facts;
    this.folder = folder;
    this.tokenizer = new CLIPTokenizer(facts.tokenizer);
    const networks = (facts.files ?? []).map(file => ({
      ...file,
      url: `${folder}/${file.file}`,
    }));
    this.files = facts.files ? [{ ...runtime, url: runtime.file }, ...networks] : [];
    this.words = new Map(); // what the text encoder said of a text
  }

  get bytes() {
    return this.files.reduce((sum, file) => sum + file.bytes, 0);
  }

  isKept() {
    return isKept(this.files);
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

  // What the U-Net hears of a text: one vector a token.
  async encode(text) {
    if (!this.words.has(text)) {
      const ids = Int32Array.from(this.tokenizer.encode(text));
      const input = { data: ids, dims: [1, ids.length] };
      const { data } = await this.networks.run("text_encoder", { ids: input });
      if (this.words.size > 100) this.words.clear();
      this.words.set(text, data);
    }
    return this.words.get(text);
  }

  // The size wand: a batch of latents to pictures in [-1, 1], channels first.
  async decode(...latents) {
    const { channels, side, pixels } = this.facts;
    const input = { data: joined(latents), dims: [latents.length, channels, side, side] };
    const { data } = await this.networks.run("decoder", { latents: input });
    const size = 3 * pixels ** 2;
    return latents.map((_, i) => data.slice(i * size, (i + 1) * size));
  }

  // The U-Net's two answers: to what the picture is not to be, and to the prompt.
  async answers(x, t, negative, prompt) {
    const { channels, side, tokenizer, width } = this.facts;
    const shape = [2, channels, side, side];
    const { data } = await this.networks.run("unet", {
      x: { data: joined([x, x]), dims: shape },
      t: { data: Float32Array.of(t, t), dims: [2] },
      states: { data: joined([negative, prompt]), dims: [2, tokenizer.length, width] },
    });
    return [data.slice(0, x.length), data.slice(x.length)];
  }

  // Paint one picture; each step is handed over as it comes, and holds what was in it.
  async *paint({ prompt, negative = "", seed, steps, scale }) {
    const { channels, side, scheduler } = this.facts;
    const heard = await this.encode(prompt);
    const unwanted = await this.encode(negative);
    const sampler = new DPMSolverMultistepScheduler(scheduler, steps);
    let x = seededNoise(channels * side ** 2, seed);
    for (const [i, t] of sampler.timesteps.entries()) {
      const [without, withText] = await this.answers(x, t, unwanted, heard);
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

function joined(arrays) {
  const all = new Float32Array(arrays.reduce((sum, a) => sum + a.length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}
