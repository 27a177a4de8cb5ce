// Small drawings on canvases: pictures, latents, noise levels.

// An element: h("button", { class: "big", onclick }, "Paint").
export function h(tag, options = {}, ...inside) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(options)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...inside.flat().filter(part => part != null));
  return element;
}

// A canvas for a drawing, and in words what it shows.
export function easel(label, kind = "") {
  return h("canvas", { class: `play-easel ${kind}`, role: "img", "aria-label": label });
}

export const byte = value => Math.round((Math.min(1, Math.max(-1, value)) + 1) * 127.5);

// A picture in [-1, 1], channels first, as pixels.
export function pixelsOf(picture) {
  const n = picture.length / 3;
  const side = Math.sqrt(n);
  const image = new ImageData(side, side);
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = byte(picture[c * n + i]);
    image.data[4 * i + 3] = 255;
  }
  return image;
}

function put(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export const drawPicture = (canvas, picture) => put(canvas, pixelsOf(picture));

// How far two pictures differ, place by place: the bluer, the more.
export function drawDifference(canvas, one, other) {
  const n = one.length / 3;
  const side = Math.sqrt(n);
  const image = new ImageData(side, side);
  for (let i = 0; i < n; i++) {
    let far = 0;
    for (let c = 0; c < 3; c++) far += Math.abs(one[c * n + i] - other[c * n + i]) / 3;
    image.data.set(tint(-Math.sqrt(far)), 4 * i);
  }
  put(canvas, image);
}

// From orange (1) through paper (0) to blue (-1).
function tint(value) {
  const [paper, end] = [[244, 243, 238], value > 0 ? [206, 84, 40] : [26, 74, 148]];
  const share = Math.min(1, Math.abs(value));
  return [...paper.map((p, c) => p + share * (end[c] - p)), 255];
}

// Latents: each channel is a sheet of numbers; three and more are full colour.
export function drawLatents(canvas, latents, channels) {
  const side = Math.sqrt(latents.length / channels);
  const columns = Math.ceil(Math.sqrt(channels));
  const rows = Math.ceil(channels / columns);
  const image = new ImageData(columns * (side + 1) - 1, rows * (side + 1) - 1);
  for (let c = 0; c < channels; c++) {
    const left = (c % columns) * (side + 1);
    const top = Math.floor(c / columns) * (side + 1);
    for (let i = 0; i < side * side; i++) {
      const at = (top + Math.floor(i / side)) * image.width + left + (i % side);
      image.data.set(tint(latents[c * side * side + i] / 3), 4 * at);
    }
  }
  put(canvas, image);
}

// A strip of pictures for each lane, the place under the finger framed; where there is
// no room for all, only some are shown.
export function drawFilm(canvas, films, count, chosen) {
  canvas.width = canvas.clientWidth * devicePixelRatio || 1;
  canvas.height = canvas.clientHeight * devicePixelRatio || 1;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  const high = canvas.height / films.length;
  const every = Math.max(1, Math.ceil((0.7 * high * count) / canvas.width));
  const slots = Math.max(1, Math.floor(count / every)); // where there is room for fewer
  const room = canvas.width / slots;
  const side = Math.min(high, room) - devicePixelRatio;
  for (const [lane, pictures] of films.entries())
    for (let slot = 0; slot < slots; slot++) {
      const picture = pictures[Math.round(((slot + 1) * count) / slots) - 1];
      if (!picture) break; // not painted yet
      const left = (slot + 0.5) * room - side / 2;
      pen.drawImage(tileOf(picture), left, lane * high + (high - side) / 2, side, side);
    }
  pen.strokeStyle = getComputedStyle(canvas).color;
  pen.lineWidth = 3 * devicePixelRatio;
  const edge = pen.lineWidth / 2;
  const framed = Math.max(room, 3 * pen.lineWidth);
  const slot = Math.ceil(((chosen + 1) * slots) / count) - 1;
  const left = Math.min(slot * room, canvas.width - framed);
  pen.strokeRect(left + edge, edge, framed - 2 * edge, canvas.height - 2 * edge);
}

const tiles = new WeakMap(); // of pixels, what can be drawn at any size
function tileOf(image) {
  if (!tiles.has(image)) {
    const tile = h("canvas");
    put(tile, image);
    tiles.set(image, tile);
  }
  return tiles.get(image);
}

// What the canvas is made of at each step: noise above, picture below.
export function drawLevels(canvas, shares, chosen) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * devicePixelRatio || 1;
  canvas.height = height * devicePixelRatio || 1;
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  const wide = width / shares.length;
  for (const [i, [picture]] of shares.entries()) {
    const bar = picture ** 2 * height;
    pen.globalAlpha = i === chosen ? 1 : 0.45;
    pen.fillStyle = "#8a93a8";
    pen.fillRect(i * wide, 0, Math.max(1, wide - 1), height - bar);
    pen.fillStyle = "#2fa37e";
    pen.fillRect(i * wide, height - bar, Math.max(1, wide - 1), bar);
  }
}
