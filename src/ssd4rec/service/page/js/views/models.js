// Models: the versions in the folder, which one answers, and the metrics that each was saved with.
import { ask, modelVersion, revision, useRequest } from "../api.js";
import { IntervalBar, LineChart } from "../charts.js";
import { html, Notice, number, Result, useEffect, useRef, useState } from "../ui.js";

const METRICS = ["ndcg@10", "hr@10"];
const reportOf = (version, signal) =>
  ask("GET", `/v1/models/${encodeURIComponent(version)}/report`, undefined, signal).then(
    (answer) => answer.report,
    (error) => {
      if (error.status === 404) return {};
      throw error;
    },
  );

/** A question with two answers; Escape is no. */
function Confirm({ version, activate, close }) {
  const dialog = useRef(null);
  const [state, setState] = useState({});
  useEffect(() => dialog.current.showModal(), []);
  const go = async () => {
    setState({ busy: true });
    try {
      await activate(version);
      close();
    } catch (error) {
      setState({ failure: error.message });
    }
  };
  return html`<dialog ref=${dialog} aria-labelledby="confirm-heading" onClose=${close}>
    <h2 id="confirm-heading">Activate <bdi>${version}</bdi>?</h2>
    <p>It is loaded and tried first; then every process answers with it. Requests that run finish with the old model.</p>
    ${state.failure && html`<p class="failure" role="alert">The active model stays. ${state.failure}</p>`}
    <p class="dialog-buttons"><button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
      <button type="button" class="primary" disabled=${state.busy} onClick=${go}>${state.busy ? "Loading…" : "Activate"}</button></p>
  </dialog>`;
}

function Facts({ model }) {
  const facts = [
    ["Items", model.catalog_size === null ? null : number(model.catalog_size)],
    ["Reads", model.incremental === null ? null : model.incremental ? "one event at a time" : "the whole history again"],
    ["Fingerprint", model.fingerprint && html`<code>${model.fingerprint.slice(0, 12)}</code>`],
  ].filter(([, value]) => value);
  if (!facts.length) return html`<p class="hint">Not loaded: its size and fingerprint are known once it is active.</p>`;
  return html`<dl class="parts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

function Version({ model, ask: question }) {
  return html`<li class=${`panel version ${model.active ? "active" : ""}`}>
    <div class="why-item"><h3><bdi>${model.version}</bdi></h3>
      ${model.active ? html`<span class="badge good">answers</span>` : html`<button type="button" onClick=${question}>Activate</button>`}</div>
    <${Facts} model=${model} />
    ${model.error && html`<p class="failure">It could not be loaded: ${model.error}</p>`}
  </li>`;
}

function Metric({ name, versions }) {
  const rows = versions.filter(({ report }) => report.test?.[name] !== undefined).map(({ model, report }) => {
    const value = report.test[name];
    const [low, high] = report.intervals?.model?.[name] ?? [value, value];
    return { version: model.version, value, low, high, base: report.popularity?.test?.[name] };
  });
  if (!rows.length) return null;
  const largest = Math.max(...rows.map((row) => row.high));
  return html`<h3>${name.toUpperCase()}</h3><ul class="compared">${rows.map((row) => html`<li key=${row.version}><bdi class="title">${row.version}</bdi>
    <${IntervalBar} ...${row} largest=${largest} />
    <span class="score"><strong>${row.value.toFixed(4)}</strong>${row.high > row.low && ` (${row.low.toFixed(4)} to ${row.high.toFixed(4)})`}${
      row.base > 0 && html`<br />${(row.value / row.base).toFixed(1)} times the most popular items`}</span></li>`)}</ul>`;
}

function History({ versions }) {
  const trained = versions.filter(({ report }) => report.training?.history?.length > 1);
  if (!trained.length) return null;
  const series = trained.map(({ model, report }, place) => ({
    name: model.version, className: `series-${place % 4}`, points: report.training.history.map((each) => [each.epoch, each.ndcg]),
  }));
  const points = series.flatMap((each) => each.points);
  const [epochs, most] = [Math.max(...points.map(([x]) => x)), Math.max(...points.map(([, y]) => y))];
  const title = series.map((each) => `${each.name}: best validation NDCG@10 ${Math.max(...each.points.map(([, y]) => y)).toFixed(4)}`).join("; ");
  const half = Math.round((1 + epochs) / 2);
  return html`<section class="panel" aria-labelledby="training-heading"><h2 id="training-heading">Training history</h2>
    <p class="hint">Validation NDCG@10 by epoch.</p>
    <p class="legend wrap">${series.map((each) => html`<span key=${each.name} class=${`key ${each.className}`}><bdi>${each.name}</bdi></span>`)}</p>
    <${LineChart} series=${series} title=${title} x=${{ from: 1, to: epochs, ticks: [1, half, epochs].map((each) => [each, number(each)]), name: "epoch" }}
      y=${{ from: 0, to: most, ticks: [0, 0.5, 1].map((each) => [each * most, (each * most).toFixed(3)]) }} /></section>`;
}

/** The held-out metrics that each version was saved with; only those of the same data and protocol can be compared. */
function Reports({ models }) {
  const get = (signal) => Promise.all(models.map(async (model) => ({ model, report: await reportOf(model.version, signal) })));
  const reports = useRequest(get, "reports", [models.map((model) => model.version)]);
  return html`<${Result} of=${reports} what="The reports">${(versions) => {
    const measured = versions.filter(({ report }) => report.test);
    const data = new Set(measured.map(({ report }) => report.data?.fingerprint));
    if (!measured.length) return html`<${Notice} heading="No metrics"><p>These models were saved without a report of their training.</p><//>`;
    return html`<div class="columns even"><section class="panel" aria-labelledby="metrics-heading"><h2 id="metrics-heading">Held-out metrics</h2>
        <p class="hint">Of the test interactions at the end of the training, with 95% intervals where they are known.</p>
        ${data.size > 1 && html`<p class="warnings">These versions were trained on different data: their metrics are not comparable.</p>`}
        ${METRICS.map((name) => html`<${Metric} key=${name} name=${name} versions=${measured} />`)}</section>
      <${History} versions=${measured} /></div>`;
  }}<//>`;
}

function Versions({ models, again }) {
  const [question, setQuestion] = useState(null);
  const [announcement, setAnnouncement] = useState("");
  const activate = async (version) => {
    await ask("POST", `/v1/models/${encodeURIComponent(version)}/activate`);
    modelVersion.value = version;
    setAnnouncement(`${version} answers now`);
    revision.value += 1;
    again();
  };
  if (!models.length) return html`<${Notice} heading="No version yet"><p>The folder of models is empty.</p><//>`;
  return html`<p role="status" class="finding">${announcement}</p>
    <ul class="versions">${models.map((model) => html`<${Version} key=${model.version} model=${model} ask=${() => setQuestion(model.version)} />`)}</ul>
    <${Reports} models=${models} />
    ${question !== null && html`<${Confirm} version=${question} activate=${activate} close=${() => setQuestion(null)} />`}`;
}

export function Models() {
  document.title = "Models · ssd4rec";
  const models = useRequest((signal) => ask("GET", "/v1/models", undefined, signal), "models");
  const denied = html`<${Notice} heading="This key may not see the models"><p>It needs the scope <code>admin</code>.</p><//>`;
  return html`<h1>Models</h1>
    <p class="lead">The versions in the folder of models. One of them answers; the others wait.</p>
    ${models.error?.status === 403 ? denied : html`<${Result} of=${models} what="The models">${(data) => html`<${Versions} models=${data.models} again=${models.again} />`}<//>`}`;
}
