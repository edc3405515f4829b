// Addresses of the views: #/users/ID, #/users/ID/items/ID, #/what-if/ID?without=3,17, #/items/ID, #/catalog, #/map?item=ID,
// #/models, #/live.
import { signal } from "./ui.js";

function parse() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["not found"];
  }
  return { parts, query: new URLSearchParams(query) };
}

export const route = signal(parse());
addEventListener("hashchange", () => {
  route.value = parse();
});

export const to = {
  home: () => "#/",
  catalog: () => "#/catalog",
  map: (item) => (item === undefined ? "#/map" : `#/map?item=${encodeURIComponent(item)}`),
  models: () => "#/models",
  live: () => "#/live",
  user: (id) => `#/users/${encodeURIComponent(id)}`,
  reasons: (id, item) => `#/users/${encodeURIComponent(id)}/items/${encodeURIComponent(item)}`,
  item: (id) => `#/items/${encodeURIComponent(id)}`,
  whatIf: (id, without = []) => {
    const query = without.length ? `?without=${without.join(",")}` : "";
    return `#/what-if${id === undefined ? "" : `/${encodeURIComponent(id)}`}${query}`;
  },
};
