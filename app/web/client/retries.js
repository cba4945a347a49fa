// The rules by which requests and connections are repeated.

/** The code of a rejected token; another one may be accepted. */
export const TOKEN_REJECTED = 'AUTHENTICATION_REQUIRED';

export const MAX_DELAY_MS = 5000;
const MIN_DELAY_MS = 100;
const CALLER_DECIDES = new Set(['STATE_PAUSED', 'REVISION_CONFLICT', 'CLAIMED']); // only the caller knows whether to retry

export function isRepeatable({ code, retryable }) {
  return code === TOKEN_REJECTED || (retryable === true && !CALLER_DECIDES.has(code));
}

/** The milliseconds before the next attempt, which double up to a maximum, with jitter. */
export function backoff(attempt) {
  return Math.min(MAX_DELAY_MS, MIN_DELAY_MS * 2 ** attempt) * (0.5 + Math.random() / 2);
}

/** The milliseconds to wait after an error, before the request is repeated. */
export function pauseAfter({ code, details }, attempt) {
  if (code === 'TIMEOUT') return 0; // the timeout was delay enough
  return code === 'RATE_LIMITED' && details.retryAfterMs ? details.retryAfterMs : backoff(attempt);
}
