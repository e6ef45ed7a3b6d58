// Shows what /status/events sends. Nothing here decides whether a service is healthy: the gateway does.

const MINUTES = 60;
const STALE_SECONDS = 10; // samples come every two seconds
const SILENT_SECONDS = 8;
const LONGEST_PAUSE_MS = 10000;
const SOURCES = ["engine", "lmcache", "computed"];
const SERVICE_WORDS = { healthy: "Healthy", late: "Slow", unhealthy: "Unhealthy", down: "Down", "": "Not checked yet" };
const SERVICE_SIGNS = { healthy: "good", late: "warn", unhealthy: "bad", down: "bad" };
const CACHE_WORDS = { warm: "Warm", warming: "Warming", cold: "Cold", elsewhere: "Other replica", unknown: "Unknown" };
const CACHE_SIGNS = { warm: "good", warming: "warn", cold: "bad" };
const CONSEQUENCES = [
  ["Caddy", "Clients cannot reach this host."],
  ["Key service", "Requests from clients are refused with status 503."],
  ["vLLM", "No request is answered."],
  ["LMCache", "Requests are answered. The engine recomputes what is no longer in its own prefix cache."],
  ["Watcher", "Requests are answered with the last packs. Saves are not noticed."],
  ["GPU metrics", "Requests are answered. GPU utilization, memory and errors are unknown."],
];

const LOGGED_OUT = "Your key is no longer valid, or you are signed out. Reload the page.";

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const hour = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

let status = null; // what came last
let received = 0; // when, by performance.now()
let minute = null; // the chosen one of the chart; null for the whole hour
let lost = ""; // why no status arrives; empty while it does

// --- Words ---------------------------------------------------------------------------------------

const known = (value) => value !== null && value !== undefined;
const share = (value) => (known(value) ? `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %` : "–");
const whole = (value) => (known(value) ? count.format(value) : "–");
const time = (at) => clock.format(new Date(at * 1000));

