// A user: the timeline, the next items, and for one of them the events that carry it.
import { ask, useRequest } from "../api.js";
import { EffectBar, EffectText, explain, More, readHistory, timesOf, Warnings } from "../events.js";
import { to } from "../route.js";
import { count, date, html, Loading, Name, Notice, number, Result, signed, useEffect, useRef, useState } from "../ui.js";

const K = 20;
const STEP = 50; // rows of the timeline that are shown at first, and added by a click

/** A popular item has no reasons: its link opens the item, and its score is a number of training interactions. */
function Recommendation({ item, user, selected, popular }) {
  const current = item.item_id === selected;
  const href = popular ? to.item(item.item_id) : current ? to.user(user) : to.reasons(user, item.item_id);
  const score = popular ? html`${number(item.score)}<span class="visually-hidden"> training interactions</span>`
    : html`<span class="visually-hidden">score </span>${item.score.toFixed(2)}`;
  return html`<li class=${current ? "selected" : ""}>
    <a class="row" href=${href} aria-current=${current ? "true" : undefined}>
      <span class="rank">${item.rank}</span><${Name} item=${item} /><span class="score">${score}</span>
    </a>
  </li>`;
}

function Recommendations({ of, user, selected }) {
  return html`<section class="panel" aria-labelledby="next-heading">
    <h2 id="next-heading">Next items</h2>
    <${Result} of=${of} what="Recommendations">${(data) => html`
      <p class="hint">${data.source === "popular" ? "The most popular items, with their training interactions."
        : "By score. Choose one to see which events carry it."}</p>
      <${Warnings} warnings=${data.warnings} />
      ${data.items.length
        ? html`<ol class="list">${data.items.map((item) => html`<${Recommendation} key=${item.item_id} item=${item} user=${user} selected=${selected}
          popular=${data.source === "popular"} />`)}</ol>`
        : html`<${Notice} heading="Nothing is left to recommend" />`}`}<//>
  </section>`;
}

