// An item: what is stored about it, its neighbors, and its visibility.
import { ask, useRequest } from "../api.js";
import { to } from "../route.js";
import { count, date, html, label, Name, Notice, number, Result, useState } from "../ui.js";

const NEIGHBORS = 12;
const path = (id) => `/v1/items/${encodeURIComponent(id)}`;

function available({ available_from: from, available_until: until }) {
  if (from === null && until === null) return "always";
  return [from !== null && `from ${date(from)}`, until !== null && `until ${date(until)}`].filter(Boolean).join(", ");
}

function Facts({ item }) {
  const facts = [
    ["Id", html`<bdi>${item.item_id}</bdi>`],
    ["Training interactions", item.in_catalog ? number(item.training_interactions ?? 0) : "not in the catalog of the model"],
    ["Categories", item.categories.length ? item.categories.map((each) => html`<bdi key=${each} class="badge">${each}</bdi> `) : "none"],
    ["Recommended", item.hidden ? "no, hidden" : "yes"],
    ["Available", available(item)],
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** `PUT` replaces the metadata: what the form does not show is sent as it was. */
function Edit({ item, saved }) {
  const [state, setState] = useState({});
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const categories = form.get("categories").split(",").map((each) => each.trim()).filter(Boolean);
    const { available_from, available_until } = item;
    const body = { title: form.get("title") || null, categories, hidden: form.has("hidden"), available_from, available_until };
    setState({ busy: true });
    try {
      saved(await ask("PUT", path(item.item_id), body));
      setState({ text: "Saved. The next recommendation reflects it." });
    } catch (error) {
      setState({ failure: error.status === 403 ? `Not saved: ${error.message}` : `Not saved. ${error.message}` });
    }
  };
  return html`<form class="edit" onSubmit=${submit}>
    <label for="item-title">Title</label><input id="item-title" name="title" type="text" dir="auto" maxlength="1000" value=${item.title ?? ""} />
    <label for="item-categories">Categories, separated by commas</label>
    <input id="item-categories" name="categories" type="text" dir="auto" value=${item.categories.join(", ")} />
    <label class="check"><input name="hidden" type="checkbox" checked=${item.hidden} /> Hidden: recommended to nobody</label>
    <button type="submit" class="primary" disabled=${state.busy}>Save</button>
    <p role="status" class=${state.failure ? "failure" : "muted"}>${state.failure ?? state.text ?? ""}</p>
  </form>`;
}

function Neighbors({ id }) {
  const similar = useRequest((signal) => ask("GET", `${path(id)}/similar?k=${NEIGHBORS}`, undefined, signal), `similar ${id}`);
  const missing = html`<${Notice} heading="No neighbors"><p>The item is not in the catalog of the model: it has no vector.</p><//>`;
  return html`<${Result} of=${similar} what="The neighbors" missing=${missing}>${({ items }) => html`<ol class="list">
    ${items.map((item) => html`<li key=${item.item_id}><a class="row" href=${to.item(item.item_id)}>
      <span class="rank">${item.rank}</span><${Name} item=${item} /><span class="score">${item.score.toFixed(2)}</span></a></li>`)}
  </ol>`}<//>`;
}

function reach(reached, sampled, k) {
  if (!sampled) return "The store has no users yet.";
  const whom = `the ${count(sampled, "user")} whose events arrived last`;
  return reached ? `In the first ${k} items of ${number(reached)} of ${whom}.` : `Not in the first ${k} items of any of ${whom}.`;
}

function Audience({ id }) {
  const audience = useRequest((signal) => ask("GET", `${path(id)}/audience?k=${NEIGHBORS}`, undefined, signal), `audience ${id}`);
  const missing = html`<${Notice} heading="Nobody"><p>The item is not in the catalog of the model.</p><//>`;
  return html`<${Result} of=${audience} what="The audience" missing=${missing}>${({ users, reached, sampled_users: sampled, k }) => html`
    <p class="hint">${reach(reached, sampled, k)}${users.length > 0 && " Best ranks first."}</p>
    ${users.length > 0 && html`<ol class="list">${users.map((user) => html`<li key=${user.user_id}><a class="row plain" href=${to.reasons(user.user_id, id)}>
      <span class="name"><bdi class="title">${user.user_id}</bdi> <span class="id">${count(user.events, "event")}</span></span>
      <span class="score">rank ${number(user.rank)}</span></a></li>`)}</ol>`}
    ${sampled > 0 && !users.length && html`<${Notice} heading="Nobody"><p>It is hidden, without training interactions, or in every history.</p><//>`}`}<//>`;
}

export function Item({ id }) {
  const [saved, setSaved] = useState(null);
  const request = useRequest((signal) => ask("GET", path(id), undefined, signal), `item ${id}`);
  const item = saved ?? request.data;
  document.title = `${item ? label(item) : id} · ssd4rec`;
  const missing = html`<${Notice} heading="This item is unknown">
    <p>The catalog of the model does not contain <bdi class="quoted">${id}</bdi>, and no title or category is stored for it.
      If events name it, a model that is trained on them will know it.</p><p><a class="button" href=${to.home()}>All users</a></p><//>`;
  return html`<${Result} of=${{ ...request, data: item }} what="The item" missing=${missing}>${(data) => html`
    <div class="heading"><h1><span class="eyebrow">Item</span> <bdi>${label(data)}</bdi></h1>
      ${data.in_catalog && html`<a class="button" href=${to.map(id)}>Show on the map</a>`}</div>
    <div class="columns even">
      <div class="stack">
        <section class="panel" aria-labelledby="facts-heading"><h2 id="facts-heading">Metadata</h2>
          <${Facts} item=${data} /><details><summary>Edit</summary><${Edit} item=${data} saved=${setSaved} /></details></section>
        <section class="panel" aria-labelledby="audience-heading"><h2 id="audience-heading">Who gets it</h2><${Audience} id=${id} /></section>
      </div>
      <section class="panel" aria-labelledby="neighbors-heading"><h2 id="neighbors-heading">Neighbors</h2>
        <p class="hint">Items whose vectors are nearest, by cosine.</p><${Neighbors} id=${id} /></section>
    </div>`}<//>`;
}
