// The token that the pages use. It comes in the fragment of the address that `serve` prints, or from the sign-in
// form; a fragment is never sent to a server. It is stored for this tab only, until it expires.

const KEY = 'server-flow.token';
const listeners = new Set();

/** Move a token from the fragment into this tab's storage, so that it is not in the address any more. */
export function takeTokenFromAddress() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const token = fragment.get('token');
  if (!token) return;
  fragment.delete('token');
  const rest = fragment.toString();
  history.replaceState(null, '', location.pathname + location.search + (rest && `#${rest}`));
  sessionStorage.setItem(KEY, token);
}

/** What a token says about itself, without a check: only the service can check it. */
function claimsOf(token) {
  try {
    const text = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}

/** The signed-in user: `{token, userId, expiresAt}`, or null. */
export function session() {
  const token = sessionStorage.getItem(KEY);
  if (!token) return null;
  const { sub, exp } = claimsOf(token);
  return { token, userId: sub ?? '', expiresAt: new Date((exp ?? 0) * 1000) };
}

export function signIn(token) {
  sessionStorage.setItem(KEY, token);
  for (const call of listeners) call();
}

export function signOut(reason) {
  sessionStorage.removeItem(KEY);
  for (const call of listeners) call(reason);
}

/** Call `call` with the reason, if there is one, whenever somebody signs in or out. */
export function onSession(call) {
  listeners.add(call);
}

/** An answer that is no success, as the service describes it. */
export class Problem extends Error {
  constructor(status, { title = `Status ${status}`, detail = '', code } = {}) {
    super(detail || title);
    this.status = status;
    this.code = code;
  }
}

/** GET a path of the API with the token. Signs out if the service refuses the token. */
export async function get(path) {
  const response = await fetch(path, { headers: { Authorization: `Bearer ${session()?.token}` } });
  if (response.ok) return response;
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  if (response.status === 401) signOut(problem.message);
  throw problem;
}
