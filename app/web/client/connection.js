// The connection of a client, and requests that survive its loss.
import { FlowError, errorOf, tokenUnavailable, unanswered, unreachable } from './errors.js';
import { DEFAULT_MESSAGE_BYTES, MAX_MESSAGE_BYTES, checkSize, checked } from './outgoing.js';
import { MAX_DELAY_MS, TOKEN_REJECTED, backoff, isRepeatable, pauseAfter } from './retries.js';

const MAX_REFUSALS = 3; // final refusals in a row, each of a newly requested token

/** One connection to server-flow, made on first use and again whenever it is lost. */
export class Connection {
  #url;
  #token;
  #device;
  #io;
  #transports;
  #timeout;
  #deadline;
  #listener;
  #running = false;
  #failure = undefined; // the error with which every call fails from now on
  #socket = undefined;
  #lastError = undefined; // why there is no connection now
  #sleepers = new Set();
  #waiters = new Set();

  /**
   * @param {object} options those of FlowClient, with `url`
   * @param {object} listener `events`, handlers by name; and the methods `authenticating(subject)`, `connected()`,
   *   `disconnected(reason)`, `failed(error)` and `ended(error)`
   */
  constructor({ url, token, device, io, transports, timeout, deadline }, listener) {
    this.#url = url;
    this.#token = token;
    this.#device = device;
    this.#io = io;
    this.#transports = transports;
    this.#timeout = timeout;
    this.#deadline = deadline;
    this.#listener = listener;
  }

  /** The socket of the present or the last connection. */
  get socket() {
    return this.#socket;
  }

