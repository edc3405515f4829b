// Light or dark: what the system says, unless the reader chose.
import { effect, signal } from "./ui.js";

const dark = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem("ssd4rec-theme");
  } catch {
    return null; // storage is blocked: the choice lasts until the page is closed
  }
}

const chosen = signal(stored());
const system = signal(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => {
  system.value = dark.matches ? "dark" : "light";
});
export const theme = () => chosen.value ?? system.value;

export function toggleTheme() {
  chosen.value = theme() === "dark" ? "light" : "dark";
  try {
    localStorage.setItem("ssd4rec-theme", chosen.value);
  } catch {
    // see stored()
  }
}

effect(() => {
  document.documentElement.dataset.theme = theme();
});
