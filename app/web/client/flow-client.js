/**
 * The client of server-flow for browsers and Node: follows states without a gap, and sends requests that
 * survive a lost connection.
 *
 *     const client = new FlowClient('https://flows.example.org', { token: () => fetchToken() });
 *     for await (const state of client.follow('user-onboarding')) render(state);
 *
 * It needs socket.io-client 4: in Node pass its `io`. The module that the service serves to browsers has it built in.
 */
import { CallbackConsumer, Callbacks, Follow, Mailbox } from './consumers.js';
import { FlowError, errorOf, tokenUnavailable, unanswered, unreachable } from './errors.js';
import { Following, addStats, noStats } from './following.js';
import { DEFAULT_MESSAGE_BYTES, MAX_MESSAGE_BYTES, checkSize, checked } from './outgoing.js';
import { MAX_DELAY_MS, TOKEN_REJECTED, backoff, isRepeatable, pauseAfter } from './retries.js';

export { FlowError, Following };

const MAX_REFUSALS = 3; // final refusals in a row, each of a newly requested token

/** One connection to server-flow, made on first use and again whenever it is lost. */
export class FlowClient {
  #url;
  #token;
  #device;
  #io;
  #transports;
  #timeout;
  #deadline;
  #running = false;
  #failure = undefined; // the error with which every call fails from now on
  #socket = undefined;
  #lastError = undefined; // why there is no connection now
  #lastWarning = undefined; // it is not repeated
  #userId = undefined;
  #subject = undefined;
  #subscriptions = new Map();
  #watchers = new Callbacks();
  #presenceListeners = new Callbacks();
  #listeners = new Callbacks();
  #sleepers = new Set();
  #waiters = new Set();
  #endedStats = noStats(); // of subscriptions that have ended

  /**
   * @param {string | URL} url the address of the service, such as `https://flows.example.org`
   * @param {object} options
   * @param {string | (() => string | Promise<string>)} options.token a token, or a callback that returns
   *   one; it is called for every connection
   * @param {string} [options.device] a label of at most 64 characters, which presence shows to others
   * @param {Function} options.io `io` of socket.io-client; only `/static/flow-client.js` has a default
   * @param {string[]} [options.transports] `['websocket']`
   * @param {number} [options.timeout] milliseconds until a request without an answer is repeated: 10000
   * @param {number} [options.deadline] milliseconds until a call fails: 60000
   */
  constructor(url, { token, device, io, transports = ['websocket'], timeout = 10_000, deadline = 60_000 }) {
    if (typeof io !== 'function') throw new TypeError("pass the option io: `import { io } from 'socket.io-client'`");
    this.#url = new URL(url, globalThis.location?.href);
    this.#token = token;
    this.#device = device;
    this.#io = io;
    this.#transports = transports;
    this.#timeout = timeout;
    this.#deadline = deadline;
  }

