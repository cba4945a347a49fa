// The consumers of a followed state, and callbacks of other events.

const MAX_QUEUED_STATES = 1000; // for a slow consumer

/** The states that wait for a loop. */
export class Mailbox {
  #states = [];
  #readers = [];
  #ended = false;
  #error = undefined;

  push(state) {
    const reader = this.#readers.shift();
    if (reader) return reader({ value: state, done: false });
    this.#states.push(state);
    if (this.#states.length > MAX_QUEUED_STATES) this.#states.shift(); // later states supersede it
  }

  end(error) {
    this.#ended = true;
    this.#error = error;
    if (!error) this.#states = [];
    for (const reader of this.#readers.splice(0)) reader(this.next());
  }

  next() {
    if (this.#states.length) return Promise.resolve({ value: this.#states.shift(), done: false });
    if (!this.#ended) return new Promise((resolve) => this.#readers.push(resolve));
    const error = this.#error;
    this.#error = undefined; // a loop fails once
    return error ? Promise.reject(error) : Promise.resolve({ value: undefined, done: true });
  }
}

/** Calls a callback with each state. Its exceptions are not caught here, and stop nothing. */
export class CallbackConsumer {
  #callback;
  #ended = false;

  constructor(callback) {
    this.#callback = callback;
  }

  push(state) {
    queueMicrotask(() => this.#ended || this.#callback(state));
  }

  end(error) {
    this.#ended = !error; // states before an error are still delivered
  }

  next() {
    return Promise.reject(new TypeError('this state has a callback; to iterate, follow it without one'));
  }
}

/** One followed state, as `FlowClient.follow` returns it. */
export class Follow {
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

  /** The state now: null if there is none, undefined until that is known. */
  get state() {
    return this.#following.state;
  }

  /** True if there is a connection, and nothing is known to be missing. */
  get level() {
    return this.#isLevel();
  }

  /** Counters, which all followers of the same state share. */
  get stats() {
    return { ...this.#following.stats };
  }

  /** Unsubscribe. A loop over it ends. */
  close() {
    this.#close();
  }

  next() {
    return this.#consumer.next();
  }

  /** Called when a loop is left. */
  return() {
    this.close();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

/** Callbacks by name. Their exceptions are not caught here, and stop nothing. */
export class Callbacks {
  #entries = new Set();

  has(name) {
    return this.names().has(name);
  }

  names() {
    return new Set([...this.#entries].map((entry) => entry.name));
  }

  /** Returns a function that removes the callback, and returns true if it did. */
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
