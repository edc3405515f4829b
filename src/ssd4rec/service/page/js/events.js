// The history of a user, and the effects of its events on one item.
import { ask } from "./api.js";
import { count, html, Name, number, signed } from "./ui.js";

const PAGE = 1000;

/** All events of a user, oldest first; the place in the array is the position that explanations name. */
export async function readHistory(id, signal) {
  const events = [];
  let cursor = "";
  do {
    const next = cursor && `&cursor=${encodeURIComponent(cursor)}`;
    const page = await ask("GET", `/v1/users/${encodeURIComponent(id)}/events?limit=${PAGE}${next}`, undefined, signal);
    events.push(...page.events);
    cursor = page.next;
  } while (cursor);
  return events;
}

/** `times`: see `timesOf`. */
export const explain = (history, item, level, times, signal) =>
  ask("POST", "/v1/explanations", { history, item_id: item, level, ...times }, signal);

/** The time for which a list was made, so that explanations are of the same scores; nothing where the model has not read a time. */
export const timesOf = (list, last) => (list.at === null ? {} : { at: Math.max(list.at, last), last_event: last });

/** "rank 3 → 41", in words that fit the direction. */
export function rankText(rank, change) {
  if (rank === null || change === null) return "no rank";
  return change === 0 ? `stays at rank ${number(rank)}` : `rank ${number(rank)} → ${number(rank + change)}`;
}

/** A bar from the middle: to the right where the event carries the item, to the left where it works against it. */
export function EffectBar({ change, largest }) {
  const share = largest ? Math.min(1, Math.abs(change) / largest) * 50 : 0;
  const carries = change < 0; // without the event the score falls
  return html`<svg class=${`bar ${carries ? "carries" : "against"}`} viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
    <rect class="track" x="0" y="4" width="100" height="2" />
    <rect class="value" x=${carries ? 50 : 50 - share} y="0" width=${share} height="10" />
    <rect class="middle" x="49.85" y="0" width="0.3" height="10" />
  </svg>`;
}

export function EffectText({ effect, rank }) {
  if (effect.score_change === null) return html`<span class="effect-text">the only event that the model reads</span>`;
  const text = effect.score_change < 0 ? "carries it" : effect.score_change > 0 ? "works against it" : "no effect";
  return html`<span class="effect-text"><strong>${text}</strong> without it: ${rankText(rank, effect.rank_change)},
    score ${signed(effect.score_change)}</span>`;
}

/** What a list of warnings of the API says. */
export function Warnings({ warnings }) {
  return warnings.length ? html`<ul class="warnings">${warnings.map((text) => html`<li key=${text}>${text}</li>`)}</ul>` : null;
}

export function More({ shown, total, noun, more }) {
  if (shown >= total) return null;
  return html`<p class="more"><button type="button" onClick=${more}>Show more</button>
    <span class="muted">${number(shown)} of ${count(total, noun)}</span></p>`;
}

export { Name };
