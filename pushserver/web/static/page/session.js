/**
 * Who this page is: its token, and the API key where there is one.
 *
 * In development mode the server serves a fresh token with the page; elsewhere it is asked for, and kept for this tab.
 * The API key comes from the address's fragment (which no request carries) or from the operator, and is kept likewise.
 */

const served = document.querySelector('meta[name="pushserver"]').dataset;
const TOKEN = 'pushserver.token';
const KEY = 'pushserver.key';

export const isDevelopment = served.mode === 'development';
export const socketPath = served.socket;

let current = isDevelopment ? served.token : (sessionStorage.getItem(TOKEN) ?? '');

export const hasToken = () => current !== '';

/** For the client: the token, or a new one where the old one has come to its end. */
export async function token({ reason }) {
  if (isDevelopment && reason !== 'connect') {
    const page = await (await fetch(location.pathname + location.search, { cache: 'no-store' })).text();
    const parsed = new DOMParser().parseFromString(page, 'text/html');
    current = parsed.querySelector('meta[name="pushserver"]').dataset.token;
  }
  return current;
}

export function keepToken(value) {
  current = value.trim();
  sessionStorage.setItem(TOKEN, current);
}

export function forgetToken() {
  current = '';
  sessionStorage.removeItem(TOKEN);
}

/** Takes the key out of the address before anybody sees or copies it. */
function keyFromAddress() {
  const key = new URLSearchParams(location.hash.slice(1)).get('key');
  if (key === null) return;
  sessionStorage.setItem(KEY, key);
  history.replaceState(null, '', location.pathname + location.search);
  document.dispatchEvent(new Event('keygiven'));
}
keyFromAddress();
// Where the page is open already, such an address only changes its fragment.
addEventListener('hashchange', keyFromAddress);

export const apiKey = () => sessionStorage.getItem(KEY) ?? '';
export const keepKey = (key) => sessionStorage.setItem(KEY, key.trim());
export const forgetKey = () => sessionStorage.removeItem(KEY);

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** One call of the HTTP API. Throws `ApiError`. */
export async function api(method, path, body, key = apiKey()) {
  const response = await fetch(`/api/${path}`, {
    method,
    headers: { 'X-API-Key': key, ...(body !== undefined && { 'Content-Type': 'application/json' }) },
    body: body === undefined ? undefined : JSON.stringify(body),
    cache: 'no-store',
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) {
    const { code = `HTTP ${response.status}`, message = response.statusText } = answer.error ?? {};
    throw new ApiError(response.status, code, message);
  }
  return answer;
}
