// What is asked of the server: its own address and no other.

const SILENCE_MS = 15_000; // the server says something every 5 s; after this long the connection counts as dead
const who = (() => {
  try {
    const kept = localStorage.getItem("clipgru-who") ?? crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    localStorage.setItem("clipgru-who", kept);
    return kept;
  } catch {
    return String(Math.random()).slice(2);
  }
})();

let token = null;
let version = null;
let events = null;
let silence = null;
let hasEnded = false;

// `on.state` is told of news, `on.connection` whether the server is there, `on.begin` when another run of it is.
export function connect(on) {
  if (hasEnded) return;
  events?.close();
  events = new EventSource("events");
  const alive = () => {
    clearTimeout(silence);
    silence = setTimeout(() => connect(on), SILENCE_MS);
  };
  events.addEventListener("hello", (event) => {
    const hello = JSON.parse(event.data);
    if (version !== null && version !== hello.version) location.reload();
    const isOther = token !== hello.token;
    ({ token, version } = hello);
    alive();
    on.connection("live");
    if (isOther) on.begin();
  });
  events.addEventListener("state", (event) => {
    alive();
    on.state(JSON.parse(event.data));
  });
  events.addEventListener("beat", alive);
  events.addEventListener("end", () => {
    hasEnded = true;
    events.close();
    clearTimeout(silence);
    on.connection("ended");
  });
  events.addEventListener("error", () => {
    on.connection("stalled");
    clearTimeout(silence);
    if (events.readyState === EventSource.CLOSED) silence = setTimeout(() => connect(on), 2_000);
  });
  alive();
}

export async function getJson(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

export async function getBytes(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.status === 204 ? null : { bytes: await answer.arrayBuffer(), headers: answer.headers };
}

// The answer's object; `isLate` in it says that somebody else was quicker.
export async function post(address, values) {
  let answer;
  try {
    answer = await fetch(address, {
      method: "POST",
      headers: { "X-Clipgru-Token": token ?? "", "Content-Type": "application/json" },
      body: JSON.stringify({ ...values, who }),
    });
  } catch {
    throw new Error("the server does not answer; nothing was changed");
  }
  if (answer.status === 409) return { ...(await answer.json()), isLate: true };
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
