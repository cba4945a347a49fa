/**
 * An error of the service, or of the client: `UNREACHABLE` (with the address and the cause), `TOKEN_UNAVAILABLE`
 * (the token callback failed), `TIMEOUT` (no answer), `CLOSED`; and `INVALID_PAYLOAD`, `INVALID_REQUEST` and
 * `PAYLOAD_TOO_LARGE` for messages that are not sent.
 */
export class FlowError extends Error {
  /**
   * @param {string} code stable, such as `INVALID_TRANSITION`
   * @param {string} message
   * @param {{retryable?: boolean, details?: object, cause?: unknown}} [more]
   */
  constructor(code, message, { retryable = false, details = {}, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'FlowError';
    this.code = code;
    this.retryable = retryable;
    this.details = details;
  }
}

/** The `UNREACHABLE` error for an address, with the innermost cause. */
export function unreachable(url, error) {
  const cause = innermost(error);
  const message = `${url} cannot be reached: ${cause}`;
  return new FlowError('UNREACHABLE', message, { retryable: true, details: { url, cause }, cause: error });
}

/** The error of a token callback that failed. */
export function tokenUnavailable(error) {
  const message = `The token callback failed: ${innermost(error)}`;
  return new FlowError('TOKEN_UNAVAILABLE', message, { retryable: true, cause: error });
}

/** An error that the service sent. */
export function errorOf(message, { code, retryable, details }) {
  return new FlowError(code, message, { retryable, details });
}

/** The error of a request without an answer. */
export function unanswered(cause) {
  return new FlowError('TIMEOUT', 'No answer in time', { retryable: true, cause });
}

/** The innermost cause of an error: engine.io-client, ws and Node wrap the system's error. */
function innermost(error) {
  let found = String(error?.message ?? error);
  let next = error;
  for (let depth = 0; depth < 10 && typeof next === 'object' && next !== null; depth += 1) {
    found = next.message || next.code || found;
    const answer = next.context?.responseText;
    if (answer) return `${found} (${next.description}): ${answer.split('\n')[0].slice(0, 500)}`; // to polling
    next = next.cause ?? next.description ?? next.error ?? next.errors?.[0];
  }
  return String(found);
}