  /** The sums over all subscriptions; of `longestRepair` the maximum. */
  get stats() {
    const sum = { ...this.#endedStats };
    for (const { following } of this.#subscriptions.values()) addStats(sum, following.stats);
    return sum;
  }

  /**
   * Follow a state: `for await (const state of client.follow(flowId))`, or `client.follow(flowId, callback)`.
   * Every change is delivered once, in order. A state whose `status` is `cleared` or `expired` has ended; null says
   * that there is none. The next one is then delivered from its first revision. `userId` names another user
   * (services and administrators only).
   *
   * @param {string} flowId
   * @param {{userId?: string} | ((state: object | null) => void)} [options]
   * @param {(state: object | null) => void} [callback]
   */
  follow(flowId, options = {}, callback = undefined) {
    if (typeof options === 'function') return this.follow(flowId, {}, options);
    this.#start();
    const key = keyOf(flowId, options.userId);
    let subscription = this.#subscriptions.get(key);
    const isNew = !subscription;
    if (isNew) {
      subscription = { key, flowId, userId: options.userId, following: new Following(), consumers: new Set() };
      this.#subscriptions.set(key, subscription);
    }
    const { following, consumers } = subscription;
    const consumer = callback ? new CallbackConsumer(callback) : new Mailbox();
    consumers.add(consumer);
    if (isNew) this.#sync(subscription);
    else if (following.state !== undefined) consumer.push(following.state);
    const isLevel = () => consumers.has(consumer) && Boolean(this.#socket?.connected) && !following.syncing;
    return new Follow(following, consumer, isLevel, () => {
      consumer.end();
      if (consumers.delete(consumer) && consumers.size === 0) this.#unfollow(subscription);
    });
  }

  /** The state, null if there is none. */
  async state(flowId, options) {
    return (await this.#call('flow-state', { flowId }, options)).state;
  }

  /** Start the flow. Returns the new state, or the running one if there is one. */
  async start(flowId, options) {
    return (await this.#change('flow-start', { flowId }, options)).state;
  }

  /** Run a transition. Returns the new state. */
  async transition(flowId, transition, options) {
    return (await this.#change('flow-transition', { flowId, transition }, options)).state;
  }

  /** Restart at the initial step, or at `options.step`. Returns the new state. */
  async reset(flowId, options) {
    return (await this.#change('flow-reset', { flowId }, options)).state;
  }

  /** The clients that follow that state now. */
  async presence(flowId, options) {
    return (await this.#call('flow-presence', { flowId }, options)).clients;
  }

  /** Call back with every user's changes in a flow (administrators only). Returns a function that ends it. */
  watch(flowId, callback) {
    this.#start();
    const isFirst = !this.#watchers.has(flowId);
    const off = this.#watchers.add(flowId, callback);
    if (isFirst) this.#watch(flowId);
    return () => {
      const isLast = () => !this.#watchers.has(flowId);
      if (off() && isLast()) this.#notify('flow-unwatch', { flowId }, isLast);
    };
  }

  /**
   * Call back with `{flowId, userId, clients}`, the clients that follow a state of this flow, now and after every
   * change: for the states that this client follows, or (without `userId`) for all while it watches the flow.
   * Returns a function that ends it.
   */
  onPresence(flowId, callback) {
    this.#start();
    const off = this.#presenceListeners.add(flowId, callback);
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.flowId !== flowId || subscription.following.syncing) continue;
      subscription.presentOn = undefined;
      this.#subscribePresence(subscription);
    }
    if (this.#watchers.has(flowId)) this.#requestPresence(flowId);
    return off;
  }

  /**
   * Call back on `connect`, `disconnect` (with the reason) or `error`. Returns a function that ends it. Errors
   * without a listener are written to the console.
   */
  on(name, callback) {
    return this.#listeners.add(name, callback);
  }

  /** End the connection. Loops end, and pending calls fail with `CLOSED`. */
  close() {
    this.#end(new FlowError('CLOSED', 'The client is closed'));
  }

  // The connection

  #start() {
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
        this.#listeners.call('disconnect', await lost);
        if (performance.now() - connectedAt > MAX_DELAY_MS) attempt = 0;
      } catch (error) {
        if (this.#failure) return;
        this.#lastError = error;
        this.#report(error);
        if (error instanceof FlowError && !error.retryable) refusals += 1;
        if (refusals === MAX_REFUSALS) this.#end(error);
      }
      await this.#pause(backoff(attempt));
    }
  }

  async #connect() {
    const token = await this.#requestToken();
    if (this.#failure) throw this.#failure;
    const subject = subjectOf(token);
    if (subject !== this.#subject) this.#userId = this.#subject = subject;
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
    socket.on('flow-state-updated', (event) => this.#eventReceived(event));
    socket.on('flow-resync', () => this.#syncAll());
    socket.on('flow-updated', (event) => this.#watchers.call(event.flowId, event));
    socket.on('flow-presence', (event) => this.#presenceListeners.call(event.flowId, event));
    socket.on('flow-error', ({ error, ...more }) => {
      this.#report(errorOf(error, more));
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
        this.#pause(this.#timeout).then(() => reject(this.#refusalOf(late)));
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

  /** Pass an error to the listeners; without any, write it to the console once. */
  #report(error) {
    if (this.#listeners.has('error')) return this.#listeners.call('error', error);
    const warning = `FlowClient: ${error.code}: ${error.message}`;
    if (warning !== this.#lastWarning) globalThis.console?.warn(warning);
    this.#lastWarning = warning;
    return undefined;
  }

  #connected() {
    this.#lastError = undefined;
    this.#lastWarning = undefined;
    this.#listeners.call('connect');
    this.#syncAll();
    for (const flowId of this.#watchers.names()) this.#watch(flowId);
    for (const wake of this.#waiters) wake();
  }

  #end(error) {
    if (this.#failure) return;
    this.#failure = error;
    this.#socket?.disconnect();
    for (const subscription of this.#subscriptions.values()) {
      this.#forget(subscription, error.code === 'CLOSED' ? undefined : error);
    }
    for (const wake of [...this.#sleepers, ...this.#waiters]) wake();
  }

  // Subscriptions

  #eventReceived(event) {
    const keys = [keyOf(event.flow, event.userId)];
    if (event.userId === this.#userId) keys.push(keyOf(event.flow));
    for (const subscription of keys.map((key) => this.#subscriptions.get(key))) {
      if (!subscription) continue;
      const { following } = subscription;
      const wasSyncing = following.syncing;
      deliver(subscription, following.event(event));
      if (following.syncing && !wasSyncing) this.#sync(subscription);
    }
  }

  #syncAll() {
    for (const subscription of this.#subscriptions.values()) {
      subscription.following.want();
      this.#sync(subscription);
    }
  }

  /**
   * Set the user that the server names, which another claim than `sub` may give. Earlier events were not recognized
   * as the user's own, so all subscriptions are synced again.
   */
  #setUser(userId) {
    if (userId === undefined || userId === this.#userId) return;
    this.#userId = userId;
    this.#syncAll();
  }

  /** Sync until nothing is missing. Without a connection this does nothing: the next connection syncs all. */
  async #sync(subscription) {
    const { key, flowId, userId, following } = subscription;
    const socket = this.#socket;
    let number;
    const isWanted = () => following.isLatest(number) && this.#subscriptions.get(key) === subscription;
    for (let round = 0; socket?.connected && (round === 0 || isWanted()); round += 1) {
      const sync = following.begin();
      number = sync.number;
      const body = { flowId, userId, epoch: sync.epoch, since: sync.since };
      if (following.absent) body.fromStart = true;
      try {
        const answer = await this.#requestWhileConnected(socket, 'flow-subscribe', body, isWanted);
        if (!answer || !isWanted()) return;
        deliver(subscription, following.answer(number, answer));
        if (userId === undefined) this.#setUser(answer.userId);
      } catch (error) {
        if (!isWanted()) return;
        this.#forget(subscription, error);
        return this.#report(error);
      }
      if (!following.syncing) return this.#subscribePresence(subscription);
      if (round > 0) await this.#pause(backoff(round)); // a second sync is usual; further ones are delayed
    }
  }

  #unfollow(subscription) {
    const { key, flowId, userId } = subscription;
    this.#forget(subscription);
    this.#notify('flow-unsubscribe', { flowId, userId }, () => !this.#subscriptions.has(key));
  }

  #forget({ key, following, consumers }, error) {
    this.#subscriptions.delete(key);
    addStats(this.#endedStats, following.stats);
    for (const consumer of consumers) consumer.end(error);
    consumers.clear();
  }

  // Requests

  async #watch(flowId) {
    const isWatched = await this.#notify('flow-watch', { flowId }, () => this.#watchers.has(flowId));
    if (isWatched) await this.#requestPresence(flowId);
  }

  /** Presence is sent to clients that requested it, on this connection. */
  async #subscribePresence(subscription) {
    const { flowId, userId, presentOn } = subscription;
    if (presentOn === this.#socket || !this.#presenceListeners.has(flowId)) return;
    subscription.presentOn = this.#socket;
    await this.#requestPresence(flowId, userId, userId ?? this.#userId);
  }

  async #requestPresence(flowId, userId, shownUserId) {
    const answer = await this.#notify('flow-presence', { flowId, userId }, () => this.#presenceListeners.has(flowId));
    if (answer) this.#presenceListeners.call(flowId, { flowId, userId: shownUserId, clients: answer.clients });
  }

  /** Send a request and only report its failure; a reconnection repeats what is still wanted. */
  async #notify(event, body, isWanted) {
    try {
      return await this.#requestWhileConnected(this.#socket, event, body, isWanted);
    } catch (error) {
      return this.#report(error);
    }
  }

  /** Repeat a request until it is answered; undefined if the connection is lost, or it is no longer wanted. */
  async #requestWhileConnected(socket, event, given, isWanted) {
    const body = checked(given);
    for (let attempt = 0; socket?.connected && isWanted(); attempt += 1) {
      try {
        return await this.#request(socket, event, body, this.#timeout);
      } catch (error) {
        if (!isRepeatable(error)) throw error;
        await this.#pause(pauseAfter(error, attempt));
      }
    }
    return undefined;
  }

  #change(event, body, options = {}) {
    // One id for all repetitions: the service executes it once, whichever of them arrives.
    return this.#call(event, { ...body, requestId: requestId() }, options);
  }

  /** Repeat a request until it is answered, through lost connections, until the deadline. */
  async #call(event, named, { timeout = this.#timeout, deadline = this.#deadline, ...more } = {}) {
    this.#start();
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
        await this.#pause(pause);
      }
    }
  }

  async #whenConnected(until) {
    while (!this.#socket?.connected) {
      if (this.#failure) throw this.#failure;
      const left = until - performance.now();
      if (left <= 0) throw this.#lastError ?? unanswered();
      await this.#pause(left, this.#waiters);
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
  #pause(milliseconds, sleepers = this.#sleepers) {
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

function deliver({ consumers }, states) {
  for (const state of states) for (const consumer of consumers) consumer.push(state);
}

function keyOf(flowId, userId = '') {
  return `${flowId}\n${userId}`; // neither has a line break
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

function requestId() {
  if (crypto.randomUUID) return crypto.randomUUID(); // a page without TLS has none
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
}
