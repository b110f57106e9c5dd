// Texts of data become text nodes, never markup. One place makes elements: `made`.
const PAGE = 50;
const $ = (id) => document.getElementById(id);
const state = { first: 0, at: 0, rows: [], total: null, asked: {}, turn: 0, flags: new Set() };
let about;

function made(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") element.addEventListener("click", value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

async function told(path, words, post = false) {
  const text = JSON.stringify(words);
  const place = post ? path : `${path}?${new URLSearchParams({ q: text })}`;
  const answer = await fetch(place, post ? { method: "POST", body: text } : {});
  const content = await answer.json().catch(() => ({ error: "no answer" }));
  if (!answer.ok) throw new Error(content.error);
  return content.told;
}

function say(text, bad = false) {
  $("state").textContent = text;
  $("state").classList.toggle("bad", bad);
}

const ENDED = "prefmill view has ended: start it again.";

const failed = (error) => say(error instanceof TypeError ? ENDED : error.message, true);

// The list

function asked() {
  const filters = [...document.querySelectorAll("#filters fieldset")].map((set) =>
    [...set.querySelectorAll("select, input")].map((field) => field.value));
  const sort = $("sort").value;
  return { search: $("search").value, filters, sort, down: $("down").checked };
}

async function show(first = 0, at = 0) {
  const turn = ++state.turn;
  say("Reading …");
  try {
    const rows = await told("rows", { ...state.asked, first, count: PAGE });
    if (turn !== state.turn) return;
    Object.assign(state, { first, rows });
    list();
    await choose(Math.min(at, rows.length - 1));
    if (state.total === null) state.total = await told("count", state.asked);
    if (turn === state.turn) count();
  } catch (error) {
    if (turn === state.turn) failed(error);
  }
}

function count() {
  const { first, rows, total } = state;
  const some = rows.length ? `rows ${first + 1} to ${first + rows.length} of ` : "";
  const flagged = `${state.flags.size.toLocaleString("en")} flagged`;
  say(`${some}${(total ?? about.rows).toLocaleString("en")} rows; ${flagged}`);
  $("back").disabled = first === 0;
  $("on").disabled = first + rows.length >= (total ?? Infinity) || !rows.length;
}

function brief(value, column) {
  if (value === null) return made("td", { class: "none" }, "null");
  const kind = column.number ? { class: "number" } : { dir: "auto" };
  const short = typeof value === "number" && !Number.isInteger(value);
  const text = short ? String(Number(value.toPrecision(6))) : String(value);
  return made("td", kind, made("div", {}, text));
}

function list() {
  $("rows").replaceChildren(...state.rows.map(([row, cells], at) => {
    const name = `${state.flags.has(row) ? "⚑ " : ""}${row}`;
    const label = state.flags.has(row) ? `Row ${row}, flagged` : `Row ${row}`;
    const opens = made("button", { type: "button", "aria-label": label }, name);
    const first = made("th", { scope: "row" }, opens);
    const line = made("tr", { on: () => choose(at).catch(failed) }, first);
    line.append(...cells.map((cell, place) => brief(cell, about.columns[place])));
    return line;
  }));
}

// The row

async function choose(at, other = null) {
  state.at = at;
  for (const [place, line] of [...$("rows").children].entries()) {
    if (place === at) {
      line.setAttribute("aria-current", "true");
      line.scrollIntoView({ block: "nearest" });
    } else line.removeAttribute("aria-current");
  }
  if (at < 0) return $("row").replaceChildren(made("p", { class: "note" }, "No row is as asked."));
  const turn = state.turn, [row] = state.rows[at];
  const words = other === null ? { row } : { row, other };
  const content = await told("row", words);
  if (turn === state.turn && state.at === at) detail(content);
}

function detail(content) {
  const { row } = content;
  const flag = made("button", { type: "button", id: "flag", on: () => toggle(row) });
  const parts = [made("div", { class: "bar" }, made("h2", {}, `Row ${row}`), flag)];
  const beside = new Set(content.sides ? (about.sides ?? []) : []);
  const prompt = about.prompt;
  const order = [...about.columns].sort((a, b) => (b.name === prompt) - (a.name === prompt));
  const small = made("dl");
  for (const column of order) {
    const value = content.cells[column.shown];
    if (column.name === prompt) parts.push(...long(column, value, content), ...sides(content));
    else if (beside.has(column.name)) continue;
    else if (content.sides && column.name === about.answer) continue;
    else if (value !== null && (typeof value === "object" || String(value).length > 60))
      parts.push(...long(column, value, content));
    else small.append(
      made("dt", { class: "note" }, column.shown),
      made("dd", { dir: "auto" }, value === null ? "null" : String(value)));
  }
  if (prompt === null) parts.splice(1, 0, ...sides(content));
  if (small.children.length) parts.push(made("h2", {}, "Other columns"), small);
  $("row").replaceChildren(...parts);
  $("row").scrollTop = 0;
  mark(row);
  if (about.answer !== null && prompt !== null) answers(row).catch(failed);
}

function sides(content) {
  if (!content.sides) return [];
  const shown = content.sides.map(({ name, pieces }) => {
    const text = made("pre", { dir: "auto", tabindex: 0, role: "group", "aria-label": name });
    text.append(...pieces.map(
      ([word, piece]) => word === "only" ? made("mark", {}, piece) : piece));
    const beyond = pieces.some(([word]) => word === "beyond");
    return made("div", {}, made("h2", {}, name), text,
      ...(beyond ? [made("p", { class: "note" }, "Only the first words are compared.")] : []));
  });
  return [made("div", { class: "sides" }, ...shown)];
}

function long(column, value, content) {
  const title = made("h2", {}, column.shown);
  if (value !== null && typeof value === "object")
    return [title, value.turns ? made("div", {}, ...value.turns.map(turn)) : tree(value)];
  const kind = { dir: "auto", tabindex: 0, role: "group", "aria-label": column.shown };
  const text = made("pre", kind, value === null ? "null" : String(value));
  const more = content.more[column.shown];
  if (!more) return [title, text];
  const place = about.columns.indexOf(column);
  const button = made("button", { type: "button", on: async () => {
    text.textContent = await told("text", { row: content.row, column: place });
    button.remove();
  } }, `Show ${more.toLocaleString("en")} more characters`);
  return [title, text, button];
}

const turn = ([role, content]) =>
  made(
    "div",
    { class: "turn" },
    made("span", {}, role),
    made("pre", { dir: "auto", tabindex: 0, role: "group", "aria-label": role }, content));

function tree(value, depth = 0) {
  if (value === null || typeof value !== "object") {
    return made("span", { dir: "auto" }, String(value));
  }
  const branches = Object.entries(value).map(([name, inner]) =>
    inner !== null && typeof inner === "object"
      ? made("details", { open: depth < 2 }, made("summary", {}, name), tree(inner, depth + 1))
      : made("div", {}, made("span", { class: "note" }, `${name}: `), tree(inner, depth + 1)));
  return made("div", {}, ...branches);
}

async function answers(row) {
  const found = await told("siblings", { row });
  if (!found.length || state.rows[state.at]?.[0] !== row) return;
  const rows = found.map(({ row: other, score, text }) => made("tr", {},
    made("td", { class: "number" }, score === null ? "" : String(score)),
    made("td", { dir: "auto" }, String(text)),
    made("td", {}, made("button", { type: "button", "aria-label": `Compare with row ${other}`,
      on: () => choose(state.at, other).catch(failed) }, "Compare"))));
  $("row").append(made("h2", {}, `Other answers to this prompt (${found.length})`),
    made("table", {}, made("tbody", {}, ...rows)));
}

// Flags

function mark(row) {
  const on = state.flags.has(row);
  $("flag").setAttribute("aria-pressed", String(on));
  $("flag").textContent = on ? "Flagged (f)" : "Flag (f)";
}

async function toggle(row) {
  try {
    state.flags = new Set(await told("flag", { row, on: !state.flags.has(row) }, true));
    const back = document.activeElement?.id === "flag";
    list();
    $("rows").children[state.at]?.setAttribute("aria-current", "true");
    mark(row);
    if (back) $("flag").focus();
    count();
  } catch (error) { failed(error); }
}

// Filters and keys

function options(select, pairs) {
  select.append(...pairs.map(([value, name]) => made("option", { value }, name)));
  return select;
}

function filter() {
  const names = about.columns.map(({ name, shown }) => [name, shown]);
  const column = options(made("select", { "aria-label": "Column" }), names);
  const operator = options(
    made("select", { "aria-label": "Comparison" }), about.operators.map((word) => [word, word]));
  const set = made("fieldset", {}, column, operator, made("input", { "aria-label": "Value" }),
    made("button", { type: "button", on: () => { set.remove(); ask(); } }, "Remove"));
  $("filters").append(set);
  column.focus();
}

function ask() {
  state.asked = asked();
  state.total = null;
  return show();
}

function step(by) {
  const at = state.at + by;
  if (at >= 0 && at < state.rows.length) choose(at).catch(failed);
  else if (at < 0 && state.first > 0) show(Math.max(0, state.first - PAGE), PAGE - 1);
  else if (at >= state.rows.length && !$("on").disabled) show(state.first + PAGE);
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  n: () => $("on").click(),
  p: () => $("back").click(),
  f: () => state.rows[state.at] && toggle(state.rows[state.at][0]),
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.target.closest("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("sort").addEventListener("change", ask);
$("down").addEventListener("change", ask);
$("more").addEventListener("click", filter);
$("keys").addEventListener("click", keys["?"]);
$("back").addEventListener("click", () => show(Math.max(0, state.first - PAGE)));
$("on").addEventListener("click", () => show(state.first + PAGE));

try {
  about = await told("about", {});
  document.title = `${about.name}: prefmill view`;
  $("name").textContent = about.name;
  state.flags = new Set(about.flags);
  options($("sort"), about.columns.map(({ name, shown }) => [name, shown]));
  $("head").append(made("th", { scope: "col" }, "row"),
    ...about.columns.map(({ shown, number }) =>
      made("th", { scope: "col", class: number ? "number" : "" }, shown)));
  const use = about.excludes ? " prefmill pairs --exclude takes it." : "";
  $("kept").textContent = `Flags are kept in ${about.file}.${use}`;
  await ask();
} catch (error) { failed(error); }