function seconds(value) {
  if (!known(value)) return "–";
  if (value < 0.0995) return `${Math.max(1, Math.round(value * 1000))} ms`;
  if (value < 9.95) return `${value.toFixed(2)} s`;
  return value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} min`;
}

function ago(age) {
  if (age < 1.5) return "now";
  if (age < 90) return `${Math.round(age)} s ago`;
  if (age < 5400) return `${Math.round(age / 60)} min ago`;
  return age < 172800 ? `${Math.round(age / 3600)} h ago` : `${Math.round(age / 86400)} days ago`;
}

function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${value < 9.95 && unit > 0 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** Seconds since a unix time by the host's clock, whatever this machine's clock says. */
const ageOf = (at) => status.at - at + (performance.now() - received) / 1000;

// --- The document --------------------------------------------------------------------------------

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Keep one child for each item, made once and filled anew each time. */
function keep(parent, items, make, fill) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  while (parent.children.length < items.length) parent.append(make());
  items.forEach((item, place) => fill(parent.children[place], item));
}

// --- What is shown -------------------------------------------------------------------------------

function show() {
  document.body.dataset.state = "shown";
  document.title = status.healthy && !lost ? `infbox ${status.host}` : `! infbox ${status.host}`;
  write(byId("host"), status.host);
  byId("sign-out").hidden = !status.sign_in;
  showServed();
  showWorkspaces();
  showChart();
  showLegend();
  keep(byId("services"), status.services, makeService, fillService);
  showFirstTokens();
  showStorage();
  showGpus();
  showAges();
}

function showServed() {
  const { served } = status;
  const isThere = status.services.some((service) => service.name === "vLLM" && ["healthy", "late"].includes(service.state));
  const engine = isThere ? status.engine : {};
  write(byId("model"), served.model);
  write(byId("preset"), served.preset ?? "none");
  write(byId("engine"), served.engine ?? "vLLM");
  write(byId("context"), whole(served.max_model_len));
  write(byId("running"), whole(engine.running));
  write(byId("queued"), whole(engine.waiting));
  write(byId("kv"), share(engine.kv_usage));
  write(byId("kv-tokens"), capacity(status.kv));
  keep(byId("notes"), status.kv.notes, () => element("li", { class: "notice" }), write);
}

/** The size of the KV cache beside the planned one, as far as they are known. */
function capacity({ tokens, planned_tokens: planned }) {
  if (known(tokens)) return `of ${short.format(tokens)} tokens${known(planned) ? `, ${short.format(planned)} planned` : ""}`;
  return known(planned) ? `${short.format(planned)} tokens planned` : "";
}

function verdict() {
  if (lost) {
    const shown = status ? ` The data below is from ${time(status.at)}, ${ago(ageOf(status.at))}.` : "";
    return ["bad", "No connection", `${lost}${shown} Retrying.`];
  }
  const names = status.services.filter((service) => ["unhealthy", "down"].includes(service.state)).map((service) => service.name);
  const late = status.services.filter((service) => service.state === "late").map((service) => service.name);
  const cold = status.workspaces.filter((one) => one.state === "cold").map((one) => one.name);
  if (names.length) return ["bad", `${list(names)} ${names.length > 1 ? "are" : "is"} unhealthy`, consequence(names)];
  if (cold.length) return ["warn", `${list(cold)} ${cold.length > 1 ? "are" : "is"} not warm`, "A request to such a workspace waits until the engine has computed the pack."];
  if (late.length) return ["warn", `${list(late)} ${late.length > 1 ? "are" : "is"} slow to respond`, "A busy engine can cause this for a few seconds."];
  return ["good", "All services are healthy", "Every service responds, and every workspace is served from the cache."];
}

const list = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

/** What the most serious of these failures means for a client. */
function consequence(names) {
  return CONSEQUENCES.find(([name]) => names.includes(name))?.[1] ?? "";
}

function showAges() {
  if (!status && !lost) return;
  const [sign, words, more] = verdict();
  mark(byId("verdict-sign"), "data-state", sign);
  write(byId("verdict"), words);
  write(byId("verdict-more"), more);
  byId("what-to-do").hidden = lost || !status.services.some((service) => service.look);
  if (!status) return;
  stale("workspaces", status.workspaces[0]?.at);
  stale("cache", status.engine.at);
  write(byId("storage-age"), isStale(status.stores.at) ? `LMCache ${asOf(status.stores.at)}` : "");
  stale("gpus", status.gpus?.at);
  byId("workspaces").querySelectorAll("[data-saved]").forEach((cell) => {
    write(cell, cell.dataset.saved ? ago(ageOf(Number(cell.dataset.saved))) : "–");
  });
}

/** Mark a section whose source has not answered for a while with the age of what it shows. */
function stale(name, at) {
  mark(byId(`${name}-section`), "data-stale", isStale(at) ? "yes" : "no");
  write(byId(`${name}-age`), isStale(at) ? asOf(at) : "");
}

const isStale = (at) => known(at) && ageOf(at) > STALE_SECONDS;
const asOf = (at) => `as of ${time(at)}, ${ago(ageOf(at))}`;

const trouble = (one) => (known(one.unhealthy_since) ? `since ${when(one.unhealthy_since)}: ${one.error}` : one.error);

function showWorkspaces() {
  byId("no-workspaces").hidden = status.workspaces.length > 0;
  const rows = status.workspaces.flatMap((one) => (one.error ? [{ one }, { one, trouble: trouble(one) }] : [{ one }]));
  keep(byId("workspaces"), rows, () => element("tr", { role: "row" }), fillRow);
}

function fillRow(row, { one, trouble }) {
  const kind = trouble ? "trouble" : "workspace";
  if (row.className !== kind) {
    row.className = kind;
    row.replaceChildren(...(trouble ? [element("td", { role: "cell", class: "error wide", colspan: "8" })] : cells()));
  }
  if (trouble) return write(row.firstElementChild, trouble);
  const [name, state, files, tokens, saved, warm, again, talks] = row.children;
  write(name.firstChild, one.name);
  write(name.lastChild, `${status.served.model}@${one.name}`);
  write(state.firstChild, CACHE_WORDS[one.state]);
  mark(state.firstChild, "data-state", CACHE_SIGNS[one.state] ?? "");
  write(files.firstChild, whole(one.files));
  write(tokens.firstChild, whole(one.tokens));
  const shared = one.base ? `, ${count.format(one.shared_tokens)} shared with ${one.base}` : "";
  write(tokens.lastChild, `of ${count.format(one.budget)}${shared}`);
  mark(saved.firstChild, "data-saved", known(one.last_save) ? String(one.last_save) : "");
  write(warm.firstChild, seconds(one.save_to_warm_seconds));
  write(again.firstChild, one.saves ? share(one.recomputed_share) : "–");
  write(again.lastChild, one.saves === 1 ? "1 save" : `${count.format(one.saves)} saves`);
  write(talks.firstChild, whole(one.conversations.count));
  const cached = one.conversations.cached_median;
  write(talks.lastChild, known(cached) ? `${share(cached)} cached` : "");
}

function cells() {
  const two = () => [element("span"), element("small")];
  const number = (label, ...inside) => element("td", { role: "cell", class: "number", "data-label": label }, ...inside);
  return [
    element("th", { role: "rowheader", scope: "row" }, ...two()),
    element("td", { role: "cell", class: "state" }, element("span", { class: "mark" })),
    number("Files", element("span")),
    number("Tokens", ...two()),
    number("Last save", element("span", { "data-saved": "" })),
    number("Save to warm", element("span")),
    number("Recomputed", ...two()),
    number("Conversations", ...two()),
  ];
}

function makeService() {
  const row = element("div", { class: "row" }, element("span", { class: "name" }), element("span", { class: "since" }), element("span", { class: "mark" }));
  const help = element("div", { class: "help" }, element("p"), element("dl", {}, element("dt"), element("dd", {}, element("code")), element("dt"), element("dd", {}, element("code"))));
  help.querySelectorAll("dt").forEach((term, place) => write(term, ["Inspect", "Fix"][place]));
  help.hidden = true;
  return element("li", {}, row, help);
}

function fillService(item, service) {
  const [row, help] = item.children;
  const [name, since, state] = row.children;
  const sign = SERVICE_SIGNS[service.state] ?? "";
  write(name, service.name);
  write(since, known(service.since) ? `since ${when(service.since)}` : "");
  write(state, SERVICE_WORDS[service.state]);
  mark(state, "data-state", sign);
  help.hidden = !service.look;
  if (!service.look) return;
  mark(help, "data-state", sign);
  const seen = known(service.seen) ? ` Last healthy: ${when(service.seen)}.` : "";
  write(help.firstElementChild, service.detail + seen);
  const [look, see] = help.querySelectorAll("code");
  write(look, service.look);
  write(see, service.see);
}

const when = (at) => (ageOf(at) < 72000 ? hour : new Intl.DateTimeFormat([], { month: "short", day: "numeric" })).format(new Date(at * 1000));

// --- The chart -----------------------------------------------------------------------------------

const total = (values) => values.reduce((sum, value) => sum + value, 0);

/** The least round number that is no smaller. */
function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

function rectangle(kind, place, y, height) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ class: kind, x: place * 10 + 1, y, width: 8, height })) node.setAttribute(name, value);
  return node;
}

function showChart() {
  const { minutes } = status.cache;
  const top = ceiling(Math.max(...minutes.map((one) => (one ? total(one) : 0)), 100));
  write(byId("chart-top"), `${short.format(top)} tokens a minute`);
  const bars = [];
  minutes.forEach((one, place) => {
    if (!one) return bars.push(rectangle("unknown", place, 116, 4));
    let y = 120;
    one.forEach((tokens, source) => {
      const height = (tokens / top) * 119;
      y -= height;
      if (height > 0) bars.push(rectangle(SOURCES[source], place, y, height));
    });
  });
  if (minute !== null) bars.push(rectangle("cursor", minute, 0, 120));
  byId("chart").replaceChildren(...bars);
}

function showLegend() {
  const of = minute === null ? status.cache.tokens : status.cache.minutes[minute];
  const at = status.at - (MINUTES - 1 - (minute ?? 0)) * 60;
  const sum = of ? total(of) : 0;
  write(byId("legend-when"), minute === null ? "Last hour" : hour.format(new Date(at * 1000)));
  SOURCES.forEach((source, place) => {
    write(byId(`share-${source}`), sum ? share(of[place] / sum) : "–");
    write(byId(`tokens-${source}`), of ? short.format(of[place]) : "unknown");
  });
  const said = of ? SOURCES.map((source, place) => `${source} ${sum ? share(of[place] / sum) : "0 %"}`).join(", ") : "unknown";
  mark(byId("minute"), "aria-valuetext", minute === null ? "Last hour" : `${hour.format(new Date(at * 1000))}: ${count.format(sum)} tokens, ${said}`);
}

function choose(place) {
  if (place === minute) return;
  minute = place;
  if (place !== null) byId("minute").value = String(place);
  if (status) {
    showChart();
    showLegend();
  }
}

function listenToChart() {
  const input = byId("minute");
  const at = (event) => Math.min(MINUTES - 1, Math.max(0, Math.floor((event.offsetX / input.clientWidth) * MINUTES)));
  input.addEventListener("input", () => choose(Number(input.value)));
  input.addEventListener("focus", () => { if (input.matches(":focus-visible")) choose(Number(input.value)); });
  input.addEventListener("pointermove", (event) => choose(at(event)));
  input.addEventListener("pointerleave", () => choose(null));
  input.addEventListener("blur", () => choose(null));
  input.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(null); });
}

// --- Bars ----------------------------------------------------------------------------------------

function makeBar() {
  const track = element("dd", { class: "track", "aria-hidden": "true" }, element("div", { class: "fill" }));
  return element("div", {}, element("dt"), element("dd"), element("dd", { class: "more" }), track);
}

function fillBar(item, { name, value, more, fraction, state, kind }) {
  const [title, worth, extra, track] = item.children;
  write(title, name);
  write(worth, value);
  write(extra, more ?? "");
  const fill = track.firstElementChild;
  fill.className = `fill ${kind ?? ""}`;
  mark(fill, "data-state", state ?? "");
  const width = `${(Math.min(1, Math.max(0, fraction || 0)) * 100).toFixed(1)}%`;
  if (fill.style.width !== width) fill.style.width = width;
}

function showFirstTokens() {
  const { warm, cold } = status.first_token;
  const longest = Math.max(warm.median ?? 0, cold.median ?? 0);
  const bar = (name, kind, of) => ({
    name,
    kind,
    value: seconds(of.median),
    more: of.count ? `median of ${count.format(of.count)}; 95 % within ${seconds(of.p95)}` : "none",
    fraction: longest ? (of.median ?? 0) / longest : 0,
  });
  keep(byId("first"), [bar("Warm", "warm", warm), bar("Cold", "cold", cold)], makeBar, fillBar);
}

function showStorage() {
  const bar = (name, { used, size }, limit) => ({
    name,
    value: `${bytes(used)} of ${bytes(size)}`,
    more: `${share(used / size)} used`,
    fraction: used / size,
    state: used / size > limit ? "bad" : "",
  });
  const stores = (status.stores.stores ?? []).map((store) => bar(`LMCache’s ${store.name}`, store, Infinity));
  const disks = status.disks.map((disk) => bar(`Disk of ${disk.path}`, disk, 0.9));
  keep(byId("storage"), [...disks, ...stores], makeBar, fillBar);
}

function showGpus() {
  const gpus = status.gpus?.gpus ?? [];
  byId("no-gpus").hidden = gpus.length > 0;
  const bars = gpus.map((gpu) => {
    const size = gpu.memory_used_mib + gpu.memory_free_mib;
    const gib = (mib) => (mib / 1024).toFixed(1);
    const told = [
      known(gpu.utilisation) && `${Math.round(gpu.utilisation)} % utilization`,
      known(gpu.temperature) && `${Math.round(gpu.temperature)} °C`,
      known(gpu.power_watts) && `${Math.round(gpu.power_watts)} W`,
      gpu.xid > 0 && `Xid ${gpu.xid}`,
    ];
    return {
      name: `${gpu.gpu} ${gpu.name}`,
      value: known(gpu.memory_used_mib) ? `${gib(gpu.memory_used_mib)} of ${gib(size)} GiB` : "–",
      more: told.filter(Boolean).join(", "),
      fraction: gpu.memory_used_mib / size,
    };
  });
  keep(byId("gpus"), bars, makeBar, fillBar);
}

// --- The connection ------------------------------------------------------------------------------

let source = null;
let pause = 0;
let retry = 0;

function take(next, isLive) {
  status = next;
  received = performance.now();
  lost = "";
  pause = 0;
  mark(byId("link"), "data-state", "live");
  write(byId("link-text"), `${isLive ? "Live" : "Every 10 s"}, ${time(status.at)}`);
  show();
  document.dispatchEvent(new CustomEvent("infbox-status", { detail: status }));
}

function follow() {
  leave();
  if (document.hidden) return; // a hidden page needs no status
  source = new EventSource("/status/events");
  source.onmessage = (event) => take(JSON.parse(event.data), true);
  source.onerror = () => ask(source.readyState === EventSource.CLOSED);
  retry = setTimeout(checkSilence, SILENT_SECONDS * 1000);
}

function leave() {
  source?.close();
  source = null;
  clearTimeout(retry);
}

function checkSilence() {
  if (performance.now() - received > SILENT_SECONDS * 1000) return ask(false);
  retry = setTimeout(checkSilence, 1000);
}

/** Ask once, to learn why there are no events, and try again: later, where they were refused. */
async function ask(isRefused) {
  leave();
  pause = Math.min(LONGEST_PAUSE_MS, Math.max(1000, pause * 2));
  try {
    const answer = await fetch("/status", { signal: AbortSignal.timeout(5000) });
    if (answer.ok) {
      take(await answer.json(), !isRefused);
      pause = isRefused ? LONGEST_PAUSE_MS : 1000; // too many browsers follow the events
    } else {
      lose(answer.status === 401 ? LOGGED_OUT : `The gateway does not respond (HTTP status ${answer.status}).`);
    }
  } catch {
    lose("The host does not respond, or the network to it is down.");
  }
  retry = setTimeout(follow, pause);
}

function lose(reason) {
  lost = reason;
  mark(byId("link"), "data-state", "lost");
  tick();
}

function tick() {
  if (lost) write(byId("link-text"), status ? `Last update ${ago(ageOf(status.at))}` : "No connection");
  showAges();
}

listenToChart();
follow();
setInterval(tick, 1000);
document.addEventListener("visibilitychange", follow);
