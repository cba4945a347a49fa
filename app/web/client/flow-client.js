/**
 * The client of server-flow for browsers and Node: follows states without a gap, and makes requests that
 * survive a lost connection.
 *
 *     const client = new FlowClient('https://flows.example.org', { token: () => fetchToken() });
 *     for await (const state of client.follow('user-onboarding')) render(state);
 *
 * It needs socket.io-client 4: in Node pass its `io`. The module that the service serves to browsers has it built in.
 */
import { FlowError, tokenUnavailable, unreachable } from './errors.js';
import { LARGEST_MESSAGE_BYTES, MAX_MESSAGE_BYTES, checkSize, checked } from './outgoing.js';

export { FlowError };

const KEPT = 1000; // events kept while a sync is under way; states that wait for a slow consumer
const SHORTEST_PAUSE = 100;
const LONGEST_PAUSE = 5000;
const RENEW = 'AUTHENTICATION_REQUIRED'; // another token may be taken
const REFUSALS = 3; // so many tokens in a row, each a fresh one
const ENDED = new Set(['cleared', 'expired']);
const CALLER_DECIDES = new Set(['STATE_PAUSED', 'REVISION_CONFLICT']); // retryable, but not by itself

/**
 * The rules by which one state is followed. No connection in here: what was heard is told, and the answer
 * is the states to show now, in order; null among them says that there is no state.
 *
 * Whoever drives it runs a sync (`begin`, then `answer`) whenever `syncing` has become true.
 */
export class Following {
  /** The position: epoch and revision of the last state applied, undefined at first. */
  epoch = undefined;
  revision = undefined;
  /** The state, null when there is none, undefined as long as nothing is known. */
  state = undefined;
  /** Whether something may be missing: a sync is needed, or under way. */
  syncing = true;
  stats = noStats();
  #now;
  #begun = 0;
  #noticed = undefined;
  #buffer = [];
  #early = 0; // so many of the buffer came before the sync began

  /** @param {() => number} [now] milliseconds of a clock that only goes on */
  constructor(now = () => performance.now()) {
    this.#now = now;
  }

  /** Whether it is known that there is no state. A sync then asks for a later epoch from its start. */
  get absent() {
    return this.state === null || ENDED.has(this.state?.status);
  }

  /** Events may have been missed: the connection is new, or the server said so. */
  want() {
    this.syncing = true;
    if (this.state !== undefined) this.#noticed ??= this.#now();
  }

  /** A sync begins. `epoch` and `since` are the position held; answers to earlier syncs count no more. */
  begin() {
    this.syncing = true;
    this.stats.syncs += 1;
    this.#begun += 1;
    this.#early = this.#buffer.length;
    return { number: this.#begun, epoch: this.epoch, since: this.revision };
  }

  /** Whether no later sync has begun. */
  isLatest(number) {
    return number === this.#begun;
  }

  /** An event of this state came. */
  event(event) {
    if (!this.syncing) return this.#take(event);
    this.#keep(event);
    return [];
  }

  /** The answer to the sync of this number came. */
  answer(number, { state, events, complete }) {
    if (!this.syncing || !this.isLatest(number)) return [];
    this.syncing = false;
    const shown = complete && (this.epoch !== undefined || this.absent) ? this.#catchUp(events) : this.#restart(state);
    if (!this.syncing) {
      const kept = this.#buffer;
      this.#buffer = [];
      for (const event of kept) shown.push(...this.event(event));
    }
    if (!this.syncing && this.#noticed !== undefined) {
      this.stats.longestRepair = Math.max(this.stats.longestRepair, this.#now() - this.#noticed);
      this.#noticed = undefined;
    }
    return shown;
  }

  #catchUp(events) {
    const heard = new Set(this.#buffer.map((event) => `${event.epoch}.${event.revision}`));
    const shown = [];
    for (const event of events) {
      const taken = this.#take(event, true);
      if (this.syncing) break; // it does not fit: another sync brings it and what follows
      if (taken.length && !heard.has(`${event.epoch}.${event.revision}`)) this.stats.repaired += 1;
      shown.push(...taken);
    }
    return shown;
  }

  #restart(state) {
    if (this.epoch !== undefined) this.stats.resets += 1;
    if (state === null) {
      // What was heard before the sync began had happened when the answer was read: it is over.
      this.#buffer.splice(0, this.#early);
      const told = this.state === null;
      this.state = null;
      return told ? [] : [null];
    }
    if (this.#isOld(state) && !(this.#isHeld(state) && this.state === null)) {
      this.stats.dropped += this.#isHeld(state) ? 0 : 1;
      return [];
    }
    return this.#hold(state);
  }

  /** `certain`: the server says that nothing lies between. */
  #take(event, certain = false) {
    if (this.#isOld(event)) {
      this.stats.dropped += 1;
      return [];
    }
    // Where there is no state, an event of the ended epoch is none to show without asking.
    const next = event.epoch === this.epoch && event.revision === this.revision + 1;
    const first = this.absent && event.epoch !== this.epoch && event.revision === 0;
    if ((next && (certain || this.state !== null)) || (first && certain)) return this.#hold(event);
    if (!first) this.stats.gaps += 1;
    this.syncing = true;
    this.#noticed ??= this.#now();
    this.#keep(event);
    return [];
  }