function Parts({ parts }) {
  const terms = [["model", parts.model], ["co-occurrence", parts.co_occurrence], ["repeat bias", parts.repeat_bias]];
  return html`<dl class="parts">
    <div><dt>score</dt><dd>${parts.score.toFixed(3)}</dd></div>
    ${terms.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${signed(value)}</dd></div>`)}
  </dl>`;
}

function Removal({ user, counterfactual }) {
  if (!counterfactual.success) return html`<p class="hint">${counterfactual.note ?? "No set of events was found that takes it out."}</p>`;
  const { removed, k, rank_without: rank } = counterfactual;
  const href = to.whatIf(user, removed.map((event) => event.position));
  return html`<p class="removal">Without ${count(removed.length, "event")} it leaves the top ${k}${rank === null ? "" : ` (rank ${number(rank)})`}.
    <a class="button" href=${href}>Remove ${removed.length === 1 ? "it" : "them"} in What if</a></p>`;
}

/** Why an item has its place: its parts, and the smallest set of events found whose removal takes it out of the list. */
function Why({ user, effects, history, item, times }) {
  const at = (level) => (signal) => explain(history, item, level, times, signal).then((answer) => answer.explanation);
  const parts = useRequest(at("parts"), `parts ${item}`, [history.length, times]);
  const listed = effects.rank !== null && effects.rank <= 10;
  const removal = useRequest((signal) => (listed ? at("counterfactual")(signal) : Promise.resolve(null)), `removal ${item}`, [history.length, times]);
  return html`<div class="why">
    <p class="why-item"><${Name} item=${{ title: effects.title, item_id: item }} href=${to.item(item)} />
      <span class="badge">${effects.rank === null ? "not a candidate" : `rank ${number(effects.rank)}`}</span></p>
    ${parts.data && html`<${Parts} parts=${parts.data} />`}
    ${listed && !removal.data && !removal.error && html`<p class="hint" role="status">Looking for events without which it leaves the top 10…</p>`}
    ${removal.data && html`<${Removal} user=${user} counterfactual=${removal.data} />`}
    ${removal.error && html`<p class="hint">${removal.error.message}</p>`}
    ${effects.omitted > 0 && html`<p class="hint">Not measured: the effects of the oldest ${count(effects.omitted, "event")}.
      This model reads the history again for each event.</p>`}
  </div>`;
}

function ordered(events, effects, order) {
  const rows = events.map((event, position) => ({ event, position, effect: effects?.get(position) })).reverse();
  if (!effects || order === "time") return rows;
  const size = (row) => (row.effect?.score_change == null ? -1 : Math.abs(row.effect.score_change));
  return rows.sort((a, b) => size(b) - size(a));
}

function Timeline({ events, explanation }) {
  const [order, setOrder] = useState("effect");
  const [shown, setShown] = useState(STEP);
  const effects = explanation && new Map(explanation.events.map((effect) => [effect.position, effect]));
  const rows = ordered(events, effects, order);
  const largest = effects && Math.max(...explanation.events.map((effect) => Math.abs(effect.score_change ?? 0)));
  const choice = (value, name) => html`<button type="button" aria-pressed=${order === value ? "true" : "false"}
    onClick=${() => setOrder(value)}>${name}</button>`;
  return html`
    ${effects && html`<div class="toolbar"><div class="segmented" role="group" aria-label="Order of the events">
        ${choice("effect", "By effect")}${choice("time", "Newest first")}</div>
      <p class="legend"><span class="key against">works against it</span><span class="key carries">carries it</span></p></div>`}
    <ol class=${`timeline ${effects ? "with-effects" : ""}`}>
      ${rows.slice(0, shown).map(({ event, position, effect }) => html`<li key=${position} data-position=${position}>
        <${Name} item=${event} href=${to.item(event.item_id)} />
        <span class="when">${event.type !== "view" && html`<bdi>${event.type}</bdi> · `}${date(event.timestamp)}</span>
        ${effect && html`<${EffectBar} change=${effect.score_change ?? 0} largest=${largest} />
          <${EffectText} effect=${effect} rank=${explanation.rank} />`}
        ${effects && !effect && html`<span class="effect-text">not measured</span>`}
      </li>`)}
    </ol>
    <${More} shown=${Math.min(shown, rows.length)} total=${rows.length} noun="event" more=${() => setShown(shown + 4 * STEP)} />`;
}

function History({ user, events, selected, next }) {
  const history = events.map((event) => event.item_id);
  const times = next.data ? timesOf(next.data, events.at(-1)?.timestamp) : next.error && {}; // undefined: the list is on its way
  const get = (signal) => (selected && history.length && times ? explain(history, selected, "effects", times, signal) : Promise.resolve(null));
  const explained = useRequest(get, `effects ${selected}`, [history.length, times]);
  const explanation = explained.data?.explanation;
  const failure = explained.error?.code === "lost" ? null : explained.error;
  const busy = selected && history.length > 0 && !explanation && !failure;
  const section = useRef(null);
  useEffect(() => {
    const below = matchMedia("(max-width: 900px)").matches; // the reasons are under the list: go there
    if (selected && below) section.current.scrollIntoView({ block: "start" });
  }, [selected, Boolean(explanation)]);
  return html`<section class="panel" ref=${section} aria-labelledby="timeline-heading" aria-busy=${busy ? "true" : "false"}>
    <div class="why-item"><h2 id="timeline-heading">${selected ? "The events that carry it" : "Timeline"}</h2>
      ${selected && html`<a class="back" href=${to.user(user)}>Back to the timeline</a>`}</div>
    ${!selected && html`<p class="hint">${count(events.length, "event")}, newest first.</p>`}
    ${failure && html`<${Notice} kind="error" heading="This item cannot be explained"><p>${failure.message}</p><//>`}
    ${busy && html`<${Loading}>Leaving out each of ${count(events.length, "event")}, one at a time…<//>`}
    ${explanation && html`<${Why} key=${selected} user=${user} effects=${explanation} history=${history} item=${selected} times=${times} />`}
    ${events.length === 0
      ? html`<${Notice} heading="No events are stored"><p>Popular items are recommended until the first one arrives.</p><//>`
      : !busy && html`<${Timeline} key=${selected ?? ""} events=${events} explanation=${explanation} />`}
  </section>`;
}

function NoUser({ id }) {
  return html`<${Notice} heading="This user has no events">
    <p>Nothing is stored for <bdi class="quoted">${id}</bdi>; such a user gets the most popular items.
      Ids are compared exactly: search by their start above.</p>
    <p><a class="button" href=${to.home()}>All users</a></p>
  <//>`;
}

export function User({ id, selected }) {
  document.title = `${id} · ssd4rec`;
  const body = { user_id: id, k: K };
  const next = useRequest((signal) => ask("POST", "/v1/recommendations", body, signal), `next ${id}`);
  const events = useRequest((signal) => readHistory(id, signal), `events ${id}`);
  return html`<div class="heading"><h1><span class="eyebrow">User</span> <bdi>${id}</bdi></h1>
      ${events.data && html`<a class="button" href=${to.whatIf(id)}>Edit this history in What if</a>`}</div>
    <${Result} of=${events} what="The events" missing=${html`<${NoUser} id=${id} />`}>${(history) => html`<div class="columns">
      <${Recommendations} of=${next} user=${id} selected=${selected} />
      <${History} user=${id} events=${history} selected=${selected} next=${next} />
    </div>`}<//>`;
}
