// Checks of messages before they are sent: the service could only end the connection.
import { FlowError } from './errors.js';

const MAX_DEPTH = 32; // levels of a payload, as in the service
const MAX_FAULTS = 100;
const FRAME_BYTES = 32; // around a message: the packet type, the id of its ack, brackets

/** The limit of a service that announces none. */
export const DEFAULT_MESSAGE_BYTES = 1_048_576;

/** The largest limit that a service can be configured with. */
export const MAX_MESSAGE_BYTES = 2_097_152;

/**
 * Copy a message as plain JSON values, so that a change of the original does not change a repetition.
 *
 * Throws a FlowError `INVALID_PAYLOAD` (`INVALID_REQUEST` outside of the payload) for values that are not JSON; its
 * details have every fault, as the service would list them.
 */
export function checked(body) {
  const faults = [];
  const copy = plain(body, '', '', 0, faults);
  if (!faults.length) return copy;
  const ofPayload = faults.some(({ pointer }) => pointer.startsWith('/payload'));
  const listed = faults.slice(0, 3).map(({ pointer, message }) => `${pointer}: ${message}`);
  const more = faults.length > 3 ? ` (and ${faults.length - 3} more)` : '';
  const code = ofPayload ? 'INVALID_PAYLOAD' : 'INVALID_REQUEST';
  throw new FlowError(code, listed.join('; ') + more, { details: { errors: faults } });
}

/** Throw a FlowError `PAYLOAD_TOO_LARGE` for a message of more than `limit` bytes. */
export function checkSize(event, body, limit) {
  const text = JSON.stringify([event, body]);
  if (new TextEncoder().encode(text).length + FRAME_BYTES <= limit) return;
  throw new FlowError('PAYLOAD_TOO_LARGE', `The message is larger than ${limit} bytes`, { details: { limit } });
}

function plain(given, key, pointer, depth, faults) {
  let fault = unsendable(given);
  const value = fault === undefined && typeof given?.toJSON === 'function' ? given.toJSON(key) : unboxed(given);
  fault ??= unsendable(value);
  if (fault === undefined && depth > MAX_DEPTH && isContainer(value)) {
    fault = `is nested deeper than ${MAX_DEPTH} levels`;
  }
  if (fault !== undefined) {
    faults.push({ pointer, message: fault });
    return undefined;
  }
  if (!isContainer(value)) return value;
  const names = Array.isArray(value) ? value.keys() : Object.keys(value);
  const members = [];
  for (const name of names) {
    if (faults.length >= MAX_FAULTS) break;
    const at = `${pointer}/${String(name).replaceAll('~', '~0').replaceAll('/', '~1')}`;
    members.push([name, plain(value[name], String(name), at, depth + 1, faults)]);
  }
  return Array.isArray(value) ? members.map(([, member]) => member) : Object.fromEntries(members);
}

/** The reason why JSON cannot carry a value, undefined if it can. Functions and undefined are omitted, as in JSON. */
function unsendable(value) {
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : 'a number must be finite';
  if (typeof value === 'bigint') {
    return typeof value.toJSON === 'function' ? undefined : 'a bigint is not a JSON value; send a number or text';
  }
  if (!isContainer(value)) return undefined;
  const kind = Object.prototype.toString.call(value).slice(8, -1);
  if (ArrayBuffer.isView(value) || /^(Shared)?ArrayBuffer$|^Blob$|^File$/.test(kind)) {
    return `${kind} is not a JSON value; send text, such as base64`;
  }
  if (value instanceof Date && Number.isNaN(value.valueOf())) return 'a date must be valid';
  return /^(Map|Set)$/.test(kind) ? `${kind} is not a JSON value; send a plain object or a list` : undefined;
}

function isContainer(value) {
  return typeof value === 'object' && value !== null;
}

function unboxed(value) {
  const isBoxed = [Number, String, Boolean, BigInt].some((kind) => value instanceof kind);
  return isBoxed ? value.valueOf() : value;
}
