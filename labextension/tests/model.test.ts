import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { ApiError } from '../src/api';
import { MicroVMs } from '../src/model';
import { aKernel, aSnapshot, Server, settled } from './server';

describe('the microVMs', () => {
  let server: Server;
  let microvms: MicroVMs;

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
    server = new Server({
      'GET status': { version: '0.1.0', tier: 'emulated', gateway: false },
      'GET kernels/k1': aKernel(),
      'GET kernels/k1/snapshots': []
    });
    microvms = new MicroVMs(server.api, server.events);
  });

  afterEach(() => {
    microvms.dispose();
    vi.useRealTimers();
  });

  it('tell whether the server can tell', async () => {
    expect(microvms.availability).toBe('unknown');
    expect(await microvms.look()).toBe('ready');
    server.routes['GET status'] = { version: '0.1.0', tier: null, gateway: true };
    expect(await microvms.look()).toBe('gateway');
    server.routes['GET status'] = { status: 501, body: { message: 'a gateway' } };
    expect(await microvms.look()).toBe('gateway');
    delete server.routes['GET status'];
    expect(await microvms.look()).toBe('missing');
    server.routes['GET status'] = { status: 500, body: { message: 'no' } };
    expect(await microvms.look()).toBe('failed');
  });

  it('are looked at when the server is known to tell of them', async () => {
    const microvm = microvms.microvm('k1');
    await settled();
    expect(server.asked).toEqual([]);
    await microvms.look();
    await settled();
    expect(microvm.kernel?.mem_size_mib).toBe(512);
  });

  it('are none where the kernel is in none', async () => {
    await microvms.look();
    const microvm = microvms.microvm('plain');
    await settled();
    expect(microvm.isKnown).toBe(true);
    expect(microvm.kernel).toBeNull();
    expect(microvm.trouble).toBeNull();
  });

  it('show a snapshot as soon as the event comes, and then what the server says', async () => {
    await microvms.look();
    const microvm = microvms.microvm('k1');
    await settled();
    const snapshot = aSnapshot({ size_bytes: 1 });
    let emitted = 0;
    microvm.changed.connect(() => (emitted += 1));
    server.routes['GET kernels/k1/snapshots'] = [{ ...snapshot, size_bytes: 2 }];
    server.routes['GET kernels/k1'] = aKernel({ current: snapshot.id });
    server.emit({ kernel_id: 'k1', action: 'snapshot', snapshot });
    expect(emitted).toBe(1);
    expect(microvm.snapshots.map(each => each.size_bytes)).toEqual([1]);
    expect(microvm.kernel?.current).toBe(snapshot.id);
    await vi.advanceTimersByTimeAsync(300);
    await settled();
    expect(microvm.snapshots.map(each => each.size_bytes)).toEqual([2]);
  });

  it('do not let an old answer undo an event', async () => {
    await microvms.look();
    const microvm = microvms.microvm('k1');
    await settled();
    const snapshot = aSnapshot();
    let answer: (value: unknown) => void = () => undefined;
    server.routes['GET kernels/k1/snapshots'] = () => new Promise(resolve => (answer = resolve));
    const looking = microvm.refresh();
    await settled();
    server.emit({ kernel_id: 'k1', action: 'snapshot', snapshot });
    answer([]);
    await looking;
    expect(microvm.snapshots).toEqual([snapshot]);
  });

  it('take in renames, deletions and states, also of snapshots that a fork made', async () => {
    const snapshot = aSnapshot();
    server.routes['GET kernels/k1/snapshots'] = [snapshot];
    await microvms.look();
    const microvm = microvms.microvm('k1');
    await settled();
    server.emit({ kernel_id: 'k2', action: 'rename', snapshot: { ...snapshot, name: 'renamed' } });
    expect(microvm.snapshots[0].name).toBe('renamed');
    server.emit({ kernel_id: 'k2', action: 'snapshot', snapshot: aSnapshot({ scope: 'other.ipynb' }) });
    expect(microvm.snapshots).toHaveLength(1);
    server.emit({ kernel_id: 'k1', action: 'state', state: 'restoring' });
    expect(microvm.kernel?.state).toBe('restoring');
    server.emit({ kernel_id: '', action: 'delete', snapshot });
    expect(microvm.snapshots).toEqual([]);
  });

  it('hear of what an event should have told, with the next look', async () => {
    await microvms.look();
    const microvm = microvms.microvm('k1');
    await settled();
    const looked = server.asked.length;
    await microvm.refreshKernel();
    expect(server.asked.length).toBe(looked + 1);
    server.routes['GET kernels/k1'] = aKernel({ disk_bytes: 5 });
    server.routes['GET kernels/k1/snapshots'] = [aSnapshot()];
    await microvm.refreshKernel();
    expect(microvm.snapshots).toHaveLength(1);
  });

  it('are dead when the server knows them no more, and keep what they were when it stumbles', async () => {
    await microvms.look();
    const microvm = microvms.microvm('k1');
    await settled();
    server.routes['GET kernels/k1'] = { status: 500, body: { message: 'the store is locked', reason: 'StoreError' } };
    await microvm.refresh();
    expect(microvm.kernel?.state).toBe('running');
    expect(microvm.trouble?.message).toBe('the store is locked');
    delete server.routes['GET kernels/k1'];
    await microvm.refresh();
    expect(microvm.kernel?.state).toBe('dead');
  });
});

describe('the API', () => {
  it('says what the server says', async () => {
    const server = new Server({
      'POST kernels/k1/snapshots': {
        status: 507,
        body: { message: 'no space', reason: 'QuotaExceeded', details: ['one', 'two'], field: null }
      },
      'POST schema': {
        status: 422,
        body: { message: 'too much', reason: 'LimitError', details: [], field: 'vcpu_count' }
      }
    });
    const error = await server.api.create('k1', { name: 'x' }).catch(caught => caught);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ status: 507, message: 'no space', reason: 'QuotaExceeded', details: ['one', 'two'] });
    expect(server.asked[0].body).toEqual({ name: 'x' });
    await expect(server.api.check({ vcpu_count: 99 })).rejects.toMatchObject({ field: 'vcpu_count' });
  });

  it('makes one line of a page that is no answer of ours', async () => {
    const error = await new Server().api.kernel('../x').catch(caught => caught);
    expect(error).toMatchObject({ status: 404, message: '404 Not Found', details: [] });
  });

  it('quotes what it puts into addresses', async () => {
    const server = new Server();
    await server.api.kernel('a/../b?c').catch(() => undefined);
    expect(server.asked[0].what).toBe('GET kernels/a%2F..%2Fb%3Fc');
  });
});
