// From noise to a picture, step by step: chapter 05, `DPMSolverMultistepScheduler`, and
// chapter 08, `guide`. Latents are flat Float32Arrays.

// Classifier-free guidance: from the answer without the words, through the answer with
// them, and on.
export const guide = (without, withText, scale) =>
  without.map((a, i) => a + scale * (withText[i] - a));

const roundEven = x => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

export class DPMSolverMultistepScheduler {
  // `table`: sigma, noise over picture, of each timestep that the net was trained at.
  constructor({ sigmas: table, prediction_type }, steps) {
    const T = table.length;
    this.predictionType = prediction_type;
    this.timesteps = Array.from(
      { length: steps },
      (_, i) => roundEven(T - (i * T) / steps) - 1,
    );
    this.sigmas = [...this.timesteps.map(t => table[t]), 0];
    this.before = null; // the picture that the step before this one saw
  }

  // How much of the picture and how much noise is in the canvas at step i.
  shares(i) {
    const picture = 1 / Math.sqrt(this.sigmas[i] ** 2 + 1);
    return [picture, this.sigmas[i] * picture];
  }

  // The net's answer, read as the clean picture and as the noise.
  split(answer, x, i) {
    const [a, s] = this.shares(i);
    const velocity = this.predictionType === "v_prediction";
    const x0 = x.map((v, k) => (velocity ? a * v - s * answer[k] : (v - s * answer[k]) / a));
    const noise = x.map((v, k) => (velocity ? s * v + a * answer[k] : answer[k]));
    return { x0, noise };
  }

  // One step of DPM-Solver++ (2M): towards the picture, and on along how it has changed.
  step(answer, x, i) {
    const { x0, noise } = this.split(answer, x, i);
    const [, s] = this.shares(i);
    const [aTo, sTo] = this.shares(i + 1);
    const lambda = j => -Math.log(this.sigmas[j]);
    const h = lambda(i + 1) - lambda(i);
    const kept = sTo / s;
    const gain = aTo * (1 - Math.exp(-h));
    const last = i + 1 === this.timesteps.length;
    const past = last ? null : this.before;
    const bend = past ? h / (lambda(i) - lambda(i - 1)) / 2 : 0;
    const next = x.map((v, k) => {
      const towards = past ? x0[k] + bend * (x0[k] - past[k]) : x0[k];
      return kept * v + gain * towards;
    });
    this.before = x0;
    return { next, x0, noise, kept, gain, bend };
  }
}
