// The frame of the page: header, navigation, the view that the address names, and the states of the service.
import { modelVersion, service, unlock } from "./api.js";
import { route, to } from "./route.js";
import { Combobox, findItems, findUsers } from "./search.js";
import { theme, toggleTheme } from "./theme.js";
import { html, Loading, Notice, render, useEffect, useRef, useState } from "./ui.js";
import { Catalog } from "./views/catalog.js";
import { Home } from "./views/home.js";
import { Item } from "./views/item.js";
import { Live } from "./views/live.js";
import { ItemMap } from "./views/map.js";
import { Models } from "./views/models.js";
import { User } from "./views/user.js";
import { WhatIf } from "./views/what-if.js";

const SUN = html`<svg viewBox="0 0 24 24" aria-hidden="true"><circle cx="12" cy="12" r="4.5" /><path d="M12 2v3M12 19v3M2 12h3M19 12h3M5 5l2 2M17 17l2 2M5 19l2-2M17 7l2-2" /></svg>`;
const MOON = html`<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z" /></svg>`;

async function findAll(text, signal) {
  const [users, items] = await Promise.all([findUsers(text, signal), findItems(text, signal)]);
  return [...users, ...items];
}

const open = (option) => {
  location.hash = option.kind === "user" ? to.user(option.user_id) : to.item(option.item_id);
};

function Header() {
  const [first] = route.value.parts;
  const current = (name) => (first === name || (!first && name === "users") ? "page" : undefined);
  const link = (name, href, text) => html`<a href=${href} aria-current=${current(name)}>${text}</a>`;
  return html`<header class="top">
    <a class="brand" href=${to.home()}><img src="icon.svg" alt="" width="24" height="24" />ssd4rec</a>
    <nav aria-label="Views">
      ${link("users", to.home(), "Users")}${link("what-if", to.whatIf(), "What if")}${link("catalog", to.catalog(), "Catalog")}
      ${link("map", to.map(), "Map")}${link("models", to.models(), "Models")}${link("live", to.live(), "Live")}
    </nav>
    <${Combobox} id="search" name="Search users and items" hint="User id, item id or title" find=${findAll} choose=${open} />
    <button type="button" class="theme" onClick=${toggleTheme} aria-label=${theme() === "dark" ? "Use light colors" : "Use dark colors"}>
      ${theme() === "dark" ? SUN : MOON}
    </button>
  </header>`;
}

function KeyForm() {
  const [failure, setFailure] = useState(null);
  const submit = (event) => {
    event.preventDefault();
    unlock(new FormData(event.target).get("key")).catch((error) => setFailure(error.message));
  };
  return html`<section class="panel narrow">
    <h1>This service needs a key</h1>
    <p>Create one with the scope <code>read</code>, or <code>admin</code> to edit items, and paste it here.</p>
    <pre>ssd4rec keys create --help</pre>
    <form onSubmit=${submit}>
      <label for="key">Key</label>
      <input id="key" name="key" type="password" autocomplete="off" required maxlength="200" />
      <button type="submit" class="primary">Open</button>
    </form>
    ${failure && html`<p class="failure" role="alert">${failure}</p>`}
  </section>`;
}

function NoModel() {
  return html`<section class="panel narrow">
    <h1>No model yet</h1>
    <p>The service runs, and stores events, but its folder of models is empty. Train one, and this page continues by itself.</p>
    <pre>ssd4rec train interactions.csv --out models/first</pre>
  </section>`;
}

function NotFound() {
  return html`<${Notice} heading="This address has no view"><p><a href=${to.home()}>All users</a></p><//>`;
}

const SINGLE = { catalog: Catalog, map: ItemMap, models: Models, live: Live };

function View() {
  const { parts, query } = route.value;
  const [name, id, level, item] = parts;
  if (!name || (name === "users" && parts.length === 1)) return html`<${Home} />`;
  if (name === "users" && (parts.length === 2 || (parts.length === 4 && level === "items"))) {
    return html`<${User} key=${id} id=${id} selected=${item} />`;
  }
  if (name === "what-if" && parts.length <= 2) {
    return html`<${WhatIf} key=${location.hash} id=${id} without=${query.get("without") ?? ""} />`;
  }
  if (name === "items" && parts.length === 2) return html`<${Item} key=${id} id=${id} />`;
  if (SINGLE[name] && parts.length === 1) return html`<${SINGLE[name]} key=${location.hash} query=${query} />`;
  return html`<${NotFound} />`;
}

function Main() {
  const main = useRef(null);
  const address = JSON.stringify(route.value.parts.slice(0, 2));
  const first = useRef(true);
  useEffect(() => {
    if (!first.current) {
      main.current.focus({ preventScroll: true }); // a new view: the keyboard and the screen reader start at its beginning
      scrollTo(0, 0);
    }
    first.current = false;
  }, [address]);
  const [seen, setSeen] = useState(false); // the service was ready once: a restart does not take the view away
  useEffect(() => {
    if (service.value === "ready") setSeen(true);
  }, [service.value]);
  const state = service.value;
  let content = html`<${View} />`;
  if (state === "locked") content = html`<${KeyForm} />`;
  else if (state === "no_model") content = html`<${NoModel} />`;
  else if (state === "unknown") content = html`<${Loading} what="the service" />`;
  else if (state === "lost" && !seen) content = null;
  return html`<main id="main" ref=${main} tabindex="-1">
    ${state === "lost" && html`<${Notice} kind="waiting" heading="The service does not answer">
      <p>It may be restarting. This page tries again every second, and continues by itself.</p>
    <//>`}
    ${content}
  </main>`;
}

function skip(event) {
  event.preventDefault(); // an address with #main would be one of a view
  document.getElementById("main").focus();
}

function App() {
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <${Header} />
    <${Main} />
    <footer>${modelVersion.value && html`Model <bdi>${modelVersion.value}</bdi> · `}<a href="openapi.json">API description</a></footer>`;
}

render(html`<${App} />`, document.getElementById("app"));
