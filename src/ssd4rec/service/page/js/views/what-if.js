// What if: an edited copy of a history, and what it does to the list. Nothing is stored in the user's history.
import { ask, useRequest } from "../api.js";
import { explain, More, readHistory, timesOf, Warnings } from "../events.js";
import { to } from "../route.js";
import { Combobox, findItems } from "../search.js";
import { count, html, label, Name, Notice, number, Result, signal, useEffect, useRef, useState } from "../ui.js";

const K = 10;
const TARGET = html`<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="6" /><path d="M12 2v6M12 16v6M2 12h6M16 12h6" /></svg>`;
const STEP = 50;
const announcement = signal(""); // what happened last, for screen readers

const recommend = (history, times, deny, abort) =>
  ask("POST", "/v1/recommendations", { history, k: K, ...times, ...(deny.length ? { deny } : {}) }, abort);
const ids = (rows) => rows.filter((row) => !row.removed).map((row) => row.item_id);

/** Items of the original history that the edited one lacks: they would be candidates again. */
function lost(original, history) {
  const present = new Set(history);
  return [...new Set(original)].filter((id) => !present.has(id));
}

function Row({ row, index, last, edit, focusOn }) {
  const name = label(row);
  const button = (text, symbol, action, disabled) => html`<button type="button" class="icon" aria-label=${`${text}: ${name}`} title=${text}
    disabled=${disabled} onClick=${() => {
      action();
      focusOn(row.key, text);
    }}>${symbol}</button>`;
  return html`<li class=${row.removed ? "removed" : row.inserted ? "inserted" : row.moved ? "moved" : ""} data-key=${row.key}>
    <${Name} item=${row} />
    ${row.inserted && html`<span class="badge">inserted</span>`}
    ${row.removed && html`<span class="badge">removed</span>`}
    ${row.moved && !row.removed && html`<span class="badge">moved</span>`}
    <span class="actions">
      ${button("Move later", "↑", () => edit.move(index, 1), index === last)}
      ${button("Move earlier", "↓", () => edit.move(index, -1), index === 0)}
      ${row.removed ? button("Restore", "↺", () => edit.restore(index)) : button("Remove", "×", () => edit.remove(index))}
    </span>
  </li>`;
}

function Move({ before, now }) {
  if (before === undefined) return html`<span class="move up">new</span>`;
  const change = before - now;
  if (change === 0) return html`<span class="move same"><span class="visually-hidden">same place</span><span aria-hidden="true">=</span></span>`;
  const text = `${Math.abs(change)} ${change > 0 ? "up" : "down"}`;
  return html`<span class=${`move ${change > 0 ? "up" : "down"}`}><span class="visually-hidden">${text}</span>
    <span aria-hidden="true">${change > 0 ? "▲" : "▼"} ${Math.abs(change)}</span></span>`;
}

function Before({ items, after, history, findRemoval }) {
  const present = new Set((after ?? items).map((item) => item.item_id));
  const inHistory = new Set(history);
  return html`${history.length > 0 && html`<p class="hint">${TARGET}<span class="visually-hidden">The button next to an item</span> finds events to remove so that an item leaves the list.</p>`}
    <ol class="list compact">${items.map((item) => html`<li key=${item.item_id} class=${present.has(item.item_id) ? "" : "gone"}>
    <div class="row"><span class="rank">${item.rank}</span><${Name} item=${item} href=${to.item(item.item_id)} />
      ${present.has(item.item_id)
        ? history.length > 0 && html`<button type="button" class="icon" title="Find events to remove" aria-label=${`Find events to remove so that it leaves the list: ${label(item)}`}
          onClick=${() => findRemoval(item)}>${TARGET}</button>`
        : html`<span class="move down">${inHistory.has(item.item_id) ? "in the history" : "gone"}</span>`}</div></li>`)}</ol>`;
}

function After({ items, before }) {
  const ranks = new Map((before ?? []).map((item) => [item.item_id, item.rank]));
  return html`<ol class="list compact">${items.map((item) => html`<li key=${item.item_id}>
    <div class="row"><span class="rank">${item.rank}</span><${Name} item=${item} href=${to.item(item.item_id)} />
      <${Move} before=${ranks.get(item.item_id)} now=${item.rank} /></div></li>`)}</ol>`;
}

