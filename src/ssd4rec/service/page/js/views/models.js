// Models: the versions in the folder, which one answers, their metrics when they were saved and on live traffic, and experiments.
import { ask, modelVersion, revision, useRequest } from "../api.js";
import { IntervalBar, LineChart } from "../charts.js";
import { clock, count, date, html, Notice, number, percent, Result, signed, useEffect, useId, useRef, useState } from "../ui.js";

const METRICS = ["ndcg@10", "hr@10"];
const path = (version) => `/v1/models/${encodeURIComponent(version)}`;

/** What a route answers; null if the version has no such thing. */
async function optional(route, signal) {
  try {
    return await ask("GET", route, undefined, signal);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** A question with two answers; Escape is no. */
function Confirm({ version, activate, close }) {
  const dialog = useRef(null);
  const [state, setState] = useState({});
  useEffect(() => dialog.current.showModal(), []);
  const go = async (force) => {
    setState({ busy: true });
    try {
      await activate(version, force);
      close();
    } catch (error) {
      const refused = error.code === "gate_failed"; // its message says itself that the active version stays
      setState({ failure: refused ? error.message : `The active model stays. ${error.message}`, refused });
    }
  };
  return html`<dialog ref=${dialog} aria-labelledby="confirm-heading" onClose=${close}>
    <h2 id="confirm-heading">Activate <bdi>${version}</bdi>?</h2>
    <p>It is loaded and tried first; then every process answers with it. Requests that run finish with the old model.</p>
    ${state.failure && html`<p class="failure" role="alert">${state.failure}</p>`}
    <p class="dialog-buttons"><button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
      ${state.refused
        ? html`<button type="button" disabled=${state.busy} onClick=${() => go(true)}>Activate all the same</button>`
        : html`<button type="button" class="primary" disabled=${state.busy} onClick=${() => go(false)}>${state.busy ? "Loading…" : "Activate"}</button>`}</p>
  </dialog>`;
}

function Facts({ model }) {
  const { live } = model; // of the last hours, where the service measures live traffic
  const facts = [
    ["Items", model.catalog_size === null ? null : number(model.catalog_size)],
    ["Reads", model.incremental === null ? null : model.incremental ? "one event at a time" : "the whole history again"],
    ["Live NDCG@10", live?.ndcg != null && `${live.ndcg.toFixed(4)} of ${count(live.ranked_events, "event")}`],
    ["Unknown items", live?.unknown_share != null && percent(live.unknown_share)],
    ["Popular answers", live?.popular_share != null && percent(live.popular_share)],
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
    ${model.checks?.length > 0 && html`<ul class="checks">${model.checks.map((check) => html`<li key=${check.name} class=${check.passed ? "passed" : "failed"}>
      <strong>${check.passed ? "passed" : "failed"}</strong> ${check.name}: ${check.detail}</li>`)}</ul>`}
  </li>`;
}

function Metric({ name, versions }) {
  const rows = versions.filter(({ report }) => report.test?.[name] !== undefined).map(({ model, report }) => {
    const value = report.test[name];
    const interval = report.intervals?.model?.[name];
    const [low, high] = interval ?? [0, value];
    return { version: model.version, value, interval, low, high, base: report.popularity?.test?.[name] };
  });
  if (!rows.length) return null;
  const largest = Math.max(...rows.map((row) => row.high));
  return html`<h3>${name.toUpperCase()}</h3><ul class="compared">${rows.map((row) => html`<li key=${row.version}><bdi class="title">${row.version}</bdi>
    <${IntervalBar} ...${row} to=${largest} />
    <span class="score"><strong>${row.value.toFixed(4)}</strong>${row.interval && ` (${row.low.toFixed(4)} to ${row.high.toFixed(4)})`}${
      row.base > 0 && html`<br />${(row.value / row.base).toFixed(1)} times the most popular items`}</span></li>`)}</ul>`;
}

/** Lines of several versions over one axis. `lines`: [{ version, points }]; `text` names a value of the x axis. */
function Lines({ heading, hint, lines, xName, text }) {
  const id = useId();
  const series = lines.map(({ version, points }, place) => ({ name: version, className: `series-${place % 4}`, points }));
  const points = series.flatMap((each) => each.points);
  const [first, last] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  const most = Math.max(...points.map(([, y]) => y)) || 1;
  const title = series.map((each) => `${each.name}: at most ${Math.max(...each.points.map(([, y]) => y)).toFixed(4)}`).join("; ");
  const ticks = [...new Set([first, Math.round((first + last) / 2), last])].map((each) => [each, text(each)]);
  return html`<section class="panel" aria-labelledby=${id}><h2 id=${id}>${heading}</h2><p class="hint">${hint}</p>
    <p class="legend wrap">${series.map((each) => html`<span key=${each.name} class=${`key ${each.className}`}><bdi>${each.name}</bdi></span>`)}</p>
    <${LineChart} series=${series} title=${`${heading}. ${title}`} x=${{ from: first, to: last, ticks, name: xName }}
      y=${{ from: 0, to: most, ticks: [0, 0.5, 1].map((each) => [each * most, (each * most).toFixed(3)]) }} /></section>`;
}

function History({ versions }) {
  const lines = versions.filter(({ report }) => report.training?.history?.length > 1)
    .map(({ model, report }) => ({ version: model.version, points: report.training.history.map((each) => [each.epoch, each.ndcg]) }));
  return lines.length > 0 && html`<${Lines} heading="Training history" hint="Validation NDCG@10 by epoch." lines=${lines} xName="epoch" text=${number} />`;
}

/** Prequential metrics: each event of live traffic was ranked before it was read. */
function LiveHistory({ models }) {
  const loaded = models.filter((model) => model.loaded);
  const get = (signal) => Promise.all(loaded.map(async ({ version }) => ({ version, answer: await optional(`${path(version)}/live?hours=24`, signal) })));
  const live = useRequest(get, "live", [loaded.map((model) => model.version)]);
  const lines = (live.data ?? []).map(({ version, answer }) => ({
    version, points: (answer?.points ?? []).filter((point) => point.ndcg != null).map((point) => [point.at, point.ndcg]),
  })).filter((line) => line.points.length);
  if (!lines.length) return null;
  const hint = "Each event of the last 24 hours was ranked before the model read it; five minutes a point.";
  return html`<${Lines} heading="Live NDCG@10" hint=${hint} lines=${lines} xName="time" text=${clock} />`;
}

function Difference({ name, value, interval, text }) {
  const most = Math.max(...interval.map(Math.abs)) * 1.1 || 1;
  return html`<li><span class="title">${name}</span><${IntervalBar} value=${value} low=${interval[0]} high=${interval[1]} from=${-most} to=${most} />
    <span class="score">${text}</span></li>`;
}

function Arm({ arm }) {
  const [low, high] = arm.hit_rate_interval;
  const rate = arm.followed ? arm.hits / arm.followed : 0;
  return html`<li><span class="title">${arm.arm}</span><${IntervalBar} value=${rate} low=${low} high=${high} to=${1} />
    <span class="score">${count(arm.answers, "answer")} to ${count(arm.users, "user")}; the next event was a hit in
      <strong> ${percent(rate)}</strong> (${percent(low)} to ${percent(high)}) of ${number(arm.followed)}</span></li>`;
}

function Experiment({ experiment }) {
  const { prequential: paired, interleaving: wins, click_through_difference: clicks } = experiment;
  const range = ([low, high]) => `${signed(low)} to ${signed(high)}`;
  const share = wins && wins.treatment_wins / Math.max(1, wins.treatment_wins + wins.control_wins);
  return html`<li class="panel"><div class="why-item"><h3><bdi>${experiment.name}</bdi></h3>
      <span class=${`badge ${experiment.ended === null ? "good" : ""}`}>${experiment.ended === null ? "running" : `ended ${date(experiment.ended)}`}</span></div>
    <p class="hint">${experiment.kind}: <bdi>${experiment.treatment}</bdi> against <bdi>${experiment.control}</bdi>, ${percent(experiment.share)} of the users, since ${date(experiment.started)}.</p>
    <ul class="compared">${experiment.arms.map((arm) => html`<${Arm} key=${arm.arm} arm=${arm} />`)}
      ${paired.interval && html`<${Difference} name="NDCG@10, treatment minus control" value=${paired.difference} interval=${paired.interval}
        text=${`${signed(paired.difference)} (${range(paired.interval)}) over ${count(paired.ranked_events, "event")}, p = ${paired.p_value.toFixed(3)}`} />`}
      ${clicks && html`<${Difference} name="Click-through, treatment minus control" value=${(clicks[0] + clicks[1]) / 2} interval=${clicks} text=${range(clicks)} />`}
      ${wins && html`<li><span class="title">Lists won by the treatment</span><${IntervalBar} value=${share} low=${wins.treatment_share_interval[0]} high=${wins.treatment_share_interval[1]} to=${1} />
        <span class="score">${number(wins.treatment_wins)} of ${number(wins.treatment_wins + wins.control_wins)}; ${number(wins.ties)} ties</span></li>`}
    </ul>
    ${!experiment.arms.length && !paired.interval && html`<p class="hint">Nothing is measured yet.</p>`}</li>`;
}

function Experiments() {
  const experiments = useRequest((signal) => optional("/v1/experiments", signal), "experiments");
  if (!experiments.data?.experiments.length) return null;
  return html`<section aria-labelledby="experiments-heading"><h2 id="experiments-heading">Experiments</h2>
    <p class="hint">With 95% intervals.</p><ul class="versions">${experiments.data.experiments.map((each) => html`<${Experiment} key=${each.name} experiment=${each} />`)}</ul></section>`;
}

/** The held-out metrics that each version was saved with; only those of the same data and protocol can be compared. */
function Reports({ models }) {
  const get = (signal) => Promise.all(models.map(async (model) => ({ model, report: (await optional(`${path(model.version)}/report`, signal))?.report ?? {} })));
  const reports = useRequest(get, "reports", [models.map((model) => model.version)]);
  return html`<${Result} of=${reports} what="The reports">${(versions) => {
    const measured = versions.filter(({ report }) => report.test);
    const data = new Set(measured.map(({ report }) => report.data?.fingerprint));
    return html`<div class="columns even"><section class="panel" aria-labelledby="metrics-heading"><h2 id="metrics-heading">Held-out metrics</h2>
        <p class="hint">Of the test interactions at the end of the training, with 95% intervals where they are known.</p>
        ${data.size > 1 && html`<p class="warnings">These versions were trained on different data: their metrics are not comparable.</p>`}
        ${!measured.length && html`<${Notice} heading="No metrics"><p>These versions were saved without a report of their training.</p><//>`}
        ${METRICS.map((name) => html`<${Metric} key=${name} name=${name} versions=${measured} />`)}</section>
      <div class="stack"><${LiveHistory} models=${models} /><${History} versions=${measured} /></div></div>`;
  }}<//>`;
}

function Versions({ models, again }) {
  const [question, setQuestion] = useState(null);
  const [announcement, setAnnouncement] = useState("");
  const activate = async (version, force) => {
    await ask("POST", `${path(version)}/activate${force ? "?force=true" : ""}`);
    modelVersion.value = version;
    setAnnouncement(`${version} answers now`);
    revision.value += 1;
    again();
  };
  if (!models.length) return html`<${Notice} heading="No version yet"><p>The folder of models is empty.</p><//>`;
  return html`<p role="status" class="finding">${announcement}</p>
    <h2>Versions</h2>
    <ul class="versions">${models.map((model) => html`<${Version} key=${model.version} model=${model} ask=${() => setQuestion(model.version)} />`)}</ul>
    <${Reports} models=${models} /><${Experiments} />
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
