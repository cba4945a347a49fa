import deviceSource from './device.js?raw';
import { openDevice } from './device.js';
import { h } from './dom.js';
import { highlight } from './highlight.js';
import { STEPS, screenOf, stepLabel } from './screens.js';
import { onSession, session, signOut, takeTokenFromAddress } from './session.js';
import { signInForm } from './sign-in.js';
import { Timeline } from './timeline.js';

const find = (id) => document.getElementById(id);
const timeline = new Timeline(find('timeline'));

/** A pane: a client of its own, and what it displays. */
class Pane {
  #name;
  #element;
  #device = undefined;
  #status;
  #display;
  #power;
  #state = undefined;
  #acted = false;

  constructor(name) {
    this.#name = name;
    this.#element = find(name);
    this.#status = this.#element.querySelector('.status');
    this.#display = this.#element.querySelector('.display');
    this.#power = this.#element.querySelector('.power');
    this.#power.addEventListener('click', () => (this.#device ? this.close() : this.open()));
  }

  get isOpen() {
    return this.#device !== undefined;
  }

  open() {
    this.#say('connecting', 'connecting');
    this.#power.hidden = false;
    this.#power.textContent = 'Go offline';
    this.#display.replaceChildren(h('p', { class: 'muted small off' }, 'Reading the state …'));
    this.#device = openDevice(this.#name, () => session()?.token ?? '', {
      state: (state) => this.#show(state),
      devices: showDevices,
      error: (error) => this.#fail(error),
    });
  }

  close() {
    this.#end('Offline. Press on in the other pane, then go online again: this one catches up.');
    this.#say('offline', 'offline');
    this.#power.textContent = 'Go online';
  }

  /** Nobody is signed in. */
  lock() {
    this.#end('Sign in to use this device.');
    this.#say('offline', '');
    this.#power.hidden = true;
  }

  #end(text) {
    this.#device?.close();
    this.#device = undefined;
    this.#state = undefined;
    this.#display.replaceChildren(h('p', { class: 'muted small off' }, text));
  }

  restart() {
    return this.#act((device) => device.restart());
  }

  #say(state, text) {
    this.#element.dataset.state = state;
    this.#status.dataset.state = state;
    this.#status.textContent = text;
  }

  #show(state) {
    timeline.shown(this.#name, state);
    const isChange = this.#state !== undefined;
    this.#state = state;
    this.#say('live', 'live');
    const screen = screenOf(this.#name, state, {
      start: () => this.#act((device) => device.start()),
      restart: () => this.#act((device) => device.restart()),
      run: (transition, payload) => this.#act((device) => device.run(transition, payload)),
    });
    this.#display.replaceChildren(progress(state), screen);
    hideTrouble();
    if (isChange) this.#flash();
    if (this.#acted) screen.querySelector('h3').focus({ preventScroll: true });
    this.#acted = false;
  }

  #flash() {
    this.#element.classList.remove('changed');
    void this.#element.offsetWidth; // lets the animation start again
    this.#element.classList.add('changed');
  }

  async #act(call) {
    timeline.pressed(this.#name);
    this.#acted = true;
    const buttons = this.#display.querySelectorAll('button');
    for (const button of buttons) button.disabled = true;
    try {
      await call(this.#device);
    } catch (error) {
      this.#acted = false;
      for (const button of buttons) button.disabled = false;
      if (error.code !== 'CLOSED') this.#fail(error);
    }
  }

  #fail(error) {
    if (error.code === 'AUTHENTICATION_REQUIRED') return signOut(error.message);
    if (['TIMEOUT', 'UNREACHABLE'].includes(error.code)) return this.#say('connecting', 'reconnecting');
    return showTrouble(error);
  }
}

function progress(state) {
  const at = STEPS.findIndex(([step]) => step === state?.step);
  const items = STEPS.map(([step, label], index) =>
    h('li', { class: index < at || step === 'completed' ? index <= at && 'done' : false, 'aria-current': index === at && 'step' }, label),
  );
  return h('ol', { class: 'steps', 'aria-label': `Progress: ${state ? stepLabel(state.step) : 'not started'}` }, ...items);
}

function showDevices(clients) {
  const counts = new Map();
  for (const { device = 'another client' } of clients) counts.set(device, (counts.get(device) ?? 0) + 1);
  const names = [...counts].sort().map(([device, count]) => (count > 1 ? `${device} (${count})` : device));
  find('here').textContent = names.length ? `Open on ${names.join(', ')}` : '';
}

function showTrouble(error) {
  const missing = 'This server has no flow user-onboarding that you may use, so there is nothing to show here.';
  find('trouble').textContent = error.code === 'FLOW_NOT_FOUND' ? missing : error.message;
  find('trouble').hidden = false;
}

function hideTrouble() {
  find('trouble').hidden = true;
}

const panes = ['laptop', 'phone'].map((name) => new Pane(name));

function show(reason) {
  const user = session();
  find('sign-in').hidden = Boolean(user);
  find('restart').disabled = !user;
  for (const pane of panes) {
    pane.lock();
    if (user) pane.open();
  }
  timeline.clear();
  find('here').textContent = '';
  hideTrouble();
  find('sign-in').replaceChildren(...(user ? [] : [signInForm(reason)]));
}

find('restart').addEventListener('click', () => panes.find((pane) => pane.isOpen)?.restart());
find('source').append(...highlight(deviceSource.trim()));
addEventListener('hashchange', () => {
  takeTokenFromAddress();
  show();
});
onSession(show);

takeTokenFromAddress();
show();
