// A text field that suggests users and items; works by mouse and by keyboard (ARIA combobox).
import { ask } from "./api.js";
import { html, label, count, useEffect, useRef, useState } from "./ui.js";

const PAUSE_MS = 120;

export async function findItems(text, signal) {
  const { items } = await ask("GET", `/v1/items?limit=8&query=${encodeURIComponent(text)}`, undefined, signal);
  return items.map((item) => ({ ...item, kind: "item" }));
}

export async function findUsers(text, signal) {
  const { users } = await ask("GET", `/v1/users?limit=5&prefix=${encodeURIComponent(text)}`, undefined, signal);
  return users.map((user) => ({ ...user, kind: "user" }));
}

/** `find(text, signal)` gives options; `choose(option)` is called with one of them. */
export function Combobox({ id, name, hint, find, choose }) {
  const [text, setText] = useState("");
  const [options, setOptions] = useState(null); // null: closed
  const [active, setActive] = useState(0);
  const field = useRef(null);

  useEffect(() => {
    if (!text.trim()) {
      setOptions(null);
      return undefined;
    }
    const controller = new AbortController();
    const timer = setTimeout(() => {
      find(text.trim(), controller.signal).then(
        (values) => {
          setOptions(values);
          setActive(0);
        },
        (error) => controller.signal.aborted || setOptions({ error: error.message }),
      );
    }, PAUSE_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [text]);

  const list = Array.isArray(options) ? options : [];
  const open = options !== null && text.trim() !== "";
  const pick = (option) => {
    setText("");
    setOptions(null);
    choose(option);
  };
  const onKeyDown = (event) => {
    if (event.key === "Escape") {
      setOptions(null);
    } else if (event.key === "Enter" && list[active]) {
      event.preventDefault();
      pick(list[active]);
    } else if (["ArrowDown", "ArrowUp"].includes(event.key) && list.length) {
      event.preventDefault();
      setActive((active + (event.key === "ArrowDown" ? 1 : -1) + list.length) % list.length);
    }
  };
  return html`<div class="combobox">
    <label for=${id}>${name}</label>
    <input id=${id} ref=${field} type="text" autocomplete="off" spellcheck=${false} placeholder=${hint} value=${text} maxlength="512"
      role="combobox" aria-autocomplete="list" aria-expanded=${open && list.length ? "true" : "false"} aria-controls=${`${id}-options`}
      aria-activedescendant=${open && list[active] ? `${id}-${active}` : undefined}
      onInput=${(event) => setText(event.target.value)} onKeyDown=${onKeyDown} onBlur=${() => setOptions(null)} />
    <ul id=${`${id}-options`} role="listbox" aria-label=${name} hidden=${!open || !list.length}>
      ${list.map((option, index) => html`<li key=${`${option.kind} ${option.item_id ?? option.user_id}`} id=${`${id}-${index}`} role="option"
        aria-selected=${index === active ? "true" : "false"} onMouseDown=${(event) => event.preventDefault()} onClick=${() => pick(option)}>
        ${option.kind === "user"
          ? html`<span class="kind">user</span><bdi class="title">${option.user_id}</bdi><span class="id">${count(option.events, "event")}</span>`
          : html`<span class="kind">item</span><bdi class="title">${label(option)}</bdi>
            <span class="id"><bdi>${option.item_id}</bdi></span>`}
      </li>`)}
    </ul>
    ${open && !list.length && html`<p class="no-options" role="status">${options.error ?? "Nothing matches"}</p>`}
  </div>`;
}
