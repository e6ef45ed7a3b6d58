// The panel that asks about a workspace: with a key, or as the person who is signed in, where that may be.
// The key is in a variable of this module and in one header of its requests, and nowhere else. What the
// model answers is text, and becomes nothing but text.

const MOST_TOKENS = 1024; // of an answer
const MOST_CHARACTERS = 1 << 20; // of an answer, of an event, and of a refusal
const MOST_SAID = 400; // characters of what the server says to a refusal
const LIST_MS = 10000;
const KEY = /^[!-~]{1,200}$/; // what a header can carry

const byId = (id) => document.getElementById(id);
const count = new Intl.NumberFormat("en");

let key = "";
let isPerson = false; // who is signed in and asks without a key
let offered = ""; // to that person, as text
let asking = null; // what stops the question that is under way
let ticking = 0;

// --- Words ---------------------------------------------------------------------------------------

/** Says in plain words why there is no answer. */
class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const HOST_AWAY = "The host does not respond, or the network to it is down.";
const BROKEN = "The answer was interrupted. Send the question again.";

const WORDS = {
  401: "The server does not accept this key. It may be mistyped, expired, disabled or revoked: paste another one.",
  403: "You do not have access. Choose another workspace, or ask the administrator for access.",
  404: "The server does not know this workspace, or you may not use it. Choose another one.",
  408: "The request timed out. Send the question again.",
  413: "The question is too long.",
  429: "Too many requests.",
  502: "The gateway or the engine does not respond.",
  503: "The engine does not respond, or is overloaded.",
  504: "The engine took too long to respond.",
};
const SIGNED_OUT = "You are signed out. Reload the page.";
const LATER = [429, 502, 503, 504];

async function refusal(answer) {
  const known = isPerson && answer.status === 401 ? SIGNED_OUT : WORDS[answer.status];
  const words = known ?? `The server refuses the request (HTTP status ${answer.status}).`;
  const wait = answer.headers.get("retry-after") ?? "";
  const again = /^[0-9]{1,5}$/.test(wait) ? ` Try again in ${Number(wait)} s.` : LATER.includes(answer.status) ? " Try again later." : "";
  const said = answer.status === 401 ? "" : await itsWords(answer);
  return new Refused(`${words}${again}${said && ` The server says: ${said}`}`, answer.status);
}

/** What the server itself says to a refusal, if anything can be read. */
async function itsWords(answer) {
  try {
    const { error } = JSON.parse((await answer.text()).slice(0, MOST_CHARACTERS));
    const said = typeof error === "string" ? error : error.message;
    return typeof said === "string" ? said.slice(0, MOST_SAID) : "";
  } catch {
    return "";
  }
}

