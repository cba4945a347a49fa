// Builds what browsers get. Addresses that must not change have plain names; everything else carries a digest
// in its name, below assets/, and may be cached forever.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig } from 'vite';

const here = import.meta.dirname;

/** Put the types of flow-client beside it. */
function copyTypes() {
  return {
    name: 'copy-types',
    generateBundle() {
      const fileName = 'flow-client.d.ts';
      this.emitFile({ type: 'asset', fileName, source: readFileSync(join(here, 'client', fileName)) });
    },
  };
}

export default defineConfig({
  root: here,
  base: '/static/',
  publicDir: false,
  plugins: [copyTypes()],
  build: {
    outDir: 'built',
    emptyOutDir: true,
    modulePreload: false,
    reportCompressedSize: false,
    license: { fileName: 'third-party-notices.md' },
    rolldownOptions: {
      input: { 'flow-client': 'client/browser.js' },
      preserveEntrySignatures: 'strict',
      output: {
        entryFileNames: ({ name }) => (name === 'flow-client' ? '[name].js' : 'assets/[name]-[hash].js'),
        chunkFileNames: 'assets/[name]-[hash].js',
        assetFileNames: 'assets/[name]-[hash][extname]',
      },
    },
  },
});
