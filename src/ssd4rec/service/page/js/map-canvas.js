// The points of the map on a canvas: what is in view, what is under the pointer, and drawing them pixel by pixel.

const MOST_ZOOM = 400;
const REACH = 14; // pixels around the pointer

/** 0xAABBGGRR, as the pixels of an ImageData lie in memory, of a color such as "rgb(1, 2, 3)". */
function pixel(color) {
  const [red, green, blue] = color.match(/\d+/g).map(Number);
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** Points with their popularity group: 0 never, 1 tail, 2 middle, 3 head. The most popular ones are drawn last, on top. */
export function makePoints({ x, y, size, training_interactions: counts, middle, head }) {
  const group = Uint8Array.from(counts, (value) => (value >= head ? 3 : value >= middle ? 2 : value > 0 ? 1 : 0));
  const order = Uint32Array.from(counts.keys()).sort((a, b) => group[a] - group[b] || a - b);
  return { x: Float32Array.from(x, (value) => value / size), y: Float32Array.from(y, (value) => 1 - value / size), counts, group, order };
}

export const wholeMap = { x: 0.5, y: 0.5, zoom: 1 };

/** Keep a view inside of the map. */
export function clamped({ x, y, zoom }) {
  const limited = Math.min(MOST_ZOOM, Math.max(1, zoom));
  const inside = (value) => Math.min(1, Math.max(0, value));
  return { x: inside(x), y: inside(y), zoom: limited };
}

/** From points of the map to pixels of a canvas and back. */
export function transform(view, width, height) {
  const scale = view.zoom * (Math.min(width, height) - 24);
  const left = width / 2 - view.x * scale;
  const top = height / 2 - view.y * scale;
  return { scale, left, top, mapX: (pixelX) => (pixelX - left) / scale, mapY: (pixelY) => (pixelY - top) / scale };
}

/** The same view with the map point under (x, y) staying there while the zoom changes. */
export function zoomedAt(view, factor, x, y, width, height) {
  const now = transform(view, width, height);
  const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
  const scale = zoom * (Math.min(width, height) - 24);
  return clamped({ x: now.mapX(x) - (x - width / 2) / scale, y: now.mapY(y) - (y - height / 2) / scale, zoom });
}

/** The point nearest to a pixel, or -1 if none is close. */
export function nearest(points, view, width, height, x, y) {
  const { scale, left, top } = transform(view, width, height);
  let best = -1;
  let least = REACH * REACH;
  for (let place = 0; place < points.x.length; place += 1) {
    const across = points.x[place] * scale + left - x;
    const down = points.y[place] * scale + top - y;
    const square = across * across + down * down;
    if (square < least) [best, least] = [place, square];
  }
  return best;
}

/** How many points are in view, and the most frequent of them. */
export function inView(points, view, width, height, most) {
  const { mapX, mapY } = transform(view, width, height);
  const [left, right, top, bottom] = [mapX(0), mapX(width), mapY(0), mapY(height)];
  let total = 0;
  let frequent = []; // sorted, the most frequent first
  for (let place = 0; place < points.x.length; place += 1) {
    if (points.x[place] < left || points.x[place] > right || points.y[place] < top || points.y[place] > bottom) continue;
    total += 1;
    const value = points.counts[place];
    if (frequent.length < most || value > points.counts[frequent[most - 1]]) {
      const at = frequent.findIndex((other) => points.counts[other] < value);
      frequent.splice(at < 0 ? frequent.length : at, 0, place);
      frequent = frequent.slice(0, most);
    }
  }
  return { total, frequent };
}

/** How far the rows of a disc are from the sides of its square. */
function disc(side) {
  const middle = (side - 1) / 2;
  return Array.from({ length: side }, (_, row) => Math.max(0, Math.round(side / 2 - Math.sqrt((side / 2) ** 2 - (row - middle) ** 2))));
}

/** Draw all points, then rings around the chosen ones. `colors`: ground, ring and one for each group, as CSS colors. */
export function draw(canvas, points, view, rings, colors) {
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer).fill(pixel(colors.ground));
  const { scale, left, top } = transform(view, width, height);
  const groups = colors.groups.map(pixel);
  const side = Math.round(Math.min(9, Math.max(1, (scale / Math.sqrt(points.x.length)) * 0.35)) * (devicePixelRatio || 1));
  const insets = disc(side);
  for (const place of points.order) {
    const across = Math.round(points.x[place] * scale + left - side / 2);
    const down = Math.round(points.y[place] * scale + top - side / 2);
    if (across < 0 || down < 0 || across + side > width || down + side > height) continue;
    for (let row = 0; row < side; row += 1) {
      const start = (down + row) * width + across;
      pixels.fill(groups[points.group[place]], start + insets[row], start + side - insets[row]);
    }
  }
  context.putImageData(image, 0, 0);
  context.strokeStyle = colors.ring;
  rings.forEach((place, position) => {
    context.lineWidth = position === 0 ? 4 : 2;
    context.beginPath();
    context.arc(points.x[place] * scale + left, points.y[place] * scale + top, position === 0 ? 11 : 7, 0, 2 * Math.PI);
    context.stroke();
  });
}
