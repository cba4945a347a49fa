/** An error of the service, or of the way to it (`TIMEOUT`, `CLOSED`). */
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
