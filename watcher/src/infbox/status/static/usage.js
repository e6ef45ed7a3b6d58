// Shows what the person who looks at the page had, and what limits leave: /status/usage knows who that is.

const EVERY_MS = 30000;
const WORDS = {
  requests_per_minute: "Requests a minute",
  concurrent_requests: "Requests at once",
  tokens_per_minute: "Computed tokens, last minute",
  tokens_per_day: "Computed tokens, today",
};

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

function row({ name, value, more, fraction }) {
  const nodes = [node("dt", name), node("dd", value), node("dd", more ?? "", "more")];
  if (fraction !== undefined) {
    const track = node("dd", "", "track");
    track.setAttribute("aria-hidden", "true");
    const fill = node("div", "", "fill");
    fill.dataset.state = fraction >= 1 ? "bad" : "";
    fill.style.width = `${(Math.min(1, fraction) * 100).toFixed(1)}%`;
    track.append(fill);
    nodes.push(track);
  }
  const part = document.createElement("div");
  part.append(...nodes.filter((each) => each.className !== "more" || each.textContent));
  return part;
}

function node(tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

function ofDays(name, had) {
  const cached = had.prompt_tokens ? `, ${Math.round((had.cached_tokens / had.prompt_tokens) * 100)} % of them cached` : "";
  const more = `${count.format(had.requests)} requests; prompts ${short.format(had.prompt_tokens)} tokens${cached}; answers ${short.format(had.completion_tokens)}`;
  return { name, value: `${short.format(had.computed_tokens)} computed`, more };
}

function ofLimit({ name, most, used }) {
  const value = used === null ? `${count.format(most)} at most` : `${count.format(used)} of ${count.format(most)}`;
  return { name: WORDS[name] ?? name, value, fraction: used === null ? undefined : used / most };
}

function show(usage) {
  byId("usage-who").textContent = usage.user.replace(/-[0-9a-f]{12}@page$/, "");
  const rows = [ofDays("Today", usage.today), ofDays(`Last ${usage.days} days`, usage.all_days), ...usage.limits.map(ofLimit)];
  byId("usage").replaceChildren(...rows.map(row));
}

async function look() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/status/usage", { signal: AbortSignal.timeout(5000) });
    const isThere = answer.status === 200; // of nobody in particular there is nothing
    if (isThere) show(await answer.json());
    byId("usage-section").hidden = !isThere;
  } catch {
    // What was shown last stays; the page itself says that the host is away.
  }
}

look();
setInterval(look, EVERY_MS);
document.addEventListener("visibilitychange", look);
