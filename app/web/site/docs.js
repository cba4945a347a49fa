import SwaggerUI from 'swagger-ui-dist/swagger-ui-es-bundle.js';
import { h } from './dom.js';
import { session, takeTokenFromAddress } from './session.js';

takeTokenFromAddress();
const user = session();

const dark = matchMedia('(prefers-color-scheme: dark)');
const applyTheme = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', applyTheme);
applyTheme();

const ui = SwaggerUI({
  url: '/openapi.json',
  domNode: document.getElementById('reference'),
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  validatorUrl: null,
  onComplete: () => {
    if (user) ui.preauthorizeApiKey('bearer', user.token);
  },
});

if (user) document.getElementById('who').append('Requests that you try are made as ', h('strong', {}, user.userId), '.');
