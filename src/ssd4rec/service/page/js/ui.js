// Preact, htm and signals in one place, and the small parts that every view uses.
import { Fragment, h, render } from "../vendor/preact.js";
import { useEffect, useId, useMemo, useReducer, useRef, useState } from "../vendor/preact-hooks.js";
import htm from "../vendor/htm.js";
import { computed, effect, signal } from "../vendor/signals.js";

export { Fragment, computed, effect, render, signal, useEffect, useId, useMemo, useReducer, useRef, useState };
export const html = htm.bind(h);

const whole = new Intl.NumberFormat("en-US");
const day = new Intl.DateTimeFormat("en-US", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" });
const onlyDay = new Intl.DateTimeFormat("en-US", { dateStyle: "medium", timeZone: "UTC" });
const onlyTime = new Intl.DateTimeFormat("en-US", { timeStyle: "medium", hour12: false });
const share = new Intl.NumberFormat("en-US", { style: "percent", maximumFractionDigits: 1 });

export const count = (value, noun) => `${whole.format(value)} ${noun}${value === 1 ? "" : "s"}`;
export const number = (value) => whole.format(value);
export const date = (seconds) => day.format(new Date(seconds * 1000));
export const shortDate = (seconds) => onlyDay.format(new Date(seconds * 1000));
export const clock = (seconds) => onlyTime.format(new Date(seconds * 1000)); // of the reader's own time zone
export const percent = (value) => share.format(value);
export const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(3)}`;
export const label = (item) => item.title || item.item_id || "unknown item";

/** A title with its id; either may be of any length and script. */
export function Name({ item, href }) {
  const title = html`<bdi class="title">${label(item)}</bdi>`;
  return html`<span class="name">
    ${href ? html`<a href=${href}>${title}</a>` : title}
    ${item.title && html`<span class="id"><bdi>${item.item_id}</bdi></span>`}
  </span>`;
}

/** What a view shows while it has nothing else: loading, empty, or an error with what to do. */
export function Notice({ kind = "empty", heading, children }) {
  return html`<div class=${`notice ${kind}`} role=${kind === "error" ? "alert" : "status"}>
    <p class="notice-heading">${heading}</p>
    ${children}
  </div>`;
}

/** `children`, if any, is a visible line that says what takes its time. */
export function Loading({ what, children }) {
  return html`<div class="loading" role="status">
    ${children ? html`<p class="hint">${children}</p>` : html`<span class="visually-hidden">Loading ${what}…</span>`}
    <span class="bone"></span><span class="bone"></span><span class="bone"></span>
  </div>`;
}

/** The result of `useRequest`, or a notice that says why there is none. */
export function Result({ of, what, missing, children }) {
  if (of.error?.status === 404 && missing) return missing;
  const lost = of.error?.code === "lost"; // the page says so above, and asks again
  if (of.error && !lost) {
    return html`<${Notice} kind="error" heading=${`${what} could not be loaded`}>
      <p>${of.error.message}</p>
      <p><button type="button" onClick=${of.again}>Try again</button></p>
    <//>`;
  }
  if (of.data === undefined || lost) return html`<${Loading} what=${what} />`;
  return children(of.data);
}
