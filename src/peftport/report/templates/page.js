// Start: unpack, fill the choices, draw, and make the controls work.

const MOST_FIRST_PANELS = 24;

function choices(select, words) {
  const all = element("option", { value: "" }, "all");
  select.replaceChildren(all, ...words.map((word) => element("option", { value: word }, word)));
  select.closest("label").hidden = words.length < 2;
}

function sliceControls(report) {
  const tasks = document.getElementById("slice-tasks");
  const method = document.getElementById("slice-method");
  const index = report.frames.cells.size ? (report.curveIndex ??= new CurveIndex(report.frames.cells)) : { ported: [] };
  const taskWords = [...new Set(index.ported.map(tasksOf))];
  const methods = [...new Set(index.ported.map((cell) => cell.method))].filter(Boolean);
  choices(tasks, taskWords);
  choices(method, methods);
  if (index.ported.length > MOST_FIRST_PANELS) {
    tasks.value = taskWords.length > 1 ? taskWords[0] : "";
    method.value = methods.length > 1 ? methods[0] : "";
  }
  document.getElementById("slice").hidden = taskWords.length < 2 && methods.length < 2;
  const chosen = () => ({ tasks: tasks.value, method: method.value, manyTasks: taskWords.length > 1, manyMethods: methods.length > 1 });
  for (const select of [tasks, method]) select.addEventListener("change", () => drawAll(report, chosen()));
  return chosen;
}

function themeControl() {
  const button = document.getElementById("theme");
  const dark = () => (document.documentElement.dataset.theme
    ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => { button.textContent = dark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    say();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
  say();
}

function copyControl() {
  const button = document.getElementById("copy-command");
  if (!button) return;
  button.addEventListener("click", async () => {
    const command = document.getElementById("command");
    getSelection().selectAllChildren(command);
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Selected";
    }
  });
}

function tables(report) {
  for (const place of document.querySelectorAll("[data-table]")) {
    const { table } = place.dataset;
    const make = () => {
      if (!place.firstChild) new DataTable(place, report.frames[table], report.tables[table], place.dataset.name);
    };
    const folded = place.closest("details");
    if (!folded || folded.open) make();
    else folded.addEventListener("toggle", make, { once: true });
  }
}

async function start() {
  themeControl();
  copyControl();
  const report = JSON.parse(document.getElementById("meta").textContent);
  report.frames = await unpackFrames(document.getElementById("frames").textContent);
  tables(report);
  await drawAll(report, sliceControls(report)());
}

start().catch((error) => {
  document.documentElement.dataset.loading = "failed";
  const what = typeof DecompressionStream === "undefined" ? "this browser is too old to unpack the page's data" : error.message;
  document.getElementById("broken").textContent = `Charts and tables could not be drawn: ${what}.`;
  document.getElementById("broken").hidden = false;
  throw error;
});