  /** Connect, unless that is going on. */
  start() {
    if (this.#failure) throw this.#failure;
    if (!this.#running) this.#run();
    this.#running = true;
  }

  async #run() {
    let refusals = 0;
    for (let attempt = 0; !this.#failure; attempt += 1) {
      try {
        const { lost } = await this.#connect();
        refusals = 0;
        const connectedAt = performance.now();
        this.#listener.disconnected(await lost);
        if (performance.now() - connectedAt > MAX_DELAY_MS) attempt = 0;
      } catch (error) {
        if (this.#failure) return;
        this.#lastError = error;
        this.#listener.failed(error);
        if (error instanceof FlowError && !error.retryable) refusals += 1;
        if (refusals === MAX_REFUSALS) this.end(error);
      }
      await this.pause(backoff(attempt));
    }
  }

  async #connect() {
    const token = await this.#requestToken();
    if (this.#failure) throw this.#failure;
    this.#listener.authenticating(subjectOf(token));
    const socket = this.#io(this.#url.origin, {
      path: `${this.#url.pathname.replace(/\/$/, '')}/socket.io`,
      auth: { token, device: this.#device },
      transports: this.#transports,
      // A connection that ended is replaced: its socket would buffer requests, reuse its token, and not
      // reconnect after "io server disconnect".
      reconnection: false,
      forceNew: true,
    });
    this.#socket = socket;
    for (const [name, handler] of Object.entries(this.#listener.events)) socket.on(name, handler);
    socket.on('flow-error', ({ error, ...more }) => {
      this.#listener.failed(errorOf(error, more));
      if (more.code === TOKEN_REJECTED) socket.disconnect(); // the next connection gets a new token
    });
    const lost = new Promise((resolve) => socket.on('disconnect', resolve));
    try {
      await new Promise((resolve, reject) => {
        socket.on('connect', () => {
          this.#connected();
          resolve();
        });
        socket.on('connect_error', (error) => reject(this.#refusalOf(error)));
        lost.then((reason) => reject(this.#refusalOf(new Error(reason))));
        const late = new Error(`no answer in ${this.#timeout} ms`);
        this.pause(this.#timeout).then(() => reject(this.#refusalOf(late)));
      });
    } catch (error) {
      socket.disconnect();
      throw error;
    }
    return { lost };
  }

  async #requestToken() {
    if (typeof this.#token !== 'function') return this.#token;
    try {
      const token = await this.#token();
      if (typeof token === 'string') return token;
      throw new TypeError(`a token must be a string, not ${token === null ? null : typeof token}`);
    } catch (error) {
      throw tokenUnavailable(error);
    }
  }

  /** The error of a refusal, which has it as its data, or of a connection that failed. */
  #refusalOf(error) {
    if (error.data?.code) return errorOf(error.data.message, error.data);
    return unreachable(`${this.#url.origin}${this.#url.pathname}`, error);
  }

  #connected() {
    this.#lastError = undefined;
    this.#listener.connected();
    for (const wake of this.#waiters) wake();
  }

  /** End the connection for good: every call fails with this error from now on. */
  end(error) {
    if (this.#failure) return;
    this.#failure = error;
    this.#socket?.disconnect();
    this.#listener.ended(error);
    for (const wake of [...this.#sleepers, ...this.#waiters]) wake();
  }

  // Requests

  /** Repeat a request until it is answered; undefined if the connection is lost, or it is no longer wanted. */
  async requestWhileConnected(socket, event, given, isWanted) {
    const body = checked(given);
    for (let attempt = 0; socket?.connected && isWanted(); attempt += 1) {
      try {
        return await this.#request(socket, event, body, this.#timeout);
      } catch (error) {
        if (!isRepeatable(error)) throw error;
        await this.pause(pauseAfter(error, attempt));
      }
    }
    return undefined;
  }

  /** Repeat a request until it is answered, through lost connections, until the deadline. */
  async call(event, named, { timeout = this.#timeout, deadline = this.#deadline, ...more } = {}) {
    this.start();
    const body = checked({ ...named, ...more });
    checkSize(event, body, MAX_MESSAGE_BYTES);
    const until = performance.now() + deadline;
    let last;
    for (let attempt = 0; ; attempt += 1) {
      try {
        const socket = await this.#whenConnected(until);
        return await this.#request(socket, event, body, Math.max(1, Math.min(timeout, until - performance.now())));
      } catch (error) {
        if (error === this.#failure || !isRepeatable(error)) throw error;
        if (!last || error.code !== 'TIMEOUT') last = error; // the service's own error explains more
        const pause = pauseAfter(error, attempt);
        if (performance.now() + pause >= until) throw last;
        await this.pause(pause);
      }
    }
  }

  async #whenConnected(until) {
    while (!this.#socket?.connected) {
      if (this.#failure) throw this.#failure;
      const left = until - performance.now();
      if (left <= 0) throw this.#lastError ?? unanswered();
      await this.pause(left, this.#waiters);
    }
    return this.#socket;
  }

  #request(socket, event, body, timeout) {
    return new Promise((resolve, reject) => {
      checkSize(event, body, announcedLimit(socket));
      // socket.io does not call back for requests that are sent as the connection ends.
      const onLost = () => reject(unanswered());
      socket.once('disconnect', onLost);
      socket.timeout(timeout).emit(event, body, (late, answer) => {
        socket.off('disconnect', onLost);
        if (late) return reject(unanswered(late));
        if (answer.ok) return resolve(answer);
        const error = errorOf(answer.error.message, answer.error);
        reject(error);
        if (error.code === TOKEN_REJECTED) socket.disconnect();
      });
    });
  }

  /** Wait, but not beyond the end of the client; of the waiters only until there is a connection. */
  pause(milliseconds, sleepers = this.#sleepers) {
    if (this.#failure) return Promise.resolve();
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer);
        sleepers.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, milliseconds);
      sleepers.add(wake);
    });
  }
}

/** The largest message in bytes that the service accepts. */
function announcedLimit(socket) {
  const engine = socket.io?.engine;
  const limit = engine?.maxPayload ?? engine?._maxPayload; // by the version of engine.io-client
  return limit > 0 ? limit : DEFAULT_MESSAGE_BYTES;
}

/** The `sub` of a token, by which own events are recognized. The server corrects it. */
function subjectOf(token) {
  try {
    const claims = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
    const bytes = Uint8Array.from(claims, (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)).sub;
  } catch {
    return undefined; // the server will refuse it
  }
}
