// Noise that is the same everywhere: in this page, and in Python as
// minidiff.play.seeded_noise.
//
// A counter-based generator: number i of a seed is a function of i and the seed alone,
// and needs none of the numbers before it.

const mix = x => {
  // Turns 32 bits into 32 others, one to one; a change of one bit changes half of them.
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
};

export const noiseBits = (seed, i) => mix(mix(i + 1) ^ mix(seed ^ 0x9e3779b9));

// n numbers of the standard normal distribution: two uniform ones make two (Box-Muller).
export function seededNoise(n, seed) {
  const noise = new Float32Array(n);
  const uniform = i => (noiseBits(seed, i) + 0.5) / 2 ** 32;
  for (let i = 0; i < n; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform(i)));
    const angle = 2 * Math.PI * uniform(i + 1);
    noise[i] = radius * Math.cos(angle);
    if (i + 1 < n) noise[i + 1] = radius * Math.sin(angle);
  }
  return noise;
}
