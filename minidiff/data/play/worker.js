// Runs the networks beside the page, so that the page stays quick. It is told
// {id, open: {wasm, networks: {name: bytes}}} or {id, run: name, inputs}, and answers
// {id, output} or {id, error}.
import * as ort from "./models/ort.js";

const sessions = {};

async function open({ wasm, networks }) {
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  for (const [name, bytes] of Object.entries(networks))
    sessions[name] = await ort.InferenceSession.create(bytes, {
      executionProviders: ["wasm"],
    });
}

async function run(name, inputs) {
  const feeds = {};
  for (const [key, { data, dims }] of Object.entries(inputs)) {
    const type = data instanceof Int32Array ? "int32" : "float32";
    feeds[key] = new ort.Tensor(type, data, dims);
  }
  const [output] = Object.values(await sessions[name].run(feeds));
  return { data: output.data, dims: output.dims };
}

onmessage = async ({ data: { id, open: parts, run: name, inputs } }) => {
  try {
    postMessage({ id, output: await (parts ? open(parts) : run(name, inputs)) });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error).slice(0, 300) });
  }
};
