// Requests to the service that served this page, and what its answers say about its state.
import { effect, signal, useEffect, useState } from "./ui.js";

/** "unknown", "ready", "no_model", "lost" or "locked" (a key is needed). */
export const service = signal("unknown");
/** Rises when the service is back: views read their data again. */
export const revision = signal(0);
export const modelVersion = signal(null);

const WAIT_MS = 1000;

export class ApiError extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

async function send(method, path, body, abort) {
  const headers = { accept: "application/json", "x-ssd4rec-page": "1" };
  if (body !== undefined) headers["content-type"] = "application/json";
  const text = body === undefined ? undefined : JSON.stringify(body);
  return fetch(path, { method, headers, body: text, signal: abort, credentials: "same-origin", cache: "no-store" });
}

async function problem(response) {
  try {
    const { code, detail } = await response.json();
    return new ApiError(response.status, code, detail);
  } catch {
    return new ApiError(response.status, "unreadable", `the service answered ${response.status}`);
  }
}

/** Ask the API; an error is an `ApiError` with the service's own words. */
export async function ask(method, path, body, abort) {
  let response;
  try {
    response = await send(method, path, body, abort);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    service.value = "lost";
    throw new ApiError(0, "lost", "the service does not answer");
  }
  if (response.ok) return response.status === 204 ? null : response.json();
  const error = await problem(response);
  if (error.status === 401) service.value = "locked";
  if (error.code === "no_model") service.value = "no_model";
  throw error;
}

/** Open a session with a key; the cookie is not readable by scripts. */
export async function unlock(key) {
  await ask("POST", "/v1/session", { key });
  service.value = "ready";
  revision.value += 1;
}

/** Ask /health/ready until a model answers. */
async function check() {
  let state = "lost";
  try {
    const response = await send("GET", "/health/ready");
    if (response.ok) {
      modelVersion.value = (await response.json()).model;
      state = "ready";
    } else if ((await problem(response)).code === "no_model") {
      state = "no_model";
    }
  } catch {
    // no answer: the state stays "lost"
  }
  if (state === "ready") {
    const before = service.value;
    service.value = "ready";
    if (before !== "unknown") revision.value += 1;
  } else {
    service.value = state;
    setTimeout(check, WAIT_MS);
  }
}

let checking = false;
effect(() => {
  const waits = ["unknown", "lost", "no_model"].includes(service.value);
  if (waits && !checking) {
    checking = true;
    setTimeout(check, service.peek() === "unknown" ? 0 : WAIT_MS);
  }
  if (!waits) checking = false;
});

/**
 * Ask when something changes; an answer that comes too late is dropped.
 * `make` takes an AbortSignal. The result has `data`, `error`, `busy` and `again()`. Old data stay until new ones come,
 * unless `subject` (what the data are about) changed.
 */
export function useRequest(make, subject, inputs = []) {
  const [state, setState] = useState({});
  const [tries, setTries] = useState(0);
  const key = JSON.stringify([subject, ...inputs, revision.value, tries]);
  useEffect(() => {
    const controller = new AbortController();
    setState((old) => ({ subject, data: old.subject === subject ? old.data : undefined, busy: true }));
    make(controller.signal).then(
      (data) => controller.signal.aborted || setState({ subject, data }),
      (error) => controller.signal.aborted || setState((old) => ({ ...old, error, busy: false })),
    );
    return () => controller.abort();
  }, [key]);
  const current = state.subject === subject ? state : { busy: true };
  return { ...current, again: () => setTries(tries + 1) };
}
