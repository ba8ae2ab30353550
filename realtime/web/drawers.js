/** The page's two side columns, which on a narrow page are drawers above the conversation. */

const $ = (id) => document.getElementById(id);
const TOGGLES = { side: "toggle-side", nav: "toggle-nav" };

export function showDrawer(name, open) {
  const drawer = $(name);
  if (drawer.classList.contains("open") === open) return;
  drawer.classList.toggle("open", open);
  $("scrim").hidden = !open;
  $(TOGGLES[name]).setAttribute("aria-expanded", String(open));
  $("talk").inert = open; // what the drawer covers cannot be reached by keyboard either
  if (open) drawer.focus();
}

export function bindDrawers() {
  const isOpen = (name) => $(name).classList.contains("open");
  const close = () => { for (const name of Object.keys(TOGGLES)) showDrawer(name, false); };
  for (const [name, toggle] of Object.entries(TOGGLES)) {
    $(toggle).addEventListener("click", () => showDrawer(name, !isOpen(name)));
  }
  $("nav-close").addEventListener("click", () => { close(); $("toggle-nav").focus(); });
  $("scrim").addEventListener("click", close);
  // Wide enough, and the drawers are columns of their own again.
  matchMedia("(width > 860px)").addEventListener("change", ({ matches }) => matches && close());
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog, .menu")) return;
    for (const [name, toggle] of Object.entries(TOGGLES)) {
      if (!isOpen(name)) continue;
      showDrawer(name, false);
      $(toggle).focus();
    }
  });
}
