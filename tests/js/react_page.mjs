// Runs the component of the guide to React in a document without a browser, and prints what it shows.
// Arguments: the URL of the service, the folder of the guide's files. TOKEN: a user without a state.
import { Window } from 'happy-dom';
import { io } from 'socket.io-client';
import { pathToFileURL } from 'node:url';
import { FlowClient } from '../../app/web/client/flow-client.js';

const [url, folder] = process.argv.slice(2);
const window = new Window();
globalThis.window = window;
globalThis.document = window.document;
const { createElement } = await import('react');
const { createRoot } = await import('react-dom/client');
const { Onboarding } = await import(pathToFileURL(`${folder}/Onboarding.js`));

/** Resolves when the page has a text. */
async function shown(text) {
  while (!root.textContent.includes(text)) {
    await new Promise((resolve) => {
      const observer = new window.MutationObserver(() => (observer.disconnect(), resolve()));
      observer.observe(root, { childList: true, subtree: true, characterData: true });
    });
  }
  console.log(root.textContent);
}

const root = document.createElement('div');
document.body.append(root);
const client = new FlowClient(url, { io, token: process.env.TOKEN });
const page = createRoot(root);
page.render(createElement(Onboarding, { client }));
await shown('Loading');
await shown('Begin');
root.querySelector('button').click();
await shown('welcome');
root.querySelector('button').click();
await shown('profile-setup');
page.unmount();
client.close();
process.exit();
