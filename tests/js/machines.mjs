// Runs machines of a JSON file in XState: where each begins, and where every event and the time alone lead from each
// state that can be reached. A guard of the type cel holds unless its expression is false.
import { readFileSync } from 'node:fs';
import { SimulatedClock, createActor, createMachine, initialTransition, transition } from 'xstate';

const guards = { cel: (_, { expression }) => expression !== 'false' };

const named = (value) =>
  typeof value === 'string' ? value : Object.entries(value).map(([key, inner]) => `${key}.${named(inner)}`)[0];

const events = (machine, { status }) =>
  status === 'done' ? [] : machine.events.filter((type) => !type.startsWith('xstate.') && !type.endsWith('*'));

function reached(machine) {
  const [first] = initialTransition(machine);
  if (first.status === 'error') throw first.error;
  const found = new Map([[named(first.value), { snapshot: first, path: [] }]]);
  for (const [, { snapshot, path }] of found) {
    for (const type of events(machine, snapshot)) {
      const [next] = transition(machine, snapshot, { type });
      if (!found.has(named(next.value))) found.set(named(next.value), { snapshot: next, path: [...path, type] });
    }
  }
  return found;
}

function timed(machine, path) {
  const clock = new SimulatedClock();
  const actor = createActor(machine, { clock });
  actor.subscribe({ error() {} }); // reported below
  actor.start();
  for (const type of path) actor.send({ type });
  const before = named(actor.getSnapshot().value);
  const delays = actor.getSnapshot()._nodes.flatMap((node) => node.after.map(({ delay }) => delay));
  if (delays.length === 0 || actor.getSnapshot().status === 'done') return null;
  const delay = Math.min(...delays);
  clock.increment(delay - 1);
  if (named(actor.getSnapshot().value) !== before) throw new Error(`${before} was left before ${delay} ms`);
  clock.increment(1);
  if (actor.getSnapshot().status === 'error') throw actor.getSnapshot().error;
  return { delay, to: named(actor.getSnapshot().value) };
}

// XState cannot write a machine with an event that is called as a member of all objects is.
const written = (machine) => (machine.events.some((type) => type in {}) ? null : JSON.parse(JSON.stringify(machine)));

function described(config) {
  const machine = createMachine({ ...config, options: { maxIterations: 100 } }).provide({ guards });
  const states = {};
  const all = reached(machine);
  for (const [name, { snapshot, path }] of all) {
    const ways = {};
    for (const type of events(machine, snapshot)) {
      if (snapshot.can({ type })) ways[type] = named(transition(machine, snapshot, { type })[0].value);
    }
    states[name] = { done: snapshot.status === 'done', ways, timeout: timed(machine, path) };
  }
  return { initial: [...all.keys()][0], states, written: written(machine) };
}

const answers = JSON.parse(readFileSync(process.argv[2], 'utf8')).map((config) => {
  try {
    return described(config);
  } catch (refusal) {
    return { refusal: String(refusal.message) };
  }
});
console.log(JSON.stringify(answers));
