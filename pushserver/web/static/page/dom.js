/** Building the document. What comes from elsewhere becomes text nodes and properties, never markup. */

export const byId = (id) => document.getElementById(id);

/** An element; `on…` are listeners, `data` a dataset, everything else an attribute. Strings become text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'data') Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets text only where it differs, so that screen readers are not told the same again. */
export function put(element, text) {
  const value = String(text);
  if (element.textContent !== value) element.textContent = value;
}

const rows = new WeakMap();

/**
 * Brings `parent`'s children to `items`, in order. A child lives as long as its key, and is moved only when the order
 * changed: what has the focus keeps it.
 */
export function keyed(parent, items, keyOf, create, update) {
  const known = rows.get(parent) ?? new Map();
  rows.set(parent, known);
  const wanted = new Set(items.map(keyOf));
  for (const [key, node] of known) {
    if (wanted.has(key)) continue;
    const focused = node.contains(document.activeElement);
    const neighbour = node.nextElementSibling ?? node.previousElementSibling;
    known.delete(key);
    node.remove();
    // Who was here with the keyboard goes on from the next one, not from the top of the page.
    if (focused) (neighbour?.querySelector('button') ?? focusable(parent))?.focus();
  }
  items.forEach((item, index) => {
    const key = keyOf(item);
    let node = known.get(key);
    if (!node) known.set(key, (node = create(item)));
    update?.(node, item);
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

function focusable(element) {
  const section = element.closest('section');
  section?.setAttribute('tabindex', '-1');
  return section;
}

/** What a form says back: the outcome of its last use. */
export function showOutcome(output, text, level = 'ok') {
  output.dataset.level = level;
  put(output, text);
}

/** A form that does `work` instead of being sent; what it throws is shown. */
export function onSubmit(form, output, work) {
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    try {
      const text = await work();
      if (text !== undefined) showOutcome(output, text);
    } catch (error) {
      showOutcome(output, describe(error), 'error');
    }
  });
}

/** A button that asks once more before it does something that cannot be taken back. */
export function twoStep(label, question, title, work) {
  let timer;
  const button = h('button', { type: 'button', class: 'danger', 'aria-label': title }, label);
  const calm = () => {
    clearTimeout(timer);
    delete button.dataset.sure;
    button.setAttribute('aria-label', title);
    put(button, label);
  };
  button.addEventListener('blur', calm);
  button.addEventListener('click', () => {
    if (button.dataset.sure) {
      calm();
      work();
      return;
    }
    button.dataset.sure = 'asked';
    button.setAttribute('aria-label', `${title}: ${question}`);
    put(button, question);
    timer = setTimeout(calm, 5000);
  });
  return button;
}

export const describe = (error) => (error?.code ? `${error.code}: ${error.message}` : String(error?.message ?? error));

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const short = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
const dated = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hour12: false });
const isTime = (value) => Number.isFinite(value) && Math.abs(value) < 8.64e15;

export const timeOf = (ms) => (isTime(ms) ? clock.format(ms) : '');
export function momentOf(ms) {
  if (!isTime(ms)) return '';
  return (Date.now() - ms < 12 * 3600e3 ? short : dated).format(ms);
}
export const stamp = (ms, shown) =>
  h('time', { datetime: isTime(ms) ? new Date(ms).toISOString() : undefined }, shown ?? momentOf(ms));

/** A duration in words: `4 s`, `3 min`, `2 h 5 min`, `3 d`. */
export function lasting(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

const whole = new Intl.NumberFormat(undefined, { notation: 'compact', maximumFractionDigits: 1 });
export const numberOf = (value) => (Number.isFinite(value) ? whole.format(value) : '–');

const LONGEST = 2000;
/** Any JSON as one line of text, cut where it is very long. */
export function textOf(data) {
  const text = typeof data === 'string' ? data : (JSON.stringify(data) ?? '');
  return text.length > LONGEST ? `${text.slice(0, LONGEST)} … (${text.length} characters)` : text;
}

/** Calls `draw` soon, once for many changes; timers rather than frames, as a hidden tab has none of these. */
export function soon(draw, delay = 60) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => {
      timer = null;
      draw();
    }, delay);
  };
}

/** A steady hue for a name. */
export function hueOf(name) {
  let hash = 7;
  for (const character of String(name)) hash = (hash * 31 + character.codePointAt(0)) % 360;
  return hash;
}

export function avatar(name) {
  const circle = h('span', { class: 'avatar', 'aria-hidden': 'true' }, initial(name));
  circle.style.setProperty('--hue', hueOf(name));
  return circle;
}

export const initial = (name) => ([...String(name)][0] ?? '?').toUpperCase();
