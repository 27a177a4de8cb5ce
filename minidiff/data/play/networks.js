// Where the networks run: in a worker of this page (WebAssembly), or behind the page, in
// the Python that serves it. Both are called alike: `await networks.run(name, inputs)`
// with {name: {data, dims}} gives {data, dims}.

const CACHE = "minidiff-play";
const here = name => new URL(name, import.meta.url).href;

export async function fetchJson(name) {
  const response = await fetch(here(name)).catch(() => null);
  if (!response) throw new Error("offline, or the server has gone");
  if (!response.ok) throw new Error(`${name} is not there (${response.status})`);
  return response.json();
}

// ---------------------------------------------------------------- files

// The files of a model, {name, url, bytes, version} each, all or none: {name: ArrayBuffer}.
// They travel and are kept packed. `tell(got, all)` hears how far it is. What has come is
// kept for the next visit.
export async function download(files, tell) {
  const store = await globalThis.caches?.open(CACHE).catch(() => null);
  const all = files.reduce((sum, file) => sum + file.bytes, 0);
  const found = {};
  let done = 0;
  for (const file of files) {
    found[file.name] = await oneFile(file, store, got => tell(done + got, all));
    done += file.bytes;
    tell(done, all);
  }
  return found;
}

function unpacked(data) {
  const opened = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(opened).arrayBuffer();
}

// What cannot be unpacked is not kept, so that another try fetches it again.
async function oneFile({ url, bytes, version }, store, tell) {
  const key = `${here(url)}?${version}`;
  try {
    return await unpacked(await packedFile(url, key, bytes, store, tell));
  } catch (error) {
    await store?.delete(key).catch(() => null);
    throw error;
  }
}

async function packedFile(url, key, bytes, store, tell) {
  const kept = await store?.match(key).catch(() => null);
  if (kept) {
    const data = await kept.arrayBuffer();
    if (data.byteLength === bytes) return data;
  }
  const response = await fetch(key).catch(() => null);
  if (!response?.ok) throw new Error(response ? `${url}: ${response.status}` : "offline");
  const data = await readAll(response, bytes, tell);
  await keep(store, key, data).catch(() => null); // a full disk is no reason to stop
  return data.buffer;
}

async function readAll(response, bytes, tell) {
  const data = new Uint8Array(bytes);
  const reader = response.body.getReader();
  let got = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (got + value.length > bytes) throw new Error("it is longer than it should be");
    data.set(value, got);
    got += value.length;
    tell(got);
  }
  if (got !== bytes) throw new Error(`only ${got} of ${bytes} bytes came`);
  return data;
}

async function keep(store, key, data) {
  if (!store) return;
  const plain = url => url.split("?")[0];
  for (const old of await store.keys())
    if (plain(old.url) === plain(key)) await store.delete(old);
  await store.put(key, new Response(data));
}

// How many bytes are still to be fetched, and were not kept from an earlier visit?
export async function missing(files) {
  const store = await globalThis.caches?.open(CACHE).catch(() => null);
  const isKept = ({ url, version }) => store?.match(`${here(url)}?${version}`).catch(() => null);
  const kept = await Promise.all(files.map(isKept));
  return files.reduce((sum, { bytes }, i) => sum + (kept[i] ? 0 : bytes), 0);
}

// ---------------------------------------------------------------- where they run

export class WorkerNetworks {
  constructor() {
    this.worker = new Worker(here("worker.js"), { type: "module" });
    this.waiting = new Map();
    this.calls = 0;
    this.worker.onmessage = ({ data: { id, output, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(output);
    };
    this.worker.onerror = event => {
      event.preventDefault();
      const error = new Error(event.message || "the worker did not start");
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
    };
  }

  ask(message, moved = []) {
    const id = this.calls++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, ...message }, moved);
    });
  }

  open({ wasm, ...networks }) {
    const moved = Object.values(networks);
    return this.ask({ open: { wasm, networks } }, moved);
  }

  run(name, inputs) {
    return this.ask({ run: name, inputs });
  }

  close() {
    this.worker.terminate();
  }
}

// The server's Python runs the network: numbers go there and come back as bytes.
export class ServerNetworks {
  constructor(folder) {
    this.folder = folder;
  }

  async run(name, inputs) {
    const given = Object.entries(inputs);
    const dims = Object.fromEntries(given.map(([key, { dims }]) => [key, dims]));
    const body = new Blob(given.map(([, { data }]) => data));
    const headers = { "x-dims": JSON.stringify(dims) };
    const sent = { method: "POST", body, headers };
    const response = await fetch(here(`${this.folder}/${name}`), sent).catch(() => null);
    if (!response) throw new Error("the server has gone: is `minidiff play` still running?");
    if (!response.ok) throw new Error((await response.text()).split("\n")[0].slice(0, 200));
    const data = new Float32Array(await response.arrayBuffer());
    return { data, dims: JSON.parse(response.headers.get("x-dims")) };
  }

  close() {}
}
