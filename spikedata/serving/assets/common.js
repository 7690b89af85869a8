// What every part of the page uses: elements, requests, numbers as text.
//
// Whatever comes from files is set as text or as an attribute's value, never as mark-up.

export function make(name, values = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(values)) {
    if (key === "text") element.textContent = value;
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

export const at = (id) => document.getElementById(id);

export function address(name, values = {}) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== undefined);
  const query = new URLSearchParams(pairs).toString();
  return query ? `${name}?${query}` : name;
}

async function checked(response) {
  if (response.ok) return response;
  let told = `${response.status} ${response.statusText}`;
  try {
    told = (await response.json()).error;
  } catch { /* not ours: the status has to do */ }
  throw new Error(told);
}

async function sent(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer. Is `spikedata serve` still running?");
  }
  return checked(response);
}

export const get = (name, values, signal) => sent(fetch(address(name, values), { signal }));

export const getJson = async (name, values, signal) => (await get(name, values, signal)).json();

export async function post(name, body) {
  const headers = { "Content-Type": "application/json" };
  const request = fetch(name, { method: "POST", headers, body: JSON.stringify(body) });
  return (await sent(request)).json();
}

export const count = (number) => number.toLocaleString("en");

export const counted = (number, one, many = `${one}s`) =>
  `${count(number)} ${number === 1 ? one : many}`;

export function significant(value, digits = 3) {
  return value === null || value === undefined ? "–" : Number(value).toPrecision(digits);
}

export function milliseconds(ticks, rate) {
  const ms = (1000 * ticks) / rate;
  return `${ms.toFixed(ms < 100 ? 2 : 1)} ms`;
}

// A class has the same colour everywhere.
export function hue(name) {
  let hash = 2166136261;
  for (const letter of name) hash = Math.imul(hash ^ letter.codePointAt(0), 16777619) >>> 0;
  return (Math.imul(hash, 2654435769) >>> 0) / 2 ** 32 * 360;
}

// Text without what would turn the order of writing, or is not seen; for lines made of several texts.
export const harmless = (text) =>
  text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]/g, (one) =>
    `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );

export function showError(text) {
  const close = make("button", { text: "×", title: "Close", className: "close" });
  const line = make("div", { className: "error" }, make("span", { text: harmless(text) }), close);
  close.addEventListener("click", () => line.remove());
  at("errors").append(line);
  while (at("errors").childElementCount > 6) at("errors").firstElementChild.remove();
}

// Pixels of a picture that is drawn ``scale`` times as large.
export function drawMarks(pen, marks, scale, reach) {
  for (const { colour, pixels, few } of marks) {
    pen.strokeStyle = colour;
    pen.fillStyle = colour;
    pen.lineWidth = 1.5;
    for (const [x, y] of pixels) {
      if (!few) {
        pen.fillRect(x * scale, y * scale, Math.max(1, scale), Math.max(1, scale));
        continue;
      }
      pen.beginPath();
      pen.arc((x + 0.5) * scale, (y + 0.5) * scale, Math.max(reach, scale), 0, 7);
      pen.stroke();
    }
  }
}

// A canvas as large as its place, in the screen's own pixels.
export function fitted(canvas, height) {
  const width = Math.max(50, canvas.clientWidth || canvas.parentElement.clientWidth);
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = "12px system-ui, sans-serif";
  return { pen, width, height };
}
