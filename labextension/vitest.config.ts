import { readFileSync } from 'node:fs';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [
    {
      // As the bundler has it: an icon is its text.
      name: 'svg-text',
      enforce: 'pre',
      load(id) {
        const path = id.split('?')[0];
        return path.endsWith('.svg') ? `export default ${JSON.stringify(readFileSync(path, 'utf8'))}` : null;
      }
    }
  ],
  esbuild: { jsx: 'transform' },
  test: {
    environment: 'jsdom',
    include: ['tests/**/*.test.{ts,tsx}'],
    setupFiles: ['tests/setup.ts'],
    server: { deps: { inline: [/@jupyterlab/, /@lumino/, /@jupyter\//] } }
  }
});
