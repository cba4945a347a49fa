// Builds what browsers get: flow-client first (mode "client"), then the pages (mode "site"). Addresses that must not
// change have plain names; everything else has a digest in its name, below assets/, and may be cached forever.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vite';

const here = import.meta.dirname;
const OUT = 'built';
const NOTICES = 'third-party-notices.md';
const read = (...path) => readFileSync(join(here, ...path), 'utf8');

const common = {
  root: here,
  base: '/static/',
  publicDir: false,
  build: {
    outDir: OUT,
    modulePreload: false,
    reportCompressedSize: false,
    license: { fileName: NOTICES },
  },
};

/** Put the types of flow-client beside it. */
function copyTypes() {
  return {
    name: 'copy-types',
    generateBundle() {
      const fileName = 'flow-client.d.ts';
      this.emitFile({ type: 'asset', fileName, source: read('client', fileName) });
    },
  };
}

/**
 * Complete the notices: those of flow-client, built before, come first, and those of packages that bundle other
 * packages themselves, which Vite cannot see, come last.
 */
function completeNotices() {
  const nested = ['NOTICE', 'swagger-ui-es-bundle.js.LICENSE.txt'];
  return {
    name: 'complete-notices',
    enforce: 'post',
    generateBundle: {
      order: 'post',
      handler(_, bundle) {
        const own = bundle[NOTICES].source.replace(/^# Licenses\n[^#]*/, '');
        const texts = nested.map((name) => read('node_modules', 'swagger-ui-dist', name).trim());
        const last = `## Bundled in swagger-ui-dist\n\n${texts.join('\n\n')}\n`;
        bundle[NOTICES].source = [read(OUT, NOTICES), own, last].map((part) => part.trim()).join('\n\n') + '\n';
      },
    },
  };
}

const client = {
  ...common,
  plugins: [copyTypes()],
  build: {
    ...common.build,
    emptyOutDir: true,
    rolldownOptions: {
      input: 'client/browser.js',
      preserveEntrySignatures: 'strict',
      output: { entryFileNames: 'flow-client.js', codeSplitting: false },
    },
  },
};

const site = {
  ...common,
  plugins: [completeNotices()],
  build: {
    ...common.build,
    emptyOutDir: false,
    assetsInlineLimit: 0, // the Content-Security-Policy of the pages allows no data: addresses
    chunkSizeWarningLimit: 2000, // Swagger UI, on its own page
    rolldownOptions: {
      input: { home: 'site/index.html', demo: 'site/demo.html', docs: 'site/docs.html' },
      external: ['/static/flow-client.js'], // pages load it from its stable address, like everybody
      output: {
        entryFileNames: 'assets/[name]-[hash].js',
        chunkFileNames: 'assets/[name]-[hash].js',
        assetFileNames: 'assets/[name]-[hash][extname]',
      },
    },
  },
};

export default defineConfig(({ mode }) => (mode === 'client' ? client : site));
