// Live: events and answers as they happen. The list is bounded; while it is paused, new messages wait.
import { ask, modelVersion, revision } from "../api.js";
import { to } from "../route.js";
import { clock, count, html, label, Notice, number, useEffect, useReducer, useState } from "../ui.js";

const MOST = 200; // rows, and messages that wait during a pause
const RETRY_MS = 3000;
const STATES = { connecting: "Connecting…", open: "Following", lost: "The connection is lost; trying again" };

const start = { rows: [], waiting: [], lost: 0, total: 0, paused: false };

function reduce(state, action) {
  if (action.kind === "clear") return { ...start, paused: state.paused };
  if (action.kind === "pause") {
    if (!state.paused) return { ...state, paused: true };
    return { ...state, paused: false, rows: [...state.waiting, ...state.rows].slice(0, MOST), waiting: [] };
  }
  if (action.kind === "dropped") return { ...state, lost: state.lost + action.count };
  const row = { ...action, key: state.total };
  const where = state.paused ? "waiting" : "rows";
  const overflow = state.paused && state.waiting.length === MOST ? 1 : 0;
  return { ...state, total: state.total + 1, lost: state.lost + overflow, [where]: [row, ...state[where]].slice(0, MOST) };
}

/** Follow the stream. The browser connects again by itself after a pause of the network, but not after an answer with an error. */
function useStream(dispatch) {
  const [state, setState] = useState("connecting");
  const [attempt, setAttempt] = useState(0);
  useEffect(() => {
    const source = new EventSource("/v1/live");
    let timer = null;
    const on = (kind) => source.addEventListener(kind, (event) => dispatch({ kind, body: JSON.parse(event.data) }));
    on("interaction");
    on("answer");
    source.addEventListener("dropped", (event) => dispatch({ kind: "dropped", count: Number(event.data) }));
    source.onopen = () => setState("open");
    source.onerror = () => {
      setState("lost");
      ask("GET", "/v1/users?limit=1").catch(() => null); // notes whether the service is away, or a key is needed
      if (source.readyState === EventSource.CLOSED) timer = setTimeout(() => setAttempt(attempt + 1), RETRY_MS);
    };
    return () => {
      clearTimeout(timer);
      source.close();
    };
  }, [revision.value, attempt]);
  return state;
}

const user = (id) => html`<a href=${to.user(id)} title=${id}><bdi>${id}</bdi></a>`;
const item = (each) => html`<a href=${to.item(each.item_id)} title=${label(each)}><bdi class="title">${label(each)}</bdi></a>`;

function Row({ row: { kind, body } }) {
  return html`<li class=${`live-row ${kind}`}><span class="when">${clock(body.received)}</span>
    <span class="badge">${kind === "answer" ? "answer" : html`<bdi title=${body.type}>${body.type}</bdi>`}</span>
    ${kind === "answer"
      ? html`<p>${body.user_id === null ? "a history" : user(body.user_id)} <span class="muted">was recommended</span> ${body.items.map((each, place) => html`<span key=${each.item_id}>${place ? ", " : ""}${item(each)}</span>`)}
          ${body.source === "popular" && html` <span class="muted">(popular items)</span>`}
          ${body.model !== modelVersion.value && html` <span class="muted">by <bdi>${body.model}</bdi></span>`}</p>`
      : html`<p>${user(body.user_id)} <span class="muted">→</span> ${item(body)}</p>`}</li>`;
}

export function Live() {
  document.title = "Live · ssd4rec";
  const [state, dispatch] = useReducer(reduce, start);
  const [shown, setShown] = useState("all");
  const connection = useStream(dispatch);
  const rows = state.rows.filter((row) => shown === "all" || row.kind === shown);
  const choice = (value, name) => html`<button type="button" aria-pressed=${shown === value ? "true" : "false"} onClick=${() => setShown(value)}>${name}</button>`;
  return html`<h1>Live</h1>
    <p class="lead">Events and answers of all processes as they are stored, the newest first. At most ${number(MOST)} stay in the list.</p>
    <div class="toolbar"><p class="live-state" role="status"><span class=${`lamp ${state.paused ? "paused" : connection}`}></span>
        ${state.paused ? `Paused, ${count(state.waiting.length, "new message")}` : STATES[connection]}</p>
      <div class="segmented" role="group" aria-label="What is shown">${choice("all", "All")}${choice("interaction", "Events")}${choice("answer", "Answers")}</div>
      <div><button type="button" class="primary" onClick=${() => dispatch({ kind: "pause" })}>${state.paused ? "Continue" : "Pause"}</button>${" "}
        <button type="button" onClick=${() => dispatch({ kind: "clear" })} disabled=${!state.rows.length}>Clear</button></div></div>
    ${state.lost > 0 && html`<p class="hint">${count(state.lost, "message")} came too fast to be shown.</p>`}
    <section class="panel" aria-label="Messages">
      ${rows.length
        ? html`<div role="log" aria-live="off" aria-label="Messages, the newest first"><ol class="live">
          ${rows.map((row) => html`<${Row} key=${row.key} row=${row} />`)}</ol></div>`
        : html`<${Notice} heading=${state.paused ? "Paused" : "Nothing has happened yet"}><p>Post events to <code>/v1/events</code>, or open a user in another window.</p><//>`}
    </section>`;
}
