// The list of changes, with how long each took to be on each device.
import { h } from './dom.js';
import { stepLabel } from './screens.js';

const MAX_ENTRIES = 8;

export class Timeline {
  #list;
  #entries = new Map();
  #click = undefined;

  constructor(list) {
    this.#list = list;
  }

  /** A button was pressed on a device: the next change is probably its. */
  pressed(device) {
    this.#click = { device, at: performance.now() };
  }

  /** A device shows a state. */
  shown(device, state) {
    if (!state) return;
    const key = `${state.epoch}.${state.revision}`;
    let entry = this.#entries.get(key);
    if (!entry) {
      if (!state.kind && !this.#click) return; // the state that was there, not a change
      entry = this.#add(key, state);
    }
    if (entry.by && !entry.devices.has(device)) {
      entry.devices.add(device);
      const ms = Math.max(1, Math.round(performance.now() - entry.at));
      entry.times.append(h('span', { class: 'tag' }, `${device} ${ms} ms`));
    }
  }

  /** A start comes without a kind: there was nothing before that it could be a change of. */
  #add(key, { kind = 'start', transition, fromStep, step, revision }) {
    const entry = { by: this.#click?.device, at: this.#click?.at, devices: new Set(), times: h('span', { class: 'times' }) };
    this.#click = undefined;
    const what = kind === 'transitioned' ? transition : kind;
    const path = fromStep && fromStep !== step ? `${stepLabel(fromStep)} → ${stepLabel(step)}` : stepLabel(step);
    const item = h(
      'li',
      {},
      h('span', { class: 'revision mono', title: 'Revision' }, String(revision)),
      h(
        'span',
        { class: 'what' },
        h('strong', {}, what),
        ` ${path} `,
        h('span', { class: 'muted' }, entry.by ? `on the ${entry.by}` : 'from elsewhere'),
      ),
      entry.times,
    );
    this.#list.prepend(item);
    this.#entries.set(key, entry);
    while (this.#list.children.length > MAX_ENTRIES) this.#list.lastElementChild.remove();
    return entry;
  }

  clear() {
    this.#entries.clear();
    this.#list.replaceChildren();
  }
}
