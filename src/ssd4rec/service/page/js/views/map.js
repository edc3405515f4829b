// The map: item vectors on their first two principal components. Everything that the mouse does, the keyboard and the lists do too.
import { ask, useRequest } from "../api.js";
import { clamped, draw, inView, makePoints, nearest, transform, wholeMap, zoomedAt } from "../map-canvas.js";
import { to } from "../route.js";
import { Combobox, findItems } from "../search.js";
import { theme } from "../theme.js";
import { count, html, label, Name, Notice, number, percent, Result, useEffect, useMemo, useRef, useState } from "../ui.js";

const LISTED = 12;
const STEP = 0.15; // of the width, by an arrow key
const FACTOR = 1.5;
const SETTLE_MS = 150;
const GROUPS = [["never", "never in training"], ["tail", "tail"], ["middle", "middle"], ["head", "head"]];

const named = (query, signal) => ask("GET", `/v1/map/items?${query}`, undefined, signal).then((answer) => answer.items);
const byIndex = (indices, signal) => (indices.length ? named(indices.map((each) => `index=${each}`).join("&"), signal) : Promise.resolve([]));
const byId = (ids, signal) => named(ids.map((each) => `item_id=${encodeURIComponent(each)}`).join("&"), signal);

/** The item under the pointer is named when the pointer rests. */
function Hover({ hover }) {
  const place = useRef(null);
  const item = useRequest((signal) => byIndex(hover ? [hover.index] : [], signal), `hover ${hover?.index}`);
  const shown = hover && item.data?.length;
  useEffect(() => {
    if (shown) Object.assign(place.current.style, { left: `${hover.x}px`, top: `${hover.y}px` }); // the policy forbids style attributes
  });
  if (!shown) return null;
  return html`<p class="map-label" ref=${place} aria-hidden="true"><bdi>${label(item.data[0])}</bdi></p>`;
}

/** Colors as the theme resolves them, read from the legend. */
function colorsOf(element) {
  const { backgroundColor: ground, color: ring } = getComputedStyle(element);
  const dot = (name) => getComputedStyle(element.querySelector(`.key.${name}`), "::before").backgroundColor;
  return { ground, ring, groups: GROUPS.map(([name]) => dot(name)) };
}

function useGestures(canvas, view, setView, setHover, choose, points) {
  const latest = useRef(null);
  latest.current = { view, setView, setHover, choose };
  useEffect(() => {
    const element = canvas.current;
    const pointers = new Map();
    let travelled = 0;
    let timer = null;
    const ratio = () => element.width / element.clientWidth;
    const at = (event) => [event.offsetX * ratio(), event.offsetY * ratio()];
    const zoom = (factor, x, y) => latest.current.setView((old) => zoomedAt(old, factor, x, y, element.width, element.height));
    const down = (event) => {
      element.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, at(event));
      if (pointers.size === 1) travelled = 0;
    };
    const move = (event) => {
      clearTimeout(timer);
      latest.current.setHover(null);
      const [x, y] = at(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        timer = setTimeout(() => {
          const index = nearest(points, latest.current.view, element.width, element.height, x, y);
          if (index >= 0) latest.current.setHover({ index, x: x / ratio(), y: y / ratio() });
        }, SETTLE_MS);
        return;
      }
      const other = [...pointers.entries()].find(([id]) => id !== event.pointerId)?.[1];
      pointers.set(event.pointerId, [x, y]);
      if (other) {
        const distance = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
        travelled = Infinity;
        zoom(distance([x, y]) / Math.max(1, distance(before)), (x + other[0]) / 2, (y + other[1]) / 2);
        return;
      }
      travelled += Math.hypot(x - before[0], y - before[1]);
      latest.current.setView((old) => {
        const { scale } = transform(old, element.width, element.height);
        return clamped({ ...old, x: old.x - (x - before[0]) / scale, y: old.y - (y - before[1]) / scale });
      });
    };
    const up = (event) => {
      pointers.delete(event.pointerId);
      if (event.type === "pointerup" && travelled < 5) {
        const index = nearest(points, latest.current.view, element.width, element.height, ...at(event));
        if (index >= 0) latest.current.choose(index);
      }
    };
    const wheel = (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), ...at(event));
    };
    const handlers = { pointerdown: down, pointermove: move, pointerup: up, pointercancel: up, wheel };
    Object.entries(handlers).forEach(([name, handler]) => element.addEventListener(name, handler, { passive: false }));
    return () => {
      clearTimeout(timer);
      Object.entries(handlers).forEach(([name, handler]) => element.removeEventListener(name, handler));
    };
  }, [points]);
}