const seconds = (ms) => (ms < 99.5 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(ms < 9950 ? 2 : 0)} s`);
const isCount = (value) => Number.isSafeInteger(value) && value >= 0;

function say(text, isTrouble = false) {
  const said = byId("ask-said");
  said.dataset.state = isTrouble ? "bad" : "";
  if (said.textContent !== text) said.textContent = text;
}

// --- Requests ------------------------------------------------------------------------------------

/** Send a request with a key, and then with no cookie or login that the browser may have. */
async function request(path, given, signal, body) {
  const headers = given ? { Authorization: `Bearer ${given}` } : {};
  const credentials = given ? "omit" : "same-origin";
  if (body) headers["Content-Type"] = "application/json";
  const options = { method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { ...options, credentials, cache: "no-store", redirect: "error", referrerPolicy: "no-referrer" });
  } catch (error) {
    throw signal.aborted ? error : new Refused(HOST_AWAY);
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

/** Yield the events of a stream up to its closing mark. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refused(BROKEN);
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    if (rest.length > MOST_CHARACTERS) throw new Refused(BROKEN);
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const content = line.slice(5).trim();
      if (content === "[DONE]") return;
      yield JSON.parse(content);
    }
  }
}

// --- The key -------------------------------------------------------------------------------------

async function useKey(event) {
  event.preventDefault();
  const field = byId("ask-key");
  const given = field.value.trim();
  if (!KEY.test(given)) return say(given ? "This is not a key: a key has no spaces and no accents." : "Paste an API key first.", true);
  byId("ask-key-use").disabled = true;
  say("Checking the key.");
  try {
    const answer = await request("/v1/workspaces", given, AbortSignal.timeout(LIST_MS));
    const { data } = await answer.json();
    fillWorkspaces(data.map((one) => [one.name, one.model]).filter((one) => one.every((text) => typeof text === "string")));
    key = given;
    field.value = "";
    open(true);
    say("");
    byId("ask-question").focus();
  } catch (error) {
    if (error.status === 401) field.value = "";
    say(error instanceof Refused ? error.message : "The server returned no list of workspaces. Try again.", true);
  } finally {
    byId("ask-key-use").disabled = false;
  }
}

function forgetKey() {
  asking?.abort();
  if (isPerson) return;
  key = "";
  byId("ask-key").value = "";
  byId("ask-workspace").replaceChildren();
  open(false);
}

function open(isOpen) {
  byId("ask").dataset.state = isOpen ? "open" : "closed";
  byId("ask-form").hidden = !isOpen;
  byId("ask-key-form").hidden = isOpen;
}

/** Offer the workspaces that this key or person may see, and the model alone. */
function fillWorkspaces(workspaces) {
  const picker = byId("ask-workspace");
  const chosen = picker.value;
  const model = workspaces[0]?.[1].split("@")[0] ?? byId("model").textContent;
  const options = [...workspaces, ["None: the model alone", model]].map(([name, value]) => new Option(name, value));
  picker.replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) picker.value = chosen;
}

/** Let who is signed in ask without a key, if the status says that they may. */
function meetPerson({ detail: { sign_in_asks: mayAsk, served, workspaces } }) {
  const names = mayAsk ? workspaces.map(({ name }) => [name, `${served.model}@${name}`]) : [];
  if (!mayAsk || asking || JSON.stringify(names) === offered) return;
  offered = JSON.stringify(names);
  isPerson = true;
  fillWorkspaces(names);
  byId("ask-forget").hidden = true;
  byId("ask-person").hidden = false;
  open(true);
}

// --- A question ----------------------------------------------------------------------------------

async function send(event) {
  event.preventDefault();
  const question = byId("ask-question").value.trim();
  if (asking) return;
  if (!question) return say("Write a question first.", true);
  const figures = begin();
  try {
    say(await receive(question, figures));
  } catch (error) {
    if (asking.signal.aborted) say("Stopped.");
    else say(error instanceof Refused ? error.message : BROKEN, true);
    byId("ask-told").hidden = !figures.first;
    if (error.status === 401) forgetKey();
  } finally {
    asking.abort(); // what may still come is not waited for
    asking = null;
    clearInterval(ticking);
    byId("ask-total").textContent = figures.first ? `in ${seconds(performance.now() - figures.began)}` : "";
    toggle(false);
  }
}

function begin() {
  const figures = { began: performance.now(), first: 0 };
  asking = new AbortController();
  toggle(true);
  byId("ask-told").hidden = false;
  byId("ask-answer").textContent = "";
  for (const id of ["ask-first", "ask-cached", "ask-tokens"]) byId(id).textContent = "–";
  for (const id of ["ask-prompt", "ask-total"]) byId(id).textContent = "";
  say("Waiting for the first token.");
  ticking = setInterval(() => {
    if (!figures.first) byId("ask-first").textContent = `${Math.round((performance.now() - figures.began) / 1000)} s so far`;
  }, 1000);
  return figures;
}

function toggle(isAsking) {
  byId("ask-send").disabled = isAsking;
  byId("ask-workspace").disabled = isAsking;
  byId("ask-stop").hidden = !isAsking;
  byId("ask-answer").setAttribute("aria-busy", String(isAsking));
}

/** Show an answer as it comes; return what is to be said at its end. */
async function receive(question, figures) {
  const body = {
    model: byId("ask-workspace").value,
    messages: [{ role: "user", content: question }],
    max_tokens: MOST_TOKENS,
    stream: true,
    stream_options: { include_usage: true },
  };
  const path = isPerson ? "/status/ask" : "/v1/chat/completions";
  const answer = await request(path, key, asking.signal, body);
  let ended = "";
  let length = 0;
  for await (const { error, choices, usage } of events(answer)) {
    if (error) throw new Refused(`${BROKEN} The server says: ${String(error.message ?? error).slice(0, MOST_SAID)}`);
    if (usage) showUsage(usage);
    const choice = choices?.[0];
    const text = choice?.delta?.content || choice?.delta?.reasoning || "";
    if (text && !figures.first) showFirst(figures);
    append(String(text));
    length += text.length;
    ended = choice?.finish_reason ?? ended;
    if (length > MOST_CHARACTERS) return "The answer is too long for this page.";
  }
  return ended === "length" ? `The answer is cut off at ${count.format(MOST_TOKENS)} tokens.` : "The answer is complete.";
}

function showFirst(figures) {
  figures.first = performance.now() - figures.began;
  byId("ask-first").textContent = seconds(figures.first);
  say("Answering.");
}

function showUsage({ prompt_tokens: prompt, completion_tokens: made, prompt_tokens_details: details }) {
  const cached = details?.cached_tokens;
  if (isCount(cached)) byId("ask-cached").textContent = count.format(cached);
  if (isCount(prompt)) {
    const share = isCount(cached) && prompt ? ` (${Math.floor((cached / prompt) * 100)} %)` : "";
    byId("ask-prompt").textContent = `of ${count.format(prompt)}${share}`;
  }
  if (isCount(made)) byId("ask-tokens").textContent = made === 1 ? "1 token" : `${count.format(made)} tokens`;
}

/** Add text to the answer, and keep its end in sight where it was. */
function append(text) {
  if (!text) return;
  const node = byId("ask-answer");
  const isAtEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 24;
  node.append(text);
  if (isAtEnd) node.scrollTop = node.scrollHeight;
}

byId("ask-key-form").addEventListener("submit", useKey);
byId("ask-form").addEventListener("submit", send);
byId("ask-stop").addEventListener("click", () => asking?.abort());
byId("ask-forget").addEventListener("click", () => {
  forgetKey();
  say("");
  byId("ask-key").focus();
});
byId("ask-question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask-form").requestSubmit();
});
document.addEventListener("infbox-status", meetPerson);
// A page that the browser puts aside may be shown again, maybe to somebody else.
addEventListener("pagehide", () => {
  forgetKey();
  say("");
  byId("ask-question").value = "";
  byId("ask-answer").textContent = "";
  byId("ask-told").hidden = true;
});
