// The first view: users whose events arrived last.
import { ask, useRequest } from "../api.js";
import { to } from "../route.js";
import { count, html, Notice, Result, shortDate } from "../ui.js";

const SHOWN = 24;
const IMPORT = "ssd4rec events import FILE --store sqlite:///events.db";

function Users({ users }) {
  if (!users.length) {
    return html`<${Notice} heading="No users yet">
      <p>Post events to <code>/v1/events</code>, or import a file; without events, try <a href=${to.whatIf()}>What if</a>.</p>
      <pre>${IMPORT}</pre>
    <//>`;
  }
  return html`<p class="hint">${users.length < SHOWN ? count(users.length, "user") : `The ${SHOWN} users whose events arrived last. Search above finds any other`}.</p>
  <ul class="cards">
    ${users.map((user) => html`<li key=${user.user_id}>
      <a class="card" href=${to.user(user.user_id)}>
        <bdi class="title">${user.user_id}</bdi>
        <span class="muted">${count(user.events, "event")}${user.last_timestamp !== null && html` · last ${shortDate(user.last_timestamp)}`}</span>
      </a>
    </li>`)}
  </ul>`;
}

export function Home() {
  document.title = "Users · ssd4rec";
  const users = useRequest((signal) => ask("GET", `/v1/users?limit=${SHOWN}`, undefined, signal), "users");
  return html`<h1>Users</h1>
    <p class="lead">Choose a user to see what is recommended next, and which events carry each recommendation.</p>
    <${Result} of=${users} what="Users">${(data) => html`<${Users} users=${data.users} />`}<//>`;
}