function Plot({ points, view, setView, rings, choose, size, setSize }) {
  const [hover, setHover] = useState(null);
  const [box, canvas] = [useRef(null), useRef(null)];
  const shade = theme();
  useGestures(canvas, view, setView, setHover, choose, points);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => {
      const ratio = devicePixelRatio || 1;
      setSize({ width: Math.round(entry.contentRect.width * ratio), height: Math.round(entry.contentRect.height * ratio) });
    });
    observer.observe(canvas.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (!size.width) return undefined;
    const frame = requestAnimationFrame(() => {
      if (canvas.current.width !== size.width || canvas.current.height !== size.height) Object.assign(canvas.current, size);
      draw(canvas.current, points, view, rings, colorsOf(box.current));
    });
    return () => cancelAnimationFrame(frame);
  }, [points, view, rings, size, shade]);
  const keys = {
    ArrowLeft: (old) => ({ ...old, x: old.x - STEP / old.zoom }),
    ArrowRight: (old) => ({ ...old, x: old.x + STEP / old.zoom }),
    ArrowUp: (old) => ({ ...old, y: old.y - STEP / old.zoom }),
    ArrowDown: (old) => ({ ...old, y: old.y + STEP / old.zoom }),
    "+": (old) => ({ ...old, zoom: old.zoom * FACTOR }),
    "=": (old) => ({ ...old, zoom: old.zoom * FACTOR }),
    "-": (old) => ({ ...old, zoom: old.zoom / FACTOR }),
    0: () => wholeMap,
  };
  const onKeyDown = (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    setView((old) => clamped(keys[event.key](old)));
  };
  const button = (name, key, symbol) => html`<button type="button" class="icon" aria-label=${name} title=${name}
    onClick=${() => setView((old) => clamped(keys[key](old)))}>${symbol}</button>`;
  return html`<div class="map-box" ref=${box}>
    <canvas ref=${canvas} tabindex="0" role="application" aria-label="Map of the items" aria-describedby="map-help" onKeyDown=${onKeyDown} />
    <${Hover} hover=${hover} />
    <div class="map-buttons">${button("Zoom in", "+", "+")}${button("Zoom out", "-", "−")}${button("Whole map", "0", "⤢")}</div>
    <p class="legend">${GROUPS.map(([name, text]) => html`<span key=${name} class=${`key ${name}`}>${text}</span>`)}</p>
  </div>
  <p id="map-help" class="hint">Drag or arrow keys: move. Wheel, pinch, + and −: zoom. 0: whole map. Choose a point, or an item of the list.</p>`;
}

function Chosen({ item, neighbors, choose, clear }) {
  return html`<section class="panel" aria-labelledby="chosen-heading">
    <div class="why-item"><h2 id="chosen-heading"><bdi>${label(item)}</bdi></h2><button type="button" class="icon" aria-label="Clear the choice" title="Clear the choice" onClick=${clear}>×</button></div>
    <p><a href=${to.item(item.item_id)}>Open the item</a></p>
    <h3>Neighbors by cosine</h3>
    <${Result} of=${neighbors} what="The neighbors">${(items) => html`<ol class="list choices">${items.map((each) => html`<li key=${each.item_id}>
      <button type="button" class="row plain" onClick=${() => choose(each.index)}><${Name} item=${each} /></button></li>`)}</ol>`}<//>
  </section>`;
}

function InView({ points, view, size, choose }) {
  const [settled, setSettled] = useState(view);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(view), SETTLE_MS);
    return () => clearTimeout(timer);
  }, [view]);
  const { total, frequent } = useMemo(() => inView(points, settled, size.width, size.height, LISTED), [points, settled, size]);
  const items = useRequest((signal) => byIndex(frequent, signal), `in view ${frequent}`);
  return html`<section class="panel" aria-labelledby="view-heading"><h2 id="view-heading">Most frequent in view</h2>
    <p class="hint" role="status">${number(total)} of ${count(points.x.length, "item")} in view</p>
    <${Result} of=${items} what="The items in view">${(data) => html`<ol class="list choices">${data.map((item) => html`<li key=${item.item_id}>
      <button type="button" class="row plain" onClick=${() => choose(item.index)}><${Name} item=${item} />
        <span class="score">${number(points.counts[item.index])}</span></button></li>`)}</ol>`}<//>
  </section>`;
}

/** An item with its neighbors, all with their places on the map. */
async function withNeighbors(index, signal) {
  const [item] = await byIndex([index], signal);
  const { items } = await ask("GET", `/v1/items/${encodeURIComponent(item.item_id)}/similar?k=${LISTED}`, undefined, signal);
  return { item, neighbors: items.length ? await byId(items.map((each) => each.item_id), signal) : [] };
}

function Explorer({ data, item }) {
  const points = useMemo(() => makePoints(data), [data]);
  const [view, setView] = useState(wholeMap);
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [index, setIndex] = useState(null);
  const chosen = useRequest((signal) => (index === null ? Promise.resolve(null) : withNeighbors(index, signal)), `chosen ${index}`);
  const choose = (place) => {
    setIndex(place);
    setView((old) => clamped({ x: points.x[place], y: points.y[place], zoom: Math.max(4, old.zoom) }));
  };
  const find = async (option) => {
    const [match] = await byId([option.item_id]);
    if (match) choose(match.index);
  };
  useEffect(() => {
    if (item) find({ item_id: item });
  }, []);
  const around = chosen.data?.neighbors;
  const rings = useMemo(() => (index === null ? [] : [index, ...(around ?? []).map((each) => each.index)]), [index, around]);
  return html`<div class="columns map">
    <div><${Plot} points=${points} view=${view} setView=${setView} rings=${rings} choose=${choose} size=${size} setSize=${setSize} /></div>
    <div class="stack">
      <section class="panel"><${Combobox} id="map-search" name="Find an item on the map" hint="Title or id" find=${findItems} choose=${find} /></section>
      ${index !== null && html`<${Result} of=${chosen} what="The item">${({ item, neighbors }) => html`<${Chosen} item=${item} choose=${choose}
        neighbors=${{ data: neighbors }} clear=${() => setIndex(null)} />`}<//>`}
      <${InView} points=${points} view=${view} size=${size} choose=${choose} />
    </div>
  </div>`;
}

export function ItemMap({ query }) {
  document.title = "Map · ssd4rec";
  const map = useRequest((signal) => ask("GET", "/v1/map", undefined, signal), "map");
  const shown = map.data && percent(map.data.explained_variance[0] + map.data.explained_variance[1]);
  return html`<h1>Map</h1>
    <p class="lead">Item vectors on their first two principal components${shown && html`, which hold ${shown} of the variance: near points may still be far apart in the others`}.</p>
    <${Result} of=${map} what="The map">${(data) => (data.x.length ? html`<${Explorer} data=${data} item=${query.get("item")} />` : html`<${Notice} heading="The catalog is empty" />`)}<//>`;
}