function Lists({ original, history, last, leaveOut, findRemoval }) {
  const deny = leaveOut ? lost(original, history) : [];
  const before = useRequest((abort) => recommend(original, { last_event: last }, [], abort), "before");
  const at = before.data?.at ?? undefined; // both lists are for one time, where the model reads it
  const after = useRequest((abort) => recommend(history, { at, last_event: last }, deny, abort), "after", [history, deny, at]);
  return html`<div class="lists" aria-busy=${after.busy ? "true" : "false"}>
    <section class="panel" aria-labelledby="before-heading"><h2 id="before-heading">Before</h2>
      <${Result} of=${before} what="The list">${(data) => html`<${Warnings} warnings=${data.warnings} />
        <${Before} items=${data.items} after=${after.data?.items} history=${history} findRemoval=${(item) => findRemoval(item, timesOf(data, last))} />`}<//></section>
    <section class="panel" aria-labelledby="after-heading"><h2 id="after-heading">After</h2>
      <${Result} of=${after} what="The list">${(data) => html`<${Warnings} warnings=${data.warnings} />
        <${After} items=${data.items} before=${before.data?.items} />`}<//></section>
  </div>`;
}

/** The rows with one edit applied; every edit is a new array, so that undo is the array before it. */
function useEdits(start) {
  const [steps, setSteps] = useState([start]);
  const keys = useRef(0);
  const rows = steps[steps.length - 1];
  const apply = (next, text) => {
    setSteps([...steps, next]);
    announcement.value = text;
  };
  const change = (index, fields) => rows.map((row, place) => (place === index ? { ...row, ...fields } : row));
  return {
    rows,
    edited: steps.length > 1,
    undo: () => {
      setSteps(steps.slice(0, -1));
      announcement.value = "The last change is undone";
    },
    reset: () => {
      setSteps([start.map((row) => ({ ...row, removed: false }))]);
      announcement.value = "All changes are undone";
    },
    remove: (index) => {
      const { inserted } = rows[index];
      const next = inserted ? rows.filter((_, place) => place !== index) : change(index, { removed: true });
      apply(next, `${label(rows[index])} is removed`);
    },
    removeAll: (places) => apply(rows.map((row, place) => (places.has(place) ? { ...row, removed: true } : row)), `${count(places.size, "event")} removed`),
    restore: (index) => apply(change(index, { removed: false }), `${label(rows[index])} is restored`),
    insert: (item) => {
      keys.current += 1;
      const row = { item_id: item.item_id, title: item.title, key: `new ${keys.current}`, inserted: true };
      apply([...rows, row], `${label(item)} is inserted as the newest event`);
    },
    move: (index, step) => {
      const next = [...rows];
      [next[index], next[index + step]] = [next[index + step], { ...next[index], moved: true }];
      apply(next, `${label(rows[index])} is now event ${index + step + 1} of ${rows.length}`);
    },
  };
}

/** After an edit the focus stays on the button that was pressed, though its row moved; where it is gone, on one beside it. */
function useFocus(list) {
  const wanted = useRef(null);
  useEffect(() => {
    if (!wanted.current) return;
    const { key, text, place } = wanted.current;
    wanted.current = null;
    const rows = [...list.current.children];
    const row = rows.find((each) => each.dataset.key === String(key)) ?? rows[Math.min(place, rows.length - 1)];
    const buttons = [...(row?.querySelectorAll(".actions button:not(:disabled)") ?? [])];
    (buttons.find((each) => each.title === text) ?? buttons[0])?.focus();
  });
  return (key, text) => {
    const place = [...list.current.children].findIndex((each) => each.dataset.key === String(key));
    wanted.current = { key, text, place };
  };
}

