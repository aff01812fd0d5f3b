// Generated from the server’s OpenAPI description by “npm run types”; changes belong there.

export type paths = Record<string, never>;
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        /** @description Changes of a snapshot; what is left out stays as it is. */
        readonly ChangeSnapshot: {
            /**
             * @description the new description
             * @default null
             */
            readonly description?: string | null;
            /**
             * @description the new name
             * @default null
             */
            readonly name?: string | null;
        };
        /** @description The guest's console. */
        readonly Console: {
            /** @description the last lines, oldest first, without control characters */
            readonly lines: readonly string[];
        };
        /** @description A snapshot to take now. */
        readonly CreateSnapshot: {
            /**
             * @description shown in lists
             * @default
             */
            readonly description?: string;
            /**
             * @description unique within the scope; the default is s1, s2, …
             * @default null
             */
            readonly name?: string | null;
            /**
             * @description the notebook document as it is on the screen (nbformat 4)
             * @default null
             */
            readonly notebook?: {
                readonly [key: string]: unknown;
            } | null;
        };
        /** @description An error; all errors have this form. */
        readonly Failure: {
            /** @description the last lines of the guest's console, if there are any */
            readonly details: readonly string[];
            /**
             * @description dotted path of the value that was refused
             * @default null
             */
            readonly field: string | null;
            /** @description one line, fit to be displayed */
            readonly message: string;
            /** @description the error's class, such as SnapshotExists */
            readonly reason: string;
            /**
             * @description where that value came from: kernelspec, notebook, call, request …
             * @default null
             */
            readonly source: string | null;
        };
        /** @description Start new kernels from a snapshot of this one. */
        readonly Fork: {
            /**
             * @description number of new kernels
             * @default 1
             */
            readonly count?: number;
            /**
             * @description path of a notebook; each fork gets a copy of it, beside the original, and a session on the copy
             * @default null
             */
            readonly path?: string | null;
            /**
             * @description ID of the snapshot to start from; by default one that is taken now
             * @default null
             */
            readonly snapshot?: string | null;
        };
        /** @description A kernel that a fork started. */
        readonly ForkedKernel: {
            readonly kernel_id: string;
            readonly name: string;
            /** @description path of its copy of the notebook */
            readonly path: string | null;
            readonly session_id: string | null;
        };
        /** @description A kernel in a microVM. */
        readonly Kernel: {
            /** @description ID of the snapshot that the state came from or was last saved as */
            readonly current: string | null;
            /** @description disk space of the snapshots from which the state came */
            readonly disk_bytes: number;
            /** @description a number that every start and restore raises */
            readonly generation: number;
            readonly image: string | null;
            readonly kernel_id: string;
            /** @description snapshots from which the state came, oldest first */
            readonly lineage: readonly components["schemas"]["LineageItem"][];
            readonly mem_size_mib: number | null;
            /** @description memory of the host that the VM takes at present */
            readonly mem_used_mib: number | null;
            readonly monitor: string | null;
            readonly monitor_version: string | null;
            readonly network: string | null;
            readonly scope: string;
            /** @description template, pool, cold or snapshot */
            readonly started: string | null;
            /** @enum {string} */
            readonly state: "booting" | "running" | "pausing" | "restoring" | "dead";
            /** @description isolation tier of the running VM; null while there is no VM */
            readonly tier: string | null;
            readonly uptime_s: number | null;
            readonly vcpu_count: number | null;
            readonly vm_id: string | null;
        };
        /** @description New kernels were started from a snapshot of this one. */
        readonly KernelForked: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "fork";
            readonly forks: readonly components["schemas"]["ForkedKernel"][];
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description The administrator's limits. */
        readonly Limits: {
            /** @description null means all */
            readonly allowed_images: readonly string[] | null;
            /** @description the most forks that one request may ask for */
            readonly max_forks: number;
            readonly max_mem_size_mib: number;
            readonly max_snapshot_bytes: number;
            readonly max_snapshots: number;
            readonly max_start_timeout_s: number;
            readonly max_vcpu_count: number;
            readonly minimum_tier: string;
            readonly networks: readonly string[];
        };
        /** @description A snapshot from which a kernel's state came. */
        readonly LineageItem: {
            readonly id: string;
            readonly name: string;
        };
        /** @description What happened to a kernel's microVM, or to a snapshot. */
        readonly PublicEvent: components["schemas"]["StateChanged"] | components["schemas"]["SnapshotTaken"] | components["schemas"]["SnapshotRestored"] | components["schemas"]["KernelForked"] | components["schemas"]["SnapshotChanged"] | components["schemas"]["SnapshotDeleted"];
        /** @description Restore a kernel to a snapshot. */
        readonly Restore: {
            /**
             * @description keep the state of Python's random generators
             * @default false
             */
            readonly same_seed?: boolean;
            /** @description ID of a snapshot of the kernel's scope */
            readonly snapshot: string;
        };
        /** @description A snapshot of a whole VM. */
        readonly Snapshot: {
            /** @description ISO 8601, UTC */
            readonly created: string;
            /** @description a running kernel's state came from it or was last saved as it */
            readonly current: boolean;
            readonly description: string;
            readonly has_notebook: boolean;
            readonly id: string;
            readonly image: string;
            /** @description a running VM uses its files */
            readonly in_use: boolean;
            readonly kernel_id: string | null;
            readonly mem_size_mib: number;
            readonly monitor: string;
            readonly name: string;
            /** @description ID of the snapshot before it */
            readonly parent: string | null;
            readonly scope: string;
            /** @description disk space that it added when it was taken */
            readonly size_bytes: number;
            readonly vcpu_count: number;
        };
        /** @description The name or description of a snapshot has changed. */
        readonly SnapshotChanged: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "rename";
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A snapshot was deleted. */
        readonly SnapshotDeleted: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "delete";
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A kernel was restored to a snapshot. */
        readonly SnapshotRestored: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "restore";
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description A snapshot was taken, or imported. */
        readonly SnapshotTaken: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "snapshot";
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            readonly snapshot: components["schemas"]["Snapshot"];
        };
        /** @description The state of a kernel has changed. For ``dead``, the event says why and has the end of the guest's console. */
        readonly StateChanged: {
            /**
             * @description discriminator enum property added by openapi-typescript
             * @enum {string}
             */
            readonly action: "state";
            /**
             * @description the last lines of the guest's console, if the kernel is dead
             * @default []
             */
            readonly console: readonly string[];
            /** @description ID of the kernel; empty if it is unknown */
            readonly kernel_id: string;
            /**
             * @description one line for people: why the kernel is dead
             * @default
             */
            readonly message: string;
            /**
             * @description exit status of the kernel process, if it has ended
             * @default null
             */
            readonly returncode: number | null;
            /**
             * @description its number in the host's stream of events
             * @default 0
             */
            readonly seq: number;
            /** @enum {string} */
            readonly state: "booting" | "running" | "pausing" | "restoring" | "dead";
            /**
             * @description the microVM has ended, not only the kernel process, and nobody shut it down
             * @default false
             */
            readonly vm_ended: boolean;
        };
        /** @description What this server can do. */
        readonly Status: {
            /** @description the kernels run on a gateway; then all other routes answer 501 */
            readonly gateway: boolean;
            /** @description null with a gateway */
            readonly limits: components["schemas"]["Limits"] | null;
            /**
             * @description why there is no tier
             * @default null
             */
            readonly message: string | null;
            /** @description the best isolation tier of this host; null when no monitor can run, or with a gateway */
            readonly tier: string | null;
            readonly version: string;
        };
    };
    responses: never;
    parameters: never;
    requestBodies: never;
    headers: never;
    pathItems: never;
}
export type ChangeSnapshot = components['schemas']['ChangeSnapshot'];
export type Console = components['schemas']['Console'];
export type CreateSnapshot = components['schemas']['CreateSnapshot'];
export type Failure = components['schemas']['Failure'];
export type Fork = components['schemas']['Fork'];
export type ForkedKernel = components['schemas']['ForkedKernel'];
export type Kernel = components['schemas']['Kernel'];
export type KernelForked = components['schemas']['KernelForked'];
export type Limits = components['schemas']['Limits'];
export type LineageItem = components['schemas']['LineageItem'];
export type PublicEvent = components['schemas']['PublicEvent'];
export type Restore = components['schemas']['Restore'];
export type Snapshot = components['schemas']['Snapshot'];
export type SnapshotChanged = components['schemas']['SnapshotChanged'];
export type SnapshotDeleted = components['schemas']['SnapshotDeleted'];
export type SnapshotRestored = components['schemas']['SnapshotRestored'];
export type SnapshotTaken = components['schemas']['SnapshotTaken'];
export type StateChanged = components['schemas']['StateChanged'];
export type Status = components['schemas']['Status'];
export type $defs = Record<string, never>;
export type operations = Record<string, never>;
