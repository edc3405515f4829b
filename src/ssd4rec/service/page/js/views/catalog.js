// The catalog: what training saw next to what is recommended; coverage, concentration, popularity bias.
import { ask, useRequest } from "../api.js";
import { LineChart, ShareBar } from "../charts.js";
import { to } from "../route.js";
import { count, date, html, Name, Notice, number, percent, Result, useState } from "../ui.js";

const QUARTERS = [[0, "0%"], [0.25, "25%"], [0.5, "50%"], [0.75, "75%"], [1, "100%"]];
const LISTS = [
  ["more", "Favored", "Their share of the recommendations exceeds their share of the training interactions most."],
  ["less", "Neglected", "People choose them; the model rarely puts them first."],
  ["tail", "Long tail", "Rare items that are recommended most. Open one to see to whom."],
];

function Legend() {
  return html`<p class="legend"><span class="key consumed">training</span><span class="key recommended">recommended</span></p>`;
}

function Numbers({ data }) {
  const { consumed, recommended } = data;
  const rows = [
    [`Items that occur, of ${number(data.catalog_size)}`, (each) => number(each.items)],
    ["Coverage", (each) => percent(each.coverage)],
    ["Gini index", (each) => each.gini.toFixed(3)],
  ];
  return html`<table class="numbers"><caption class="visually-hidden">Coverage and concentration</caption>
    <thead><tr><td></td><th scope="col">Training</th><th scope="col">Recommended</th></tr></thead>
    <tbody>${rows.map(([name, cell]) => html`<tr key=${name}><th scope="row">${name}</th><td>${cell(consumed)}</td>
      <td>${recommended ? cell(recommended) : "none"}</td></tr>`)}</tbody></table>
    <p class="hint">Gini index: 0 if every item has the same share, near 1 if one item has all.</p>`;
}

function Lorenz({ data }) {
  const { consumed, recommended } = data;
  const series = [{ name: "training", className: "consumed", points: consumed.lorenz }];
  if (recommended) series.push({ name: "recommended", className: "recommended", points: recommended.lorenz });
  const half = (each) => percent(each.lorenz.findLast(([items]) => items <= 0.5)?.[1] ?? 0);
  const title = `The rarer half of the items has ${half(consumed)} of the training interactions${
    recommended ? ` and ${half(recommended)} of the recommendations` : ""}.`;
  return html`<section class="panel" aria-labelledby="lorenz-heading"><h2 id="lorenz-heading">Lorenz curve</h2>
    <p class="hint">How much of the total the rarest items have together. The straight line would be equal shares.</p><${Legend} />
    <${LineChart} series=${series} title=${`Lorenz curves. ${title}`} diagonal x=${{ from: 0, to: 1, ticks: QUARTERS, name: "share of the items, rarest first" }}
      y=${{ from: 0, to: 1, ticks: QUARTERS }} />
    <p class="hint">${title}</p></section>`;
}

function Groups({ data }) {
  const largest = Math.max(...data.groups.flatMap((group) => [group.consumed, group.recommended]));
  const times = (group) => (group.consumed ? `${(group.recommended / group.consumed).toFixed(1)}×` : "");
  return html`<section class="panel" aria-labelledby="bias-heading"><h2 id="bias-heading">Popularity bias</h2>
    <p class="hint">Head, middle and tail hold a third of the training interactions each. Longer below than above: the model favors this group.</p>
    <${Legend} />
    <ul class="groups">${data.groups.map((group) => html`<li key=${group.name}>
      <p><strong>${group.name}</strong> <span class="muted">${count(group.items, "item")}</span> <span class="times">${data.recommended && times(group)}</span></p>
      <${ShareBar} share=${group.consumed} largest=${largest} className="consumed" /><span class="score">${percent(group.consumed)}<span class="visually-hidden"> of the training interactions</span></span>
      ${data.recommended && html`<${ShareBar} share=${group.recommended} largest=${largest} className="recommended" />
        <span class="score">${percent(group.recommended)}<span class="visually-hidden"> of the recommendations</span></span>`}
    </li>`)}</ul></section>`;
}

function Items({ data }) {
  const [shown, setShown] = useState("more");
  const [, , hint] = LISTS.find(([name]) => name === shown);
  return html`<section class="panel" aria-labelledby="items-heading"><h2 id="items-heading">Items</h2>
    <div class="segmented block" role="group" aria-label="Which items">${LISTS.map(([name, text]) => html`<button key=${name} type="button"
      aria-pressed=${shown === name ? "true" : "false"} onClick=${() => setShown(name)}>${text}</button>`)}</div>
    <p class="hint">${hint}</p>
    ${data[shown].length
      ? html`<ul class="list">${data[shown].map((item) => html`<li key=${item.item_id}><a class="row plain" href=${to.item(item.item_id)}><${Name} item=${item} />
          <span class="score">${count(item.recommended, "list")} · ${number(item.training_interactions)} in training</span></a></li>`)}</ul>`
      : html`<${Notice} heading="No such item" />`}
  </section>`;
}

function Content({ data }) {
  const drawn = data.recommended
    ? `The first ${data.k} items for ${count(data.users, "user")}, those whose events arrived last; computed ${date(data.computed_at)} UTC.`
    : "";
  return html`<p class="lead">What training saw, next to what is recommended. ${drawn}</p>
    ${!data.recommended && html`<${Notice} heading="No users yet"><p>Recommendations are compared as soon as the store has users.</p>
      <pre>ssd4rec events import FILE --store sqlite:///events.db</pre><//>`}
    <div class="columns even">
      <div class="stack"><section class="panel" aria-labelledby="coverage-heading"><h2 id="coverage-heading">Coverage</h2><${Numbers} data=${data} /></section>
        <${Lorenz} data=${data} /></div>
      <div class="stack"><${Groups} data=${data} />${data.recommended && html`<${Items} data=${data} />`}</div>
    </div>`;
}

export function Catalog() {
  document.title = "Catalog · ssd4rec";
  const catalog = useRequest((signal) => ask("GET", "/v1/catalog", undefined, signal), "catalog");
  return html`<h1>Catalog</h1><${Result} of=${catalog} what="The catalog">${(data) => html`<${Content} data=${data} />`}<//>`;
}