  #isOld({ epoch, revision }) {
    return this.epoch !== undefined && (epoch === this.epoch ? revision <= this.revision : epoch < this.epoch);
  }

  #isHeld({ epoch, revision }) {
    return epoch === this.epoch && revision === this.revision;
  }

  #hold(state) {
    this.epoch = state.epoch;
    this.revision = state.revision;
    this.state = state;
    return [state];
  }

  #keep(event) {
    if (this.#buffer.length >= KEPT) {
      // The newest stays, so that the gap shows when it is replayed.
      this.#buffer = [];
      this.#early = 0;
    }
    this.#buffer.push(event);
  }
}

/** States on their way to a loop, which may be slower than they come. */
class Inbox {
  #states = [];
  #takers = [];
  #ended = false;
  #error = undefined;

  push(state) {
    const taker = this.#takers.shift();
    if (taker) return taker({ value: state, done: false });
    this.#states.push(state);
    if (this.#states.length > KEPT) this.#states.shift(); // a state is whole: the later ones tell all
  }

  end(error) {
    this.#ended = true;
    this.#error = error;
    if (!error) this.#states = [];
    for (const taker of this.#takers.splice(0)) taker(this.next());
  }

  next() {
    if (this.#states.length) return Promise.resolve({ value: this.#states.shift(), done: false });
    if (!this.#ended) return new Promise((resolve) => this.#takers.push(resolve));
    const error = this.#error;
    this.#error = undefined; // a loop fails once
    return error ? Promise.reject(error) : Promise.resolve({ value: undefined, done: true });
  }
}

/** States on their way to a callback; what it throws is not caught here, and stops nothing. */
class Calls {
  #callback;
  #ended = false;

  constructor(callback) {
    this.#callback = callback;
  }

  push(state) {
    queueMicrotask(() => this.#ended || this.#callback(state));
  }

  end(error) {
    this.#ended = !error; // what came before an error is still shown
  }

  next() {
    return Promise.reject(new TypeError('this state is followed by a callback; there is nothing to iterate'));
  }
}

/** One followed state, as `FlowClient.follow` gives it. */
class Follow {
  #following;
  #consumer;
  #isLevel;
  #close;

  constructor(following, consumer, isLevel, close) {
    this.#following = following;
    this.#consumer = consumer;
    this.#isLevel = isLevel;
    this.#close = close;
  }

  /** The state now: null when there is none, undefined as long as nothing is known. */
  get state() {
    return this.#following.state;
  }

  /** Whether there is a connection, and nothing is known to be missing. */
  get level() {
    return this.#isLevel();
  }

  /** What following it took; shared with the other followings of the same state. */
  get stats() {
    return { ...this.#following.stats };
  }

  /** Follow it no more; a loop over it ends. */
  close() {
    this.#close();
  }

  next() {
    return this.#consumer.next();
  }

  /** Called when a loop is left: nobody listens any more. */
  return() {
    this.close();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** One connection to server-flow, made on the first use and made again whenever it is lost. */
export class FlowClient {
  #url;
  #token;
  #device;
  #io;
  #transports;
  #timeout;
  #deadline;
  #running = false;
  #over = undefined; // the error that every call fails with from now on
  #socket = undefined;
  #trouble = undefined; // why there is no connection now
  #warned = undefined; // the last warning, which is not repeated
  #userId = undefined;
  #subject = undefined;
  #subscriptions = new Map();
  #watched = new Callbacks();
  #present = new Callbacks();
  #listeners = new Callbacks();
  #sleepers = new Set();
  #waiters = new Set();
  #ended = noStats(); // of followings that are no more

  /**
   * @param {string | URL} url where the service is, such as `https://flows.example.org`
   * @param {object} options
   * @param {string | (() => string | Promise<string>)} options.token a token, or what gets one: it is asked
   *   each time that a connection is made
   * @param {string} [options.device] a label, at most 64 characters, that presence shows
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

  /** The sums of what all followings took; of `longestRepair` the longest. */
  get stats() {
    const sum = { ...this.#ended };
    for (const { following } of this.#subscriptions.values()) addStats(sum, following.stats);
    return sum;
  }

  /**
   * Follow a state: `for await (const state of client.follow(flowId))`, or `client.follow(flowId, callback)`.
   * Every change comes once, in order; a state whose `status` is `cleared` or `expired` has ended, null says
   * that there is none; the next one is then shown from its first revision. `userId` names another user (a
   * service or an administrator may).
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
    const consumer = callback ? new Calls(callback) : new Inbox();
    consumers.add(consumer);
    if (isNew) this.#sync(subscription);
    else if (following.state !== undefined) consumer.push(following.state);
    const isLevel = () => consumers.has(consumer) && Boolean(this.#socket?.connected) && !following.syncing;
    return new Follow(following, consumer, isLevel, () => {
      consumer.end();
      if (consumers.delete(consumer) && consumers.size === 0) this.#unfollow(subscription);
    });
  }

  /** The state, null when there is none. */
  async state(flowId, options) {
    return (await this.#call('flow-state', { flowId }, options)).state;
  }

  /** Start the flow: the state, which is the running one when there is one. */
  async start(flowId, options) {
    return (await this.#change('flow-start', { flowId }, options)).state;
  }

  /** Run a transition: the new state. */
  async transition(flowId, transition, options) {
    return (await this.#change('flow-transition', { flowId, transition }, options)).state;
  }

  /** Back to the initial step, or to `options.step`: the new state. */
  async reset(flowId, options) {
    return (await this.#change('flow-reset', { flowId }, options)).state;
  }

  /** Who follows that state now. */
  async presence(flowId, options) {
    return (await this.#call('flow-presence', { flowId }, options)).clients;
  }

  /** Hear of every user's changes in a flow (administrators). Gives the function that ends it. */
  watch(flowId, callback) {
    this.#start();
    const isFirst = !this.#watched.has(flowId);
    const off = this.#watched.add(flowId, callback);
    if (isFirst) this.#watch(flowId);
    return () => {
      const isLast = () => !this.#watched.has(flowId);
      if (off() && isLast()) this.#tell('flow-unwatch', { flowId }, isLast);
    };
  }

  /**
   * Hear of `{flowId, userId, clients}`, who follows a state of this flow, now and whenever it changes: of the
   * states that this client follows, or without `userId` of all while it watches the flow. Gives the function
   * that ends it.
   */
  onPresence(flowId, callback) {
    this.#start();
    const off = this.#present.add(flowId, callback);
    for (const subscription of this.#subscriptions.values()) {
      if (subscription.flowId !== flowId || subscription.following.syncing) continue;
      subscription.presentOn = undefined;
      this.#followPresence(subscription);
    }
    if (this.#watched.has(flowId)) this.#askPresence(flowId);
    return off;
  }

  /**
   * Hear of `connect`, `disconnect` (with the reason) or `error`. Gives the function that ends it. Errors that
   * nobody listens for are written to the console.
   */
  on(name, callback) {
    return this.#listeners.add(name, callback);
  }

  /** End everything: loops end, and calls under way fail with `CLOSED`. */
  close() {
    this.#end(new FlowError('CLOSED', 'the client was closed'));
  }

  // The connection

  #start() {
    if (this.#over) throw this.#over;
    if (!this.#running) this.#run();
    this.#running = true;
  }

  async #run() {
    let refusals = 0;
    for (let attempt = 0; !this.#over; attempt += 1) {
      try {
        const { lost } = await this.#connect();
        refusals = 0;
        const connected = performance.now();
        this.#listeners.call('disconnect', await lost);
        if (performance.now() - connected > LONGEST_PAUSE) attempt = 0;
      } catch (error) {
        if (this.#over) return;
        this.#trouble = error;
        this.#report(error);
        if (error instanceof FlowError && !error.retryable) refusals += 1;
        if (refusals === REFUSALS) this.#end(error);
      }
      await this.#pause(backoff(attempt));
    }
  }

  async #connect() {
    const token = await this.#askForToken();
    if (this.#over) throw this.#over;
    const subject = subjectOf(token);
    if (subject !== this.#subject) this.#userId = this.#subject = subject;
    const socket = this.#io(this.#url.origin, {
      path: `${this.#url.pathname.replace(/\/$/, '')}/socket.io`,
      auth: { token, device: this.#device },
      transports: this.#transports,
      // A connection that ended is replaced, not mended: its socket would keep what was sent meanwhile
      // and its token, and would not come back after "io server disconnect".
      reconnection: false,
      forceNew: true,
    });
    this.#socket = socket;
    socket.on('flow-state-updated', (event) => this.#heard(event));
    socket.on('flow-resync', () => this.#syncAll());
    socket.on('flow-updated', (event) => this.#watched.call(event.flowId, event));
    socket.on('flow-presence', (event) => this.#present.call(event.flowId, event));
    socket.on('flow-error', ({ error, ...more }) => {
      this.#report(errorOf(error, more));
      if (more.code === RENEW) socket.disconnect(); // the next connection has a new token
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

  async #askForToken() {
    if (typeof this.#token !== 'function') return this.#token;
    try {
      const token = await this.#token();
      if (typeof token !== 'string') throw new TypeError(`a token is text, and not ${token === null ? null : typeof token}`);
      return token;
    } catch (error) {
      throw tokenUnavailable(error);
    }
  }

  /** A refusal has the code for its message and the error in its data; a connection that fails has neither. */
  #refusalOf(error) {
    if (error.data?.code) return errorOf(error.data.message, error.data);
    return unreachable(`${this.#url.origin}${this.#url.pathname}`, error);
  }

  /** Tell those who listen for errors; when nobody does, the console, once. */
  #report(error) {
    if (this.#listeners.has('error')) return this.#listeners.call('error', error);
    const warning = `FlowClient: ${error.code}: ${error.message}`;
    if (warning !== this.#warned) globalThis.console?.warn(warning);
    this.#warned = warning;
    return undefined;
  }

  #connected() {
    this.#trouble = undefined;
    this.#warned = undefined;
    this.#listeners.call('connect');
    this.#syncAll();
    for (const flowId of this.#watched.names()) this.#watch(flowId);
    for (const wake of this.#waiters) wake();
  }

  #end(error) {
    if (this.#over) return;
    this.#over = error;
    this.#socket?.disconnect();
    for (const subscription of this.#subscriptions.values()) {
      this.#forget(subscription, error.code === 'CLOSED' ? undefined : error);
    }
    for (const wake of [...this.#sleepers, ...this.#waiters]) wake();
  }

  // Following

  #heard(event) {
    const keys = [keyOf(event.flow, event.userId)];
    if (event.userId === this.#userId) keys.push(keyOf(event.flow));
    for (const subscription of keys.map((key) => this.#subscriptions.get(key))) {
      if (!subscription) continue;
      const { following } = subscription;
      const wasSyncing = following.syncing;
      show(subscription, following.event(event));
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
   * Take the user that the server names, which another claim than `sub` may give. Events that came before were not
   * taken for its own, so that everything is synced again.
   */
  #learnUser(userId) {
    if (userId === undefined || userId === this.#userId) return;
    this.#userId = userId;
    this.#syncAll();
  }

  /** Sync until nothing is missing. Without a connection there is nothing to do: the next one syncs all. */
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
        const answer = await this.#insist(socket, 'flow-subscribe', body, isWanted);
        if (!answer || !isWanted()) return;
        show(subscription, following.answer(number, answer));
        if (userId === undefined) this.#learnUser(answer.userId);
      } catch (error) {
        if (!isWanted()) return;
        this.#forget(subscription, error);
        return this.#report(error);
      }
      if (!following.syncing) return this.#followPresence(subscription);
      if (round > 0) await this.#pause(backoff(round)); // a second sync is nothing special, a third one is
    }
  }

  #unfollow(subscription) {
    const { key, flowId, userId } = subscription;
    this.#forget(subscription);
    this.#tell('flow-unsubscribe', { flowId, userId }, () => !this.#subscriptions.has(key));
  }

  #forget({ key, following, consumers }, error) {
    this.#subscriptions.delete(key);
    addStats(this.#ended, following.stats);
    for (const consumer of consumers) consumer.end(error);
    consumers.clear();
  }

  // Requests

  async #watch(flowId) {
    const isWatched = await this.#tell('flow-watch', { flowId }, () => this.#watched.has(flowId));
    if (isWatched) await this.#askPresence(flowId);
  }

  /** Presence is told to those who asked, on this connection. */
  async #followPresence(subscription) {
    const { flowId, userId, presentOn } = subscription;
    if (presentOn === this.#socket || !this.#present.has(flowId)) return;
    subscription.presentOn = this.#socket;
    await this.#askPresence(flowId, userId, userId ?? this.#userId);
  }

  async #askPresence(flowId, userId, of) {
    const answer = await this.#tell('flow-presence', { flowId, userId }, () => this.#present.has(flowId));
    if (answer) this.#present.call(flowId, { flowId, userId: of, clients: answer.clients });
  }

  /** Ask, and only say when it fails; connecting again asks for all that is wanted then. */
  async #tell(event, body, isWanted) {
    try {
      return await this.#insist(this.#socket, event, body, isWanted);
    } catch (error) {
      return this.#report(error);
    }
  }

  /** Ask until there is an answer; undefined when the connection is lost, or it is not wanted any more. */
  async #insist(socket, event, given, isWanted) {
    const body = checked(given);
    for (let attempt = 0; socket?.connected && isWanted(); attempt += 1) {
      try {
        return await this.#ask(socket, event, body, this.#timeout);
      } catch (error) {
        if (!isRepeatable(error)) throw error;
        await this.#pause(pauseAfter(error, attempt));
      }
    }
    return undefined;
  }

  #change(event, body, options = {}) {
    // One id for all repetitions: the service does it once, whichever of them arrives.
    return this.#call(event, { ...body, requestId: requestId() }, options);
  }

  /** Ask until there is an answer, through lost connections, until the deadline. */
  async #call(event, named, { timeout = this.#timeout, deadline = this.#deadline, ...more } = {}) {
    this.#start();
    const body = checked({ ...named, ...more });
    checkSize(event, body, LARGEST_MESSAGE_BYTES);
    const until = performance.now() + deadline;
    let last;
    for (let attempt = 0; ; attempt += 1) {
      try {
        const socket = await this.#whenConnected(until);
        return await this.#ask(socket, event, body, Math.max(1, Math.min(timeout, until - performance.now())));
      } catch (error) {
        if (error === this.#over || !isRepeatable(error)) throw error;
        if (!last || error.code !== 'TIMEOUT') last = error; // what the service said tells more
        const pause = pauseAfter(error, attempt);
        if (performance.now() + pause >= until) throw last;
        await this.#pause(pause);
      }
    }
  }

  async #whenConnected(until) {
    while (!this.#socket?.connected) {
      if (this.#over) throw this.#over;
      const left = until - performance.now();
      if (left <= 0) throw this.#trouble ?? unanswered();
      await this.#pause(left, this.#waiters);
    }
    return this.#socket;
  }

  #ask(socket, event, body, timeout) {
    return new Promise((resolve, reject) => {
      checkSize(event, body, announcedLimit(socket));
      // What is sent in the moment in which the connection ends is not answered by socket.io.
      const lose = () => reject(unanswered());
      socket.once('disconnect', lose);
      socket.timeout(timeout).emit(event, body, (late, answer) => {
        socket.off('disconnect', lose);
        if (late) return reject(unanswered(late));
        if (answer.ok) return resolve(answer);
        const error = errorOf(answer.error.message, answer.error);
        reject(error);
        if (error.code === RENEW) socket.disconnect();
      });
    });
  }

  /** Wait; not when everything ends, and among the waiters only until there is a connection. */
  #pause(milliseconds, sleepers = this.#sleepers) {
    if (this.#over) return Promise.resolve();
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

/** Callbacks by name. What one of them throws is not caught here, and stops nothing. */
class Callbacks {
  #entries = new Set();

  has(name) {
    return this.names().has(name);
  }

  names() {
    return new Set([...this.#entries].map((entry) => entry.name));
  }

  /** Gives the function that takes it away again, which tells whether it did. */
  add(name, callback) {
    const entry = { name, callback };
    this.#entries.add(entry);
    return () => this.#entries.delete(entry);
  }

  call(name, ...values) {
    for (const entry of this.#entries) {
      if (entry.name === name) queueMicrotask(() => entry.callback(...values));
    }
  }
}

function noStats() {
  return { gaps: 0, syncs: 0, repaired: 0, resets: 0, dropped: 0, longestRepair: 0 };
}

function addStats(sum, { longestRepair, ...counters }) {
  for (const [name, count] of Object.entries(counters)) sum[name] += count;
  sum.longestRepair = Math.max(sum.longestRepair, longestRepair);
}

function show({ consumers }, states) {
  for (const state of states) for (const consumer of consumers) consumer.push(state);
}

function keyOf(flowId, userId = '') {
  return `${flowId}\n${userId}`; // neither has a line break
}

/** The largest message that the service takes. */
function announcedLimit(socket) {
  const engine = socket.io?.engine;
  const limit = engine?.maxPayload ?? engine?._maxPayload; // by the version of engine.io-client
  return limit > 0 ? limit : MAX_MESSAGE_BYTES;
}

/** The `sub` of a token: events name their user, and it tells which are one's own. The server corrects it. */
function subjectOf(token) {
  try {
    const claims = atob(token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/'));
    const bytes = Uint8Array.from(claims, (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)).sub;
  } catch {
    return undefined; // it will be refused
  }
}

function requestId() {
  if (crypto.randomUUID) return crypto.randomUUID(); // a page without TLS has none
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join('-');
}

function errorOf(message, { code, retryable, details }) {
  return new FlowError(code, message, { retryable, details });
}

function unanswered(cause) {
  return new FlowError('TIMEOUT', 'no answer in time', { retryable: true, cause });
}

function isRepeatable({ code, retryable }) {
  return code === RENEW || (retryable === true && !CALLER_DECIDES.has(code));
}

function backoff(attempt) {
  return Math.min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** attempt) * (0.5 + Math.random() / 2);
}

function pauseAfter({ code, details }, attempt) {
  if (code === 'TIMEOUT') return 0; // that was pause enough
  return code === 'RATE_LIMITED' && details.retryAfterMs ? details.retryAfterMs : backoff(attempt);
}
