// State tokens, written and read as the base system's documented algorithm says, in JavaScript itself: what the
// Python of the service is compared with. Takes one JSON request a line, answers one JSON a line.
//   {"write": <state>, "flow": <flow>}  ->  {"token"} or {"refused"}
//   {"read": <token>, "flow": <flow>}   ->  {"state"} or {"refused"}
//   {"text": <value>}                   ->  {"text"}: its toString
//   {"int": <text>}                     ->  {"int"}: its parseInt, as text
import { createInterface } from 'node:readline';

const write = (flow, state) => {
  const indexOf = (name) => flow.steps[name].index.toString();
  const place = [state.flow, indexOf(state.step)];
  if (state.previous != null) place.push(indexOf(state.previous));
  const token = { f: place.join(':'), s: state.service, o: state.ok ? 1 : 0 };
  if (state.entityId !== undefined) token.e = state.entityId === null ? '' : state.entityId;
  if (state.message != null) token.m = state.message;
  const map = flow.steps[state.step].payloadMap;
  if (state.payload != null && map != null) {
    const values = new Array(Object.keys(map).length);
    for (const [key, position] of Object.entries(map)) {
      const value = state.payload[key];
      values[position] = value == null ? '' : value.toString();
    }
    token.p = values.join(',');
  }
  return Buffer.from(new TextEncoder().encode(JSON.stringify(token))).toString('base64url');
};

const bytes = (token) => {
  const raw = Buffer.from(token, 'base64url');
  // Node reads what is no base64url, too: only what it would write itself is strict.
  if (raw.toString('base64url') !== token) throw new Error('base64url');
  return raw;
};

const read = (flow, token) => {
  const content = JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes(token)));
  const [slug, at, from] = content.f.split(':', 3);
  if (slug !== flow.flow) throw new Error('flow');
  const steps = Object.values(flow.steps);
  const step = steps.find(({ index }) => index === parseInt(at));
  if (step === undefined) throw new Error('step');
  const previous = from === undefined ? undefined : steps.find(({ index }) => index === parseInt(from));
  const state = { flow: flow.flow, step: step.step, service: content.s, ok: content.o === 1 };
  if (previous) state.previous = previous.step;
  if (content.m != null) state.message = content.m;
  if (content.e != null) state.entityId = content.e === '' ? null : content.e;
  if (content.p != null && step.payloadMap != null) {
    const values = content.p.split(',');
    const entries = Object.entries(step.payloadMap).map(([key, position]) => [key, values[position] ?? null]);
    state.payload = Object.fromEntries(entries);
  }
  return state;
};

const answer = (asked) => {
  if ('text' in asked) return { text: asked.text.toString() };
  if ('int' in asked) return { int: String(parseInt(asked.int)) };
  return 'write' in asked
    ? { token: write(asked.flow, asked.write) }
    : { state: read(asked.flow, asked.read) };
};

for await (const line of createInterface({ input: process.stdin })) {
  let found;
  try {
    found = answer(JSON.parse(line));
  } catch (error) {
    found = { refused: error.message };
  }
  console.log(JSON.stringify(found));
}
