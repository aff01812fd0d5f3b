/** What jsdom lacks and Lab's packages touch when they are loaded. */
class Nothing {
  observe(): void {}
  unobserve(): void {}
  disconnect(): void {}
}

Object.assign(globalThis, {
  IS_REACT_ACT_ENVIRONMENT: true,
  ResizeObserver: Nothing,
  IntersectionObserver: Nothing,
  DragEvent: class extends Event {}
});
window.requestIdleCallback ??= ((callback: () => void) => setTimeout(callback)) as never;
window.matchMedia ??= (() => ({ matches: false, addEventListener() {}, removeEventListener() {} })) as never;
document.queryCommandSupported ??= () => false;
(globalThis as any).CSS ??= {};
CSS.escape ??= text => text.replace(/[^\w-]/g, found => `\\${found}`);
