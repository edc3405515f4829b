// Charts as SVG. Colors come from classes, so that they follow the theme; the numbers stand in a table beside each chart.
import { html } from "./ui.js";

const WIDTH = 480;
const HEIGHT = 300;
const LEFT = 46;
const BOTTOM = 40;
const RIGHT = 24;

/**
 * Lines over two axes. `series`: [{ name, className, points: [[x, y], …] }]; `x` and `y`: { from, to, ticks: [[value, text]], name }.
 * `diagonal` draws the line of equal shares.
 */
export function LineChart({ series, x, y, title, diagonal = false }) {
  const across = (value) => LEFT + ((value - x.from) / (x.to - x.from || 1)) * (WIDTH - LEFT - RIGHT);
  const up = (value) => HEIGHT - BOTTOM - ((value - y.from) / (y.to - y.from || 1)) * (HEIGHT - BOTTOM - 12);
  const path = (points) => points.map(([a, b], place) => `${place ? "L" : "M"}${across(a).toFixed(1)} ${up(b).toFixed(1)}`).join("");
  return html`<svg class="chart" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${title}>
    ${y.ticks.map(([value, text]) => html`<g key=${`y${value}`}><line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${up(value)} y2=${up(value)} />
      <text x=${LEFT - 8} y=${up(value) + 4} text-anchor="end">${text}</text></g>`)}
    ${x.ticks.map(([value, text]) => html`<text key=${`x${value}`} x=${across(value)} y=${HEIGHT - BOTTOM + 18} text-anchor="middle">${text}</text>`)}
    <text x=${(LEFT + WIDTH) / 2} y=${HEIGHT - 4} text-anchor="middle">${x.name}</text>
    ${diagonal && html`<line class="diagonal" x1=${across(x.from)} y1=${up(y.from)} x2=${across(x.to)} y2=${up(y.to)} />`}
    ${series.map((each) => html`<path key=${each.name} class=${`line ${each.className}`} d=${path(each.points)} />`)}
    ${series.map((each) => each.points.length === 1 && html`<circle key=${`${each.name}.`} class=${`dot ${each.className}`}
      cx=${across(each.points[0][0])} cy=${up(each.points[0][1])} r="4" />`)}
  </svg>`;
}

/** A horizontal bar of a share, 0 to 1. */
export function ShareBar({ share, largest, className }) {
  return html`<svg class=${`share ${className}`} viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" width="100" height="10" rx="1" /><rect class="value" width=${largest ? (100 * share) / largest : 0} height="10" rx="1" />
  </svg>`;
}

/** A value with its interval on a scale; where the scale contains 0 it has a mark there. */
export function IntervalBar({ value, low, high, from = 0, to }) {
  const at = (each) => (100 * (each - from)) / (to - from || 1);
  return html`<svg class="interval" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" y="5" width="100" height="2" /><rect class="span" x=${at(low)} y="3" width=${Math.max(0.5, at(high) - at(low))} height="6" />
    ${from < 0 && html`<rect class="zero" x=${at(0) - 0.2} width="0.4" height="12" />`}
    <rect class="value" x=${at(value) - 0.4} width="0.8" height="12" /></svg>`;
}