function Editor({ edits, original }) {
  const [shown, setShown] = useState(STEP);
  const list = useRef(null);
  const focusOn = useFocus(list);
  const { rows } = edits;
  const removed = rows.filter((row) => row.removed).length;
  const newest = rows.map((row, index) => ({ row, index })).reverse();
  return html`<section class="panel" aria-labelledby="history-heading"><h2 id="history-heading">History</h2>
    <p class="hint">${count(rows.length - removed, "event")}, newest first${removed ? `; ${number(removed)} removed` : ""}.</p>
    <${Combobox} id="insert" name="Insert an item as the newest event" hint="Title or id" find=${findItems} choose=${edits.insert} />
    <div class="toolbar"><button type="button" disabled=${!edits.edited} onClick=${edits.undo}>Undo</button>
      <button type="button" disabled=${ids(rows).join("\n") === original.join("\n")} onClick=${edits.reset}>Reset</button></div>
    ${rows.length === 0 && html`<${Notice} heading="An empty history"><p>Insert an item to see what follows it.</p><//>`}
    <ol class="timeline editable" ref=${list}>${newest.slice(0, shown).map(({ row, index }) => html`<${Row} key=${row.key} row=${row} index=${index}
      last=${rows.length - 1} edit=${edits} focusOn=${focusOn} />`)}</ol>
    <${More} shown=${Math.min(shown, rows.length)} total=${rows.length} noun="event" more=${() => setShown(shown + 4 * STEP)} />
  </section>`;
}

function Workbench({ events, without }) {
  const start = events.map((event, position) => ({
    item_id: event.item_id, title: event.title, key: position, removed: without.has(position),
  }));
  const edits = useEdits(start);
  const [leaveOut, setLeaveOut] = useState(true);
  const [finding, setFinding] = useState(null);
  const original = events.map((event) => event.item_id);
  const history = ids(edits.rows);
  const last = events.at(-1)?.timestamp; // edits leave the time of the last event

  const findRemoval = async (item, times) => {
    setFinding({ text: `Looking for events without which ${label(item)} leaves the list…` });
    try {
      const { explanation } = await explain(history, item.item_id, "counterfactual", times);
      if (explanation.success) {
        const places = edits.rows.map((row, place) => place).filter((place) => !edits.rows[place].removed);
        edits.removeAll(new Set(explanation.removed.map((event) => places[event.position])));
        setFinding({ text: `${label(item)} leaves the top ${explanation.k} without ${count(explanation.removed.length, "event")}.` });
      } else {
        setFinding({ text: explanation.note ?? "No such events were found." });
      }
    } catch (error) {
      setFinding({ text: error.message });
    }
  };
  return html`<p class="visually-hidden" role="status">${announcement.value}</p>
    <div class="options"><label class="check"><input type="checkbox" checked=${leaveOut} onChange=${() => setLeaveOut(!leaveOut)} />
      Do not recommend the removed items themselves</label>
      ${finding && html`<p role="status" class="finding"><bdi>${finding.text}</bdi></p>`}</div>
    <div class="columns what-if">
      <${Editor} edits=${edits} original=${original} />
      <${Lists} original=${original} history=${history} last=${last} leaveOut=${leaveOut} findRemoval=${findRemoval} />
    </div>`;
}

export function WhatIf({ id, without }) {
  document.title = `What if${id === undefined ? "" : ` · ${id}`} · ssd4rec`;
  const events = useRequest((abort) => (id === undefined ? Promise.resolve([]) : readHistory(id, abort)), `history ${id}`);
  const positions = new Set(without.split(",").filter(Boolean).map(Number));
  useEffect(() => {
    announcement.value = "";
  }, []);
  const missing = html`<${Notice} heading="This user has no events"><p>Nothing is stored for <bdi class="quoted">${id}</bdi>.</p>
    <p><a class="button" href=${to.whatIf()}>Start with an empty history</a></p><//>`;
  return html`<div class="heading"><h1><span class="eyebrow">What if</span> <bdi>${id ?? "a new user"}</bdi></h1>
      ${id !== undefined && html`<a class="button" href=${to.user(id)}>Back to the user</a>`}</div>
    <p class="lead">Change a copy of the history, and see what it does to the list. The stored events stay as they are.</p>
    <${Result} of=${events} what="The history" missing=${missing}>${(data) => html`<${Workbench} events=${data} without=${positions} />`}<//>`;
}
